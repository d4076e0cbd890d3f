"""FID, KID, precision and recall against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from progression.errors import UsageError
from progression.metrics.frechet import fid, fid_draws, kid, kid_draws, nearest_distance, precision_recall


def features(seed: int, n: int, d: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ np.diag(np.linspace(0.5, 2, d)) + shift


def fid_by_matrix_root(a: np.ndarray, b: np.ndarray) -> float:
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real))


@pytest.mark.parametrize("sizes", [(60, 50), (60, 60), (60, 9)], ids=["n > d", "equal", "few on one side"])
def test_fid_agrees_with_the_matrix_root(sizes: tuple[int, int]) -> None:
    a, b = features(0, sizes[0], 8), features(1, sizes[1], 8, shift=0.3)
    assert fid(a, b) == pytest.approx(fid_by_matrix_root(a, b), rel=1e-8)


def test_fid_with_fewer_pictures_than_features() -> None:
    # the root of the singular product is taken through the symmetric form C_a^½ C_b C_a^½
    a, b = features(0, 10, 30), features(1, 12, 30, shift=0.2)
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(ca)
    root = vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cb @ root), 0)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross
    assert fid(a, b) == pytest.approx(expected, rel=1e-6)


def test_fid_by_hand() -> None:
    # one feature: (μ_a − μ_b)² + (σ_a − σ_b)² with sample deviations √2 and 2√2
    assert fid([[0.0], [2.0]], [[3.0], [7.0]]) == pytest.approx(16 + 2)


def test_fid_of_a_set_with_itself_is_zero_and_symmetric() -> None:
    a, b = features(0, 40, 6), features(1, 30, 6)
    assert fid(a, a) == pytest.approx(0, abs=1e-9)
    assert fid(a, b) == pytest.approx(fid(b, a))


def test_kid_agrees_with_a_loop() -> None:
    a, b = features(0, 7, 4), features(1, 6, 4, shift=0.5)

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / 4 + 1) ** 3

    xx = [k(a[i], a[j]) for i in range(7) for j in range(7) if i != j]
    yy = [k(b[i], b[j]) for i in range(6) for j in range(6) if i != j]
    xy = [k(p, q) for p in a for q in b]
    assert kid(a, b) == pytest.approx(np.mean(xx) + np.mean(yy) - 2 * np.mean(xy))


def test_kid_is_unbiased() -> None:
    values = [kid(features(2 * i, 20, 3), features(2 * i + 1, 20, 3)) for i in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)


def test_draws_have_equal_size_and_repeat_with_the_seed() -> None:
    a, b = features(0, 80, 4), features(1, 50, 4, shift=1)
    drawn = kid_draws(a, b, n=60, n_draws=10, seed=1)
    assert drawn.n == 50 and drawn.low <= drawn.mean <= drawn.high
    assert drawn == kid_draws(a, b, n=60, n_draws=10, seed=1) != kid_draws(a, b, n=60, n_draws=10, seed=2)
    assert fid_draws(a, b, n=50, n_draws=3).mean > fid_draws(a, a, n=50, n_draws=3).mean


def test_precision_and_recall_tell_fidelity_from_variety() -> None:
    real = features(0, 200, 2)
    assert precision_recall(real, real) == (1.0, 1.0)
    collapsed = np.repeat(real[:1], 200, axis=0) + features(1, 200, 2) * 1e-3
    precision, recall = precision_recall(real, collapsed)
    assert precision > 0.9 and recall < 0.1
    assert precision_recall(real, real + 100) == (0.0, 0.0)


def test_nearest_distance_in_chunks() -> None:
    a, b = features(0, 30, 3), features(1, 20, 3)
    expected = np.linalg.norm(a[:, None] - b[None], axis=2).min(axis=1)
    np.testing.assert_allclose(nearest_distance(a, b, chunk=7), expected, atol=1e-6)


def test_refuses() -> None:
    with pytest.raises(UsageError, match="of one width"):
        fid(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(UsageError, match="finite features"):
        kid([[np.nan]], [[1.0]])
    with pytest.raises(UsageError, match="more than k = 3"):
        precision_recall(np.zeros((3, 2)), np.zeros((3, 2)))
