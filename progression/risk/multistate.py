"""How a knee's KL grade rises over time: a progressive multi-state model with covariates.

The grade k(t), as a running maximum, is a continuous-time Markov chain on 0..4 that only goes up, by one or
by two grades at a time (readers often pass over grade 1):

    rate of transition r of knee n:   q_nr = exp(a_r + x_n · (b + d_r))         per unit of the clock
    transition matrix to month T:     P_n(T) = expm(Q_n Λ(T))                   (5, 5), upper triangular

Λ is a clock, piecewise linear in months and strictly rising, common to all knees.  Because the chain only
goes up and the clock only forward, risk_fast <= risk_any and both rise with T for every knee, by
construction.  Fitted on panel data (grades known at visits only) by the exact likelihood

    log L = Σ over knees and successive readings (s, t) of  log P(s, t)[k(s), k(t)],
    P(s, t) = expm(Q (Λ(t) - Λ(s))),  for an unchanged grade k simply exp(Q_kk (Λ(t) - Λ(s)))

with ridge penalties on b and, harder, on d.  Source: Kalbfleisch & Lawless, J Am Stat Assoc 80 (1985).

| symbol | shape | meaning |
|---|---|---|
| x | (N, F) | standardised covariates, from the image |
| a, d | (R,), (F, R) | each transition's intercept and its deviation from the common weights b (F,) |
| Λ | knots (M,) | clock at `clock_months`, Λ(0) = 0, in the units of 1 / rate |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from progression.types import KL_GRADES

TRANSITIONS = ((0, 1), (1, 2), (2, 3), (3, 4), (0, 2), (1, 3), (2, 4))


@dataclass(frozen=True)
class MultiState:
    """A fitted model; tensors are float64.

    Attributes
    ----------
    intercepts : (R,)
    weights : (F, R), b + d_r
    clock_months : (M,) ascending, from 0
    clock : (M,) ascending, from 0
    """

    intercepts: Tensor
    weights: Tensor
    clock_months: Tensor
    clock: Tensor

    def generator(self, covariates: Tensor) -> Tensor:
        """Q of each knee, (N, 5, 5): rows sum to 0, nothing below the diagonal."""
        return generator_matrix(log_rates(covariates, self.intercepts, self.weights))

    def transitions(self, covariates: Tensor, horizon_months: Sequence[float]) -> Tensor:
        """P_n(T), (N, H, 5, 5): probability to be at grade j by T when starting at i."""
        ticks = clock_at(self.clock_months, self.clock, torch.as_tensor(horizon_months, dtype=torch.float64))
        q = self.generator(covariates.double())
        return torch.linalg.matrix_exp(q[:, None] * ticks[None, :, None, None]).clamp(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Everything there is, by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> MultiState:
        """Inverse of `tensors`."""
        return cls(**{name: tensors[name].double() for name in cls.__dataclass_fields__})


def log_rates(covariates: Tensor, intercepts: Tensor, weights: Tensor) -> Tensor:
    """log q, (N, R), held within ±12 so that no input overflows."""
    return (intercepts + covariates @ weights).clamp(-12, 12)


def generator_matrix(rates_log: Tensor) -> Tensor:
    """Q from log rates (N, R), (N, 5, 5)."""
    q = rates_log.new_zeros(len(rates_log), KL_GRADES, KL_GRADES)
    rates = rates_log.exp()
    for column, (start, end) in enumerate(TRANSITIONS):
        q[:, start, end] = rates[:, column]
    return q - torch.diag_embed(q.sum(dim=2))


def clock_at(clock_months: Tensor, clock: Tensor, months: Tensor) -> Tensor:
    """Λ(months): linear between the knots, the last slope beyond them."""
    right = torch.searchsorted(clock_months, months).clamp(1, len(clock_months) - 1)
    left = right - 1
    slope = (clock[right] - clock[left]) / (clock_months[right] - clock_months[left])
    return clock[left] + slope * (months - clock_months[left])


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
    """Log-likelihood of each pair of readings, (P,); differentiable in the model's tensors."""
    q = model.generator(covariates)
    elapsed = clock_at(model.clock_months, model.clock, readings.end_months) - clock_at(
        model.clock_months, model.clock, readings.start_months
    )
    stayed = q[readings.knee, readings.start, readings.start] * elapsed
    moved = (readings.end > readings.start).nonzero()[:, 0]
    p = torch.linalg.matrix_exp(q[readings.knee[moved]] * elapsed[moved, None, None])
    chosen = p[torch.arange(len(moved)), readings.start[moved], readings.end[moved]]
    return stayed.index_put((moved,), chosen.clamp(min=1e-30).log())


