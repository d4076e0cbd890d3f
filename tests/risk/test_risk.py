"""The paper's product risk: hand-checkable cases and invariants."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from progression.risk.risk import excess, product_risk

SHARES = st.lists(st.floats(0.001, 1), min_size=5, max_size=5)


def _probabilities(shares: list[float]) -> torch.Tensor:
    values = torch.tensor(shares, dtype=torch.float64)
    return values / values.sum()


def test_certain_grades_give_certain_risks() -> None:
    now = torch.eye(5)[[1, 1, 1, 4]]
    future = torch.eye(5)[[1, 2, 3, 0]][:, None]
    fast, rises = product_risk(now, future)
    assert fast[:, 0].tolist() == [0, 0, 1, 0]
    assert rises[:, 0].tolist() == [0, 1, 1, 0]


def test_no_change_graded_fifty_fifty_gives_a_quarter() -> None:
    now = torch.tensor([[0, 0.5, 0.5, 0, 0]])
    fast, rises = product_risk(now, now[:, None])
    assert (fast.item(), rises.item()) == (0, 0.25)
    assert excess(rises, rises[:, 0]).item() == 0


def test_excess_rescales_to_what_is_left() -> None:
    received = excess(torch.tensor([[0.25, 0.625, 1.0, 0.1]]), torch.tensor([0.25]))
    torch.testing.assert_close(received, torch.tensor([[0, 0.5, 1.0, 0]]))


@given(SHARES, SHARES)
def test_fast_is_at_most_any_and_both_are_probabilities(now: list[float], future: list[float]) -> None:
    fast, rises = product_risk(_probabilities(now)[None], _probabilities(future)[None, None])
    assert 0 <= fast.item() <= rises.item() <= 1


@given(SHARES, SHARES)
def test_brute_force_agrees(now: list[float], future: list[float]) -> None:
    p, q = _probabilities(now), _probabilities(future)
    fast, rises = product_risk(p[None], q[None, None])
    pairs = [(i, j, float(p[i] * q[j])) for i in range(5) for j in range(5)]
    assert abs(fast.item() - sum(v for i, j, v in pairs if j - i >= 2)) < 1e-12
    assert abs(rises.item() - sum(v for i, j, v in pairs if j - i >= 1)) < 1e-12
