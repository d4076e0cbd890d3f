"""DeLong against its definition pair by pair, and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from progression.errors import UsageError
from progression.metrics.auc import (
    auc,
    auc_delong,
    auc_within,
    average_precision,
    delong_covariance,
    delong_test,
    roc_points,
)
from progression.metrics.bootstrap import cluster_bootstrap

Y = [0, 0, 1, 1, 1]
SCORE = [0.1, 0.5, 0.5, 0.2, 0.9]


def brute_force(
    y: NDArray[np.int64], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Structural components from every pair of an event and a non-event."""
    x, z = scores[:, y == 1], scores[:, y == 0]
    wins = (x[:, :, None] > z[:, None, :]) + 0.5 * (x[:, :, None] == z[:, None, :])
    v10, v01 = wins.mean(axis=2), wins.mean(axis=1)
    return wins.mean(axis=(1, 2)), np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1]


def sample(seed: int, n: int = 120, rate: float = 0.3) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < rate).astype(int)
    y[:2], y[2:4] = 0, 1
    latent = rng.normal(size=n) + y
    # rounded, so that there are ties within and between the classes
    return y, np.stack([latent, latent + rng.normal(size=n)]).round(1)


def test_auc_by_hand() -> None:
    # pairs (event, non-event): .5>.1, .5=.5, .2>.1, .2<.5, .9>.1, .9>.5 -> (1 + .5 + 1 + 0 + 1 + 1) / 6
    assert auc(Y, SCORE) == pytest.approx(4.5 / 6, abs=1e-12)


def test_auc_within_strata_counts_pairs_of_one_stratum() -> None:
    y, score, stratum = [0, 1, 1, 0, 1, 1, 1], [1, 2, 0, 5, 9, 5, 3], [0, 0, 0, 1, 1, 1, 2]
    # stratum 0: one of two pairs right; stratum 1: one right, one tie; stratum 2: no pair
    assert auc_within(y, score, stratum) == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert auc_within(Y, SCORE, [3] * 5) == pytest.approx(auc(Y, SCORE))
    assert auc_within(Y, [0, 1, 0, 1, 1], [0, 1, 0, 1, 1]) == 0.5  # the stratum as the score
    with pytest.raises(UsageError, match="no stratum"):
        auc_within(Y, SCORE, [0, 0, 1, 1, 1])
    with pytest.raises(UsageError, match="5 strata"):
        auc_within(Y, SCORE, [0, 0, 1])


def test_delong_variance_by_hand() -> None:
    # V10 = (.75, .5, 1), sample variance 1/16; V01 = (1, .5), sample variance 1/8
    theta, covariance = delong_covariance(Y, [SCORE])
    assert theta[0] == pytest.approx(0.75)
    assert covariance[0, 0] == pytest.approx(1 / 16 / 3 + 1 / 8 / 2)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_every_pair_counted(seed: int) -> None:
    y, scores = sample(seed)
    theta, covariance = delong_covariance(y, list(scores))
    expected_theta, expected_covariance = brute_force(y, scores)
    np.testing.assert_allclose(theta, expected_theta, rtol=0, atol=1e-9)
    np.testing.assert_allclose(covariance, expected_covariance, rtol=0, atol=1e-9)
    assert auc(y, scores[0]) == pytest.approx(roc_auc_score(y, scores[0]), abs=1e-12)


def test_paired_test_statistic() -> None:
    y, scores = sample(1)
    theta, covariance = brute_force(y, scores)
    contrast = np.array([1, -1])
    z, p = delong_test(y, scores[0], scores[1])
    assert z == pytest.approx((theta[0] - theta[1]) / np.sqrt(contrast @ covariance @ contrast))
    assert 0 <= p <= 1
    assert delong_test(y, scores[1], scores[0]) == pytest.approx((-z, p))
    assert delong_test(y, scores[0], 3 * scores[0] + 1) == (0.0, 1.0)


def test_interval_holds_the_auc_and_widens_with_confidence() -> None:
    y, scores = sample(2)
    area, (low, high) = auc_delong(y, scores[0])
    _, (lower, higher) = auc_delong(y, scores[0], confidence=0.99)
    assert 0 < lower < low < area < high < higher < 1


