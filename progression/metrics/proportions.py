"""Sensitivity and specificity at a fixed point with intervals, and the paired test of two readings.

====== =====================================================================
symbol meaning
====== =====================================================================
y      (N,) 0 or 1, the event
score  (N,) any real number; positive means score ≥ threshold
x, n   number of right calls among n knees (all with, or all without the event)
p̂      x / n
d      design effect: variance of p̂ over that of n independent knees
====== =====================================================================

Intervals: Wilson 1927 (JASA 22:209), or Clopper & Pearson 1934 (Biometrika 26:404), which is never too
short and mostly too long.  Where a person brings two knees: n and x are divided by the design effect
(Rao & Scott 1992, Biometrics 48:577).  McNemar's test in its exact form: McNemar 1947 (Psychometrika 12:153).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, binom

from progression.errors import UsageError
from progression.metrics.auc import Floats, checked_scores

Interval = Literal["wilson", "exact"]


@dataclass(frozen=True)
class Proportion:
    """A share of knees with its interval.

    Attributes
    ----------
    value : share, 0 to 1
    low, high : confidence interval
    count, total : knees counted and knees asked about
    design_effect : 1 where knees are independent; above, as many times fewer knees would tell as much
    """

    value: float
    low: float
    high: float
    count: int
    total: int
    design_effect: float = 1.0


def proportion(
    right: ArrayLike,
    *,
    subject: ArrayLike | None = None,
    interval: Interval = "wilson",
    confidence: float = 0.95,
) -> Proportion:
    """Share of true values among `right` (N,), with its interval.

    With `subject` (N,) knees of one person count as alike as they turn out to be.  A share of 0 or 1 shows
    no spread within or between people: each person then counts as one knee.

    Raises
    ------
    UsageError
        No knees, lengths that differ, values other than 0 and 1, or an unknown `interval`.
    """
    values = np.asarray(right)
    if values.ndim != 1 or not len(values):
        raise UsageError(f"expected the calls of at least one knee, received shape {values.shape}")
    if not np.isin(values, (0, 1)).all():
        raise UsageError("expected calls 0 or 1: drop the knees that were not called")
    if not 0 < confidence < 1:
        raise UsageError(f"expected a confidence between 0 and 1, received {confidence}")
    count, total = int(values.sum()), len(values)
    effect = 1.0 if subject is None else _design_effect(values.astype(np.float64), np.asarray(subject))
    if interval == "wilson":
        low, high = _wilson(count / effect, total / effect, confidence)
    elif interval == "exact":
        low, high = _clopper_pearson(count / effect, total / effect, confidence)
    else:
        raise UsageError(f"expected interval 'wilson' or 'exact', received {interval!r}")
    return Proportion(count / total, low, high, count, total, effect)


def sensitivity(
    y: ArrayLike,
    score: ArrayLike,
    *,
    threshold: float,
    subject: ArrayLike | None = None,
    interval: Interval = "wilson",
    confidence: float = 0.95,
) -> Proportion:
    """Share of events with score ≥ threshold.  Parameters and errors as `proportion` and `auc`.

    The interval takes the threshold as given.  If the same knees chose it (`threshold_for`), bootstrap
    both together instead (`progression.metrics.bootstrap.cluster_bootstrap`).
    """
    events, (values,) = checked_scores(y, [score])
    members = None if subject is None else np.asarray(subject)[events]
    right = values[events] >= threshold
    return proportion(right, subject=members, interval=interval, confidence=confidence)


def specificity(
    y: ArrayLike,
    score: ArrayLike,
    *,
    threshold: float,
    subject: ArrayLike | None = None,
    interval: Interval = "wilson",
    confidence: float = 0.95,
) -> Proportion:
    """Share of non-events with score < threshold; see `sensitivity`."""
    events, (values,) = checked_scores(y, [score])
    members = None if subject is None else np.asarray(subject)[~events]
    right = values[~events] < threshold
    return proportion(right, subject=members, interval=interval, confidence=confidence)


def threshold_for(
    y: ArrayLike,
    score: ArrayLike,
    *,
    sensitivity: float | None = None,
    specificity: float | None = None,
) -> float:
    """The score as threshold that reaches one of the two on these knees and costs least of the other.

    `sensitivity`: the highest score at or above which at least that share of events lies.  `specificity`:
    the lowest score below which at least that share of non-events lies; infinity if even the highest score
    is too low.

    Raises
    ------
    UsageError
        Not exactly one of the two is given, or it is outside 0 to 1; otherwise as `auc`.
    """
    events, (values,) = checked_scores(y, [score])
    asked = [share for share in (sensitivity, specificity) if share is not None]
    if len(asked) != 1 or not 0 <= asked[0] <= 1:
        raise UsageError("expected either a sensitivity or a specificity, from 0 to 1")
    levels = np.unique(values)
    below_events, below_others = (
        np.searchsorted(np.sort(values[members]), levels) / members.sum() for members in (events, ~events)
    )
    if sensitivity is not None:
        return float(levels[1 - below_events >= sensitivity - 1e-12].max())
    reached = levels[below_others >= asked[0] - 1e-12]
    return float(reached.min()) if len(reached) else float("inf")


@dataclass(frozen=True)
class McNemar:
    """Two calls on the same knees: how many only one of them got right, and the two-sided p."""

    only_first: int
    only_second: int
    p: float


# two-sided exact: under equality the discordant knees fall to either side like coins
def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Exact McNemar test that two calls are right equally often on the same knees.

    Parameters
    ----------
    first, second
        (N,) 0 or 1 each, right or wrong.  Give events only to compare sensitivities, non-events only to
        compare specificities.  Knees count as independent: with two knees of a person the p is too small.

    Raises
    ------
    UsageError
        Lengths differ, or values other than 0 and 1.
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape or a.ndim != 1:
        raise UsageError(f"expected two calls on the same knees, received {a.shape} and {b.shape}")
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise UsageError("expected calls 0 or 1: drop the knees that were not called twice")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    p = min(1.0, 2 * float(binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)))
    return McNemar(only_a, only_b, p)


# Wilson 1927: the p for which |p̂ − p| = q sqrt(p (1 − p) / n)
def _wilson(x: float, n: float, confidence: float) -> tuple[float, float]:
    q = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (x + q * q / 2) / (n + q * q)
    half = q / (n + q * q) * sqrt(max(x * (n - x) / n, 0.0) + q * q / 4)
    return (0.0 if x == 0 else centre - half), (1.0 if x == n else centre + half)


# Clopper & Pearson 1934, through the beta distribution, which takes the fractions of a design effect as well
def _clopper_pearson(x: float, n: float, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low = 0.0 if x == 0 else float(beta.ppf(tail, x, n - x + 1))
    high = 1.0 if x == n else float(beta.ppf(1 - tail, x + 1, n - x))
    return low, high


# Rao & Scott 1992, section 2: d = v / (p̂ (1 − p̂) / n), v the variance of a ratio over people.  With n − 1
# for n, so that one knee a person gives exactly 1; never below 1, as knees of a person are not less alike
# than those of two people, and an estimate that says so is chance.
def _design_effect(right: Floats, subject: NDArray[np.generic]) -> float:
    if subject.shape != right.shape:
        raise UsageError(f"expected a subject for each of {len(right)} knees, received {subject.shape}")
    _, owner = np.unique(subject, return_inverse=True)
    sizes, counts = np.bincount(owner), np.bincount(owner, weights=right)
    people, n, share = len(sizes), len(right), right.mean()
    if people == n:
        return 1.0
    if share in (0, 1) or people == 1:
        return n / people
    v = people / (people - 1) * ((counts - share * sizes) ** 2).sum() / n**2
    return max(1.0, float(v / (share * (1 - share) / (n - 1))))
