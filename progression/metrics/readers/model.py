"""The equations of Obuchowski & Rockette's analysis, each once.

======== ============================================================================================
symbol   meaning
======== ============================================================================================
I, R     treatments, readers
θ_ij     figure of merit of reader j under treatment i
MS(T)    mean square of treatments, MS(R) of readers, MS(T*R) of their interaction
σ²_ε     variance of θ_ij over samples of cases, mean over i and j
Cov1     covariance of θ_ij, θ_i'j: one reader, two treatments
Cov2     covariance of θ_ij, θ_ij': two readers, one treatment
Cov3     covariance of θ_ij, θ_i'j': two readers, two treatments
σ²_R     variance over readers of what they achieve, whatever the treatment
σ²_TR    variance over readers of what a treatment does for them
======== ============================================================================================

Model: θ_ij = μ + τ_i + R_j + (τR)_ij + ε_ij, with R_j, (τR)_ij independent over readers and ε_ij correlated as
above, because all readers read the same cases.

Obuchowski & Rockette 1995 (Commun Stat Simul 24:285), "O&R"; denominator degrees of freedom, and Cov2 − Cov3
kept from below 0: Hillis 2007 (Stat Med 26:596).  Fixed factors and single treatments: Hillis, Obuchowski,
Schartz & Berbaum 2005 (Stat Med 24:1579); Hillis 2014 (Stat Med 33:330).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan
from typing import Literal

import numpy as np
from scipy.stats import chi2, f

from progression.metrics.auc import Floats

Factor = Literal["random", "fixed"]
"""random: a sample of those one speaks about; fixed: one speaks about these alone."""

NO_VARIANCE = 1e-15
"""Rounding leaves less than this where readings do not vary; one case in a million varies by more."""


@dataclass(frozen=True)
class MeanSquares:
    """Mean squares of θ; nan where there is one treatment or one reader only."""

    treatment: float
    reader: float
    treatment_reader: float


@dataclass(frozen=True)
class ErrorCovariance:
    """Error variance and covariances of θ over samples of cases; 0 where there is no such pair."""

    variance: float
    cov1: float
    cov2: float
    cov3: float

    @property
    def shared(self) -> float:
        """max(Cov2 − Cov3, 0): what difficult cases do to a difference of treatments in all readers at once."""
        return max(self.cov2 - self.cov3, 0.0)


@dataclass(frozen=True)
class Components:
    """Variance components over readers; estimates, hence sometimes below 0."""

    reader: float
    treatment_reader: float


@dataclass(frozen=True)
class Noise:
    """What a mean square of treatments is held against: its mean square and degrees of freedom."""

    mean_square: float
    df: float


@dataclass(frozen=True)
class FTest:
    """F test that all treatments are alike; with df_denominator infinite, F times df_numerator is χ²."""

    f: float
    df_numerator: float
    df_denominator: float
    p: float

    @property
    def chi2(self) -> float:
        """χ² with df_numerator degrees of freedom; as a test only where df_denominator is infinite."""
        return self.f * self.df_numerator


# O&R 1995: the analysis of variance of θ_ij, one observation a cell
def mean_squares(figures: Floats) -> MeanSquares:
    """MS(T), MS(R), MS(T*R) of θ (I, R)."""
    n_treatments, n_readers = figures.shape
    grand = figures.mean()
    rows, columns = figures.mean(axis=1), figures.mean(axis=0)
    rest = figures - rows[:, None] - columns + grand
    i, r = n_treatments - 1, n_readers - 1
    return MeanSquares(
        treatment=float(n_readers * ((rows - grand) ** 2).sum() / i) if i else nan,
        reader=float(n_treatments * ((columns - grand) ** 2).sum() / r) if r else nan,
        treatment_reader=float((rest**2).sum() / (i * r)) if i and r else nan,
    )


# O&R 1995: σ²_ε, Cov1, Cov2, Cov3 as means over all pairs of their kind
def error_covariance(covariance: Floats) -> ErrorCovariance:
    """The four means of the covariance of θ (I, R, I, R)."""
    n_treatments, n_readers = covariance.shape[:2]
    same_reader = np.einsum("ijkj->ik", covariance).sum()
    same_treatment = np.einsum("ijil->jl", covariance).sum()
    same = np.einsum("ijij->", covariance)
    other = covariance.sum() - same_reader - same_treatment + same
    i, r = n_treatments - 1, n_readers - 1
    cells = n_treatments * n_readers
    return ErrorCovariance(
        variance=float(same / cells),
        cov1=float((same_reader - same) / (cells * i)) if i else 0.0,
        cov2=float((same_treatment - same) / (cells * r)) if r else 0.0,
        cov3=float(other / (cells * i * r)) if i and r else 0.0,
    )


# from the expected mean squares of O&R's model:
#   E MS(R) − E MS(T*R) = I (σ²_R + Cov1 − Cov3),   E MS(T*R) = σ²_TR + σ²_ε − Cov1 − Cov2 + Cov3
# with Cov2 − Cov3 kept from below 0 as in the test (Hillis, Obuchowski & Berbaum 2011)
def variance_components(squares: MeanSquares, errors: ErrorCovariance, *, n_treatments: int) -> Components:
    """σ²_R and σ²_TR; with one treatment the first holds both and the second is nan."""
    if n_treatments == 1:  # E MS(R) = σ²_R + σ²_TR + σ²_ε − Cov2
        return Components(squares.reader - errors.variance + errors.cov2, nan)
    return Components(
        reader=(squares.reader - squares.treatment_reader) / n_treatments - errors.cov1 + errors.cov3,
        treatment_reader=squares.treatment_reader - errors.variance + errors.cov1 + errors.shared,
    )


# Hillis 2007: MS(T*R) + R max(Cov2 − Cov3, 0) on its ddf; Hillis 2014 for a fixed factor
def noise_of_differences(
    squares: MeanSquares, errors: ErrorCovariance | None, *, shape: tuple[int, int], readers: Factor
) -> Noise:
    """What MS(T) estimates when treatments are alike, nan with one; `errors` None for fixed cases."""
    n_treatments, n_readers = shape
    if n_treatments == 1:
        return Noise(nan, nan)
    if readers == "fixed":
        assert errors is not None  # both factors fixed is refused before
        return Noise(clean(errors.variance - errors.cov1 + (n_readers - 1) * errors.shared), inf)
    df = (n_treatments - 1) * (n_readers - 1)
    return _with_satterthwaite(squares.treatment_reader, n_readers * errors.shared if errors else 0.0, df)


# Hillis et al. 2005: the same for one treatment, with MS(R) and Cov2 of its own readings
def noise_of_mean(figures: Floats, covariance: Floats | None, *, readers: Factor) -> Noise:
    """R times the variance of the mean of θ (R,), whose covariance is (R, R) or None for fixed cases."""
    n_readers = len(figures)
    own = None if covariance is None else error_covariance(covariance[None, :, None, :])
    shared = max(own.cov2, 0.0) if own else 0.0
    if readers == "fixed":
        assert own is not None  # both factors fixed is refused before
        return Noise(own.variance + (n_readers - 1) * shared, inf)
    return _with_satterthwaite(float(figures.var(ddof=1)), n_readers * shared, n_readers - 1)


def f_test(mean_square: float, noise: Noise, *, n_treatments: int) -> FTest:
    """Hold MS(T) against `noise`.

    Readings that do not vary at all: p = 1 where treatments are alike, else 0.
    """
    df = n_treatments - 1
    if noise.mean_square <= NO_VARIANCE:
        alike = mean_square <= NO_VARIANCE
        return FTest(0.0 if alike else inf, df, noise.df, 1.0 if alike else 0.0)
    ratio = mean_square / noise.mean_square
    p = chi2.sf(ratio * df, df) if noise.df == inf else f.sf(ratio, df, noise.df)
    return FTest(ratio, df, noise.df, float(p))


# Satterthwaite: of the sum only the mean square has sampling error on `df` degrees of freedom
def _with_satterthwaite(mean_square: float, shared: float, df: float) -> Noise:
    total = mean_square + shared
    if shared == 0:
        return Noise(clean(total), df)
    return Noise(total, inf if mean_square <= NO_VARIANCE else total**2 / (mean_square**2 / df))


def clean(variance: float) -> float:
    """Rounding may leave a variance a little below 0."""
    return max(float(variance), 0.0)
