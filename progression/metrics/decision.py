"""Is acting on a risk worth it?  Net benefit at a threshold, and of acting on all or on none.

====== ==============================================================================
symbol meaning
====== ==============================================================================
y, p   (N,) event 0 or 1, and its predicted probability
t      risk from which on one would act: an event missed is as bad as (1 − t)/t false alarms
====== ==============================================================================

    net benefit(t) = TP/N − FP/N · t/(1 − t),    positive means p ≥ t

Vickers & Elkin 2006 (Med Decis Making 26:565).  Acting on all is p = 1, acting on none is 0 at every t.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from progression.errors import UsageError
from progression.metrics.calibration import Floats, checked


def net_benefit(y: ArrayLike, p: ArrayLike, thresholds: ArrayLike) -> Floats:
    """Net benefit at each threshold, (T,), in true positives a knee.

    Raises
    ------
    UsageError
        A threshold outside [0, 1); otherwise as `progression.metrics.calibration.brier`.
    """
    outcome, risk = checked(y, p)
    t = np.asarray(thresholds, dtype=np.float64)
    if t.ndim != 1 or not ((t >= 0) & (t < 1)).all():
        raise UsageError("expected thresholds from 0 to below 1")
    positive = risk >= t[:, None]
    true, false = (positive * outcome).mean(axis=1), (positive * (1 - outcome)).mean(axis=1)
    return np.asarray(true - false * t / (1 - t))


def net_benefit_of_all(y: ArrayLike, thresholds: ArrayLike) -> Floats:
    """Net benefit of acting on every knee, (T,)."""
    return net_benefit(y, np.ones(np.shape(y)), thresholds)
