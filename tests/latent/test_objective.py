"""The objective: the paper's closed form, optimality against a general optimiser, and each term's own promise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from progression.errors import UsageError
from progression.latent.extrapolate import offset
from progression.latent.objective import (
    PAPER,
    Ground,
    Observed,
    OwnRate,
    Weights,
    agreement,
    grade_probe,
    kept_reading,
    never_falling,
    similarity,
    solve,
)
from progression.latent.whiten import Whitening

N, D, K = 3, 6, 4
MONTHS = (12, 48, 96)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def given_data() -> dict[str, object]:
    near = Observed(draw(N, K, D, seed=1), 24 + 12 * draw(N, K, seed=2).abs(), draw(N, K, seed=3).abs(), 0.01)
    kept = torch.tensor([False, True])
    ground = Ground(Whitening.fit(draw(400, D, seed=4)), draw(2, D, seed=5), kept, draw(D, seed=6))
    return {
        "expected": draw(N, len(MONTHS), D, seed=7),
        "neighbours": near,
        "own": OwnRate(draw(N, D, seed=8) / 48, torch.full((N,), 0.001)),
        "ground": ground,
    }


W0 = draw(N, D, seed=9)


@pytest.mark.parametrize("k", [1, 2, K])
def test_other_weights_at_zero_give_the_papers_closed_form_exactly(
    given_data: dict[str, object], k: int
) -> None:
    near = given_data["neighbours"]
    assert isinstance(near, Observed)
    few = Observed(near.displacement[:, :k], near.interval_months[:, :k], near.distance[:, :k], near.variance)
    found = solve(W0, MONTHS, weights=PAPER, neighbours=few)
    assert torch.equal(found, offset(few.displacement, few.interval_months, MONTHS))


def test_the_expected_term_alone_is_the_expected_change(given_data: dict[str, object]) -> None:
    expected = given_data["expected"]
    assert torch.equal(solve(W0, MONTHS, weights=Weights(), expected=expected), expected)  # type: ignore[arg-type]


def objective(change: Tensor, row: int, weights: Weights, data: dict[str, object]) -> Tensor:
    """F for one knee as the module's docstring states it, term by term."""
    near, own, ground = data["neighbours"], data["own"], data["ground"]
    assert isinstance(near, Observed) and isinstance(own, OwnRate) and isinstance(ground, Ground)
    assert ground.whitening is not None and ground.effect is not None and ground.probe is not None
    share = similarity(near.distance, weights.similarity)[row]
    rates = near.displacement / near.interval_months[:, :, None]
    rho = agreement(rates, similarity(near.distance, weights.similarity), variance=near.variance)[row]
    seen = own.rate[row].square().sum()
    variance = float(ground.whitening.w_std) ** 2 / D
    metric = ground.metric(W0[row]).float()
    reading = kept_reading(metric.double(), ground.effect, ground.kept).float()
    total = change.new_zeros(())
    before = change.new_zeros(D)
    for h, months in enumerate(MONTHS):
        delta = change[h]
        total = total + weights.expected / 2 / variance * (delta - data["expected"][row, h]).square().sum()  # type: ignore[index]
        apart = (delta - months * rates[row]).square().sum(dim=1)
        total = total + weights.neighbours / 2 / variance * rho * (share * apart).sum()
        rate = weights.own / 2 / variance * seen / (seen + own.variance[row])
        total = total + rate * (delta - months * own.rate[row]).square().sum()
        total = total + weights.manifold / 2 * delta @ metric @ delta
        total = total + weights.kept / 2 * (reading @ delta).square().sum()
        total = total + weights.grade / 2 * (ground.probe @ (before - delta)).clamp(min=0) ** 2
        before = delta
    return total


@pytest.mark.parametrize(
    "weights",
    [
        Weights(neighbours=0.7, similarity=2.0, own=0.4),
        Weights(manifold=0.3),
        Weights(kept=5.0),
        Weights(grade=3.0),
        Weights(neighbours=0.5, own=0.2, manifold=0.2, kept=2.0, grade=4.0, similarity=1.0),
    ],
    ids=["data", "manifold", "kept", "grade", "all"],
)
def test_the_closed_form_is_the_least_of_the_objective(
    given_data: dict[str, object], weights: Weights
) -> None:
    found = solve(W0, MONTHS, weights=weights, **given_data)  # type: ignore[arg-type]
    for row in range(N):
        change = found[row].clone().requires_grad_()
        (slope,) = torch.autograd.grad(objective(change, row, weights, given_data), change)
        assert float(slope.abs().max()) < 2e-3, (row, slope)
        for seed in range(5):
            beside = found[row] + 0.05 * draw(len(MONTHS), D, seed=20 + seed)
            assert objective(beside, row, weights, given_data) > objective(
                found[row], row, weights, given_data
            )


def test_a_knee_does_not_depend_on_its_batch(given_data: dict[str, object]) -> None:
    weights = Weights(neighbours=0.5, own=0.2, manifold=0.2, kept=2.0, grade=4.0, similarity=1.0)
    together = solve(W0, MONTHS, weights=weights, **given_data)  # type: ignore[arg-type]
    near, own = given_data["neighbours"], given_data["own"]
    assert isinstance(near, Observed) and isinstance(own, OwnRate)
    alone = {
        "expected": given_data["expected"][1:2],  # type: ignore[index]
        "neighbours": Observed(
            near.displacement[1:2], near.interval_months[1:2], near.distance[1:2], near.variance
        ),
        "own": OwnRate(own.rate[1:2], own.variance[1:2]),
        "ground": given_data["ground"],
    }
    torch.testing.assert_close(solve(W0[1:2], MONTHS, weights=weights, **alone)[0], together[1])  # type: ignore[arg-type]


