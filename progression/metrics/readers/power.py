"""How many readers and cases does a study need?

======== ============================================================================================
symbol   meaning
======== ============================================================================================
R, c     readers and cases of the study that is planned
c*       cases of the pilot study that the error covariances are of
d        difference of two treatments to be found
δ        max(Cov2 − Cov3, 0)
Δ        noncentrality of the F test
======== ============================================================================================

Hillis, Obuchowski & Berbaum 2011 (Acad Radiol 18:129), for the Obuchowski-Rockette test of two treatments.
Error covariances are inversely proportional to the cases as long as the share with the condition stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2, f, ncf, ncx2

from progression.errors import UsageError
from progression.metrics.auc import Floats
from progression.metrics.readers.analysis import ReaderStudy
from progression.metrics.readers.model import Factor


@dataclass(frozen=True)
class Pilot:
    """What has to be known beforehand; symbols as in `progression.metrics.readers.model`.

    Attributes
    ----------
    variance, cov1, cov2, cov3 : error covariances of a study with `cases` cases
    treatment_reader : σ²_TR; below 0 counts as 0
    cases : c*
    """

    variance: float
    cov1: float
    cov2: float
    cov3: float
    treatment_reader: float
    cases: int

    def __post_init__(self) -> None:
        numbers = (self.variance, self.cov1, self.cov2, self.cov3, self.treatment_reader)
        if not np.isfinite(numbers).all() or self.cases < 1 or not self.variance > self.cov1:
            raise UsageError(
                "expected finite components with the variance above cov1, of at least one case: with less, "
                f"two readings of the same reader never differ; received {self}"
            )

    @classmethod
    def of(cls, study: ReaderStudy) -> Pilot:
        """The components of a study that was analysed with random cases and at least two readers.

        Raises
        ------
        UsageError
            The study has no such components, or its readings do not differ between treatments.
        """
        if study.errors is None or study.components is None or study.test is None:
            raise UsageError("expected a pilot with two treatments, two readers and random cases")
        return cls(
            **vars(study.errors), treatment_reader=study.components.treatment_reader, cases=study.n_cases
        )

    @classmethod
    def conjectured(
        cls,
        *,
        auc: float,
        events: int,
        others: int,
        r1: float,
        r2: float,
        r3: float,
        treatment_reader: float,
    ) -> Pilot:
        """Without a pilot: the variance of an AUC from Hanley & McNeil 1982, covariances as correlations.

        Parameters
        ----------
        auc
            Expected mean area, 0 to 1, exclusive.
        events, others
            Cases with and without the condition; c* is their sum.
        r1, r2, r3
            Correlations over cases of Cov1, Cov2, Cov3: same reader, same treatment, neither.
        treatment_reader
            σ²_TR, the variance over readers of the gain, halved: two treatments differ by 2 σ²_TR.
        """
        if not 0 < auc < 1 or min(events, others) < 1:
            raise UsageError(
                f"expected an AUC between 0 and 1 and cases of both classes, received {auc}, {events}, {others}"
            )
        # Hanley & McNeil 1982 (Radiology 143:29), eq. (1) and the exponential forms of Q1, Q2
        q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
        variance = (auc * (1 - auc) + (events - 1) * (q1 - auc**2) + (others - 1) * (q2 - auc**2)) / (
            events * others
        )
        return cls(variance, r1 * variance, r2 * variance, r3 * variance, treatment_reader, events + others)


def power(
    pilot: Pilot,
    *,
    n_readers: int,
    n_cases: ArrayLike,
    difference: float,
    alpha: float = 0.05,
    readers: Factor = "random",
    cases: Factor = "random",
) -> Floats:
    """Probability that the test of two treatments finds `difference`, in the shape of `n_cases`.

    Parameters
    ----------
    pilot
        Error covariances and σ²_TR.
    n_readers, n_cases
        Of the planned study; cases in the pilot's mixture of with and without the condition.
    difference
        True difference of the mean figures of merit, as a fraction (0.05, not 5 %), between -1 and 1.
    alpha
        Two-sided error of the first kind.
    readers, cases
        How the planned study will be analysed; see `obuchowski_rockette`.

    Raises
    ------
    UsageError
        A number is out of range, both factors are fixed, or one reader is to stand for all.
    """
    c = np.asarray(n_cases, dtype=np.float64)
    least = 2 if readers == "random" else 1
    if n_readers < least or not (c >= 2).all():
        raise UsageError(
            f"expected at least {least} readers and 2 cases, received {n_readers} and {c.tolist()}"
        )
    if not 0 < alpha < 1:
        raise UsageError(f"expected alpha between 0 and 1, received {alpha:g}")
    if not -1 < difference < 1:
        raise UsageError(
            f"difference {difference:g}: expected a fraction, of less than 1 either way (0.05 for five points)"
        )
    if readers == cases == "fixed":
        raise UsageError("with readers and cases fixed nothing is a sample: let at least one be random")
    scale, delta = pilot.cases / c, max(pilot.cov2 - pilot.cov3, 0.0)
    # Hillis et al. 2011: E MS(T*R), and the part by which it falls short of what MS(T) is held against
    interaction = scale * max(pilot.variance - pilot.cov1 - delta, 0.0) + (
        max(pilot.treatment_reader, 0.0) if readers == "random" else 0.0
    )
    shared = scale * n_readers * delta if cases == "random" else 0.0 * scale
    noise = interaction + shared
    if not (noise > 0).all():
        raise UsageError("the pilot's components leave no variance to plan with: take another pilot")
    noncentrality = n_readers * difference**2 / 2 / noise
    if readers == "fixed":
        return np.asarray(ncx2.sf(chi2.isf(alpha, 1), 1, noncentrality))
    # ddf = noise² / (interaction² / (R − 1)); where it is huge the χ² is the same to all digits
    ddf = (n_readers - 1) * (noise / np.maximum(interaction, 1e-9 * noise)) ** 2
    # not ncf.sf, which some versions of scipy get wrong at noncentrality 0
    return np.asarray(1 - ncf.cdf(f.isf(alpha, 1, ddf), 1, ddf, noncentrality))


def cases_needed(
    pilot: Pilot,
    *,
    n_readers: int,
    difference: float,
    target: float = 0.8,
    alpha: float = 0.05,
    readers: Factor = "random",
    most: int = 5000,
) -> int | None:
    """Fewest cases with which `power` reaches `target`; None where `most` do not.

    More cases cannot replace readers: with few readers and a large σ²_TR there is no such number.

    Raises
    ------
    UsageError
        As `power`; or `difference` or `target` is not between 0 and 1.
    """
    if not 0 < difference < 1:
        raise UsageError(
            f"difference {difference:g}: expected a fraction between 0 and 1 (0.05 for five points)"
        )
    if not 0 < target < 1 or most < 2:
        raise UsageError(f"expected a power between 0 and 1 and at least 2 cases, received {target}, {most}")
    tried = np.arange(2, most + 1)
    reached = power(
        pilot, n_readers=n_readers, n_cases=tried, difference=difference, alpha=alpha, readers=readers
    )
    enough = np.flatnonzero(reached >= target)
    return int(tried[enough[0]]) if len(enough) else None
