"""What a knee's change is expected to look like: every knee of the bank lends its share, not five neighbours.

A knee's tendency and the look of a change are separate. How likely each step of the grade is, the multi-state
model says; how a step looks in W, all knees of the bank that made it say together. Displacements are regressed
on the steps that were made,

    d_n = Σ_j c_nj B_j [1, u_n] + years_n D [1, u_n] + e_n,    c_nj = 1 if knee n made the step j → j + 1

and a knee with key w is expected to move by

    d̂(T) = Σ_j p_j(T) B_j [1, u(w)],    p_j(T) = P(k_T > j) - P(k_0 > j)

that is by each step in proportion to the chance that it is made between now and T (the grade never falls, so
the difference is that chance). d̂ is 0 at T = 0 and only goes on along each step.

| symbol | meaning | shape |
|---|---|---|
| w, d | key and displacement of a knee | (D,) |
| u | leading principal coordinates of w over the bank, unit variance | (r,) |
| B_j | how step j looks, and how that depends on where the knee is | (D, r + 1) |
| D | what goes on without a step, a year; fitted where knees move whose grade stays (`imaged`) | (D, r + 1) |
| p | chances of the steps | (H, 4) |

Local effects are shrunk toward the cohort's: a ridge on the columns of u, whose strength is the one with the
least leave-one-out error over the bank's rows, computed in closed form (PRESS; a person's other knee stays in); first
columns are held by `HOLD` knees only. A subject's rows are left out of B for its own knees, not of the choice of the
ridge or of the axes of u. It serves any kind of bank: with `imaged` rows B is the change between films, with `graded`
or `synthetic` ones it is that of grade transport, smoothed.

D is fitted so that it does not pass for steps, and is left out of d̂: mostly it is the return from the baseline
film's own pose and scanner to usual ones (regression toward the mean), which is no change of the knee.

Our proposal, not the paper's; `docs/phantom.md` reports how near it comes to true follow-ups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from progression.errors import UsageError
from progression.latent.bank import TrajectoryBank
from progression.latent.transport import last_reading, running_maximum
from progression.types import KL_GRADES

STEPS = KL_GRADES - 1
COMPONENTS = 32
_FAR = 4.0  # standard deviations; odd knees do not extrapolate without end
FIT_ROWS = 100_000
"""Rows of a bank that are learnt from, drawn at random (seed 0) from a larger one: 0.6 GB at 512 dimensions."""
HOLD = 5.0
"""Ridge on first columns, in knees: what is said of a step that five knees made is half believed."""
SHRINKAGES = (20.0, 60.0, 200.0, 600.0, 2000.0, 1e6)
"""Ridges on the columns of u to choose from, in knees; the last leaves the cohort's steps alone."""


def step_chances(p_now: Tensor, p_future: Tensor) -> Tensor:
    """Chance that each grade step j → j + 1 is made between now and a horizon: P(k_T > j) - P(k_0 > j).

    Parameters
    ----------
    p_now : (Q, 5)
        P(k_0).
    p_future : (Q, H, 5)
        P(k_T), by horizon.

    Returns
    -------
    Tensor
        (Q, H, 4), in [0, 1].

    Raises
    ------
    UsageError
        If the chance to be beyond a grade falls.
    """
    beyond = p_now.cumsum(dim=1)[:, None, :-1] - p_future.cumsum(dim=2)[:, :, :-1]
    if float(beyond.min()) < -1e-4:
        raise UsageError("chances of a grade that falls: expected P(k_T > j) >= P(k_0 > j) for every j")
    return beyond.clamp(0, 1)


