"""Do readers do better under one treatment than under another?  Obuchowski & Rockette's analysis.

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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf, nan, sqrt
from enum import StrEnum
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2, f, t

from progression.errors import UsageError
from progression.metrics.auc import Floats
from progression.metrics.readers.merit import Covariance, Merit, Sample
from progression.metrics.readers.ratings import Ratings

Factor = Literal["random", "fixed"]
"""random: a sample of those one speaks about; fixed: one speaks about these alone."""

_Name = TypeVar("_Name", bound=StrEnum)
_NO_VARIANCE = 1e-15
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
    """Variance components over readers; unbiased, hence sometimes below 0."""

    reader: float
    treatment_reader: float


@dataclass(frozen=True)
class Noise:
    """What a mean square of treatments is held against: its mean square and degrees of freedom."""

    mean_square: float
    df: float


@dataclass(frozen=True)
class Test:
    """F test that all treatments are alike; with df_denominator infinite, F times df_numerator is χ²."""

    f: float
    df_numerator: float
    df_denominator: float
    p: float

    @property
    def chi2(self) -> float:
        """χ² with df_numerator degrees of freedom; as a test only where df_denominator is infinite."""
        return self.f * self.df_numerator


@dataclass(frozen=True)
class Estimate:
    """Mean of the readers under one treatment; the interval may pass 0 or 1."""

    treatment: str
    value: float
    stderr: float
    df: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """`first` minus `second` of two treatments, in the mean of the readers or in one (`reader`).

    `statistic` is difference / stderr and `p` two-sided, both by Student's t (normal where df is infinite).
    """

    first: str
    second: str
    difference: float
    stderr: float
    df: float
    statistic: float
    p: float
    low: float
    high: float
    reader: str | None = None


@dataclass(frozen=True)
class Analysis:
    """What follows from θ and its covariance.

    Attributes
    ----------
    treatments, reader_names : I and R names
    readers, cases : random or fixed, as asked
    confidence : of all intervals
    figures : (I, R) θ
    squares : mean squares
    errors, components : None where cases are fixed (then nothing is said about other cases)
    test : None with one treatment
    differences : every pair of treatments, earlier minus later
    estimates : each treatment alone, from its own readings only
    by_reader : every pair of treatments in each reader, over cases; empty where cases are fixed
    """

    treatments: tuple[str, ...]
    reader_names: tuple[str, ...]
    readers: Factor
    cases: Factor
    confidence: float
    figures: Floats
    squares: MeanSquares
    errors: ErrorCovariance | None
    components: Components | None
    test: Test | None
    differences: tuple[Difference, ...]
    estimates: tuple[Estimate, ...]
    by_reader: tuple[Difference, ...]


@dataclass(frozen=True)
class ReaderStudy(Analysis):
    """`Analysis` of ratings, and what was analysed."""

    merit: Merit
    threshold: float | None
    covariance: Covariance
    n_cases: int
    n_positive: int
    n_subjects: int


def obuchowski_rockette(
    ratings: Ratings | Mapping[str, ArrayLike],
    *,
    readers: Factor = "random",
    cases: Factor = "random",
    merit: Merit | str = Merit.AUC,
    threshold: float | None = None,
    covariance: Covariance | str = Covariance.JACKKNIFE,
    confidence: float = 0.95,
    n_draws: int = 1000,
    seed: int = 0,
) -> ReaderStudy:
    """Compare treatments in a study where every reader reads every case under every treatment.

    Parameters
    ----------
    ratings
        Columns reader, treatment, case, truth, rating and optionally subject, one row a rating
        (`Ratings.of`); a data frame or a mapping of arrays.
    readers, cases
        Which of them are a sample.  Both random: the answer is about such readers and such cases.
        Fixed readers: about these readers, on such cases.  Fixed cases: about such readers, on these.
    merit, threshold
        auc; or sensitivity or specificity, with ratings at or above `threshold` as positive.
    covariance
        jackknife, delong (AUC only) or bootstrap (`n_draws` draws, `seed`); of subjects, if cases have them.
    confidence
        Of the intervals, 0 to 1, exclusive.

    Raises
    ------
    TableError
        The ratings are not a full design (`Ratings.of`), or have too few subjects of a class.
    UsageError
        An option is unknown, a threshold is missing, both factors are fixed, or one reader is to stand for
        all.
    """
    table = Ratings.of(ratings)
    what, how = _choice(Merit, "merit", merit), _choice(Covariance, "covariance", covariance)
    sample = Sample.of(table, what, threshold)
    shape = len(table.treatments), len(table.readers)
    spread = sample.covariance(how, n_draws=n_draws, seed=seed) if cases == "random" else None
    analysis = analyse(
        sample.figures().reshape(shape),
        None if spread is None else spread.reshape(*shape, *shape),
        treatments=table.treatments,
        reader_names=table.readers,
        readers=readers,
        cases=cases,
        confidence=confidence,
    )
    return ReaderStudy(
        **vars(analysis),
        merit=what,
        threshold=threshold,
        covariance=how,
        n_cases=len(sample.truth),
        n_positive=int(sample.truth.sum()),
        n_subjects=len(np.unique(sample.subject)),
    )


def analyse(
    figures: ArrayLike,
    covariance: ArrayLike | None,
    *,
    treatments: Sequence[str],
    reader_names: Sequence[str],
    readers: Factor = "random",
    cases: Factor = "random",
    confidence: float = 0.95,
) -> Analysis:
    """The analysis of θ (I, R) with its covariance (I, R, I, R), wherever they come from.

    Where only the readers' figures are known, as from a publication, pass covariance None and fix the
    cases.

    Raises
    ------
    UsageError
        As `obuchowski_rockette`; or shapes do not fit, or a figure is not finite.
    """
    theta = np.asarray(figures, dtype=np.float64)
    shape = (len(treatments), len(reader_names))
    if theta.shape != shape or not np.isfinite(theta).all():
        raise UsageError(f"expected finite figures of {shape[0]} treatments by {shape[1]} readers, "
                         f"received shape {theta.shape}")  # fmt: skip
    _check_model(readers, cases, n_readers=shape[1], confidence=confidence)
    spread = None if covariance is None or cases == "fixed" else np.asarray(covariance, dtype=np.float64)
    if cases == "random" and (spread is None or spread.shape != (*shape, *shape)):
        raise UsageError(f"random cases need the covariance of the figures, of shape {(*shape, *shape)}")
    names, people = tuple(treatments), tuple(reader_names)
    squares = mean_squares(theta)
    errors = None if spread is None else error_covariance(spread)
    components = (
        variance_components(squares, errors, n_treatments=shape[0]) if errors and shape[1] > 1 else None
    )
    noise = noise_of_differences(squares, errors, shape=shape, readers=readers)
    mean = theta.mean(axis=1)
    several = len(names) > 1
    pairs = list(combinations(range(len(names)), 2))
    return Analysis(
        treatments=names,
        reader_names=people,
        readers=readers,
        cases=cases,
        confidence=confidence,
        figures=theta,
        squares=squares,
        errors=errors,
        components=components,
        test=f_test(squares.treatment, noise, n_treatments=shape[0]) if several else None,
        # O&R: var(θ_i· − θ_i'·) = 2 D / R, D being what MS(T) is held against
        differences=tuple(
            _difference(
                names[a],
                names[b],
                mean[a] - mean[b],
                sqrt(2 * noise.mean_square / shape[1]),
                noise.df,
                confidence,
            )
            for a, b in pairs
        ),  # fmt: skip
        estimates=tuple(
            _estimate(name, theta[i], None if spread is None else spread[i, :, i], readers, confidence)
            for i, name in enumerate(names)
        ),
        by_reader=()
        if spread is None
        else tuple(
            _difference(
                names[a],
                names[b],
                theta[a, j] - theta[b, j],
                sqrt(_clean(spread[a, j, a, j] + spread[b, j, b, j] - 2 * spread[a, j, b, j])),
                inf,
                confidence,
                reader=person,
            )
            for j, person in enumerate(people)
            for a, b in pairs
        ),  # fmt: skip
    )


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
    """What MS(T) estimates when treatments are alike; `errors` None for fixed cases."""
    n_treatments, n_readers = shape
    if readers == "fixed":
        assert errors is not None  # both factors fixed is refused before
        return Noise(_clean(errors.variance - errors.cov1 + (n_readers - 1) * errors.shared), inf)
    df = (n_treatments - 1) * (n_readers - 1)
    return _with_satterthwaite(squares.treatment_reader, n_readers * errors.shared if errors else 0.0, df)


# Hillis 2007, section on single treatments: the same with MS(R) and Cov2 of this treatment's own readings
def noise_of_mean(figures: Floats, covariance: Floats | None, *, readers: Factor) -> Noise:
    """R times the variance of the mean of θ (R,), whose covariance is (R, R) or None for fixed cases."""
    n_readers = len(figures)
    own = None if covariance is None else error_covariance(covariance[None, :, None, :])
    shared = max(own.cov2, 0.0) if own else 0.0
    if readers == "fixed":
        assert own is not None  # both factors fixed is refused before
        return Noise(own.variance + (n_readers - 1) * shared, inf)
    return _with_satterthwaite(float(figures.var(ddof=1)), n_readers * shared, n_readers - 1)


def f_test(mean_square: float, noise: Noise, *, n_treatments: int) -> Test:
    """Hold MS(T) against `noise`.

    Readings that do not vary at all: p = 1 where treatments are alike, else 0.
    """
    df = n_treatments - 1
    if noise.mean_square <= _NO_VARIANCE:
        alike = mean_square <= _NO_VARIANCE
        return Test(0.0 if alike else inf, df, noise.df, 1.0 if alike else 0.0)
    ratio = mean_square / noise.mean_square
    p = chi2.sf(ratio * df, df) if noise.df == inf else f.sf(ratio, df, noise.df)
    return Test(ratio, df, noise.df, float(p))


# Satterthwaite: of the sum only the mean square has sampling error on `df` degrees of freedom
def _with_satterthwaite(mean_square: float, shared: float, df: float) -> Noise:
    total = mean_square + shared
    if shared == 0:
        return Noise(_clean(total), df)
    return Noise(total, inf if mean_square <= _NO_VARIANCE else total**2 / (mean_square**2 / df))


def _estimate(
    name: str, figures: Floats, covariance: Floats | None, readers: Factor, confidence: float
) -> Estimate:
    noise = noise_of_mean(figures, covariance, readers=readers)
    value, stderr = float(figures.mean()), sqrt(noise.mean_square / len(figures))
    half = _quantile(noise.df, confidence) * stderr
    return Estimate(name, value, stderr, noise.df, value - half, value + half)


def _difference(
    first: str,
    second: str,
    value: float,
    stderr: float,
    df: float,
    confidence: float,
    *,
    reader: str | None = None,
) -> Difference:
    if stderr**2 <= _NO_VARIANCE:
        alike = abs(value) < 1e-12
        statistic, p = (0.0, 1.0) if alike else (float(np.copysign(inf, value)), 0.0)
    else:
        statistic = float(value / stderr)
        p = 2 * float(t.sf(abs(statistic), df))
    half = _quantile(df, confidence) * stderr
    value = float(value)
    return Difference(first, second, value, stderr, df, statistic, p, value - half, value + half, reader)


def _quantile(df: float, confidence: float) -> float:
    return float(t.ppf(0.5 + confidence / 2, df))


def _clean(variance: float) -> float:
    """Rounding may leave a variance a little below 0."""
    return max(float(variance), 0.0)


def _check_model(readers: str, cases: str, *, n_readers: int, confidence: float) -> None:
    for name, value in (("readers", readers), ("cases", cases)):
        if value not in ("random", "fixed"):
            raise UsageError(f"expected {name} 'random' or 'fixed', received {value!r}")
    if readers == cases == "fixed":
        raise UsageError("with readers and cases fixed nothing is a sample: let at least one be random")
    if readers == "random" and n_readers < 2:
        raise UsageError("one reader cannot stand for readers: take readers='fixed', or add readers")
    if not 0 < confidence < 1:
        raise UsageError(f"expected a confidence between 0 and 1, received {confidence}")


def _choice(kind: type[_Name], name: str, value: str) -> _Name:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(
            f"expected {name} {' or '.join(str(member) for member in kind)}, received {value!r}"
        ) from None