def rise_probabilities(p_now: Tensor, transitions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Risk when the grade now is known only as probabilities.

    Parameters
    ----------
    p_now
        (N, 5), sums to 1; one-hot where a reader gave the grade.
    transitions
        (N, H, 5, 5) from `MultiState.transitions`.

    Returns
    -------
    (fast, any, future)
        fast = Σ_i p_i Σ_{j >= i+2} P_ij and any = Σ_i p_i Σ_{j >= i+1} P_ij, (N, H) in [0, 1]; future =
        Σ_i p_i P_ij, (N, H, 5).
    """
    joint = p_now.to(transitions.dtype)[:, None, :, None] * transitions
    fast = joint.triu(diagonal=2).sum(dim=(2, 3))
    rises = joint.triu(diagonal=1).sum(dim=(2, 3))
    return fast.clamp(0, 1), rises.clamp(0, 1), joint.sum(dim=2)


def fit_multistate(
    covariates: Tensor,
    readings: Panel,
    *,
    clock_months: Sequence[float],
    ridge: float,
    ridge_deviation: float,
    start: MultiState | None = None,
    iterations: int = 100,
) -> MultiState:
    """Penalised maximum likelihood by L-BFGS.

    Maximises  Σ log L - ridge/2 ‖b‖² - ridge_deviation/2 ‖d‖² - (intercepts and clock lightly held).

    Parameters
    ----------
    covariates
        (N, F) standardised.
    readings
        From `panel`.
    clock_months
        Knots of the clock; from 0.
    ridge, ridge_deviation
        In units of one observation of a standardised covariate.
    start
        Its intercepts and clock are the starting point.
    """
    x = covariates.double()
    knots = torch.as_tensor(clock_months, dtype=torch.float64)
    widths = knots.diff() / 12
    features = x.shape[1]
    a = (
        torch.full((len(TRANSITIONS),), -3.5, dtype=torch.float64)
        if start is None
        else start.intercepts.clone()
    )
    log_speed = torch.zeros(len(widths), dtype=torch.float64)
    if start is not None:
        log_speed = (start.clock.diff() / widths).log()
    b = torch.zeros(features, dtype=torch.float64)
    d = torch.zeros(features, len(TRANSITIONS), dtype=torch.float64)
    parameters = [a, log_speed, b, d]
    for parameter in parameters:
        parameter.requires_grad_(True)

    def build() -> MultiState:
        # the first interval sets the clock's unit: one tick is a year at the first year's pace
        speed = (log_speed - log_speed[0]).exp()
        clock = torch.cat([speed.new_zeros(1), (speed * widths).cumsum(dim=0)])
        return MultiState(a, b[:, None] + d, knots, clock)

    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=iterations,
        line_search_fn="strong_wolfe",
        tolerance_grad=0.02,
        tolerance_change=1e-5,
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        penalty = ridge * b.square().sum() + ridge_deviation * d.square().sum()
        penalty = penalty + 0.1 * (a + 3.5).square().sum() + log_speed.square().sum()
        loss = penalty / 2 - log_likelihood(build(), x, readings).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        model = build()
    return MultiState(**{name: tensor.detach() for name, tensor in model.tensors().items()})
