"""Several tests at once: p values that hold for the whole family.

Holm 1979 (Scand J Statist 6:65): with the p sorted upwards, p*_(i) = max_{j ≤ i} min(1, (m − j + 1) p_(j)).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from progression.errors import UsageError
from progression.metrics.auc import Floats


def holm(p: ArrayLike) -> Floats:
    """Adjusted p values (M,), in the order given; those ≤ α are rejected with a family-wise error ≤ α.

    Raises
    ------
    UsageError
        A p outside 0 to 1.
    """
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise UsageError("expected p values from 0 to 1")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    left = np.arange(len(values), 0, -1)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, left * values[order]))
    return adjusted
