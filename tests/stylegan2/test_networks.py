"""Networks against golden vectors of the reference implementation (random weights, float32, CPU)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from progression.stylegan2 import Discriminator, Generator
from progression.stylegan2.discriminator import minibatch_std
from progression.stylegan2.losses import gradient_penalty, path_length_penalty, path_lengths
from progression.stylegan2.ops import (
    convolve_down,
    convolve_up,
    convolve_up_at_once,
    demodulation,
    downsample2d,
    modulated_conv2d,
    setup_filter,
    upfirdn2d,
    upsample2d,
)

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIGS = {
    "uncond_32": (
        Generator(32, 0, 48, 32, 1, mapping_layers=2, channel_base=512, channel_max=32),
        Discriminator(0, 32, 1, channel_base=512, channel_max=32, mbstd_group_size=3),
    ),
    "cond_64_rgb": (
        Generator(24, 5, 24, 64, 3, mapping_layers=8, channel_base=512, channel_max=24),
        Discriminator(5, 64, 3, channel_base=512, channel_max=24, mbstd_group_size=3),
    ),
}


class Case(NamedTuple):
    arrays: dict[str, Tensor]
    generator: Generator
    discriminator: Discriminator


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.detach() - expected).abs().max() / expected.abs().max())


@pytest.fixture(params=list(CONFIGS))
def case(request: pytest.FixtureRequest) -> Case:
    name = request.param
    path = GOLDEN / f"{name}.npz"
    if not path.exists():
        path = request.getfixturevalue("shared") / "golden" / "stylegan2" / f"{name}.npz"
    arrays = {key: torch.from_numpy(value) for key, value in np.load(path).items()}
    generator, discriminator = CONFIGS[name]
    for prefix, network in (("G.", generator), ("D.", discriminator)):
        state = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        network.load_state_dict(state, strict=True)
    return Case(arrays, generator, discriminator)


def test_mapping_and_truncation(case: Case) -> None:
    z, c = case.arrays["z"], case.arrays.get("c")
    assert relative_error(case.generator.mapping(z, c), case.arrays["ws"]) < 1e-4
    assert relative_error(case.generator.mapping(z, c, truncation_psi=0.7), case.arrays["ws_psi07"]) < 1e-4


def test_truncation_cutoff_leaves_fine_layers(case: Case) -> None:
    z, c = case.arrays["z"], case.arrays.get("c")
    ws = case.generator.mapping(z, c, truncation_psi=0.7, truncation_cutoff=3)
    assert torch.equal(ws[:, :3], case.generator.mapping(z, c, truncation_psi=0.7)[:, :3])
    assert torch.equal(ws[:, 3:], case.generator.mapping(z, c)[:, 3:])


@pytest.mark.parametrize(
    ("ws", "noise_mode", "expected"),
    [
        ("ws", "const", "image_const_noise"),
        ("ws_psi07", "none", "image_psi07_no_noise"),
        ("w_plus", "const", "image_w_plus"),
    ],
)
def test_synthesis(case: Case, ws: str, noise_mode: str, expected: str) -> None:
    image = case.generator.synthesis(case.arrays[ws], noise_mode=noise_mode)
    assert relative_error(image, case.arrays[expected]) < 1e-4


def test_discriminator(case: Case) -> None:
    c = case.arrays.get("c")
    for image, logits in (("real", "logits_real"), ("image_const_noise", "logits_fake")):
        assert relative_error(case.discriminator(case.arrays[image], c), case.arrays[logits]) < 1e-4


def test_r1(case: Case) -> None:
    real = case.arrays["real"].clone().requires_grad_()
    penalty = gradient_penalty(real, case.discriminator(real, case.arrays.get("c")))
    assert relative_error(penalty, case.arrays["r1_grad_sqnorm"]) < 1e-4


def test_path_lengths(case: Case) -> None:
    ws = case.arrays["ws"].clone().requires_grad_()
    image = case.generator.synthesis(ws, noise_mode="none")
    lengths = path_lengths(image, ws, case.arrays["pl_noise"])
    assert relative_error(lengths, case.arrays["pl_lengths"]) < 1e-4


def test_path_length_penalty_by_hand() -> None:
    penalty, mean = path_length_penalty(torch.tensor([1.0, 3.0]), torch.tensor(1.0), decay=0.5)
    assert float(mean) == pytest.approx(1.5)  # 1 + 0.5·(2 − 1)
    assert float(penalty) == pytest.approx((0.25 + 2.25) / 2)


@pytest.mark.parametrize("index", range(5))
def test_upfirdn2d(index: int) -> None:
    arrays = np.load(GOLDEN / "upfirdn2d.npz")
    up, down, x0, x1, y0, y1, flip, gain = arrays[f"case{index}_args"].tolist()
    y = upfirdn2d(
        torch.from_numpy(arrays["x"]),
        setup_filter(torch.from_numpy(arrays[f"case{index}_filter"])),
        up=int(up),
        down=int(down),
        padding=(int(x0), int(x1), int(y0), int(y1)),
        flip=bool(flip),
        gain=gain,
    )
    assert relative_error(y, torch.from_numpy(arrays[f"case{index}_y"])) < 1e-5


def test_modulated_convolution_is_convolution_with_scaled_weights() -> None:
    torch.manual_seed(0)
    x, w, s = torch.randn(3, 4, 6, 6), torch.randn(5, 4, 3, 3), torch.rand(3, 4) + 0.5
    b, f = torch.randn(5), setup_filter((1, 3, 3, 1))
    for up in (False, True):
        found = modulated_conv2d(x, w, s, bias=b, up=up, gain=2.0, resample_filter=f)
        for i in range(3):
            scaled = w * s[i][None, :, None, None]
            scaled = scaled / (scaled.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
            one = x[i : i + 1]
            one = convolve_up(one, scaled, f) if up else torch.conv2d(one, scaled, padding=1)
            torch.testing.assert_close(found[i], one[0] * 2 + b[:, None, None], rtol=1e-4, atol=1e-5)


def test_demodulation_gives_unit_variance() -> None:
    w, s = torch.randn(5, 4, 3, 3), torch.rand(2, 4) + 0.1
    d = demodulation(w, s)
    energy = (w[None] * s[:, None, :, None, None] * d[:, :, None, None, None]).square().sum(dim=(2, 3, 4))
    torch.testing.assert_close(energy, torch.ones(2, 5))


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([4, 8, 16]), st.integers(1, 3), st.floats(-2, 2))
def test_resampling_keeps_constants_and_sizes(size: int, channels: int, value: float) -> None:
    f = setup_filter((1, 3, 3, 1))
    x = torch.full((1, channels, size, size), value)
    up, down = upsample2d(x, f), downsample2d(x, f)
    assert up.shape[2:] == (2 * size, 2 * size)
    assert down.shape[2:] == (size // 2, size // 2)
    torch.testing.assert_close(up[..., 2:-2, 2:-2], torch.full_like(up[..., 2:-2, 2:-2], value))
    torch.testing.assert_close(down[..., 1:-1, 1:-1], torch.full_like(down[..., 1:-1, 1:-1], value))


def test_strided_convolution_is_blur_then_subsample() -> None:
    x, w, f = torch.randn(1, 2, 8, 8), torch.randn(3, 2, 3, 3), setup_filter((1, 3, 3, 1))
    blurred = upfirdn2d(x, f, padding=(2, 2, 2, 2))
    full = torch.conv2d(blurred, w)
    torch.testing.assert_close(convolve_down(x, w, f), full[:, :, ::2, ::2])


def test_minibatch_std_by_hand() -> None:
    x = torch.tensor([1.0, 5.0, 3.0, 5.0]).reshape(4, 1, 1, 1)
    # groups of samples {0, 2} and {1, 3}: standard deviations 1 and 0
    found = minibatch_std(x, group_size=2)[:, 1, 0, 0]
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 1.0, 0.0]), atol=2e-4, rtol=0)
    with pytest.raises(ValueError, match="not a multiple"):
        minibatch_std(x[:3], group_size=2)


def test_random_noise_follows_the_given_generator() -> None:
    generator, _ = CONFIGS["uncond_32"]
    with torch.no_grad():
        generator.synthesis.b8.conv1.noise_strength.fill_(0.5)
        ws = torch.randn(1, generator.num_ws, 48)
        images = [
            generator.synthesis(ws, noise_mode="random", generator=torch.Generator().manual_seed(seed))
            for seed in (0, 0, 1)
        ]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_half_precision_stays_near() -> None:
    generator = Generator(16, 0, 16, 32, 1, mapping_layers=1, channel_base=256, channel_max=16).eval()
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        full = generator(z)
        generator.synthesis.compute_dtype = torch.bfloat16
        half = generator(z)
    assert half.dtype == torch.float32
    assert float((full - half).abs().mean() / full.std()) < 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Generator(8, 0, 8, 48, 1), "power of two"),
        (lambda: Generator(8, 0, 8, 8, 1).mapping(torch.zeros(2, 7)), r"z must be \(N, 8\)"),
        (lambda: Generator(8, 0, 8, 8, 1).synthesis(torch.zeros(1, 3, 8)), r"ws must be \(N, 4, 8\)"),
        (
            lambda: Generator(8, 0, 8, 8, 1).synthesis(torch.zeros(1, 4, 8), noise_mode="some"),
            "noise_mode must be",
        ),
        (lambda: Discriminator(0, 8, 1)(torch.zeros(1, 1, 4, 4)), r"image must be \(N, 1, 8, 8\)"),
    ],
)
def test_wrong_shapes_are_told(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@given(st.sampled_from([(1, 1), (1, 3, 3, 1), (1, 2, 1), (1, 5, 10, 10, 5, 1)]), st.integers(1, 3))
def test_upsampling_is_zero_insertion_and_a_filter(taps: tuple[int, ...], channels: int) -> None:
    f, x = setup_filter(taps), torch.randn(2, channels, 5, 7)
    side = len(taps)
    padding = ((side + 1) // 2, (side - 2) // 2) * 2
    torch.testing.assert_close(upsample2d(x, f), upfirdn2d(x, f, up=2, padding=padding, gain=4.0))


@given(st.integers(1, 3), st.integers(1, 3))
def test_blur_within_the_kernel_is_convolution_then_blur(inputs: int, outputs: int) -> None:
    """The form that a GPU takes, and its gradients."""
    torch.manual_seed(inputs)
    f, weight = setup_filter((1, 3, 3, 1)), torch.randn(outputs, inputs, 3, 3, requires_grad=True)
    x = torch.randn(2, inputs, 5, 6, requires_grad=True)
    found, expected = convolve_up_at_once(x, weight, f), convolve_up(x, weight, f)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn_like(expected)
    slopes = (torch.autograd.grad(y, (x, weight), upstream) for y in (found, expected))
    for got, wanted in zip(*slopes, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-5)


def test_a_noise_map_a_picture_is_each_ones_own() -> None:
    """As projection has it: (N, 1, r, r) in place of the (r, r) that all share."""
    torch.manual_seed(0)
    synthesis = Generator(8, 0, 8, 16, 1, 2, 64, 8).eval().requires_grad_(False).synthesis
    names = [name for name, _ in synthesis.named_buffers() if name.endswith("noise_const")]
    with torch.no_grad():
        for name, parameter in synthesis.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.5)
        ws = torch.randn(2, synthesis.num_ws, 8)
        shared = synthesis(ws, noise_mode="const")
        repeated = {name: synthesis.get_buffer(name).repeat(2, 1, 1, 1) for name in names}
        own = torch.func.functional_call(synthesis, repeated, (ws,), {"noise_mode": "const"})
        torch.testing.assert_close(own, shared, atol=1e-5, rtol=1e-5)
        repeated = {
            name: value * torch.tensor([1.0, 0.0])[:, None, None, None] for name, value in repeated.items()
        }
        own = torch.func.functional_call(synthesis, repeated, (ws,), {"noise_mode": "const"})
        torch.testing.assert_close(own[0], shared[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(own[1], synthesis(ws, noise_mode="none")[1], atol=1e-5, rtol=1e-5)
