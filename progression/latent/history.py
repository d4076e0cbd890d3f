"""Earlier films of the same knee: how fast it has gone so far, and how low its grade cannot be.

Two knees of one grade and look may go at different paces, and the past shows it. With θ a knee's pace, which
multiplies the rates of the multi-state model, gamma distributed with mean 1 and shape α, and steps of the grade about
Poisson,

    E[θ | n, Λ] = (α + n) / (α + Λ)

where n is the rise that was seen between the films and Λ what the model expected, from the first of them, of that
time. n is the slope of the grade on time through all visits, times the span, at least 0; a visit's grade is the
reading if there is one, else the grader's. A rise that was no surprise changes nothing. α stands for how much paces
differ beyond what the film shows.

Each refit of the risk model, with the network that it goes with (:mod:`progression.risk.model`), finds the pace anew:
by what it expected of the time between the films and what that network sees in them. The interval is of the risks that
follow. It takes α and the readings as they are, so it is too narrow by as much as those may be off.

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
from progression.risk.forecast import Forecast, Part, RiskModels, Seen, joined
from progression.risk.grader import Grading
from progression.risk.model import Risk, RiskModel, interval
from progression.risk.multistate import MultiState
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
    networks : gradings by the grader's networks alone, for the interval
    """

    grading: Grading
    months: Sequence[float]
    read: Sequence[int]
    networks: Sequence[Grading] = ()


@dataclass(frozen=True)
class Past:
    """What earlier films say of N knees.

    Attributes
    ----------
    lowest : (N,) highest grade read before, -1 for none: P(k_0) is 0 below it
    pace : (N,) float64 θ, 1 for the model's own pace; or (B, N), by B models
    refitted : (B, N) θ by each refit of the risk model; None where it has none
    films : (N,) number of earlier films; None where nobody counted
    """

    lowest: Tensor
    pace: Tensor
    refitted: Tensor | None = None
    films: Tensor | None = None

    def rows(self, index: Tensor) -> Past:
        """Of some of the knees."""
        return Past(
            self.lowest[index],
            self.pace[..., index],
            None if self.refitted is None else self.refitted[:, index],
            None if self.films is None else self.films[index],
        )

    @classmethod
    def of(cls, risk: RiskModel, visits: Sequence[Visits], *, shape: float = PACE_SHAPE) -> Past:
        """From the films of N knees; a knee with one film has pace 1."""
        lowest = torch.tensor([max([UNREAD, *one.read[:-1]]) for one in visits])
        found = [_pace_of(risk, risk.multistate, one.grading, one, shape) for one in visits]
        refitted = [_refitted(risk, one, shape) for one in visits] if risk.resampled else []
        return cls(
            lowest,
            torch.stack(found),
            torch.stack(refitted, dim=1) if refitted else None,
            torch.tensor([len(one.months) - 1 for one in visits]),
        )


def _refitted(risk: RiskModel, visits: Visits, shape: float) -> Tensor:
    """θ (B,) by each refit."""
    lots = list(risk.refits(visits.grading, visits.networks))
    found = torch.cat([_pace_of(risk, lot.chain, lot.grading, visits, shape) for lot in lots])
    return found[torch.cat([lot.index for lot in lots]).argsort()]


def _pace_of(risk: RiskModel, chain: MultiState, grading: Grading, visits: Visits, shape: float) -> Tensor:
    """θ by `chain` and `grading` of the films, ([B]) float64."""
    rise, expected = rises(risk, visits, chain=chain, grading=grading)
    found = [pace(rise, one, shape=shape) for one in expected.flatten().tolist()]
    return torch.tensor(found, dtype=torch.float64).view(expected.shape)


def rises(
    risk: RiskModel, visits: Visits, *, chain: MultiState | None = None, grading: Grading | None = None
) -> tuple[float, Tensor]:
    """n and Λ between the first visit and the last, in grades: seen, and expected ([B]); 0 and 0 of one visit.

    `chain` (one, or B) and `grading` stand in for the model's own and the visits'.
    """
    grading, chain = grading or visits.grading, chain or risk.multistate
    months = torch.tensor([float(m) for m in visits.months], dtype=torch.float64)
    span = float(months[-1] - months[0])
    if span <= 0:
        return 0.0, torch.zeros(chain.clock.shape[:-1], dtype=torch.float64)
    given = torch.tensor(list(visits.read))
    seen = risk.grade_now(grading, given) @ torch.arange(KL_GRADES, dtype=torch.float64)
    first = grading.rows(torch.tensor([0]))
    expected = expected_rise(joint_grades(risk, first, given[:1], [span], chain=chain))[..., 0, 0]
    return float(slope(seen, months)) * span, expected


