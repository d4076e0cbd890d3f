"""Inversion on a small random generator, whose own pictures can be reached."""

import pytest
import torch

from progression.errors import UsageError
from progression.latent.invert import _ramp, frozen, image_loss, noise_autocorrelation, project, refine
from progression.latent.perceptual import laplacian_pyramid, pyramid_distance
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
        return image_loss(generator.synthesis(ws, noise_mode="const"), images)


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


def test_pyramid() -> None:
    x = torch.randn(2, 1, 32, 32)
    levels = laplacian_pyramid(x)
    assert [level.shape[-1] for level in levels] == [32, 16, 8]
    assert not pyramid_distance(x, x).any()
    # A constant shift is seen by the coarsest level only.
    torch.testing.assert_close(pyramid_distance(x, x + 0.25), torch.full((2,), 0.25), atol=1e-5, rtol=0)
