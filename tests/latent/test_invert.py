"""Inversion on a small random generator, whose own pictures can be reached."""

import pytest
import torch

from progression.errors import UsageError
from progression.latent.invert import _ramp, frozen, noise_autocorrelation, precision, project, refine
from progression.latent.perceptual import pixel_distance, pyramid_distance
from progression.latent.whiten import Whitening
from progression.stylegan2 import Generator


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(16, 0, 16, 32, 1, 2, 256, 16).eval()


@pytest.fixture(scope="module")
def whitening(generator: Generator) -> Whitening:
    return Whitening.of(generator, samples=1000)


@pytest.fixture(scope="module")
def problem(generator: Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Start codes beside the true ones, and the true pictures."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        ws = generator.mapping(torch.randn(3, 16, generator=draws), None)
        start = ws + 0.4 * torch.randn(3, 1, 16, generator=draws)
        return start, generator.synthesis(ws, noise_mode="const")


def loss_of(generator: Generator, ws: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = generator.synthesis(ws, noise_mode="const")
        return pyramid_distance(found, images) + pixel_distance(found, images)


@pytest.mark.parametrize("space", ["w", "w+"])
def test_refinement_comes_nearer(
    generator: Generator, whitening: Whitening, problem: tuple[torch.Tensor, torch.Tensor], space: str
) -> None:
    start, images = problem
    ws = refine(generator, start, images, steps=30, whitening=whitening, space=space)  # type: ignore[arg-type]
    assert (loss_of(generator, ws, images) < 0.7 * loss_of(generator, start, images)).all()
    assert not ws.requires_grad
    spread = (ws - start).std(dim=1).max()
    assert spread < 1e-6 if space == "w" else spread > 1e-4


def test_a_knee_does_not_depend_on_the_batch(
    generator: Generator, problem: tuple[torch.Tensor, torch.Tensor]
) -> None:
    start, images = problem
    together = refine(generator, start, images, steps=5)
    alone = torch.cat([refine(generator, start[i : i + 1], images[i : i + 1], steps=5) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert refine(generator, start, images, steps=5).equal(together)


def test_penalties_hold_the_code(
    generator: Generator, whitening: Whitening, problem: tuple[torch.Tensor, torch.Tensor]
) -> None:
    start, images = problem
    options = {"steps": 20, "learning_rate": 0.1, "whitening": whitening}
    free = refine(generator, start, images, offset_weight=0.0, spread_weight=0.0, **options)  # type: ignore[arg-type]
    held = refine(generator, start, images, offset_weight=10.0, spread_weight=0.0, **options)  # type: ignore[arg-type]
    even = refine(generator, start, images, offset_weight=0.0, spread_weight=50.0, **options)  # type: ignore[arg-type]
    assert (held - start).norm() < 0.5 * (free - start).norm()
    assert (even - start).std(dim=1).norm() < 0.5 * (free - start).std(dim=1).norm()


def test_no_steps_no_change(generator: Generator, problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert refine(generator, problem[0], problem[1], steps=0).equal(problem[0])
    with pytest.raises(UsageError, match="one code a picture"):
        refine(generator, problem[0][:1], problem[1])


def test_projection_beats_the_mean(generator: Generator, problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    _, images = problem
    ws = project(generator, images, steps=80)
    assert ws.shape == (3, 8, 16)
    assert ws.std(dim=1).max() == 0
    mean = Whitening.of(generator, samples=1000).w_mean.expand(3, 8, 16)
    assert (loss_of(generator, ws, images) < 0.8 * loss_of(generator, mean, images)).all()
    assert all(parameter.requires_grad for parameter in generator.parameters())
    torch.testing.assert_close(project(generator, images, steps=3), project(generator, images, steps=3))


def test_learning_rate_ramp() -> None:
    assert _ramp(0.0, rampup=0.05, rampdown=0.25) == 0
    assert _ramp(0.025, rampup=0.05, rampdown=0.25) == pytest.approx(0.5)
    assert _ramp(0.5, rampup=0.05, rampdown=0.25) == 1
    assert _ramp(0.875, rampup=0.05, rampdown=0.25) == pytest.approx(0.5)


def test_noise_penalty_is_small_for_white_noise_only() -> None:
    white = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(white[..., ::8, ::8], scale_factor=8)
    assert (noise_autocorrelation(white) < 0.1).all()
    assert (noise_autocorrelation(smooth) > 1).all()


def test_frozen_restores(generator: Generator) -> None:
    generator.synthesis.b4.const.requires_grad_(False)
    with frozen(generator):
        assert not any(p.requires_grad for p in generator.parameters())
    assert not generator.synthesis.b4.const.requires_grad
    generator.synthesis.b4.const.requires_grad_(True)
    assert all(p.requires_grad for p in generator.parameters())


def test_half_precision_finds_nearly_the_same(
    generator: Generator, whitening: Whitening, problem: tuple[torch.Tensor, torch.Tensor]
) -> None:
    start, images = problem
    exact, rounded = (
        refine(generator, start, images, steps=20, whitening=whitening, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    # Adam's steps are of one size, so where a gradient is all but 0 its sign may differ: bounded, not equal
    assert (rounded - exact).norm() < 0.3 * (exact - start).norm()
    assert rounded.dtype == torch.float32 and generator.synthesis.compute_dtype == torch.float32
    assert (loss_of(generator, rounded, images) < 1.1 * loss_of(generator, exact, images)).all()


def test_precision_is_put_back(generator: Generator) -> None:
    with pytest.raises(RuntimeError, match="stop"), precision(generator, torch.bfloat16):
        assert generator.synthesis.compute_dtype == torch.bfloat16
        raise RuntimeError("stop")
    assert generator.synthesis.compute_dtype == torch.float32


def test_a_distance_is_told_its_target_once(
    generator: Generator, problem: tuple[torch.Tensor, torch.Tensor]
) -> None:
    start, images = problem
    told: list[torch.Tensor] = []

    def distance(others: torch.Tensor):  # type: ignore[no-untyped-def]
        told.append(others)
        return lambda pictures: pyramid_distance(pictures, others)

    found = refine(generator, start, images, steps=4, perceptual=distance)
    assert len(told) == 1 and told[0] is images
    torch.testing.assert_close(found, refine(generator, start, images, steps=4))
    project(generator, images, steps=2, perceptual=distance)
    assert len(told) == 2
