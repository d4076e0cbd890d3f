"""Areas and operating points of weighted knees, so that a bootstrap sorts each score only once.

====== =====================================================================================
symbol meaning
====== =====================================================================================
y      (N,) 0 or 1, the event
w      (N,) weight of each knee, >= 0: in a bootstrap, how often it was drawn
tp, fp weight of the events and of the others that score at or above each level, falling levels
====== =====================================================================================

With all weights 1 they are `auc`, `average_precision` and the points of `roc_points`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progression.errors import UsageError
from progression.metrics.auc import Floats, checked_scores


@dataclass(frozen=True)
class Ranked:
    """Knees in order of a score, highest first; equal scores are one level.

    Attributes
    ----------
    order : (N,) rows by falling score
    last : (L,) position in `order` of the last knee of each level
    events : (N,) which rows have the event
    """

    order: NDArray[np.int64]
    last: NDArray[np.int64]
    events: NDArray[np.bool_]

    @classmethod
    def of(cls, y: ArrayLike, score: ArrayLike) -> Ranked:
        """Sort; errors as `progression.metrics.auc.auc`."""
        events, (values,) = checked_scores(y, [score])
        order = np.argsort(-values, kind="stable")
        ends = np.append(np.diff(values[order]) != 0, True)
        return cls(order, np.flatnonzero(ends), events)

    def counts(self, weight: ArrayLike | None = None) -> tuple[Floats, Floats]:
        """tp and fp, (L,) each.

        Raises
        ------
        UsageError
            The weights leave no event, or nothing but events.
        """
        w = np.ones(len(self.order)) if weight is None else np.asarray(weight, dtype=np.float64)
        tp = np.cumsum((w * self.events)[self.order])[self.last]
        fp = np.cumsum((w * ~self.events)[self.order])[self.last]
        if tp[-1] <= 0 or fp[-1] <= 0:
            raise UsageError("expected events and others of positive weight")
        return tp, fp


# area under the straight lines between the points, which counts ties half
def area(tp: Floats, fp: Floats) -> float:
    """AUC."""
    steps = np.diff(fp, prepend=0.0)
    return float((steps * (tp + np.append(0.0, tp[:-1]))).sum() / (2 * tp[-1] * fp[-1]))


# Σ (recall_l − recall_{l−1}) · precision_l
def precision_area(tp: Floats, fp: Floats) -> float:
    """Average precision."""
    reached = tp + fp
    precision = np.divide(tp, reached, out=np.zeros_like(tp), where=reached > 0)
    return float((np.diff(tp, prepend=0.0) * precision).sum() / tp[-1])


def sensitivity_at(tp: Floats, fp: Floats, *, specificity: float) -> float:
    """Highest sensitivity of a threshold that leaves at least this specificity; 0 if none does."""
    allowed = fp <= (1 - specificity) * fp[-1] + 1e-9
    return float(tp[allowed].max() / tp[-1]) if allowed.any() else 0.0


def specificity_at(tp: Floats, fp: Floats, *, sensitivity: float) -> float:
    """Highest specificity of a threshold that reaches at least this sensitivity."""
    reached = tp >= sensitivity * tp[-1] - 1e-9
    return float(1 - fp[reached].min() / fp[-1])