@dataclass(frozen=True)
class StepEffects:
    """How grade steps look in W.

    Attributes
    ----------
    mean, axes : (D,), (D, r) with u = (w - mean) @ axes
    subject : (N,) whose knees the rows are; without a drift only those that made a step
    design : (N, F) float64, drivers times [1, u]: F = 4 (r + 1), or 5 (r + 1) with a drift
    displacement : (N, D) float64
    penalty : (F,) float64, ridge on each column
    """

    mean: Tensor
    axes: Tensor
    subject: npt.NDArray[np.str_]
    design: Tensor
    displacement: Tensor
    penalty: Tensor

    @classmethod
    def fit(
        cls, bank: TrajectoryBank, *, components: int = COMPONENTS, shrinkages: Sequence[float] = SHRINKAGES
    ) -> StepEffects:
        """Learn from a bank of any kind whose grades were read, `FIT_ROWS` of its rows at most.

        Parameters
        ----------
        components
            r, at most; fewer where the bank has fewer dimensions.
        shrinkages
            Ridges on the columns of u to choose from, in knees.

        Raises
        ------
        UsageError
            If no knee of the bank was graded at its first and at a later visit.
        """
        if len(bank) > FIT_ROWS:
            bank = bank.take(np.random.default_rng(0).choice(len(bank), FIT_ROWS, replace=False))
        series = running_maximum(bank.grade_series.long())
        last, when = _at_the_last_film(bank, series)
        known = (series[:, 0] >= 0) & (when > 0)
        if not bool(known.any()):
            raise UsageError(
                "no knee of the bank was graded at its first and at a later visit, so what a step of the grade "
                "looks like is unknown: build the bank with grades, or use --method paper"
            )
        mean, axes = coordinates(bank.w, components=components)
        first, last, moved = series[known, 0], last[known], bank.displacement[known]
        drifts = bool(moved[last == first].any())
        c = drivers(first, last, bank.interval_months[known] if drifts else None)
        say = c.any(dim=1)  # without a drift, knees that stay say nothing
        x, y = design(c, (bank.w[known] - mean) @ axes)[say].double(), moved[say].double()
        local = x.new_ones(axes.shape[1] + 1)
        local[0] = 0
        columns = local.repeat(c.shape[1])
        tried = [torch.where(columns > 0, strength, HOLD) for strength in shrinkages]
        penalty = min(tried, key=lambda one: leave_one_out_error(x, y, one)) if len(tried) > 1 else tried[0]
        return cls(mean, axes, bank.subject[known.numpy()][say.numpy()], x, y, penalty)

    @property
    def shrinkage(self) -> float:
        """Ridge on the columns of u that was chosen, in knees."""
        return float(self.penalty[-1])

    def steps(self, w: Tensor, *, subject: Sequence[str | None] | None = None) -> Tensor:
        """Change of latents w (Q, D) with each grade step, (Q, 4, D).

        Knees of a query's own `subject` (Q,) lend nothing.
        """
        return self._effects(w, subject)[:, :STEPS]

    def drift(self, w: Tensor, *, subject: Sequence[str | None] | None = None) -> Tensor:
        """Change of latents w (Q, D) in a year without a step, (Q, D); 0 where the bank shows none."""
        found = self._effects(w, subject)[:, STEPS:]
        return found.sum(dim=1)

    @cached_property
    def film_variance(self) -> float | None:
        """Mean squared length by which the code of one film is off, (W²); None where no knee was filmed twice and
        stayed.

        Half of what is left of the displacements of knees that made no step, which have two films' worth of it.
        """
        stay = ~self._made.any(dim=1)
        return float(self._residual[stay].square().sum(dim=1).mean() / 2) if bool(stay.any()) else None

    @cached_property
    def variability(self) -> float:
        """τ: how much of the look of one step knees that made it show, as a standard deviation in steps.

        From what is left of their displacements along the step's own look, less what is left along it of knees that
        made none (pose, scanner). 0 where nothing is. Of `graded` and `synthetic` rows it is that of the model they
        come from.
        """
        made = self._made
        n = made[:, :: self.axes.shape[1] + 1].sum(dim=1)  # the column of ones of each step
        rise = n > 0
        look = (self.design[:, : made.shape[1]] @ self._shared.flatten(0, 1)[: made.shape[1]].double())[rise]
        length = look.square().sum(dim=1).clamp(min=1e-30)
        along = (self._residual[rise] * look).sum(dim=1) / length
        other = self._residual[~rise]
        noise = (look @ other.T).square().mean(dim=1) / length.square() if len(other) else 0 * length
        n = n[rise].double()
        return float((n.square() * (along.square() - noise)).sum().clamp(min=0) / n.sum()) ** 0.5

    @cached_property
    def _made(self) -> Tensor:
        """The columns (N, 4 (r + 1)) of the steps."""
        return self.design[:, : STEPS * (self.axes.shape[1] + 1)]

    @cached_property
    def _residual(self) -> Tensor:
        """(N, D) float64."""
        return self.displacement - self.design @ self._shared.flatten(0, 1).double()

    def displacement_at(
        self, w: Tensor, chances: Tensor, *, subject: Sequence[str | None] | None = None
    ) -> Tensor:
        """Expected change (Q, H, D) of latents w (Q, D).

        Parameters
        ----------
        chances : (Q, H, 4)
            That each step is made by each horizon (:func:`step_chances`).
        subject : (Q,), optional
            Knees of the query's own subject lend nothing.
        """
        steps = self.steps(w, subject=subject)
        # row by row: a product over the batch would round with its size
        return torch.stack([p @ step for p, step in zip(chances.to(w.dtype), steps, strict=True)])

    def _effects(self, w: Tensor, subject: Sequence[str | None] | None) -> Tensor:
        """Every driver's effect at w, (Q, 4 or 5, D)."""
        own = [None] * len(w) if subject is None else list(subject)
        held = set(self.subject.tolist())
        without = {name: self._solve(name) for name in set(own) if name and name in held}
        u = with_one(torch.stack([(row - self.mean) @ self.axes for row in w]).clamp(-_FAR, _FAR))
        return torch.stack(
            [row @ without.get(name or "", self._shared) for row, name in zip(u, own, strict=True)], dim=1
        ).transpose(0, 1)

    @cached_property
    def _shared(self) -> Tensor:
        return self._solve("")

    @cached_property
    def _products(self) -> tuple[Tensor, Tensor]:
        """X'X and X'Y of all rows: one subject's are subtracted, not all others' summed anew."""
        return self.design.T @ self.design, self.design.T @ self.displacement

    def _solve(self, left_out: str) -> Tensor:
        """B_j and D, (4 or 5, r + 1, D), without the rows of one subject."""
        xx, xy = self._products
        own = torch.from_numpy(self.subject == left_out)
        x, y = self.design[own], self.displacement[own]
        effect = torch.linalg.solve(xx - x.T @ x + self.penalty.diag(), xy - x.T @ y)
        return effect.float().unflatten(0, (-1, self.axes.shape[1] + 1))


