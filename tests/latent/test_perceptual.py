"""Distances between pictures: nothing for equal ones, a picture's own whatever the batch, and what they follow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from progression.latent.invert import refine
from progression.latent.perceptual import SeenDistance, laplacian_pyramid, pyramid, pyramid_distance
from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS, Grader
from progression.risk.maps import map_distance
from progression.stylegan2 import Generator

STAGES = (Stage(1, 3, 1, 1, 4), Stage(1, 3, 2, 2, 6), Stage(1, 5, 2, 2, 8))


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(16, 0, 16, 32, 1, 2, 256, 16).eval()


@pytest.fixture(scope="module")
def grader() -> Grader:
    torch.manual_seed(1)
    networks = [EfficientNet(1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=STAGES) for _ in range(2)]
    with torch.no_grad():
        for network in networks:
            for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
                norm.bias.uniform_(0.2, 1)
    return Grader(networks, input_resolution=48).eval()


@pytest.fixture(scope="module")
def seen(generator: Generator, grader: Grader) -> SeenDistance:
    return SeenDistance.of(generator, grader)


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=32, mode="bilinear")


def test_pyramid() -> None:
    x = torch.randn(2, 1, 32, 32)
    levels = laplacian_pyramid(x)
    assert [level.shape[-1] for level in levels] == [32, 16, 8]
    assert not pyramid_distance(x, x).any()
    # A constant shift is seen by the coarsest level only.
    torch.testing.assert_close(pyramid_distance(x, x + 0.25), torch.full((2,), 0.25), atol=1e-5, rtol=0)
    torch.testing.assert_close(pyramid(x)(x + 0.25), torch.full((2,), 0.25), atol=1e-5, rtol=0)


def test_equal_pictures_are_nothing_apart(seen: SeenDistance) -> None:
    x, y = pictures(3), pictures(3, seed=1)
    assert not seen(x)(x).any()
    assert (seen(x)(y) > pyramid_distance(x, y)).all()
    torch.testing.assert_close(seen(x)(y), seen(y)(x))


def test_a_pictures_distance_does_not_depend_on_the_batch(seen: SeenDistance) -> None:
    x, y = pictures(4), pictures(4, seed=1)
    alone = torch.cat([seen(a)(b) for a, b in zip(x.split(1), y.split(1), strict=True)])
    torch.testing.assert_close(seen(x)(y), alone, atol=1e-5, rtol=1e-5)


def test_weights_of_the_maps(seen: SeenDistance) -> None:
    x, y = pictures(2), pictures(2, seed=1)
    nothing, first, all_of_one = (replace(seen, weights=w)(x)(y) for w in ((0.0,), (2.0,), (1.0, 1.0, 1.0)))
    torch.testing.assert_close(nothing, pyramid_distance(x, y))
    (a,), (b,) = seen.maps.look(x, [0]), seen.maps.look(y, [0])
    torch.testing.assert_close(first - nothing, 2 * (a - b).abs().mean(dim=(1, 2, 3)))
    torch.testing.assert_close(all_of_one - nothing, map_distance(seen.maps(x), seen.maps(y)))


def test_half_precision_is_near(seen: SeenDistance) -> None:
    x, y = pictures(4), pictures(4, seed=1)
    rounded = replace(seen, dtype=torch.bfloat16)(x)(y)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, seen(x)(y), rtol=0.03, atol=0)


def test_the_grader_is_left_as_it_was(generator: Generator, grader: Grader) -> None:
    before = {name: value.clone() for name, value in grader.state_dict().items()}
    again = SeenDistance.of(generator, grader), SeenDistance.of(generator, grader)
    assert all(torch.equal(value, before[name]) for name, value in grader.state_dict().items())
    # nothing is drawn that a seed does not give again
    for a, b in zip(*(one.maps.scales().values() for one in again), strict=True):
        assert torch.equal(a, b)


def test_refinement_comes_nearer_in_what_is_seen(
    generator: Generator, grader: Grader, seen: SeenDistance
) -> None:
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        ws = generator.mapping(torch.randn(3, 16, generator=draws), None)
        images = generator.synthesis(ws, noise_mode="const")
    start = ws + 0.4 * torch.randn(3, 1, 16, generator=draws)
    found = refine(generator, start, images, steps=30, perceptual=seen)
    with torch.no_grad():
        far, near = (seen(images)(generator.synthesis(w, noise_mode="const")) for w in (start, found))
    assert (near < 0.7 * far).all()
    alone = refine(generator, start[1:2], images[1:2], steps=30, perceptual=seen)
    torch.testing.assert_close(alone, found[1:2], atol=5e-3, rtol=0)
