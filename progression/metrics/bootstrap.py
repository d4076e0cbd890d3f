"""Intervals by resampling people rather than knees, because two knees of one person are alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progression.errors import UsageError


def cluster_bootstrap(
    statistic: Callable[..., float],
    subject: ArrayLike,
    *arrays: ArrayLike,
    n_draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of ``statistic(*arrays)`` over draws of subjects with replacement.

    Parameters
    ----------
    statistic
        Function of the resampled arrays.  Draws on which it raises `UsageError` (an AUC without
        events, say) or is not finite are left out.
    subject
        (N,) whose knee each row is; all rows of a drawn subject come along.
    arrays
        (N, ...) each, indexed alike.

    Returns
    -------
    (low, high); (nan, nan) where fewer than half of the draws gave a number.

    Source: Field & Welsh 2007 (JRSS B 69:369), the randomised cluster bootstrap.
    """
    names, member = np.unique(np.asarray(subject), return_inverse=True)
    columns = [np.asarray(a) for a in arrays]
    if any(len(column) != len(member) for column in columns):
        raise UsageError(f"expected {len(member)} rows in every array, as many as subjects were named")
    order = np.argsort(member, kind="stable")
    rows_of = np.split(order, np.cumsum(np.bincount(member))[:-1])
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(n_draws):
        rows = np.concatenate([rows_of[i] for i in rng.integers(len(names), size=len(names))])
        try:
            values.append(statistic(*(column[rows] for column in columns)))
        except UsageError:
            continue
    return percentile_interval(values, confidence) if len(values) >= n_draws / 2 else (np.nan, np.nan)


def percentile_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Middle `confidence` of the finite `values`; (nan, nan) where there is none."""
    finite: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return np.nan, np.nan
    low, high = np.quantile(finite, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)
