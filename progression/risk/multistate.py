"""How a knee's KL grade rises over time: a progressive multi-state model with covariates.

The grade k(t), as a running maximum, is a Markov chain on 0..4 that only goes up, by one or by two grades at
a time (readers often pass over grade 1). Its rates depend on the knee's covariates x and change with time in
two ways: a clock common to all knees, and eras in which the covariates weigh differently (a picture that
looks worse than its reading rises at the next reading; late visits were read on a selected part of a cohort).

    rate of transition r in era e:    q_er = exp(a_er + x · w_er)          per unit of the clock
    transition matrix:                P(s, t) = Π_e expm(Q_e (Λ_e(t) - Λ_e(s)))     (5, 5), upper triangular

Λ_e(t) is the part of the clock Λ(t) that lies in era e; Λ is piecewise linear in months and strictly rising.
Because the chain only goes up and the clock only forward, risk_fast <= risk_any and both rise with T for
every knee, by construction. Covariates may depend on the grade that the knee starts from ("how much worse it
looks than grade i"), so they are given for every start; row i of P uses those of start i.

Fitted on panel data (grades known at visits only) by the exact likelihood

    log L = Σ over knees and successive readings (s, t) of  log P(s, t)[k(s), k(t)]

(for an unchanged grade k that is Σ_e Q_e,kk (Λ_e(t) - Λ_e(s))), with w_er = b + d_r + c_e and ridge penalties
on b, d and c. Source: Kalbfleisch & Lawless, J Am Stat Assoc 80 (1985).

| symbol | shape | meaning |
|---|---|---|
| x | (N, F) or (N, 5, F) | standardised covariates, (one row a start grade) |
| a, w | (E, R), (E, F, R) | intercepts and weights of every era and transition |
| Λ | (M,) at `clock_months` | clock; one unit is a year at the pace of the first interval |

Several models of the same eras and knots, `stack`ed, are one with a leading dimension B in a, w and Λ, and all answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from progression.types import KL_GRADES

TRANSITIONS = ((0, 1), (1, 2), (2, 3), (3, 4), (0, 2), (1, 3), (2, 4))
_TYPICAL_LOG_RATE = -3.5


@dataclass(frozen=True)
class MultiState:
    """A fitted model, or B of them; tensors are float64.

    Attributes
    ----------
    intercepts : ([B,] E, R), a
    weights : ([B,] E, F, R), w
    era_months : (E + 1,) ascending, from 0; the last era goes on for ever
    clock_months : (M,) ascending, from 0
    clock : ([B,] M) ascending, from 0
    """

    intercepts: Tensor
    weights: Tensor
    era_months: Tensor
    clock_months: Tensor
    clock: Tensor

    @classmethod
    def stack(cls, models: Sequence[MultiState]) -> MultiState:
        """Models of the same eras and knots as one."""
        first = models[0]
        a, w, clock = (
            torch.stack([getattr(model, name) for model in models])
            for name in ("intercepts", "weights", "clock")
        )
        return cls(a, w, first.era_months, first.clock_months, clock)

    def some(self, index: Tensor) -> MultiState:
        """Some of B models."""
        return replace(
            self,
            intercepts=self.intercepts[index],
            weights=self.weights[index],
            clock=self.clock[index],
        )

    def generators(self, covariates: Tensor) -> Tensor:
        """Q of each era and knee of ([B,] N, F), ([B,] E, N, 5, 5): rows sum to 0, nothing below the diagonal."""
        driven = covariates[..., None, :, :] @ self.weights
        rates = (self.intercepts[..., None, :] + driven).clamp(-12, 12).exp()
        q = rates.new_zeros(*rates.shape[:-1], KL_GRADES, KL_GRADES)
        for column, (start, end) in enumerate(TRANSITIONS):
            q[..., start, end] = rates[..., column]
        return q - torch.diag_embed(q.sum(dim=-1))

    def ticks(self, start_months: Tensor, end_months: Tensor) -> Tensor:
        """Λ_e(end) - Λ_e(start) of each pair, ([B,] E, P)."""
        eras = []
        bounds = torch.cat([self.era_months[1:-1], self.era_months.new_tensor([torch.inf])])
        for era in range(len(bounds)):
            low, high = self.era_months[era], bounds[era]
            until, since = (
                clock_at(self.clock_months, self.clock, months.clamp(low, high))
                for months in (end_months, start_months)
            )
            eras.append(until - since)
        return torch.stack(eras, dim=-2)

    def transitions(self, covariates: Tensor, horizon_months: Sequence[float]) -> Tensor:
        """P(0, T), ([B,] N, H, 5, 5): probability to be at grade j by T when starting at i.

        Parameters
        ----------
        covariates
            ([B,] N, 5, F), of each start grade.
        horizon_months
            H horizons, > 0.
        """
        until = torch.as_tensor(horizon_months, dtype=torch.float64)
        ticks = self.ticks(torch.zeros_like(until), until)
        q = self.generators(covariates.double().flatten(-3, -2))
        p = _product(q[..., None, :, :] * ticks[..., None, :, None, None])
        rows = p.unflatten(-4, (-1, KL_GRADES)).diagonal(dim1=-4, dim2=-2)
        return rows.transpose(-1, -2).clamp(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Everything there is, by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> MultiState:
        """Inverse of `tensors`."""
        return cls(**{name: tensors[name].double() for name in cls.__dataclass_fields__})


def _product(exponents: Tensor) -> Tensor:
    """Π_e expm(exponents_e) over ([B,] E, N, H, 5, 5), first era leftmost."""
    result, *others = torch.linalg.matrix_exp(exponents).unbind(dim=-5)
    for other in others:
        result = result @ other
    return result


def clock_at(clock_months: Tensor, clock: Tensor, months: Tensor) -> Tensor:
    """Λ(months), ([B,] P): linear between the knots, the last slope beyond them."""
    right = torch.searchsorted(clock_months, months.contiguous()).clamp(1, len(clock_months) - 1)
    left = right - 1
    slope = (clock[..., right] - clock[..., left]) / (clock_months[right] - clock_months[left])
    return clock[..., left] + slope * (months - clock_months[left])


@dataclass(frozen=True)
class Panel:
    """Successive readings of many knees, one row a pair of readings.

    Attributes
    ----------
    knee : (P,) row of the covariates
    start, end : (P,) grades at the two readings, end >= start
    start_months, end_months : (P,)
    """

    knee: Tensor
    start: Tensor
    end: Tensor
    start_months: Tensor
    end_months: Tensor


def panel(series: Tensor, months: Tensor, *, carry_forward: bool) -> Panel:
    """Pairs of successive readings of running-maximum grades.

    Parameters
    ----------
    series
        (N, V) grades, -1 where unread; the first visit must be read for a knee to count.
    months
        (V,) ascending.
    carry_forward
        True: a visit without reading is taken as "no rise seen" (for knees read at least once after the
        first visit), so that the model predicts the highest grade that will have been *read* by T.
        False: such visits are left out, which is right if readings are missing at random.
    """
    read = series >= 0
    highest = torch.cummax(series, dim=1).values
    known = read[:, 1:].any(dim=1) & read[:, 0]
    counted = read | carry_forward
    rows: list[tuple[Tensor, ...]] = []
    for end in range(1, series.shape[1]):
        for start in range(end):
            here = known & counted[:, start] & counted[:, end] & ~counted[:, start + 1 : end].any(dim=1)
            knee = here.nonzero()[:, 0]
            when = (months[start].double().expand(len(knee)), months[end].double().expand(len(knee)))
            rows.append((knee, highest[knee, start], highest[knee, end], *when))
    return Panel(*(torch.cat(column) for column in zip(*rows, strict=True)))


def log_likelihood(model: MultiState, covariates: Tensor, readings: Panel) -> Tensor:
    """Log-likelihood of each pair of readings, (P,); differentiable in the model's tensors.

    `covariates` are (N, F): those of the grade that each knee started from.
    """
    q = model.generators(covariates)
    ticks = model.ticks(readings.start_months, readings.end_months)
    stayed = (q[:, readings.knee, readings.start, readings.start] * ticks).sum(dim=0)
    moved = (readings.end > readings.start).nonzero()[:, 0]
    p = _product((q[:, readings.knee[moved]] * ticks[:, moved, None, None])[:, :, None])[:, 0]
    chosen = p[torch.arange(len(moved)), readings.start[moved], readings.end[moved]]
    return stayed.index_put((moved,), chosen.clamp(min=1e-30).log())


def rise_probabilities(p_now: Tensor, transitions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Risk when the grade now is known only as probabilities.

    Parameters
    ----------
    p_now
        ([B,] N, 5), sums to 1; one-hot where a reader gave the grade.
    transitions
        ([B,] N, H, 5, 5) from `MultiState.transitions`; then all that is returned has B.

    Returns
    -------
    (fast, any, future)
        fast = Σ_i p_i Σ_{j >= i+2} P_ij and any = Σ_i p_i Σ_{j >= i+1} P_ij, (N, H) in [0, 1]; future =
        Σ_i p_i P_ij, (N, H, 5).
    """
    joint = p_now.to(transitions.dtype)[..., None, :, None] * transitions
    fast = joint.triu(diagonal=2).sum(dim=(-2, -1))
    rises = joint.triu(diagonal=1).sum(dim=(-2, -1))
    return fast.clamp(0, 1), rises.clamp(0, 1), joint.sum(dim=-2)


