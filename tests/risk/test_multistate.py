"""The multi-state model: closed forms, order by construction, and rates recovered from simulated knees."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from progression.risk.multistate import (
    TRANSITIONS,
    MultiState,
    Penalty,
    clock_at,
    fit_multistate,
    log_likelihood,
    panel,
    rise_probabilities,
)

R = len(TRANSITIONS)
ONE_ERA = torch.tensor([0.0, 12.0]).double()
YEARLY = (ONE_ERA, ONE_ERA, torch.tensor([0.0, 1.0]).double())


def _model(log_rates: dict[tuple[int, int], float]) -> MultiState:
    intercepts = torch.tensor([[log_rates.get(pair, -30.0) for pair in TRANSITIONS]]).double()
    return MultiState(intercepts, torch.zeros(1, 1, R).double(), *YEARLY)


def test_one_step_chain_has_its_closed_form() -> None:
    model = _model({(0, 1): math.log(0.1), (1, 2): math.log(0.3)})
    p = model.transitions(torch.zeros(1, 5, 1), [24.0])[0, 0]
    stay, on = math.exp(-0.2), math.exp(-0.6)
    first = 0.1 / (0.3 - 0.1) * (stay - on)
    expected = torch.tensor([stay, first, 1 - stay - first, 0, 0]).double()
    torch.testing.assert_close(p[0], expected, rtol=0, atol=1e-4)
    assert p[1, 0] == 0 and p[4, 4] == 1


def test_covariates_multiply_rates() -> None:
    model = MultiState(torch.full((1, R), -3.0).double(), torch.full((1, 1, R), 0.5).double(), *YEARLY)
    q = model.generators(torch.tensor([[0.0], [2.0]]).double())[0]
    torch.testing.assert_close(q[1], q[0] * math.e)
    torch.testing.assert_close(q.sum(dim=2), torch.zeros(2, 5).double())


def test_each_row_uses_the_covariates_of_its_own_start() -> None:
    model = MultiState(torch.full((1, R), -3.0).double(), torch.full((1, 1, R), 0.5).double(), *YEARLY)
    x = torch.randn(2, 5, 1).double()
    p = model.transitions(x, [12.0, 36.0])
    for start in range(5):
        alone = model.transitions(x[:, [start]].expand(-1, 5, -1), [12.0, 36.0])
        torch.testing.assert_close(p[:, :, start], alone[:, :, start])


def test_eras_follow_each_other() -> None:
    """0.1 a year for the first year, 0.4 from then on, without end."""
    intercepts = torch.full((2, R), -30.0).double()
    intercepts[:, 0] = torch.tensor([0.1, 0.4]).log()
    bounds, clock = torch.tensor([0.0, 12.0, 24.0]).double(), torch.tensor([0.0, 1.0, 2.0]).double()
    model = MultiState(intercepts, torch.zeros(2, 1, R).double(), bounds, bounds, clock)
    stay = model.transitions(torch.zeros(1, 5, 1), [6.0, 12.0, 18.0, 36.0])[0, :, 0, 0]
    torch.testing.assert_close(-stay.log(), torch.tensor([0.05, 0.1, 0.3, 0.9]).double(), atol=5e-5, rtol=0)


def test_clock_is_linear_between_knots_and_goes_on_beyond() -> None:
    months, clock = torch.tensor([0.0, 12.0, 24.0]), torch.tensor([0.0, 1.0, 3.0])
    received = clock_at(months, clock, torch.tensor([0.0, 6.0, 12.0, 18.0, 30.0]))
    assert received.tolist() == [0, 0.5, 1, 2, 4]


def test_panel_pairs_readings_that_follow_each_other() -> None:
    series = torch.tensor([[1, 2, -1, 1], [0, -1, -1, -1], [-1, 2, 3, 3]])
    months = torch.tensor([0, 12, 24, 48])
    read = panel(series, months, carry_forward=False)
    rows = sorted(zip(*(column.tolist() for column in vars(read).values()), strict=True))
    # grades are running maxima; a knee without baseline or without any later reading does not count
    assert rows == [(0, 1, 2, 0, 12), (0, 2, 2, 12, 48)]
    carried = panel(series, months, carry_forward=True)
    rows = sorted(zip(*(column.tolist() for column in vars(carried).values()), strict=True))
    assert rows == [(0, 1, 2, 0, 12), (0, 2, 2, 12, 24), (0, 2, 2, 24, 48)]


def test_likelihood_is_that_of_the_transition_matrix() -> None:
    torch.manual_seed(0)
    bounds = torch.tensor([0.0, 18.0, 24.0]).double()
    model = MultiState(
        torch.randn(2, R).double() - 2,
        torch.randn(2, 3, R).double() / 3,
        bounds,
        bounds,
        torch.tensor([0.0, 1.0, 1.8]).double(),
    )
    x = torch.randn(2, 3).double()
    series = torch.tensor([[0, 0, 1, 3], [2, 2, 4, 4]])
    readings = panel(series, torch.tensor([0, 12, 24, 48]), carry_forward=False)
    expected = 0.0
    for knee, row in enumerate(series.tolist()):
        q = model.generators(x[[knee]])[:, 0]
        for start, end, since, until in zip(row[:-1], row[1:], (0, 12, 24), (12, 24, 48), strict=True):
            early, late = model.ticks(torch.tensor([since]).double(), torch.tensor([until]).double())
            p = torch.linalg.matrix_exp(q[0] * early) @ torch.linalg.matrix_exp(q[1] * late)
            expected += float(p[start, end].log())
    assert float(log_likelihood(model, x, readings).sum()) == pytest.approx(expected, rel=1e-9)


def test_marginal_risk_mixes_the_grades() -> None:
    p = torch.zeros(1, 1, 5, 5)
    p[0, 0] = torch.eye(5)
    p[0, 0, 0] = torch.tensor([0.5, 0.3, 0.2, 0, 0])
    fast, rises, future = rise_probabilities(torch.tensor([[0.5, 0.5, 0, 0, 0]]), p)
    assert (fast.item(), rises.item()) == (pytest.approx(0.1), pytest.approx(0.25))
    torch.testing.assert_close(future[0, 0], torch.tensor([0.25, 0.65, 0.1, 0, 0]))


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.1, 4))
def test_order_holds_by_construction(seed: int, spread: float) -> None:
    torch.manual_seed(seed)
    months = torch.tensor([0.0, 12, 24, 48, 96]).double()
    clock = torch.cat([torch.zeros(1), torch.rand(4).cumsum(dim=0)]).double()
    model = MultiState(
        spread * torch.randn(2, R).double() - 3,
        spread * torch.randn(2, 4, R).double(),
        torch.tensor([0.0, 30, 96]).double(),
        months,
        clock,
    )
    p = model.transitions(torch.randn(3, 5, 4).double(), list(range(1, 97)))
    torch.testing.assert_close(p.sum(dim=3), torch.ones(3, 96, 5).double())
    fast, rises, future = rise_probabilities(torch.rand(3, 5).softmax(dim=1), p)
    assert bool((fast <= rises + 1e-9).all())
    assert bool((fast.diff(dim=1) >= -1e-9).all() and (rises.diff(dim=1) >= -1e-9).all())
    assert float(fast.min()) >= 0 and float(rises.max()) <= 1
    torch.testing.assert_close(future.sum(dim=2), torch.ones(3, 96).double())


def test_fit_recovers_simulated_rates() -> None:
    torch.manual_seed(0)
    weights = torch.zeros(2, 2, R).double()
    weights[0, 0], weights[1, 0] = 0.8, 0.2
    truth = MultiState(
        torch.tensor([[-2.0, -1.5, -2.0, -2.5, -3.0, -3.5, -4.0]]).double().expand(2, -1),
        weights,
        torch.tensor([0.0, 12, 36]).double(),
        torch.tensor([0.0, 12, 24, 36]).double(),
        torch.tensor([0.0, 1.0, 1.5, 2.5]).double(),
    )
    x = torch.randn(2000, 2).double()
    q = truth.generators(x)
    series = torch.randint(0, 4, (2000, 1))
    for era, elapsed in zip((0, 1, 1), truth.clock.diff(), strict=True):
        p = torch.linalg.matrix_exp(q[era] * elapsed)[torch.arange(2000), series[:, -1]]
        series = torch.cat([series, torch.multinomial(p, 1)], dim=1)
    months = torch.tensor([0, 12, 24, 36])
    fitted = fit_multistate(
        x,
        panel(series, months, carry_forward=False),
        clock_months=months.tolist(),
        era_months=[0, 12, 36],
        penalty=Penalty(1.0, 30.0, 1.0),
    )
    torch.testing.assert_close(fitted.weights[:, :, :4], truth.weights[:, :, :4], rtol=0, atol=0.25)
    probe = torch.zeros(1, 5, 2).double()
    received, expected = (model.transitions(probe, [12, 24, 36]) for model in (fitted, truth))
    torch.testing.assert_close(received, expected, rtol=0, atol=0.03)


def test_stacked_models_answer_as_each_alone() -> None:
    torch.manual_seed(0)
    chains = [_two_eras(seed) for seed in range(3)]
    x, p_now = torch.randn(4, 5, 3).double(), torch.rand(4, 5).double()
    together = MultiState.stack(chains)
    months = [6.0, 24.0, 120.0]
    p = together.transitions(x, months)
    assert p.shape == (3, 4, 3, 5, 5)
    for chain, own, *risks in zip(chains, p, *rise_probabilities(p_now, p), strict=True):
        torch.testing.assert_close(own, chain.transitions(x, months))
        for found, expected in zip(risks, rise_probabilities(p_now, own), strict=True):
            torch.testing.assert_close(found, expected)
    some = together.some(torch.tensor([2, 0]))
    torch.testing.assert_close(some.transitions(x, months), p[[2, 0]])


def _two_eras(seed: int) -> MultiState:
    draws = torch.Generator().manual_seed(seed)
    return MultiState(
        torch.randn(2, R, generator=draws).double() / 4 - 3,
        torch.randn(2, 3, R, generator=draws).double() / 8,
        torch.tensor([0.0, 24, 96]).double(),
        torch.tensor([0.0, 12, 96]).double(),
        torch.tensor([0.0, 1 + seed, 5 + 2 * seed]).double(),
    )