def test_a_strong_hinge_never_lets_the_grade_fall(given_data: dict[str, object]) -> None:
    ground = given_data["ground"]
    assert isinstance(ground, Ground) and ground.probe is not None
    free = solve(W0, MONTHS, weights=Weights(), **given_data)  # type: ignore[arg-type]
    held = solve(W0, MONTHS, weights=Weights(grade=1e7), **given_data)  # type: ignore[arg-type]
    path = torch.cat([torch.zeros(N, 1), held @ ground.probe], dim=1)
    assert float((free @ ground.probe).diff(dim=1).min()) < -0.1
    assert float(path.diff(dim=1).min()) > -1e-3


def test_kept_attributes_stay_and_the_manifold_shortens_the_way(given_data: dict[str, object]) -> None:
    ground = given_data["ground"]
    assert isinstance(ground, Ground) and ground.effect is not None
    reading = kept_reading(ground.metric(W0[0]), ground.effect, ground.kept)
    free = solve(W0, MONTHS, weights=Weights(), **given_data)  # type: ignore[arg-type]
    held = solve(W0, MONTHS, weights=Weights(kept=1e6), **given_data)  # type: ignore[arg-type]
    assert (
        float((held[0].double() @ reading.T).abs().max())
        < 1e-3
        < float((free[0].double() @ reading.T).abs().max())
    )
    pulled = solve(W0, MONTHS, weights=Weights(manifold=10.0), **given_data)  # type: ignore[arg-type]
    metric = ground.metric(W0[0])
    for h in range(len(MONTHS)):
        near, far = pulled[0, h].double(), free[0, h].double()
        assert near @ metric @ near < 0.5 * (far @ metric @ far)


def test_a_reading_of_an_effect_is_that_effect_alone(given_data: dict[str, object]) -> None:
    ground = given_data["ground"]
    assert isinstance(ground, Ground) and ground.effect is not None
    reading = kept_reading(ground.metric(W0[0]), ground.effect)
    torch.testing.assert_close(ground.effect.double() @ reading.T, torch.eye(2).double(), atol=1e-5, rtol=0)


def test_agreement_by_hand() -> None:
    same = torch.tensor([[[3.0, 4.0], [3.0, 4.0]]])
    opposed = torch.tensor([[[3.0, 4.0], [-3.0, -4.0]]])
    equal = torch.full((1, 2), 0.5)
    # two that agree: S = (1·50 + 0) / (1 + 1) = 25, V = 25 · ½, ρ = 25 / 37.5
    assert float(agreement(same, equal, variance=50.0)) == pytest.approx(2 / 3)
    assert float(agreement(opposed, equal, variance=50.0)) == 0.0
    # one alone has the bank's spread: 25 / (25 + 50)
    assert float(agreement(same[:, :1], torch.ones(1, 1), variance=50.0)) == pytest.approx(1 / 3)
    assert float(agreement(torch.zeros(1, 2, 2), equal, variance=0.0)) == 0.0


def test_similarity_sums_to_one_and_prefers_the_near() -> None:
    distance = torch.tensor([[0.1, 0.2, 0.4]])
    assert torch.equal(similarity(distance, 0.0), torch.full((1, 3), 1 / 3))
    share = similarity(distance, 3.0)[0]
    assert float(share.sum()) == pytest.approx(1)
    assert share[0] > share[1] > share[2]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6), st.floats(0, 100))
def test_never_falling_is_the_least(grades: list[float], strength: float) -> None:
    """Against small moves in every direction; and what never falls is left alone."""
    grade = torch.tensor(grades, dtype=torch.float64)

    def cost(g: Tensor) -> Tensor:
        fall = -torch.diff(g, prepend=g.new_zeros(1))
        return (g - grade).square().sum() + strength * fall.clamp(min=0).square().sum()

    held = never_falling(grade, strength)
    for i in range(len(grade)):
        for move in (-1e-3, 1e-3):
            beside = held.clone()
            beside[i] += move
            assert cost(beside) >= cost(held) - 1e-9
    rising = grade.abs().cumsum(dim=0)
    torch.testing.assert_close(never_falling(rising, strength), rising)


def test_the_probe_finds_the_grade() -> None:
    w = draw(500, D, seed=30)
    direction = torch.tensor([1.0, 0, 0, -0.5, 0, 0])
    grade = (2 + w @ direction).round().clamp(0, 4).long()
    probe = grade_probe(torch.cat([w, 100 + w]), torch.cat([grade, torch.full((500,), -1)]), penalty=1e-3)
    assert torch.nn.functional.cosine_similarity(probe, direction, dim=0) > 0.99


def test_wrong_use() -> None:
    with pytest.raises(UsageError, match=r"weight kept -1.*0 or more"):
        Weights(kept=-1)
    with pytest.raises(UsageError, match="above 0, both are 0"):
        Weights(expected=0)
    with pytest.raises(UsageError, match="term neighbours has a weight"):
        solve(W0, MONTHS, weights=PAPER)
    with pytest.raises(UsageError, match="term grade has a weight"):
        solve(W0, MONTHS, weights=replace(Weights(), grade=1), expected=torch.zeros(N, 3, D))
    with pytest.raises(UsageError, match="not ascending"):
        solve(W0, (48, 12), weights=Weights(), expected=torch.zeros(N, 2, D))