@dataclass(frozen=True)
class Penalty:
    """Ridge penalties, in units of one observation of a standardised covariate.

    Attributes
    ----------
    common : on b
    transition : on d, what single transitions add
    era : on c, what single eras add
    """

    common: float = 30.0
    transition: float = 90.0
    era: float = 3.0


def fit_multistate(
    covariates: Tensor,
    readings: Panel,
    *,
    clock_months: Sequence[float],
    era_months: Sequence[float],
    penalty: Penalty,
    iterations: int = 120,
) -> MultiState:
    """Penalised maximum likelihood by L-BFGS.

    Maximises  Σ log L - (common ‖b‖² + transition ‖d‖² + era ‖c‖²) / 2; intercepts and the clock's pace are
    lightly held at typical values, so that intervals without events do no harm.

    Parameters
    ----------
    covariates
        (N, F) standardised, of the grade that each knee started from.
    readings
        From `panel`.
    clock_months, era_months
        Knots of the clock and bounds of the eras, ascending from 0.
    """
    x = covariates.double()
    knots, bounds = (torch.tensor(list(months), dtype=torch.float64) for months in (clock_months, era_months))
    widths, eras, count = knots.diff() / 12, len(bounds) - 1, len(TRANSITIONS)

    def free(*shape: int, value: float = 0.0) -> Tensor:
        return torch.full(shape, value, dtype=torch.float64, requires_grad=True)

    a, a_era = free(count, value=_TYPICAL_LOG_RATE), free(eras, count)
    b, d, c = free(x.shape[1]), free(x.shape[1], count), free(eras, x.shape[1])
    log_pace = free(len(widths))

    def build() -> MultiState:
        steps = (log_pace - log_pace[0]).exp() * widths
        clock = torch.cat([steps.new_zeros(1), steps.cumsum(dim=0)])
        return MultiState(a + a_era, (b[:, None] + d) + c[:, :, None], bounds, knots, clock)

    optimiser = torch.optim.LBFGS(
        [a, a_era, b, d, c, log_pace],
        max_iter=iterations,
        line_search_fn="strong_wolfe",
        tolerance_grad=0.02,
        tolerance_change=1e-5,
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        ridge = penalty.common * b.square().sum() + penalty.transition * d.square().sum()
        ridge = ridge + penalty.era * c.square().sum() + a_era.square().sum() + log_pace.square().sum()
        ridge = ridge + 0.1 * (a - _TYPICAL_LOG_RATE).square().sum()
        loss: Tensor = ridge / 2 - log_likelihood(build(), x, readings).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        model = build()
    return MultiState(**{name: tensor.detach() for name, tensor in model.tensors().items()})
