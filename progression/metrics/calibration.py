"""Do predicted risks come true as often as they say?

====== =================================================================
symbol meaning
====== =================================================================
y      (N,) 0 or 1, the event
p      (N,) predicted probability of the event, 0 to 1
====== =================================================================
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progression.errors import UsageError

Floats = NDArray[np.float64]


def brier(y: ArrayLike, p: ArrayLike) -> float:
    """Mean squared difference of risk and outcome, 0 (best) to 1 (Brier 1950)."""
    outcome, risk = _checked(y, p)
    return float(((risk - outcome) ** 2).mean())


def reliability(y: ArrayLike, p: ArrayLike, *, n_bins: int = 10) -> list[dict[str, float]]:
    """Bins of equal count, in order of risk: knees, mean risk and event rate of each.

    Equal counts, because most risks are small and bins of equal width would stand empty.  Equal risks
    may be parted between bins: with one risk for all, the bins are arbitrary.
    """
    outcome, risk = _checked(y, p)
    order = np.argsort(risk, kind="stable")
    return [
        {"n": len(rows), "mean_risk": float(risk[rows].mean()), "event_rate": float(outcome[rows].mean())}
        for rows in np.array_split(order, n_bins)
        if len(rows)
    ]


def ece(y: ArrayLike, p: ArrayLike, *, n_bins: int = 10) -> float:
    """Expected calibration error: mean over knees of |mean risk − event rate| in their bin.

    Bins as in `reliability`.  It is above 0 for a perfectly calibrated risk too, by sampling: about
    sqrt(rate / knees a bin).
    """
    bins = reliability(y, p, n_bins=n_bins)
    total = sum(b["n"] for b in bins)
    return sum(b["n"] * abs(b["mean_risk"] - b["event_rate"]) for b in bins) / total


def calibration_slope(y: ArrayLike, p: ArrayLike, *, max_steps: int = 50) -> tuple[float, float]:
    """Slope and intercept of logit P(y) = intercept + slope · logit p by maximum likelihood (Cox 1958).

    1 and 0 for a calibrated risk; slope below 1: risks too extreme.  Risks are kept 1e-6 away from 0
    and 1.  (nan, nan) where the likelihood has no maximum: one class only, equal risks, or classes that
    the risk separates.
    """
    outcome, risk = _checked(y, p)
    logit = np.log(np.clip(risk, 1e-6, 1 - 1e-6))
    logit -= np.log1p(-np.clip(risk, 1e-6, 1 - 1e-6))
    if np.ptp(logit) < 1e-9 or not 0 < outcome.mean() < 1:
        return np.nan, np.nan
    # centred, so that Newton's steps are well conditioned
    centre = logit.mean()
    design = np.stack([np.ones_like(logit), logit - centre], axis=1)
    coefficient = np.array([np.log(outcome.mean() / (1 - outcome.mean())), 0.0])
    for _ in range(max_steps):
        fitted = 1 / (1 + np.exp(-np.clip(design @ coefficient, -500, 500)))
        weight = fitted * (1 - fitted)
        information = design.T @ (design * weight[:, None])
        if np.linalg.cond(information) > 1e12:
            return np.nan, np.nan
        step = np.linalg.solve(information, design.T @ (outcome - fitted))
        coefficient = coefficient + step
        if np.abs(step).max() < 1e-10:
            return float(coefficient[1]), float(coefficient[0] - coefficient[1] * centre)
    return np.nan, np.nan


def _checked(y: ArrayLike, p: ArrayLike) -> tuple[Floats, Floats]:
    outcome, risk = np.asarray(y, dtype=np.float64), np.asarray(p, dtype=np.float64)
    if outcome.shape != risk.shape or outcome.ndim != 1 or not len(outcome):
        raise UsageError(
            f"expected one risk a knee, received {risk.shape} risks for {outcome.shape} outcomes"
        )
    if not np.isin(outcome, (0, 1)).all():
        raise UsageError("expected outcomes 0 or 1: drop the knees whose outcome is not known")
    if not ((risk >= 0) & (risk <= 1)).all():
        raise UsageError("expected risks from 0 to 1: calibration is not defined for other scores")
    return outcome, risk
