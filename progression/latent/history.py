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
from dataclasses import replace

import torch
from torch import Tensor

from progression.latent.objective import OwnRate
from progression.risk.grader import Grading
from progression.risk.model import RiskModel, covariates, standardise

PACE_SHAPE = 1.0
"""α."""


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


def joint_grades(
    risk: RiskModel,
    grading: Grading,
    horizon_months: Sequence[float],
    *,
    grade: Tensor | None = None,
    lowest: Tensor | None = None,
    paces: Tensor | None = None,
) -> Tensor:
    """P(k_0 = i, k_T = j) of N knees, (N, H, 5, 5) float64, upper triangular, sums to 1.

    Without `lowest` and `paces` its sums are the risks of `RiskModel.predict`.

    Parameters
    ----------
    grading : of the films now
    grade : (N,) read grades, -1 where unread
    lowest : (N,) highest grade read before, -1 for none: P(k_0) is 0 below it
    paces : (N,) θ, 1 for the model's own pace
    """
    start = risk.grade_now(grading, grade)
    if lowest is not None:
        start = _not_below(start, lowest)
    x = standardise(covariates(grading), risk.mean, risk.scale)
    if paces is None:
        return start[:, None, :, None] * risk.multistate.transitions(x, horizon_months)
    rows = []
    for one, factor in zip(x, paces.tolist(), strict=True):
        model = risk.multistate
        faster = replace(model, intercepts=model.intercepts + torch.tensor(factor).double().log())
        rows.append(faster.transitions(one[None], horizon_months)[0])
    return start[:, None, :, None] * torch.stack(rows)


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


def paces_of(
    risk: RiskModel,
    visits: Sequence[tuple[Grading, Sequence[float], Sequence[int]]],
    *,
    shape: float = PACE_SHAPE,
) -> Tensor:
    """θ (N,) of N knees.

    Parameters
    ----------
    visits
        For each knee the gradings of its V films, oldest first and the present one last, their months (V,) ascending,
        and their read grades (V,), -1 where unread. One visit gives 1.
    """
    found = []
    for grading, months, read in visits:
        span = months[-1] - months[0]
        if span <= 0:
            found.append(1.0)
            continue
        given = torch.tensor(list(read))
        grades = torch.arange(5, dtype=torch.float64)
        seen = risk.grade_now(grading, given) @ grades
        rise = float(slope(seen, torch.tensor([float(m) for m in months]).double())) * span
        first = Grading(*(t[:1] for t in (grading.now, grading.future, grading.rise)))
        ahead = float(expected_rise(joint_grades(risk, first, [span], grade=given[:1]))[0, 0])
        found.append(pace(rise, ahead, shape=shape))
    return torch.tensor(found, dtype=torch.float64)
