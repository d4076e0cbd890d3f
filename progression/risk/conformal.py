"""Sets of grades that hold the future one with a stated probability: split conformal prediction.

A set takes grades from the most likely on, until its level is reached. The mass of all likelier grades,

    s(k) = Σ_j p_j [p_j > p_k],

is how late grade k comes in; over n knees whose grade became known, the level is the ⌈(n + 1)(1 - α)⌉-th smallest s.
So a new knee like them (exchangeable) has its grade in {k : s(k) <= level} with probability 1 - α at least, whatever
the model is worth; a poor one has large sets. Sources: Vovk et al. 2005; Romano, Sesia & Candès 2020
(arXiv 2006.02544), without its random part, so that one knee has one set.

That is of all knees together, and grades that are hard to tell may have less. So each grade g to start from has a level
l_g of its own, from the knees that were read as g. A picture does not say which it is, but the grade never falls: a
knee that becomes k came from some g <= k, and

    {k : s(k) <= max over g <= k of l_g}

holds the grade with probability 1 - α at least *for every grade to start from* (Mondrian: Vovk et al. 2005, with the
category unknown at use).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from progression.errors import UsageError

COVERAGE = 0.9
"""1 - α of the sets that are shipped."""


def mass_before(p: Tensor) -> Tensor:
    """Probability of all likelier grades, of each grade: (..., 5) → (..., 5)."""
    likelier = p[..., None, :] > p[..., :, None]
    return (p[..., None, :] * likelier).sum(dim=-1)


def level_for(p: Tensor, grade: Tensor, *, coverage: float = COVERAGE) -> float:
    """The level at which sets hold the grade of n knees, held back from the fit, with a probability of `coverage`.

    Parameters
    ----------
    p : (n, 5), probabilities of the future grade
    grade : (n,), the grade that it became, 0 to 4

    Raises
    ------
    UsageError
        There are too few knees for that coverage.
    """
    rank = math.ceil((len(grade) + 1) * coverage)
    if rank > len(grade):
        raise UsageError(
            f"{len(grade)} knees with a known grade: sets of coverage {coverage:g} need "
            f"{math.ceil(coverage / (1 - coverage) - 1e-9)} at least"
        )
    late = mass_before(p).gather(1, grade.long()[:, None])[:, 0]
    return float(late.sort().values[rank - 1])


def levels_by_start(p: Tensor, start: Tensor, grade: Tensor, *, coverage: float = COVERAGE) -> Tensor:
    """l_g of each grade to start from, (5,); a grade with too few knees has the level of all.

    Parameters
    ----------
    p, grade : as in `level_for`
    start : (n,), grades that the knees were read as at first
    """
    enough = math.ceil(coverage / (1 - coverage) - 1e-9)
    together = level_for(p, grade, coverage=coverage)
    rows = [start == g for g in range(p.shape[-1])]
    levels = [
        level_for(p[one], grade[one], coverage=coverage) if int(one.sum()) >= enough else together
        for one in rows
    ]
    return torch.tensor(levels, dtype=torch.float64)


def grade_sets(p: Tensor, level: Tensor) -> Tensor:
    """Which grades are in the set of each distribution: (..., 5) and levels of the grades (..., 5), or one for all
    (..., 1) → (..., 5) bool; never empty."""
    return mass_before(p) <= level


def level_at(months: Tensor, levels: Tensor, horizon_months: Tensor) -> Tensor:
    """Levels at horizons (H,) from those calibrated at visits: the larger of the two that enclose a horizon.

    Parameters
    ----------
    months : (V,) of the visits, ascending
    levels : (..., V)
    """
    after = torch.searchsorted(months, horizon_months).clamp(max=len(months) - 1)
    at_visit = months[after] == horizon_months
    before = torch.where(at_visit, after, (after - 1).clamp(min=0))
    return torch.maximum(levels[..., before], levels[..., after])
