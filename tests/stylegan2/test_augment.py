"""The augmentation pipeline against golden vectors, a slow oracle, and what the paper demands of it."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from progression.errors import UsageError
from progression.stylegan2.ada import AdaptiveAugmentation
from progression.stylegan2.augment import PRESETS, Augment, AugmentConfig
from progression.stylegan2.ops import setup_filter, upfirdn2d
from progression.stylegan2.warp import warp
from progression.stylegan2.wavelet import SYM2, SYM6, downsampling, octave_bands, octave_filters, upsampling

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "augment_grey.npz"
CPU = torch.device("cpu")
GROUPS = ("blit", "geom", "color", "filter")
PERCENTILES = (0.15, 0.5, 0.85)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(size: int = 32) -> Tensor:
    """A picture without detail near the pixel rate, so that resampling hardly changes it."""
    t = torch.linspace(-1, 1, size, dtype=torch.float64)
    return (torch.sin(3 * t)[None, :] + 0.5 * torch.cos(2 * t + 0.3)[:, None])[None, None]


def affine(a: float, b: float, c: float, d: float, x: float = 0.0, y: float = 0.0) -> Tensor:
    return torch.tensor([[[a, b, x], [c, d, y], [0, 0, 1]]], dtype=torch.float64)


# ---------------------------------------------------------------------------- golden


def check_golden(arrays: dict[str, np.ndarray[Any, Any]], group: str, kind: str) -> None:
    for q in PERCENTILES:
        expected = arrays[f"{group}_{kind}_{q}"]
        got = Augment(group)(torch.from_numpy(arrays[kind]), debug_percentile=q).numpy()
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=str(q))


@pytest.mark.parametrize("group", GROUPS)
def test_golden_grey(group: str) -> None:
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        check_golden(dict(arrays), group, "grey")


@pytest.mark.parametrize("group", GROUPS)
def test_golden_rgb(group: str, shared: Path) -> None:
    with np.load(shared / "golden" / "stylegan2" / "augment.npz", allow_pickle=False) as arrays:
        check_golden(dict(arrays), group, "rgb")


# ---------------------------------------------------------------------------- wavelets


@pytest.mark.parametrize(("h", "moments"), [(SYM2, 2), (SYM6, 6)])
def test_scaling_filters_are_what_daubechies_defines(h: tuple[float, ...], moments: int) -> None:
    """Orthonormal to even shifts, with as many vanishing moments as half the taps."""
    taps, n = np.array(h), np.arange(len(h))
    assert taps.sum() == pytest.approx(math.sqrt(2), abs=1e-11)
    for shift in range(0, len(h), 2):
        assert taps[: len(h) - shift] @ taps[shift:] == pytest.approx(float(shift == 0), abs=1e-11)
    for power in range(moments):
        assert ((-1.0) ** n * n**power) @ taps == pytest.approx(0, abs=1e-6)


def test_down_undoes_up() -> None:
    n = 20
    own = slice(2 * (n - 1) - 5, 2 * (n - 1) + 2 * n + 5)
    assert torch.allclose(downsampling(n, CPU) @ upsampling(n, CPU)[own], torch.eye(n), atol=1e-6)


def test_matrices_serve_training_after_inference() -> None:
    x = torch.randn(1, 1, 13, 11)
    with torch.inference_mode():
        Augment("bgcf")(x, generator=seeded())
    Augment("bgcf")(x.requires_grad_(), generator=seeded()).sum().backward()
    assert x.grad is not None


def test_octave_bands() -> None:
    filters = octave_filters()
    assert filters.shape == (4, 43)
    response = np.abs(np.fft.rfft(filters, 512))
    assert response[:, 0] == pytest.approx([1, 0, 0, 0], abs=1e-12)
    assert response[:, -1] == pytest.approx([0, 0, 0, 1], abs=1e-12)
    assert response.argmax(axis=0)[[16, 48, 96, 192]].tolist() == [0, 1, 2, 3]  # inside each octave
    assert torch.allclose(octave_bands(8, CPU).sum(0), torch.eye(8), atol=1e-6)


# ---------------------------------------------------------------------------- geometry


def oracle(x: Tensor, g: Tensor) -> Tensor:
    """`warp`, step by step on whole images: reflect, upsample, sample, downsample."""
    n = x.shape[2]
    f = setup_filter(SYM6).double()
    padded = F.pad(x, [n - 1] * 4, mode="reflect")
    up = upfirdn2d(padded, f, up=2, padding=(6, 5, 6, 5), gain=4.0)
    t = torch.arange(-5, 2 * n + 5, dtype=torch.float64) / 2 - (n - 1) / 2
    points = torch.stack([*torch.meshgrid(t, t, indexing="xy"), torch.ones(len(t), len(t))], dim=-1)
    source = points.double() @ torch.linalg.inv(g[0]).T
    index = 2 * (source[..., :2] + (n - 1) / 2 + n - 1)
    grid = 2 * index / (up.shape[2] - 1) - 1
    sampled = F.grid_sample(up, grid[None], align_corners=True)
    return upfirdn2d(sampled, f.flip((0, 1)), down=2, padding=(0, 0, 0, 0))


@pytest.mark.parametrize(
    "g",
    [
        affine(1, 0, 0, 1, 2.3, -1.7),
        affine(0.8, 0.6, -0.6, 0.8),
        affine(1.3, 0, 0, 0.7, 20, 0),
        affine(0.2, 0.1, -0.1, 0.3),  # far beyond one reflection
        affine(1, 0, 0, 1, 200, 0),  # out of the picture
        affine(-6, 1, 2, 5, 1, 1),
    ],
)
def test_warp_equals_the_oracle(g: Tensor) -> None:
    x = torch.randn(1, 2, 17, 17, dtype=torch.float64, generator=seeded())
    assert torch.allclose(warp(x, g), oracle(x, g), atol=1e-5)


def test_each_image_keeps_its_own_map_in_a_batch() -> None:
    x = torch.randn(3, 1, 16, 24, generator=seeded())
    g = torch.cat([affine(1, 0, 0, 1, 3, 0), affine(0.3, 0, 0, 0.3), affine(2, 0.5, 0, 2)])
    together = warp(x, g)
    for i in range(3):
        assert torch.allclose(together[i], warp(x[i : i + 1], g[i : i + 1])[0], atol=1e-4)


def test_integer_translation_moves_pixels_and_mirrors_the_edge() -> None:
    x = torch.randn(1, 1, 12, 12, generator=seeded())
    moved = warp(x, affine(1, 0, 0, 1, 3, -2))
    expected = F.pad(x, (3, 0, 0, 2), mode="reflect")[:, :, 2:, :12]
    assert torch.allclose(moved, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("g", "expected"),
    [
        (affine(-1, 0, 0, 1), smooth().flip(3)),
        (affine(0, -1, 1, 0), smooth().rot90(-1, (2, 3))),  # y points down: a quarter turn clockwise
        (affine(-1, 0, 0, -1), smooth().flip(2, 3)),
    ],
)
def test_flips_and_quarter_turns(g: Tensor, expected: Tensor) -> None:
    """Not exact: sym6 is nearly, not wholly, symmetric."""
    assert torch.allclose(warp(smooth(), g), expected, atol=0.05)


# ---------------------------------------------------------------------------- color, corruption


def test_color_by_hand() -> None:
    x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    assert torch.equal(Augment(AugmentConfig(luma_flip=1.0))(x, debug_percentile=0.9), -x)
    shift = 0.2 * float(torch.erfinv(torch.tensor(0.8)))
    assert torch.allclose(Augment(AugmentConfig(brightness=1.0))(x, debug_percentile=0.9), x + shift)
    factor = 2 ** (0.5 * float(torch.erfinv(torch.tensor(0.8))))
    assert torch.allclose(Augment(AugmentConfig(contrast=1.0))(x, debug_percentile=0.9), x * factor)


def test_hue_and_saturation_leave_grey_alone_and_keep_luma() -> None:
    config = AugmentConfig(hue=1.0, saturation=1.0)
    grey = torch.randn(4, 1, 8, 8, generator=seeded()).expand(-1, 3, -1, -1)
    assert torch.allclose(Augment(config)(grey, generator=seeded()), grey, atol=1e-5)
    assert torch.equal(Augment(config)(grey[:, :1]), grey[:, :1])
    rgb = torch.randn(4, 3, 8, 8, generator=seeded())
    changed = Augment(config)(rgb, generator=seeded())
    assert torch.allclose(changed.mean(1), rgb.mean(1), atol=1e-5)
    assert not torch.allclose(changed, rgb, atol=0.1)


def test_cutout_and_noise() -> None:
    x = torch.ones(2, 1, 8, 8)
    holed = Augment("cutout")(x, debug_percentile=0.5)
    expected = x.clone()
    expected[:, :, 2:6, 2:6] = 0
    assert torch.equal(holed, expected)
    noise = Augment("noise")(torch.zeros(1, 1, 64, 64), generator=seeded(), debug_percentile=0.75)
    assert float(noise.std()) == pytest.approx(0.1 * float(torch.erfinv(torch.tensor(0.5))), rel=0.05)


# ---------------------------------------------------------------------------- the pipeline as a whole


def test_radiograph_preset_has_no_mirror_and_no_colours() -> None:
    config = PRESETS["radiograph"]
    assert config.xflip == config.luma_flip == config.hue == config.saturation == config.filter == 0
    assert config.brightness == config.contrast == config.rotate == config.scale == 1


def test_p_zero_changes_nothing_and_draws_nothing() -> None:
    x, generator = torch.randn(2, 1, 8, 8), seeded()
    before = generator.get_state()
    assert Augment("bgcfnc", p=0.0)(x, generator=generator) is x
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("preset", ["radiograph", "bgcfnc"])
def test_same_generator_state_same_result(preset: str) -> None:
    augment, x, generator = Augment(preset, p=0.7), torch.randn(4, 3, 16, 16), seeded()
    augment(x, generator=generator)
    state = generator.get_state()
    first = augment(x, generator=generator)
    generator.set_state(state)
    assert torch.equal(augment(x, generator=generator), first)
    assert not torch.equal(augment(x, generator=generator), first)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (AugmentConfig(rotate90=1.0), 0.5 * 3 / 4),
        (AugmentConfig(xflip=0.5), 0.5 * 0.5 / 2),
        (AugmentConfig(rotate=1.0), 0.5),
    ],
)
def test_share_of_images_that_change(config: AugmentConfig, expected: float) -> None:
    """A transformation acts with probability config · p; rotation has two chances that together make it so."""
    x = torch.randn(1, 1, 4, 4, generator=seeded()).expand(3000, -1, -1, -1)
    changed = (Augment(config, p=0.5)(x, generator=seeded()) != x).flatten(1).any(1).float().mean()
    assert float(changed) == pytest.approx(expected, abs=0.03)


def test_only_the_own_image_matters() -> None:
    x = torch.randn(3, 1, 12, 12, requires_grad=True)
    (gradient,) = torch.autograd.grad(Augment("bgcf")(x, generator=seeded())[1].square().sum(), x)
    assert gradient[1].abs().sum() > 0
    assert gradient[[0, 2]].abs().sum() == 0


def test_gradients_of_first_and_second_order() -> None:
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=seeded()).requires_grad_()
    augment = Augment("bgcfnc")

    def run(images: Tensor) -> Tensor:
        return augment(images, generator=seeded(3)).pow(2)

    assert torch.autograd.gradcheck(run, (x,), atol=1e-4, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x,), atol=1e-4, fast_mode=True)


@settings(max_examples=30, deadline=None)
@given(
    preset=st.sampled_from(sorted(PRESETS)),
    shape=st.tuples(st.integers(1, 4), st.sampled_from([1, 3]), st.integers(1, 20), st.integers(1, 20)),
    p=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_any_size_stays_finite(preset: str, shape: tuple[int, ...], p: float, seed: int) -> None:
    x = torch.rand(shape, generator=seeded(seed)) * 2 - 1
    y = Augment(preset, p=p)(x, generator=seeded(seed))
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert bool(y.isfinite().all())


def test_wrong_use_is_named() -> None:
    with pytest.raises(UsageError, match="no augmentation preset 'bcg'; choose one of"):
        Augment("bcg")
    with pytest.raises(UsageError, match=r"images \(N, 1 or 3, H, W\), received \(1, 2, 8, 8\)"):
        Augment()(torch.zeros(1, 2, 8, 8))
    with pytest.raises(UsageError, match=r"setting hue is 2\.0, expected a probability"):
        AugmentConfig(hue=2.0)
    with pytest.raises(UsageError, match=r"setting noise_std is -0\.1, expected at least 0"):
        AugmentConfig(noise_std=-0.1)
    assert all(getattr(config, f.name) is not None for config in PRESETS.values() for f in fields(config))


# ---------------------------------------------------------------------------- adaptive p


def test_adaptive_p_by_hand() -> None:
    ada = AdaptiveAugmentation(ramp_kimg=1.0, interval=2)
    assert math.isnan(ada.r_t)
    ada.update(torch.tensor([[2.0], [1.0], [-1.0], [3.0]]))
    assert ada.p == 0.0  # only every second minibatch
    ada.update(torch.full((6, 1), 0.1))
    assert ada.p == pytest.approx(10 / 1000)  # r_t = (3 - 1 + 6) / 10 = 0.8 > 0.6
    assert float(ada.pipeline.p) == pytest.approx(ada.p)
    assert ada.r_t == pytest.approx(0.8)
    for _ in range(2):
        ada.update(torch.full((400,), -1.0))
    assert (ada.p, ada.r_t) == (0.0, -1.0)  # not below zero
    for _ in range(6):
        ada.update(torch.ones(400))
    assert ada.p == float(ada.pipeline.p) == 1.0  # not above one


def test_adaptive_p_resumes_between_adjustments() -> None:
    whole, first, second = (AdaptiveAugmentation(p=p) for p in (0.5, 0.5, 0.1))
    for ada in (whole, first):
        ada.update(torch.tensor([1.0, 1.0, 1.0]))
    second.load_state_dict(first.state_dict())
    for ada in (whole, second):
        for _ in range(4):
            ada.update(torch.tensor([-1.0, 1.0]))
    assert second.state_dict() == whole.state_dict()
    assert torch.equal(second.pipeline.p, whole.pipeline.p)


def test_adaptive_p_refuses_nonsense() -> None:
    with pytest.raises(UsageError, match=r"0 <= p <= p_max <= 1.*received p=1\.5"):
        AdaptiveAugmentation(p=1.5)
