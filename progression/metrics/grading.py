"""Agreement of predicted and read Kellgren-Lawrence grades, both integers 0 to 4."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progression.errors import UsageError
from progression.types import KL_GRADES


def accuracy(read: ArrayLike, predicted: ArrayLike) -> float:
    """Share of knees whose predicted grade is the one read."""
    matrix = confusion_matrix(read, predicted)
    return float(np.trace(matrix) / matrix.sum())


def confusion_matrix(
    read: ArrayLike, predicted: ArrayLike, *, n_grades: int = KL_GRADES
) -> NDArray[np.int64]:
    """Counts (n_grades, n_grades); row = grade read, column = grade predicted."""
    rows, columns = np.asarray(read), np.asarray(predicted)
    if rows.shape != columns.shape or rows.ndim != 1 or not len(rows):
        raise UsageError(f"expected one prediction a reading, received {columns.shape} for {rows.shape}")
    for name, grades in (("read", rows), ("predicted", columns)):
        if not np.isin(grades, range(n_grades)).all():
            raise UsageError(
                f"expected {name} grades 0 to {n_grades - 1}, received {np.unique(grades).tolist()}: "
                "drop the knees that were not read"
            )
    cells = rows.astype(int) * n_grades + columns.astype(int)
    return np.bincount(cells, minlength=n_grades**2).reshape(n_grades, n_grades)


def quadratic_kappa(read: ArrayLike, predicted: ArrayLike, *, n_grades: int = KL_GRADES) -> float:
    """Cohen's kappa with weights (i − j)²: 1 = agreement, 0 = what chance gives at the same marginals.

    Not defined (nan) where both give one and the same grade to all.  Source: Cohen 1968.
    """
    observed = confusion_matrix(read, predicted, n_grades=n_grades).astype(float)
    grade = np.arange(n_grades)
    weight = (grade[:, None] - grade[None, :]) ** 2
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0)) / observed.sum()
    chance = (weight * expected).sum()
    return float(1 - (weight * observed).sum() / chance) if chance > 0 else float("nan")
