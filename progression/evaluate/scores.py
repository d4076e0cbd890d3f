"""Figures of merit of several scores on the same knees, with people as the sample.

Discrimination (AUC with DeLong's interval and a bootstrap's, average precision, two operating points) for every
score; calibration (Brier score and skill, ECE, slope) for those that are risks; paired differences from one of them.
Operating points are chosen on these very knees, so their intervals bootstrap choice and figure together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progression.errors import UsageError
from progression.metrics.auc import auc_delong, delong_test
from progression.metrics.bootstrap import cluster_weights, percentile_interval
from progression.metrics.calibration import (
    brier,
    brier_skill,
    calibration_slope,
    calibration_slope_interval,
    ece,
)
from progression.metrics.multiplicity import holm
from progression.metrics.ranked import (
    Ranked,
    area,
    precision_area,
    sensitivity_at,
    specificity_at,
)

Floats = NDArray[np.float64]

SPECIFICITY, SENSITIVITY = 0.9, 0.8
"""Fixed points at which the other of the two is given."""
_OF_RANKS: dict[str, Callable[[Floats, Floats], float]] = {
    "auc": area,
    "ap": precision_area,
    "sensitivity": partial(sensitivity_at, specificity=SPECIFICITY),
    "specificity": partial(specificity_at, sensitivity=SENSITIVITY),
}
"""Figures that follow from counts above each level; each gets an interval ``<name>_people``."""
CALIBRATION = ("mean_risk", "brier", "brier_skill", "ece", "slope", "intercept")


def judge_scores(
    y: Floats,
    subject: NDArray[np.generic],
    scores: Mapping[str, Floats],
    *,
    risks: Collection[str],
    against: str | None,
    n_draws: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Judge scores of N knees.

    Parameters
    ----------
    y
        (N,) 0 or 1, both among them.
    subject
        (N,) whose knee each is.
    scores
        Name → (N,), higher means the event is more likely.
    risks
        Names of those that are probabilities, and are judged as such.
    against
        The one that the others are compared with, if any: their field ``minus`` holds the difference of the
        AUC, its interval, DeLong's z and p, and p after Holm's correction for all of these comparisons.
    n_draws, seed
        Of the bootstrap of subjects, one for all scores.

    Raises
    ------
    UsageError
        As `progression.metrics.auc.auc`.
    """
    ranked = {name: Ranked.of(y, score) for name, score in scores.items()}
    draws = _draws(y, subject, ranked, {name: scores[name] for name in risks}, n_draws=n_draws, seed=seed)
    rows = {
        name: _judge(y, subject, scores[name], ranked[name], draws[name], risk=name in risks)
        for name in scores
    }
    if against is None:
        return rows
    others = [name for name in scores if name != against]
    tests = [delong_test(y, scores[name], scores[against], subject=subject) for name in others]
    for name, (z, p), corrected in zip(others, tests, holm([p for _, p in tests]), strict=True):
        rows[name]["minus"] = {
            "of": against,
            "difference": rows[name]["auc"] - rows[against]["auc"],
            "people": percentile_interval(draws[name]["auc"] - draws[against]["auc"]),
            "z": z,
            "p": p,
            "p_holm": float(corrected),
        }
    return rows


def _judge(
    y: Floats,
    subject: NDArray[np.generic],
    score: Floats,
    ranked: Ranked,
    draws: dict[str, Floats],
    *,
    risk: bool,
) -> dict[str, Any]:
    tp, fp = ranked.counts()
    row: dict[str, Any] = {"event_rate": float(y.mean())}
    for name, figure in _OF_RANKS.items():
        row |= {name: figure(tp, fp), f"{name}_people": percentile_interval(draws[name])}
    _, row["auc_delong"] = auc_delong(y, score, subject=subject)
    if not risk:
        return row | dict.fromkeys((*CALIBRATION, "brier_skill_people", "slope_people"))
    slope, intercept = calibration_slope(y, score)
    figures = (float(score.mean()), brier(y, score), brier_skill(y, score), ece(y, score), slope, intercept)
    return (
        row
        | dict(zip(CALIBRATION, figures, strict=True))
        | {
            "brier_skill_people": percentile_interval(draws["brier_skill"]),
            "slope_people": calibration_slope_interval(y, score, subject=subject),
        }
    )


def _draws(
    y: Floats,
    subject: ArrayLike,
    ranked: Mapping[str, Ranked],
    risks: Mapping[str, Floats],
    *,
    n_draws: int,
    seed: int,
) -> dict[str, dict[str, Floats]]:
    """Name → figure → (draws,); nan where a draw of people has no event, or nothing else."""
    found: dict[str, dict[str, list[float]]] = {name: {f: [] for f in _OF_RANKS} for name in ranked}
    skill: dict[str, list[float]] = {name: [] for name in risks}
    squares = {name: (risk - y) ** 2 for name, risk in risks.items()}
    for weight in cluster_weights(subject, n_draws=n_draws, seed=seed):
        rate = float(weight @ y / weight.sum())
        for name, ranks in ranked.items():
            try:
                counts = ranks.counts(weight)
            except UsageError:
                counts = None
            for figure, of_counts in _OF_RANKS.items():
                found[name][figure].append(of_counts(*counts) if counts else np.nan)
        for name, square in squares.items():
            spread = rate * (1 - rate) * weight.sum()
            skill[name].append(1 - float(weight @ square) / spread if spread > 0 else np.nan)
    return {
        name: {figure: np.array(values) for figure, values in figures.items()}
        | ({"brier_skill": np.array(skill[name])} if name in skill else {})
        for name, figures in found.items()
    }
