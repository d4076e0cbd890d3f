"""Area under the ROC curve, its DeLong interval, and the paired test of two scores on the same knees.

============ ===================================================================================
symbol       meaning
============ ===================================================================================
y            (N,) 0 or 1, the event
score        (N,) any real number, higher means the event is more likely
m, n         number of events and of non-events
V10, V01     structural components: of each event, the share of non-events below it (ties half);
             of each non-event, the share of events above it
θ            AUC = mean V10 = mean V01
============ ===================================================================================

DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44:837); mid-rank form in O(N log N) of Sun & Xu 2014
(IEEE SPL 21:1389).  DeLong's variance takes the knees as independent, and two knees of one person are not:
with `subject` the components of a person are summed first (Obuchowski 1997, Biometrics 53:567).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import erfc, exp, log, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from progression.errors import UsageError

Floats = NDArray[np.float64]


def auc(y: ArrayLike, score: ArrayLike) -> float:
    """Probability that an event scores higher than a non-event, ties counting half.

    Raises
    ------
    UsageError
        `y` is not 0/1, holds only one class, differs in length from `score`, or a score is not finite.
    """
    return float(aucs(y, [score])[0])


def aucs(y: ArrayLike, scores: Sequence[ArrayLike]) -> Floats:
    """`auc` of K scores (K, N) on the same knees, (K,)."""
    events, values = checked_scores(y, scores)
    m, n = int(events.sum()), int((~events).sum())
    rank_sum = rankdata(values, axis=1)[:, events].sum(axis=1)
    return np.asarray((rank_sum - m * (m + 1) / 2) / (m * n))


def auc_within(y: ArrayLike, score: ArrayLike, stratum: ArrayLike) -> float:
    """Probability that an event scores higher than a non-event of its own stratum (N,), such as its baseline grade.

    What the stratum alone tells counts for nothing: it scores 1/2. Each pair of an event and a non-event has the
    same weight, so strata in which only one of both occurs have none.

    Raises
    ------
    UsageError
        As `auc`; or no stratum holds both an event and a non-event.
    """
    events, values = checked_scores(y, [score])
    strata = np.asarray(stratum)
    if strata.shape != events.shape:
        raise UsageError(f"expected {len(events)} strata, one a score, got shape {strata.shape}")
    above, pairs = 0.0, 0
    for name in np.unique(strata):
        mine = strata == name
        weight = int(events[mine].sum()) * int((~events[mine]).sum())
        if weight:
            above += weight * float(aucs(events[mine], list(values[:, mine]))[0])
            pairs += weight
    if not pairs:
        raise UsageError(
            "no stratum holds both an event and a non-event: nothing can be compared within strata"
        )
    return above / pairs


def auc_delong(
    y: ArrayLike, score: ArrayLike, *, subject: ArrayLike | None = None, confidence: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """AUC and its confidence interval; with `subject` (N,), whose knee each is, the people are the sample.

    The interval is formed on the logit scale, logit θ ± q·SE/(θ(1 − θ)), which keeps it inside (0, 1)
    and covers better near the ends.  Where θ is 0 or 1 the variance estimate is zero and tells nothing:
    the other end is then (1 − confidence)^(1 / min(m, n)) or 1 less that, as if each member of the
    smaller class were one trial that came out right (the "rule of three", about 3 / min(m, n) away);
    with `subject`, m and n count people.
    """
    theta, covariance = delong_covariance(y, [score], subject=subject)
    area = float(theta[0])
    if not 0 < area < 1:
        events = np.asarray(y).astype(bool)
        owner = np.arange(len(events)) if subject is None else np.asarray(subject)
        bound = (1 - confidence) ** (1 / min(len(np.unique(owner[events])), len(np.unique(owner[~events]))))
        return area, ((bound, 1.0) if area == 1 else (0.0, 1 - bound))
    quantile = NormalDist().inv_cdf(0.5 + confidence / 2)
    half = quantile * sqrt(covariance[0, 0]) / (area * (1 - area))
    centre = log(area / (1 - area))
    return area, (_sigmoid(centre - half), _sigmoid(centre + half))


def delong_test(
    y: ArrayLike, a: ArrayLike, b: ArrayLike, *, subject: ArrayLike | None = None
) -> tuple[float, float]:
    """Paired test of AUC(a) = AUC(b) on the same knees: (z, two-sided p); z > 0 where `a` is better.

    Scores that rank every pair alike have no variance between them: z = 0, p = 1.  With `subject` (N,),
    whose knee each is, people are the sample.
    """
    theta, covariance = delong_covariance(y, [a, b], subject=subject)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    difference = float(theta[0] - theta[1])
    if variance <= 1e-15:
        return (0.0, 1.0) if abs(difference) < 1e-12 else (float(np.copysign(np.inf, difference)), 0.0)
    z = difference / sqrt(variance)
    return z, erfc(abs(z) / sqrt(2))


# DeLong 1988, eq. (5) and (6): S = cov(V10) / m + cov(V01) / n
def delong_covariance(
    y: ArrayLike, scores: Sequence[ArrayLike], *, subject: ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """AUCs (K,) of K scores on the same knees, and the (K, K) covariance of these estimates.

    Raises
    ------
    UsageError
        As `auc`; or `subject` has another length than `y`.
    """
    events, values = checked_scores(y, scores)
    v10, v01 = structural_components(events, values)
    if subject is not None:
        return v10.mean(axis=1), _clustered(events, v10, v01, np.asarray(subject))
    # the mean of one value has no sample variance: with a single event its share is taken as 0
    parts = [np.cov(v) / v.shape[1] if v.shape[1] > 1 else np.zeros((len(v), len(v))) for v in (v10, v01)]
    return v10.mean(axis=1), np.atleast_2d(parts[0]) + np.atleast_2d(parts[1])


# Obuchowski 1997, eq. (2) to (5): S10 / m + S01 / n + 2 S11 / (m n), here for pairs of scores.  One knee a
# person gives DeLong's: S11 is then 0, as nobody has both an event and a non-event.
def _clustered(events: NDArray[np.bool_], v10: Floats, v01: Floats, subject: NDArray[np.generic]) -> Floats:
    if subject.shape != events.shape:
        raise UsageError(f"expected a subject for each of {len(events)} knees, received {subject.shape}")
    _, owner = np.unique(subject, return_inverse=True)
    people = int(owner.max()) + 1
    theta = v10.mean(axis=1, keepdims=True)
    e10, e01 = np.zeros((len(v10), people)), np.zeros((len(v10), people))
    np.add.at(e10.T, owner[events], (v10 - theta).T)
    np.add.at(e01.T, owner[~events], (v01 - theta).T)
    m, n = v10.shape[1], v01.shape[1]
    s11 = _of_sample(people) * (e10 @ e01.T)
    return np.asarray(
        _of_sample(len(np.unique(owner[events]))) * (e10 @ e10.T) / m**2
        + _of_sample(len(np.unique(owner[~events]))) * (e01 @ e01.T) / n**2
        + (s11 + s11.T) / (m * n)
    )


def _of_sample(size: int) -> float:
    """Bessel's correction; a sample of one has no variance to correct, and its sum of squares is 0."""
    return size / (size - 1) if size > 1 else 1.0


