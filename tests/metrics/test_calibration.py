"""Calibration figures on cases that can be worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from progression.errors import UsageError
from progression.metrics.calibration import (
    brier,
    brier_skill,
    calibration_slope,
    calibration_slope_interval,
    ece,
    reliability,
)


def test_by_hand() -> None:
    y, p = [0, 0, 1, 1], [0.1, 0.3, 0.6, 1.0]
    assert brier(y, p) == pytest.approx((0.01 + 0.09 + 0.16 + 0) / 4)
    # bins (0.1, 0.3) and (0.6, 1.0): |0.2 - 0| and |0.8 - 1|
    assert ece(y, p, n_bins=2) == pytest.approx(0.2)
    assert reliability(y, p, n_bins=2)[1] == {"n": 2, "mean_risk": pytest.approx(0.8), "event_rate": 1.0}


def test_slope_agrees_with_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(-1, 1.5, size=3000)
    y = (rng.random(3000) < 1 / (1 + np.exp(-(0.5 * logit + 0.3)))).astype(int)
    p = 1 / (1 + np.exp(-logit))
    slope, intercept = calibration_slope(y, p)
    fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(logit[:, None], y)
    assert slope == pytest.approx(fitted.coef_[0, 0], abs=1e-5)
    assert intercept == pytest.approx(fitted.intercept_[0], abs=1e-5)
    assert slope == pytest.approx(0.5, abs=0.1)


def test_skill_by_hand() -> None:
    # the rate 1/2 has Brier score 1/4
    assert brier_skill([0, 1], [0.2, 0.6]) == pytest.approx(1 - (0.04 + 0.16) / 2 / 0.25)
    assert brier_skill([0, 1], [0.5, 0.5]) == 0
    assert np.isnan(brier_skill([1, 1], [0.5, 0.5]))


def made_up(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes of calibrated risks."""
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-rng.normal(-1, 1, size=n)))
    return (rng.random(n) < p).astype(int), p


def test_slope_interval_of_independent_knees_is_the_likelihoods() -> None:
    y, p = made_up(20_000, seed=0)
    logit = np.log(p / (1 - p))
    x = np.stack([np.ones_like(logit), logit], axis=1)
    # risks are calibrated, so Fisher's information is at slope 1, intercept 0
    error = np.sqrt(np.linalg.inv(x.T @ (x * (p * (1 - p))[:, None]))[1, 1])
    low, high = calibration_slope_interval(y, p)
    assert (high - low) / 2 == pytest.approx(1.959964 * error, rel=0.03)
    assert (low + high) / 2 == pytest.approx(calibration_slope(y, p)[0])


def test_slope_interval_covers_the_truth() -> None:
    inside = [
        low <= 1 <= high for low, high in (calibration_slope_interval(*made_up(300, s)) for s in range(200))
    ]
    assert 0.9 <= np.mean(inside) <= 0.99


def test_a_knee_twice_tells_nothing_new() -> None:
    y, p = made_up(200, seed=1)
    twice = calibration_slope_interval(np.tile(y, 2), np.tile(p, 2), subject=np.tile(np.arange(200), 2))
    assert twice == pytest.approx(calibration_slope_interval(y, p))
    assert np.isnan(calibration_slope_interval([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])).all()
    with pytest.raises(UsageError, match="a subject for each of 200 knees"):
        calibration_slope_interval(y, p, subject=[1, 2])


@pytest.mark.parametrize(
    ("y", "p"),
    [([0, 1, 0], [0.2, 0.2, 0.2]), ([0, 0, 0], [0.1, 0.2, 0.3]), ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])],
    ids=["equal risks", "no event", "separated"],
)
def test_slope_without_a_maximum_is_nan(y: list[int], p: list[float]) -> None:
    assert np.isnan(calibration_slope(y, p)).all()


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=50))
def test_bounds(rows: list[tuple[bool, float]]) -> None:
    y, p = [int(r[0]) for r in rows], [r[1] for r in rows]
    assert 0 <= brier(y, p) <= 1
    assert 0 <= ece(y, p) <= 1
    assert sum(b["n"] for b in reliability(y, p)) == len(rows)


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([0, 1], [0.5, 1.5], "risks from 0 to 1"),
        ([0, 3], [0, 1], "outcomes 0 or 1"),
        ([0], [], "one risk a knee"),
    ],
)
def test_refuses(y: list[int], p: list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        brier(y, p)
