"""Perceptual path length of generators whose length is known."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from progression.errors import UsageError
from progression.metrics.features import Extractor
from progression.metrics.ppl import feature_distance, perceptual_path_length, random_labels


class Linear:
    """w = z; picture = slope · first coordinate everywhere."""

    z_dim, c_dim = 2, 0

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def mapping(self, z: Tensor, c: Tensor) -> Tensor:
        return z.unsqueeze(1)

    def synthesis(self, ws: Tensor, noise_mode: str) -> Tensor:
        assert noise_mode == "const"
        return self.slope * ws[:, 0, :1].reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)

    def parameters(self) -> Iterator[Tensor]:
        yield torch.zeros(1)


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() - b.double()).square().mean(dim=(1, 2, 3))


def length(slope: float, **options: float) -> float:
    result = perceptual_path_length(
        Linear(slope), mean_square, distance_name="mse", n=4000, batch=500, epsilon=1e-2, **options
    )
    assert (result.distance, result.n, result.epsilon) == ("mse", 4000, 1e-2)
    return result.mean


def test_linear_generator_has_the_known_length() -> None:
    # d/ε² = slope² (w_b − w_a)², of mean 2 slope²; the trimming of its long tail takes about 8 % off
    assert 0.85 * 2 < length(1.0) < 2.05
    assert length(3.0) == pytest.approx(9 * length(1.0), rel=1e-3)


def test_repeats_with_the_seed() -> None:
    assert length(1.0, seed=1) == length(1.0, seed=1) != length(1.0, seed=2)


def test_feature_distance_is_relative() -> None:
    distance = feature_distance(Extractor("flat", lambda x: x.flatten(1)))
    a, b = torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 2.0)
    assert distance(a, a).item() == 0
    assert distance(a, b).item() == pytest.approx(4 / ((4 + 16) / 2))


def test_labels_are_one_hot() -> None:
    labels = random_labels(3, 50, torch.Generator().manual_seed(0))
    assert labels.sum(dim=1).eq(1).all() and labels.any(dim=0).all()
    assert random_labels(0, 4, torch.Generator()).shape == (4, 0)


def test_refuses_one_sample() -> None:
    with pytest.raises(UsageError, match="at least 2 samples"):
        perceptual_path_length(Linear(1.0), mean_square, distance_name="mse", n=1)
