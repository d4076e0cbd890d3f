"""Do readers do better under one treatment than under another?  Obuchowski & Rockette's analysis.

Symbols, equations and sources are in `progression.metrics.readers.model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from math import inf, sqrt
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t

from progression.errors import UsageError
from progression.metrics.auc import Floats
from progression.metrics.readers.merit import Covariance, Merit, Sample
from progression.metrics.readers.model import (
    NO_VARIANCE,
    Components,
    ErrorCovariance,
    Factor,
    FTest,
    MeanSquares,
    Noise,
    clean,
    error_covariance,
    f_test,
    mean_squares,
    noise_of_differences,
    noise_of_mean,
    variance_components,
)
from progression.metrics.readers.ratings import Ratings

_Name = TypeVar("_Name", bound=StrEnum)


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
    errors : None where cases are fixed, as then nothing is said about other cases
    components : None where cases are fixed, or there is one reader
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
    test: FTest | None
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
    table = ratings if isinstance(ratings, Ratings) else Ratings.of(ratings)
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
    # one reader says nothing about how readers differ
    components = (
        variance_components(squares, errors, n_treatments=shape[0]) if errors and shape[1] > 1 else None
    )
    noise = noise_of_differences(squares, errors, shape=shape, readers=readers)
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
        test=f_test(squares.treatment, noise, n_treatments=shape[0]) if shape[0] > 1 else None,
        differences=_of_means(names, theta.mean(axis=1), noise, n_readers=shape[1], confidence=confidence),
        estimates=tuple(
            _estimate(name, theta[i], None if spread is None else spread[i, :, i], readers, confidence)
            for i, name in enumerate(names)
        ),
        by_reader=() if spread is None else _in_each_reader(names, people, theta, spread, confidence),
    )


# O&R: var(θ_i· − θ_i'·) = 2 D / R, where D is what MS(T) is held against
def _of_means(
    names: tuple[str, ...], mean: Floats, noise: Noise, *, n_readers: int, confidence: float
) -> tuple[Difference, ...]:
    stderr = sqrt(2 * noise.mean_square / n_readers)
    return tuple(
        _difference((names[a], names[b]), mean[a] - mean[b], stderr, noise.df, confidence)
        for a, b in combinations(range(len(names)), 2)
    )


# the paired test of one reader's two figures: var(θ_ij) + var(θ_i'j) − 2 cov(θ_ij, θ_i'j)
def _in_each_reader(
    names: tuple[str, ...], people: tuple[str, ...], theta: Floats, spread: Floats, confidence: float
) -> tuple[Difference, ...]:
    found = []
    for j, person in enumerate(people):
        for a, b in combinations(range(len(names)), 2):
            variance = clean(spread[a, j, a, j] + spread[b, j, b, j] - 2 * spread[a, j, b, j])
            value = theta[a, j] - theta[b, j]
            found.append(_difference((names[a], names[b]), value, sqrt(variance), inf, confidence, person))
    return tuple(found)


def _estimate(
    name: str, figures: Floats, covariance: Floats | None, readers: Factor, confidence: float
) -> Estimate:
    noise = noise_of_mean(figures, covariance, readers=readers)
    value, stderr = float(figures.mean()), sqrt(noise.mean_square / len(figures))
    half = _quantile(noise.df, confidence) * stderr
    return Estimate(name, value, stderr, noise.df, value - half, value + half)


def _difference(
    pair: tuple[str, str],
    value: float,
    stderr: float,
    df: float,
    confidence: float,
    reader: str | None = None,
) -> Difference:
    value = float(value)
    if stderr**2 <= NO_VARIANCE:
        alike = abs(value) < 1e-12
        statistic, p = (0.0, 1.0) if alike else (float(np.copysign(inf, value)), 0.0)
    else:
        statistic = value / stderr
        p = 2 * float(t.sf(abs(statistic), df))
    half = _quantile(df, confidence) * stderr
    return Difference(*pair, value, stderr, df, statistic, p, value - half, value + half, reader)


def _quantile(df: float, confidence: float) -> float:
    return float(t.ppf(0.5 + confidence / 2, df))


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