def joint_grades(
    risk: RiskModel,
    grading: Grading,
    grade: Tensor,
    horizon_months: Sequence[float],
    *,
    other: OtherKnee | None = None,
    past: Past | None = None,
    chain: MultiState | None = None,
) -> Tensor:
    """P(k_0 = i, k_T = j) of N knees, ([B,] N, H, 5, 5) float64, upper triangular, sums to 1.

    Parameters
    ----------
    grading : of the films now
    grade : (N,) read grades, -1 where unread
    other : of the other knees, where the model sees them
    past : of earlier films; without it the sums are the risks of `RiskModel.predict`
    chain : in place of the model's own, one or B of them
    """
    start = risk.grade_now(grading, grade)
    x, chain = standardise(covariates(grading, other), risk.mean, risk.scale), chain or risk.multistate
    if past is None:
        return start[:, None, :, None] * chain.transitions(x, horizon_months)
    rows = []
    for one, factor in zip(x, past.pace.unbind(dim=-1), strict=True):
        faster = replace(chain, intercepts=chain.intercepts + factor.log()[..., None, None])
        rows.append(faster.transitions(one[None], horizon_months))
    return _not_below(start, past.lowest)[:, None, :, None] * torch.cat(rows, dim=-4)


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
    """The forecast that earlier films lead to; sets of grades, made for one film, for knees without a past only."""
    now, risks = [], []
    for part in models.parts(seen):
        own = past.rows(part.rows)
        joint = joint_grades(part.model, part.grading, part.grade, horizon_months, other=part.other, past=own)
        now.append((part.rows, joint[:, 0].sum(dim=2)))
        risks.append((part.rows, _sure(risk_of(joint), part, own, horizon_months)))
    return Forecast(joined(now), Risk.joined(risks), models.sees_both(seen))


def forecast_of(
    models: RiskModels, seen: Seen, visits: Sequence[Visits], horizon_months: Sequence[float]
) -> Forecast:
    """What is to be expected of all knees, from the films now and, where `visits` is not empty, earlier ones."""
    if not visits:
        return models.forecast(seen, horizon_months)
    return with_past(models, seen, horizon_months, Past.of(models.alone, visits))


def _sure(risk: Risk, part: Part, past: Past, horizon_months: Sequence[float]) -> Risk:
    """The risk with its intervals, and with sets where there is no past."""
    sets = None
    if past.films is not None:
        sets = part.model.grade_sets(risk.future, horizon_months, part.grade)
        sets = None if sets is None else sets & (past.films == 0)[:, None, None]
    drawn = []
    if past.refitted is not None:
        for lot in part.model.refits(part.grading, part.networks):
            # where this model has more refits than the knee's own, those paces go round
            faster = replace(past, pace=past.refitted[lot.index % len(past.refitted)])
            joint = joint_grades(
                part.model,
                lot.grading,
                part.grade,
                horizon_months,
                other=part.other,
                past=faster,
                chain=lot.chain,
            )
            drawn.append(risk_of(joint))
    if not drawn:
        return replace(risk, grade_set=sets)
    fast, rise = (torch.cat([getattr(one, name) for one in drawn]) for name in ("fast", "any"))
    return replace(
        risk,
        fast_interval=interval(risk.fast, fast),
        any_interval=interval(risk.any, rise),
        grade_set=sets,
    )


def risk_of(joint: Tensor) -> Risk:
    """The risks that joint grades ([B,] N, H, 5, 5) at ascending horizons hold."""
    fast, rise = (
        joint.triu(diagonal=steps).sum(dim=(-2, -1)).clamp(0, 1).cummax(dim=-1).values for steps in (2, 1)
    )
    return Risk(fast.minimum(rise), rise, joint.sum(dim=-2))


def _not_below(start: Tensor, lowest: Tensor) -> Tensor:
    """P(k_0) (N, 5) given that it is at least `lowest` (N,); certain of `lowest` where a lower grade was read now."""
    grades = torch.arange(start.shape[1])
    kept = torch.where(grades[None] >= lowest[:, None], start, 0.0)
    total = kept.sum(dim=1, keepdim=True)
    at = torch.nn.functional.one_hot(lowest.clamp(min=0), start.shape[1]).to(start)
    return torch.where(total > 1e-6, kept / total.clamp(min=1e-6), at)


def expected_rise(joint: Tensor) -> Tensor:
    """Mean number of steps ([B,] N, H) of joint grades ([B,] N, H, 5, 5)."""
    grades = torch.arange(joint.shape[-1], dtype=joint.dtype)
    return (joint * (grades[None, :] - grades[:, None])).sum(dim=(-2, -1))