def _at_the_last_film(bank: TrajectoryBank, raised: Tensor) -> tuple[Tensor, Tensor]:
    """Grade (N,) at the time that a displacement leads to, and its place in the series; place 0 if it was not read.

    Of `imaged` rows that is the later film's own reading, lest steps be paired with a change that does not hold them;
    of the others the last reading there is.
    """
    last, when = last_reading(raised)
    months = bank.series_months - bank.series_months[0]
    apart = (months[None] - bank.interval_months[:, None]).abs()
    place, row = apart.argmin(dim=1), torch.arange(len(raised))
    there = (apart[row, place] < 0.5) & (bank.grade_series[row, place] >= 0)
    imaged = torch.from_numpy(bank.kind == "imaged")
    return (
        torch.where(imaged, raised[row, place], last),
        torch.where(imaged, torch.where(there, place, 0), when),
    )


# ---- the regression, shared with the synthetic bank's -----------------------------------------------------------


def principal_axes(w: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and principal axes (r, D), each as long as the standard deviation along it, longest first."""
    mean = w.mean(dim=0)
    _, size, axes = torch.linalg.svd(w - mean, full_matrices=False)
    kept = size > 1e-4 * size[0]
    return mean, axes[kept] * (size[kept] / (len(w) - 1) ** 0.5)[:, None]


def coordinates(w: Tensor, *, components: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and axes (D, r) so that u = (w - mean) @ axes has unit variance over w (N, D)."""
    mean, axes = principal_axes(w)
    return mean, (axes / axes.square().sum(dim=1, keepdim=True))[:components].T


def with_one(u: Tensor) -> Tensor:
    """[1, u], (N, r + 1)."""
    return torch.cat([torch.ones(len(u), 1), u], dim=1)


def drivers(first: Tensor, last: Tensor, interval_months: Tensor | None) -> Tensor:
    """c (N, 4) or (N, 5): the grade steps that were made and, where times are given, the years."""
    steps = torch.arange(STEPS)
    made = ((first[:, None] <= steps) & (steps < last[:, None])).float()
    return made if interval_months is None else torch.cat([made, interval_months[:, None] / 12], dim=1)


def design(drivers: Tensor, u: Tensor) -> Tensor:
    """Every driver times [1, u]: (N, c·(r + 1))."""
    return torch.einsum("nc,nf->ncf", drivers, with_one(u)).flatten(1)


def ridge(x: Tensor, y: Tensor, penalty: Tensor) -> Tensor:
    """Coefficients (F, D) of y (N, D) on x (N, F), penalty (F,)."""
    return torch.linalg.solve(x.T @ x + penalty.diag(), x.T @ y)


def leave_one_out_error(x: Tensor, y: Tensor, penalty: Tensor) -> float:
    """Sum of squared errors of rows that were left out one at a time, without leaving them out (PRESS)."""
    hat = torch.linalg.solve(x.T @ x + penalty.diag(), x.T)
    leverage = (x * hat.T).sum(dim=1).clamp(max=1 - 1e-6)
    return float((((y - x @ (hat @ y)) / (1 - leverage)[:, None]) ** 2).sum())
