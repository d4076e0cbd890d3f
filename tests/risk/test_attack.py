"""Attacks: within their bounds, and uphill."""

from __future__ import annotations

import pytest
import torch

from progression.risk.attack import GREY_LEVEL, perturb


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_it_stays_within_epsilon_and_the_picture(steps: int) -> None:
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = perturb(x, lambda y: y.square().sum(), epsilon=4, steps=steps)
    assert float((y - x).abs().max()) <= 4 * GREY_LEVEL + 1e-6 and float(y.abs().max()) <= 1
    assert not y.requires_grad


def test_it_finds_the_corner_that_is_worst() -> None:
    x = torch.zeros(1, 1, 2, 2)
    slope = torch.tensor([[1.0, -1.0], [2.0, -0.1]])
    y = perturb(x, lambda y: (slope * y).sum(), epsilon=255 / 2, steps=4)
    torch.testing.assert_close(y, slope.sign()[None, None])


def test_it_is_its_generators_and_works_without_gradients() -> None:
    x = torch.zeros(2, 1, 4, 4)
    with torch.no_grad():
        first, again, other = (
            perturb(x, lambda y: y.sum(), epsilon=1, steps=1, generator=torch.Generator().manual_seed(seed))
            for seed in (0, 0, 1)
        )
    assert torch.equal(first, again) and not torch.equal(first, other)
