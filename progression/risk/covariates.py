"""What of the pictures drives the rates of the multi-state model: of the knee, and of the person's other knee."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from progression.errors import UsageError
from progression.risk.grader import FUTURE_MONTHS, RISE_TARGETS, Grading
from progression.types import KL_GRADES

UNREAD = -1

COVARIATES = (
    *(f"log_p_grade{grade}" for grade in range(KL_GRADES)),
    "grade_spread",
    *(f"expected_rise_{month}m" for month in FUTURE_MONTHS),
    *(f"logit_rise{step}_{month}m" for step, month in RISE_TARGETS),
    "looks_worse_by",
)
OTHER_KNEE = (
    *(f"other_p_grade{grade}" for grade in range(1, KL_GRADES)),
    "other_looks_worse_by",
    "other_read_worse_by",
)
"""More of them where the person's other knee was seen too."""


@dataclass(frozen=True)
class OtherKnee:
    """What is known of the other knee of each of N people.

    Attributes
    ----------
    grading : of its picture, from `Grader`
    grade : (N,) as a reader gave it, -1 where none did
    """

    grading: Grading
    grade: Tensor

    def rows(self, index: npt.ArrayLike) -> OtherKnee:
        """Of some of the people."""
        rows = torch.as_tensor(np.asarray(index))
        return OtherKnee(self.grading.rows(rows), self.grade[rows])


def covariates(grading: Grading, other: OtherKnee | None = None) -> Tensor:
    """Covariates for every grade to start from: (N, 5, F) float64.

    In the order of `COVARIATES`: log probability of each grade now, standard deviation of the grade, expected
    rise to each later visit (grades), log odds of each rise, and, the only one that depends on the start,
    expected grade now minus the grade started from. With the other knee, `OTHER_KNEE` follow: probability of its
    grades 1 to 4, how much worse it looks than this one (0 where better), and the grade read there minus the one seen
    (0 where it was not read, as that is 0 on average).
    """
    scale = torch.arange(KL_GRADES, dtype=torch.float64)
    now, future = grading.now.double(), grading.future.double()
    expected = now @ scale
    spread = (now @ scale.square() - expected.square()).clamp(min=0).sqrt()
    rise = future @ scale - expected[:, None]
    odds = grading.rise.double().clamp(1e-4, 1 - 1e-4).logit()
    picture = [now.clamp(min=1e-6).log(), spread[:, None], rise, odds]
    worse = (expected[:, None] - scale)[:, :, None]
    common = torch.cat(picture, dim=1)[:, None].expand(-1, KL_GRADES, -1)
    if other is None:
        return torch.cat([common, worse], dim=2)
    seen = other.grading.now.double()
    looks = seen @ scale
    than_this, than_seen = (
        (looks - expected).clamp(min=0),
        torch.where(other.grade >= 0, other.grade - looks, 0.0),
    )
    beside = torch.cat([seen[:, 1:], than_this[:, None], than_seen[:, None]], dim=1)
    beside = beside[:, None].expand(-1, KL_GRADES, -1)
    return torch.cat([common, worse, beside], dim=2)


def standardise(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Covariates in standard deviations, held within ±4: odd pictures do not extrapolate without end."""
    return ((x - mean) / scale).clamp(-4, 4)


def check_grades(grade: Tensor, count: int) -> Tensor:
    """`grade` (count,), -1 where unread.

    Raises
    ------
    UsageError
        A grade outside -1..4, or not one for each knee.
    """
    if grade.shape != (count,) or bool((grade < UNREAD).any() | (grade >= KL_GRADES).any()):
        raise UsageError(f"grades: expected {count} whole numbers from 0 to 4, or -1 if unread")
    return grade


def certainty(grade: Tensor) -> Tensor:
    """One-hot grades (N, 5); rows of unread ones are those of grade 0."""
    return F.one_hot(grade.long().clamp(min=0), KL_GRADES).double()


def names(*, other: bool) -> Sequence[str]:
    """Of the covariates, in order."""
    return (*COVARIATES, *OTHER_KNEE) if other else COVARIATES
