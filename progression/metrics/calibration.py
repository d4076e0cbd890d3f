"""Do predicted risks come true as often as they say?

====== =================================================================
symbol meaning
====== =================================================================
y      (N,) 0 or 1, the event
p      (N,) predicted probability of the event, 0 to 1
====== =================================================================
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progression.errors import UsageError

Floats = NDArray[np.float64]


def brier(y: ArrayLike, p: ArrayLike) -> float:
    """Mean squared difference of risk and outcome, 0 (best) to 1 (Brier 1950)."""
    outcome, risk = checked(y, p)
    return float(((risk - outcome) ** 2).mean())


def brier_skill(y: ArrayLike, p: ArrayLike) -> float:
    """1 − Brier score / Brier score of the event rate as everyone's risk: 1 best, 0 no better than the rate.

    The rate is these knees' own, which nobody knows beforehand.  nan where all or none have the event.
    """
    outcome, _ = checked(y, p)
    rate = outcome.mean()
    return 1 - brier(y, p) / (rate * (1 - rate)) if 0 < rate < 1 else np.nan


def reliability(y: ArrayLike, p: ArrayLike, *, n_bins: int = 10) -> list[dict[str, float]]:
    """Bins of equal count, in order of risk: knees, mean risk and event rate of each.

    Equal counts, because most risks are small and bins of equal width would stand empty.  Equal risks
    may be parted between bins: with one risk for all, the bins are arbitrary.
    """
    outcome, risk = checked(y, p)
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
    outcome, risk = checked(y, p)
    design, centre = _centred(risk)
    (level, slope), _ = _logistic(outcome, design, max_steps=max_steps)
    return slope, level - slope * centre


def calibration_slope_interval(
    y: ArrayLike, p: ArrayLike, *, subject: ArrayLike | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the slope of `calibration_slope`; with `subject` (N,), whose knee each is, people are the sample.

    slope ± q·SE, from the sandwich I⁻¹ (Σ s s') I⁻¹ with s the score of a knee, or of a person's knees
    together (Huber 1967; Liang & Zeger 1986, Biometrika 73:13).  (nan, nan) where there is no slope.

    Raises
    ------
    UsageError
        As `brier`; or `subject` has another length than `y`.
    """
    outcome, risk = checked(y, p)
    owner = (
        np.arange(len(outcome)) if subject is None else np.unique(np.asarray(subject), return_inverse=True)[1]
    )
    if owner.shape != outcome.shape:
        raise UsageError(f"expected a subject for each of {len(outcome)} knees, received {owner.shape}")
    design, _ = _centred(risk)
    coefficient, information = _logistic(outcome, design)
    if not np.isfinite(coefficient).all():
        return np.nan, np.nan
    fitted = 1 / (1 + np.exp(-(design @ coefficient)))
    scores = np.zeros((int(owner.max()) + 1, 2))
    np.add.at(scores, owner, design * (outcome - fitted)[:, None])
    inverse = np.linalg.inv(information)
    people = len(scores)
    covariance = inverse @ (scores.T @ scores) @ inverse * people / max(people - 1, 1)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * np.sqrt(covariance[1, 1])
    return float(coefficient[1] - half), float(coefficient[1] + half)


def _centred(risk: Floats) -> tuple[Floats, float]:
    """Columns 1 and logit p − mean, (N, 2), so that Newton's steps are well conditioned; and that mean."""
    held = np.clip(risk, 1e-6, 1 - 1e-6)
    logit = np.log(held) - np.log1p(-held)
    centre = float(logit.mean())
    return np.stack([np.ones_like(logit), logit - centre], axis=1), centre


def _logistic(outcome: Floats, design: Floats, *, max_steps: int = 50) -> tuple[tuple[float, float], Floats]:
    """Coefficients by Newton's method, nan where there is no maximum, and the information matrix there."""
    none = (np.nan, np.nan), np.full((2, 2), np.nan)
    if np.ptp(design[:, 1]) < 1e-9 or not 0 < outcome.mean() < 1:
        return none
    coefficient = np.array([np.log(outcome.mean() / (1 - outcome.mean())), 0.0])
    for _ in range(max_steps):
        fitted = 1 / (1 + np.exp(-np.clip(design @ coefficient, -500, 500)))
        weight = fitted * (1 - fitted)
        information = design.T @ (design * weight[:, None])
        if np.linalg.cond(information) > 1e12:
            return none
        step = np.linalg.solve(information, design.T @ (outcome - fitted))
        coefficient = coefficient + step
        if np.abs(step).max() < 1e-10:
            return (float(coefficient[0]), float(coefficient[1])), information
    return none


def checked(y: ArrayLike, p: ArrayLike) -> tuple[Floats, Floats]:
    """Outcomes and risks (N,), refused unless 0 or 1, and from 0 to 1."""
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
