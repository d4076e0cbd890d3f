import pytest
import torch

from progression.encoder import Encoder, EncoderConfig
from progression.errors import UsageError
from progression.latent.extrapolate import key_of


@pytest.mark.parametrize(("resolution", "num_ws"), [(16, 6), (32, 8), (128, 12)])
def test_shapes_and_untrained_output(resolution: int, num_ws: int) -> None:
    encoder = Encoder(EncoderConfig(resolution=resolution, num_ws=num_ws, w_dim=24, width=4, max_width=16))
    encoder.w_mean.copy_(torch.arange(24.0))
    ws = encoder.eval()(torch.randn(2, 1, resolution, resolution))
    assert ws.shape == (2, num_ws, 24)
    torch.testing.assert_close(ws, torch.arange(24.0).expand(2, num_ws, 24))


def test_split_adds_up() -> None:
    encoder = Encoder(EncoderConfig(resolution=16, num_ws=6, w_dim=8, width=4)).eval()
    torch.nn.init.normal_(encoder.offset_out)
    torch.nn.init.normal_(encoder.base.weight)
    images = torch.randn(3, 1, 16, 16)
    base, offsets = encoder.split(images)
    torch.testing.assert_close(base[:, None] + offsets, encoder(images))
    assert offsets.std(dim=1).min() > 0
    torch.testing.assert_close(key_of(encoder(images)), base)


def test_config_rebuilds_it() -> None:
    encoder = Encoder(EncoderConfig(resolution=32, num_ws=8, w_dim=16, width=4)).eval()
    again = Encoder(EncoderConfig(**encoder.config())).eval()
    again.load_state_dict(encoder.state_dict())
    images = torch.randn(1, 1, 32, 32)
    assert again(images).equal(encoder(images))


def test_pooling_looks_at_the_averaged_picture() -> None:
    small = Encoder(EncoderConfig(resolution=16, num_ws=6, w_dim=8, width=4)).eval()
    torch.nn.init.normal_(small.base.weight)
    large = Encoder(EncoderConfig(resolution=64, num_ws=6, w_dim=8, width=4, pool=4)).eval()
    large.load_state_dict(small.state_dict())
    images = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(large(images), small(torch.nn.functional.avg_pool2d(images, 4)))


@pytest.mark.parametrize("pool", [0, 3, 4])
def test_pools_out_of_range(pool: int) -> None:
    with pytest.raises(UsageError, match=f"encoder pool {pool}: expected a power of two that leaves 16"):
        EncoderConfig(resolution=32, num_ws=8, pool=pool)


def test_wrong_sizes() -> None:
    with pytest.raises(UsageError, match="power of two"):
        EncoderConfig(resolution=100, num_ws=8)
    encoder = Encoder(EncoderConfig(resolution=16, num_ws=6, w_dim=8, width=4))
    with pytest.raises(UsageError, match=r"expects pictures of shape \(1, 16, 16\), got \(3, 16, 16\)"):
        encoder(torch.zeros(1, 3, 16, 16))


def test_without_offsets_every_layer_has_the_base() -> None:
    encoder = Encoder(EncoderConfig(resolution=16, num_ws=6, w_dim=8, width=4, offset_rank=0)).eval()
    torch.nn.init.normal_(encoder.base.weight)
    images = torch.randn(3, 1, 16, 16)
    base, offsets = encoder.split(images)
    assert offsets.shape == (3, 6, 8) and not offsets.any()
    assert encoder(images).equal(base[:, None].expand(-1, 6, -1))
    assert not any(name.startswith("offset") for name in encoder.state_dict())
