"""Earlier films of the same knee: how fast it has gone so far, and how low its grade cannot be.

Two knees of one grade and look may go at different paces, and the past shows it. With θ a knee's pace, which
multiplies the rates of the multi-state model, gamma distributed with mean 1 and shape α, and steps of the grade about
Poisson,

    E[θ | n, Λ] = (α + n) / (α + Λ)

where n is the rise that was seen between the films and Λ what the model expected, from the first of them, of that
time. n is the slope of the grade on time through all visits, times the span, at least 0; a visit's grade is the
reading if there is one, else the grader's. A rise that was no surprise changes nothing. α stands for how much paces
differ beyond what the film shows.

The grade never falls: P(k_0) is cut off below the highest grade that was read before. (A gamma pace is a frailty
model: Vaupel, Manton & Stallard, Demography 16 (1979).)

The codes' own rate is their slope on time, Σ (t - t̄)(w - w̄) / Σ (t - t̄)²: it is offered to the objective
(:mod:`progression.latent.objective`) with the variance that films of knees that stay have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from progression.latent.objective import OwnRate
from progression.risk.covariates import UNREAD, OtherKnee, covariates, standardise
from progression.risk.forecast import Forecast, RiskModels, Seen, joined
from progression.risk.grader import Grading
from progression.risk.model import Risk, RiskModel
from progression.types import KL_GRADES

PACE_SHAPE = 4.0
"""α: what fits best to the later readings of real knees (`benchmarks/pace_shape.py`)."""


def pace(seen: float, expected: float, *, shape: float = PACE_SHAPE) -> float:
    """E[θ | n, Λ] for a rise `seen` of n and an `expected` one of Λ, in grades."""
    return (shape + max(0.0, seen)) / (shape + max(0.0, expected))


def slope(values: Tensor, months: Tensor) -> Tensor:
    """Least-squares slope a month of values (V, ...) seen at months (V,)."""
    apart = months - months.mean()
    weight = apart / apart.square().sum()
    return torch.tensordot(weight.to(values.dtype), values, dims=1)


def own_rate(codes: Sequence[Tensor], months: Sequence[Tensor], *, film_variance: float) -> OwnRate:
    """Rates of N knees from their codes (V_n, D) at months (V_n,) of all visits; knees with one visit have none.

    `film_variance`: mean squared length by which the code of one film is off the knee's usual one
    (`StepEffects.film_variance`).
    """
    rates, variances = [], []
    for w, when in zip(codes, months, strict=True):
        spread = float((when - when.mean()).square().sum())
        rates.append(slope(w, when) if spread > 0 else torch.zeros_like(w[0]))
        variances.append(film_variance / spread if spread > 0 else torch.inf)
    return OwnRate(torch.stack(rates), torch.tensor(variances))


@dataclass(frozen=True)
class Visits:
    """All films of one knee, oldest first and the present one last.

    Attributes
    ----------
    grading : of the V films
    months : (V,) ascending
    read : (V,) grades that a reader gave, -1 where unread
    """

    grading: Grading
    months: Sequence[float]
    read: Sequence[int]


@dataclass(frozen=True)
class Past:
    """What earlier films say of N knees.

    Attributes
    ----------
    lowest : (N,) highest grade read before, -1 for none: P(k_0) is 0 below it
    pace : (N,) float64 θ, 1 for the model's own pace
    """

    lowest: Tensor
    pace: Tensor

    def rows(self, index: Tensor) -> Past:
        """Of some of the knees."""
        return Past(self.lowest[index], self.pace[index])

    @classmethod
    def of(cls, risk: RiskModel, visits: Sequence[Visits], *, shape: float = PACE_SHAPE) -> Past:
        """From the films of N knees; a knee with one film has pace 1."""
        lowest = torch.tensor([max([UNREAD, *one.read[:-1]]) for one in visits])
        found = torch.tensor([_pace_of(risk, one, shape) for one in visits], dtype=torch.float64)
        return cls(lowest, found)


def _pace_of(risk: RiskModel, visits: Visits, shape: float) -> float:
    months = torch.tensor([float(m) for m in visits.months], dtype=torch.float64)
    span = float(months[-1] - months[0])
    if span <= 0:
        return 1.0
    given = torch.tensor(list(visits.read))
    seen = risk.grade_now(visits.grading, given) @ torch.arange(KL_GRADES, dtype=torch.float64)
    first = visits.grading.rows(torch.tensor([0]))
    expected = expected_rise(joint_grades(risk, first, given[:1], [span]))
    return pace(float(slope(seen, months)) * span, float(expected), shape=shape)


def joint_grades(
    risk: RiskModel,
    grading: Grading,
    grade: Tensor,
    horizon_months: Sequence[float],
    *,
    other: OtherKnee | None = None,
    past: Past | None = None,
) -> Tensor:
    """P(k_0 = i, k_T = j) of N knees, (N, H, 5, 5) float64, upper triangular, sums to 1.

    Parameters
    ----------
    grading : of the films now
    grade : (N,) read grades, -1 where unread
    other : of the other knees, where the model sees them
    past : of earlier films; without it the sums are the risks of `RiskModel.predict`
    """
    start = risk.grade_now(grading, grade)
    x, chain = standardise(covariates(grading, other), risk.mean, risk.scale), risk.multistate
    if past is None:
        return start[:, None, :, None] * chain.transitions(x, horizon_months)
    rows = []
    for one, factor in zip(x, past.pace, strict=True):
        faster = replace(chain, intercepts=chain.intercepts + factor.log())
        rows.append(faster.transitions(one[None], horizon_months)[0])
    return _not_below(start, past.lowest)[:, None, :, None] * torch.stack(rows)


def joint_of(
    models: RiskModels, seen: Seen, horizon_months: Sequence[float], *, past: Past | None = None
) -> Tensor:
    """:func:`joint_grades` of all knees, each by the model that uses most of what was seen of it."""
    found = []
    for part in models.parts(seen):
        own = None if past is None else past.rows(part.rows)
        joint = joint_grades(part.model, part.grading, part.grade, horizon_months, other=part.other, past=own)
        found.append((part.rows, joint))
    return joined(found)


def with_past(models: RiskModels, seen: Seen, horizon_months: Sequence[float], past: Past) -> Forecast:
    """The forecast that earlier films lead to; without intervals and sets, which were made for one film."""
    joint = joint_of(models, seen, horizon_months, past=past)
    return Forecast(joint[:, 0].sum(dim=2), risk_of(joint), models.sees_both(seen))


def risk_of(joint: Tensor) -> Risk:
    """The risks that joint grades (N, H, 5, 5) at ascending horizons hold."""
    fast, rise = (
        joint.triu(diagonal=steps).sum(dim=(2, 3)).clamp(0, 1).cummax(dim=1).values for steps in (2, 1)
    )
    return Risk(fast.minimum(rise), rise, joint.sum(dim=2))


def _not_below(start: Tensor, lowest: Tensor) -> Tensor:
    """P(k_0) (N, 5) given that it is at least `lowest` (N,); certain of `lowest` where a lower grade was read now."""
    grades = torch.arange(start.shape[1])
    kept = torch.where(grades[None] >= lowest[:, None], start, 0.0)
    total = kept.sum(dim=1, keepdim=True)
    at = torch.nn.functional.one_hot(lowest.clamp(min=0), start.shape[1]).to(start)
    return torch.where(total > 1e-6, kept / total.clamp(min=1e-6), at)


def expected_rise(joint: Tensor) -> Tensor:
    """Mean number of steps (N, H) of joint grades (N, H, 5, 5)."""
    grades = torch.arange(joint.shape[-1], dtype=joint.dtype)
    return (joint * (grades[None, :] - grades[:, None])).sum(dim=(2, 3))
