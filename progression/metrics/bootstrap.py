"""Intervals by resampling people rather than knees, because two knees of one person are alike.

Source: Field & Welsh 2007 (JRSS B 69:369), the randomised cluster bootstrap, with percentile intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progression.errors import UsageError

Floats = NDArray[np.float64]


def cluster_draws(
    statistics: Callable[..., ArrayLike],
    subject: ArrayLike,
    *arrays: ArrayLike,
    n_draws: int = 1000,
    seed: int = 0,
) -> Floats:
    """``statistics(*arrays)`` on draws of subjects with replacement, (draws, K).

    Parameters
    ----------
    statistics
        Function of the resampled arrays that gives K numbers.  Draws on which it raises `UsageError`
        (an AUC without events, say) are left out; where none remains the result is (0, 0).
    subject
        (N,) whose knee each row is; all rows of a drawn subject come along.
    arrays
        (N, ...) each, indexed alike.
    """
    names, member = np.unique(np.asarray(subject), return_inverse=True)
    columns = [np.asarray(a) for a in arrays]
    if any(len(column) != len(member) for column in columns):
        raise UsageError(f"expected {len(member)} rows in every array, as many as subjects were named")
    rows_of = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(n_draws):
        rows = np.concatenate([rows_of[i] for i in rng.integers(len(names), size=len(names))])
        try:
            draws.append(np.atleast_1d(statistics(*(column[rows] for column in columns))))
        except UsageError:
            continue
    return np.array(draws, dtype=np.float64).reshape(len(draws), -1) if draws else np.empty((0, 0))


def cluster_weights(subject: ArrayLike, *, n_draws: int = 1000, seed: int = 0) -> Iterator[Floats]:
    """How often each row (N,) comes along in each draw of subjects: `cluster_draws` for weighted statistics.

    The draws are those of `cluster_draws` with the same subjects and seed.
    """
    names, member = np.unique(np.asarray(subject), return_inverse=True)
    rng = np.random.default_rng(seed)
    for _ in range(n_draws):
        drawn = rng.integers(len(names), size=len(names))
        yield np.bincount(drawn, minlength=len(names)).astype(np.float64)[member]


def cluster_bootstrap(
    statistic: Callable[..., float],
    subject: ArrayLike,
    *arrays: ArrayLike,
    n_draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of one number over `cluster_draws`.

    (nan, nan) where fewer than half of the draws gave a number.
    """
    draws = cluster_draws(statistic, subject, *arrays, n_draws=n_draws, seed=seed)
    return percentile_interval(draws, confidence) if len(draws) >= n_draws / 2 else (np.nan, np.nan)


def percentile_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Middle `confidence` of the finite `values`; (nan, nan) where there is none."""
    numbers: Floats = np.asarray(values, dtype=np.float64)
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return np.nan, np.nan
    low, high = np.quantile(finite, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)
