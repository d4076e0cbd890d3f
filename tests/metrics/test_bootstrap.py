"""Resampling of people."""

from __future__ import annotations

import numpy as np
import pytest

from progression.errors import UsageError
from progression.metrics.auc import auc
from progression.metrics.bootstrap import (
    cluster_bootstrap,
    cluster_draws,
    cluster_weights,
    percentile_interval,
)


def mean(x: np.ndarray) -> float:
    return float(x.mean())


def test_agrees_with_the_standard_error_of_independent_rows() -> None:
    x = np.random.default_rng(0).normal(size=400)
    low, high = cluster_bootstrap(mean, np.arange(400), x, n_draws=2000)
    assert (high - low) / (2 * 1.96) == pytest.approx(x.std() / 20, rel=0.07)


def test_pairs_of_equal_knees_count_once() -> None:
    # duplicated rows add nothing: the interval is that of the single rows, not narrower by sqrt 2
    x = np.random.default_rng(0).normal(size=200)
    single = cluster_bootstrap(mean, np.arange(200), x, n_draws=2000)
    double = cluster_bootstrap(mean, np.repeat(np.arange(200), 2), np.repeat(x, 2), n_draws=2000)
    assert double == pytest.approx(single, abs=1e-12)


def test_same_seed_same_interval_whatever_the_names() -> None:
    x = np.arange(20.0)
    a = cluster_bootstrap(mean, np.arange(20), x, n_draws=200, seed=3)
    assert a == cluster_bootstrap(mean, [f"{i:02d}" for i in range(20)], x, n_draws=200, seed=3)
    assert a != cluster_bootstrap(mean, np.arange(20), x, n_draws=200, seed=4)


def test_draws_without_events_are_left_out() -> None:
    y, score = np.array([0] * 30 + [1] * 3), np.arange(33.0)
    low, high = cluster_bootstrap(auc, np.arange(33), y, score, n_draws=200)
    assert (low, high) == (1.0, 1.0)


def test_too_few_usable_draws_give_no_interval() -> None:
    assert np.isnan(cluster_bootstrap(auc, [0, 1], [0, 0], [1.0, 2.0], n_draws=20)).all()


def test_refuses_arrays_of_another_length() -> None:
    with pytest.raises(UsageError, match="expected 2 rows in every array"):
        cluster_bootstrap(mean, [0, 1], [1.0])


def test_percentile_interval_by_hand() -> None:
    assert percentile_interval(np.arange(101), 0.9) == pytest.approx((5, 95))
    assert np.isnan(percentile_interval([np.nan])).all()


def test_weights_are_the_same_draws() -> None:
    subject, x = np.repeat(np.arange(15), 2), np.random.default_rng(0).normal(size=30)
    drawn = cluster_draws(lambda v: v.sum(), subject, x, n_draws=20, seed=4)[:, 0]
    weighted = [float(weight @ x) for weight in cluster_weights(subject, n_draws=20, seed=4)]
    np.testing.assert_allclose(weighted, drawn)