def test_interval_covers_the_true_auc() -> None:
    from statistics import NormalDist

    true = NormalDist().cdf(1 / np.sqrt(2))
    covered = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        y = np.repeat([0, 1], [60, 30])
        _, (low, high) = auc_delong(y, rng.normal(size=90) + y)
        covered += low <= true <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_separated_classes_still_have_an_interval() -> None:
    area, (low, high) = auc_delong([0, 0, 0, 1, 1, 1], [1, 2, 3, 4, 5, 6])
    assert (area, high) == (1.0, 1.0)
    assert low == pytest.approx(0.05 ** (1 / 3))
    assert auc_delong([1, 1, 0], [1, 2, 3])[1][0] == 0.0


def test_one_knee_a_person_is_delong() -> None:
    y, scores = sample(3)
    _, expected = delong_covariance(y, list(scores))
    _, found = delong_covariance(y, list(scores), subject=np.arange(len(y)) * 7)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert delong_test(y, *scores, subject=np.arange(len(y))) == pytest.approx(delong_test(y, *scores))


def test_clustered_variance_by_hand() -> None:
    """Obuchowski 1997 with people (event .5, non-event .1), (event .2, non-event .5), (event .9).

    V10 = (.75, .5, 1), V01 = (1, .5), θ = .75.  S10 = 3/2 · (0 + 1/16 + 1/16) / 3, S01 = 2/1 · (1/16 + 1/16) / 2,
    S11 = 3/2 · (0 · .25 + (−.25)(−.25) + 0): variance S10 / 3 + S01 / 2 + 2 S11 / 6.
    """
    _, covariance = delong_covariance(Y, [SCORE], subject=["a", "b", "a", "b", "c"])
    assert covariance[0, 0] == pytest.approx(1 / 16 / 3 + 1 / 8 / 2 + 2 * (3 / 2 / 16) / 6)


def test_clustered_interval_is_as_wide_as_the_bootstrap_of_people() -> None:
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(150), 2)
    y = (rng.normal(size=150)[person] + 0.5 * rng.normal(size=300) > 0.5).astype(int)
    score = y + 1.5 * rng.normal(size=150)[person] + 0.5 * rng.normal(size=300)
    low, high = cluster_bootstrap(auc, person, y, score, n_draws=1000)
    _, (lower, higher) = auc_delong(y, score, subject=person)
    _, (naive_low, naive_high) = auc_delong(y, score)
    assert higher - lower == pytest.approx(high - low, rel=0.08)
    assert naive_high - naive_low < 0.85 * (high - low)


def test_a_perfect_score_counts_people() -> None:
    y, score = [0, 0, 0, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6, 7]
    _, (low, _) = auc_delong(y, score, subject=["a", "b", "c", "d", "d", "e", "e"])
    assert low == pytest.approx(0.05 ** (1 / 2))


def test_roc_points_by_hand() -> None:
    false, true = roc_points(Y, SCORE)
    np.testing.assert_allclose(false, [0, 0, 0.5, 0.5, 1])
    np.testing.assert_allclose(true, [0, 1 / 3, 2 / 3, 1, 1])


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=4, max_size=40))
def test_invariants(rows: list[tuple[bool, int]]) -> None:
    rows = [*rows, (True, 0), (False, 0)]
    y, score = np.array([r[0] for r in rows], dtype=int), np.array([r[1] for r in rows], dtype=float)
    area = auc(y, score)
    assert 0 <= area <= 1
    assert auc(y, -score) == pytest.approx(1 - area)
    assert auc(1 - y, score) == pytest.approx(1 - area)
    assert auc(y, np.exp(score)) == pytest.approx(area)
    order = np.argsort(np.sin(np.arange(len(y)) * 12.9898))
    assert auc(y[order], score[order]) == pytest.approx(area)
    false, true = roc_points(y, score)
    assert np.trapezoid(true, false) == pytest.approx(area)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)


def test_average_precision_of_a_constant_is_the_event_rate() -> None:
    assert average_precision([0, 0, 0, 1], [0.5] * 4) == pytest.approx(0.25)
    assert average_precision([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8]) == 1.0


@pytest.mark.parametrize(
    ("y", "score", "message"),
    [
        ([1, 1], [0.1, 0.2], "both events and non-events"),
        ([0, 2], [0.1, 0.2], "outcomes 0 or 1"),
        ([0, 1], [0.1, float("nan")], "finite scores"),
        ([0, 1], [0.1], "one score a knee"),
    ],
)
def test_refuses(y: list[int], score: list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        auc(y, score)


def test_refuses_subjects_of_other_knees() -> None:
    with pytest.raises(UsageError, match=r"a subject for each of 5 knees, received \(2,\)"):
        delong_covariance(Y, [SCORE], subject=[1, 2])