def structural_components(events: NDArray[np.bool_], values: Floats) -> tuple[Floats, Floats]:
    """V10 (K, m) and V01 (K, n) of `values` (K, N), from mid-ranks among all and within each class."""
    positives, negatives = values[:, events], values[:, ~events]
    m, n = positives.shape[1], negatives.shape[1]
    overall = rankdata(values, axis=1)
    v10 = (overall[:, events] - rankdata(positives, axis=1)) / n
    v01 = 1 - (overall[:, ~events] - rankdata(negatives, axis=1)) / m
    return v10, v01


def roc_points(y: ArrayLike, score: ArrayLike) -> tuple[Floats, Floats]:
    """False and true positive rates (P + 1,) each at all P thresholds, from (0, 0) to (1, 1).

    Positive means at or above a threshold; equal scores are one step, a slanted one.  The area under the
    straight lines between the points is `auc`.
    """
    events, (values,) = checked_scores(y, [score])
    thresholds, level = np.unique(-values, return_inverse=True)
    rates = [
        np.cumsum(np.bincount(level[members], minlength=len(thresholds))) / members.sum()
        for members in (~events, events)
    ]
    return np.append(0.0, rates[0]), np.append(0.0, rates[1])


def average_precision(y: ArrayLike, score: ArrayLike) -> float:
    """Area under the precision-recall curve as a sum of steps; a random score gives the event rate."""
    from sklearn.metrics import average_precision_score

    events, (values,) = checked_scores(y, [score])
    return float(average_precision_score(events, values))


def checked_scores(y: ArrayLike, scores: Sequence[ArrayLike]) -> tuple[NDArray[np.bool_], Floats]:
    """Events (N,) and scores (K, N), refused as `auc` says."""
    outcome = np.asarray(y)
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or values.shape[1:] != outcome.shape:
        raise UsageError(
            f"expected one score a knee, received {values.shape[1:]} scores for {outcome.shape} outcomes"
        )
    if not np.isin(outcome, (0, 1)).all():
        raise UsageError("expected outcomes 0 or 1: drop the knees whose outcome is not known")
    if not np.isfinite(values).all():
        raise UsageError("expected finite scores, received NaN or infinity: drop the knees without a score")
    events = outcome.astype(bool)
    if events.all() or not events.any():
        raise UsageError(
            f"an AUC needs both events and non-events, received {int(events.sum())} events "
            f"among {len(events)}"
        )
    return events, values


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))
