"""Figures of merit: discrimination, calibration, agreement of grades, pictures and distributions.

Offered here are the statistics of a study; what needs networks is in its own module.
"""

from progression.metrics.auc import (
    auc_delong,
    auc_within,
    average_precision,
    delong_covariance,
    delong_test,
    roc_points,
)
from progression.metrics.bootstrap import cluster_bootstrap
from progression.metrics.proportions import mcnemar, proportion, sensitivity, specificity, threshold_for
from progression.metrics.readers import Pilot, cases_needed, obuchowski_rockette, power

__all__ = [
    "Pilot",
    "auc_delong",
    "auc_within",
    "average_precision",
    "cases_needed",
    "cluster_bootstrap",
    "delong_covariance",
    "delong_test",
    "mcnemar",
    "obuchowski_rockette",
    "power",
    "proportion",
    "roc_points",
    "sensitivity",
    "specificity",
    "threshold_for",
]
