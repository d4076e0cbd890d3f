"""Calibration figures on cases that can be worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from progression.errors import UsageError
from progression.metrics.calibration import brier, calibration_slope, ece, reliability


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
