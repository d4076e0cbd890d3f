"""Expected change: chances by hand, steps recovered from banks whose steps are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from progression.errors import UsageError
from progression.latent import expected as module
from progression.latent.bank import TrajectoryBank
from progression.latent.build import build_graded
from progression.latent.expected import (
    HOLD,
    StepEffects,
    coordinates,
    leave_one_out_error,
    ridge,
    step_chances,
)
from progression.latent.transport import GradeTransport

D = 6
NO_LOCAL = (1e6,)


def bank_of(
    w: torch.Tensor,
    first: torch.Tensor,
    last: torch.Tensor,
    displacement: torch.Tensor,
    *,
    kind: str = "graded",
    months: torch.Tensor | None = None,
) -> TrajectoryBank:
    """Read at the first visit and at the one that the displacement leads to: 96 months, or `months` of 48 and 96."""
    n = len(w)
    months = torch.full((n,), 96.0) if months is None else months
    unread = torch.full_like(last, -1)
    series = torch.stack([first, *(torch.where(months == m, last, unread) for m in (48, 96))], dim=1)
    return TrajectoryBank(
        subject=np.array([f"P{i // 2}" for i in range(n)]),
        w=w,
        displacement=displacement,
        interval_months=months,
        grade_series=series.to(torch.int8),
        series_months=torch.tensor([0.0, 48.0, 96.0]),
        kind=np.full(n, kind),
    )


def made_up(n: int = 800, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys, first and last grades, and the steps (4, D) that knees make."""
    draws = torch.Generator().manual_seed(seed)
    w = torch.randn(n, D, generator=draws)
    first = torch.randint(0, 4, (n,), generator=draws)
    last = (first + torch.randint(0, 3, (n,), generator=draws)).clamp(max=4)
    return w, first, last, torch.randn(4, D, generator=draws)


def sum_of_steps(first: torch.Tensor, last: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    order = torch.arange(4)
    return ((first[:, None] <= order) & (order < last[:, None])).float() @ steps


# -- chances -------------------------------------------------------------------------------------------


def test_step_chances_by_hand() -> None:
    now = torch.tensor([[0.5, 0.5, 0, 0, 0], [0, 0, 0, 0, 1.0]])
    future = torch.tensor([[[0.25, 0.25, 0.5, 0, 0], [0, 0, 0.5, 0.25, 0.25]], [[0, 0, 0, 0, 1.0]] * 2])
    found = step_chances(now, future)
    # half of it can make 0 → 1, and half of that half does; all that is beyond grade 1 made 1 → 2
    torch.testing.assert_close(found[0, 0], torch.tensor([0.25, 0.5, 0, 0]))
    torch.testing.assert_close(found[0, 1], torch.tensor([0.5, 1.0, 0.5, 0.25]))
    assert not found[1].any()
    with pytest.raises(UsageError, match="falls"):
        step_chances(future[:1, 1], now[:1, None])


def test_nothing_is_expected_at_once() -> None:
    now = torch.tensor([[0.2, 0.3, 0.3, 0.1, 0.1]])
    assert not step_chances(now, now[:, None]).any()


# -- steps ---------------------------------------------------------------------------------------------


def test_a_step_that_five_knees_made_is_half_believed() -> None:
    w = torch.randn(12, D, generator=torch.Generator().manual_seed(0))
    first = torch.zeros(12, dtype=torch.int64)
    last = torch.tensor([1] * 5 + [0] * 7)
    moved = torch.zeros(12, D)
    moved[:5, 0] = 2.0
    effects = StepEffects.fit(bank_of(w, first, last, moved), shrinkages=NO_LOCAL)
    assert HOLD == 5
    expected = torch.zeros(12, 4, D)
    expected[:, 0, 0] = 1.0
    torch.testing.assert_close(effects.steps(w), expected, atol=1e-4, rtol=0)
    chances = torch.tensor([0.3, 0, 0, 0]).expand(12, 1, 4)
    torch.testing.assert_close(
        effects.displacement_at(w, chances)[:, 0], 0.3 * expected[:, 0], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("kind", ["graded", "imaged", "synthetic"])
def test_steps_are_taken_apart_whatever_the_kind(kind: str) -> None:
    w, first, last, steps = made_up()
    effects = StepEffects.fit(bank_of(w, first, last, sum_of_steps(first, last, steps), kind=kind))
    torch.testing.assert_close(effects.steps(w[:1])[0], steps, atol=0.12, rtol=0)
    assert not effects.drift(w).any()


def test_a_drift_does_not_pass_for_steps() -> None:
    w, first, last, steps = made_up()
    months = torch.where(torch.arange(len(w)) % 2 == 0, 48.0, 96.0)
    drift = torch.linspace(-1, 1, D)
    moved = sum_of_steps(first, last, steps) + months[:, None] / 12 * drift
    effects = StepEffects.fit(bank_of(w, first, last, moved, kind="imaged", months=months))
    torch.testing.assert_close(effects.steps(w[:1])[0], steps, atol=0.15, rtol=0)
    torch.testing.assert_close(effects.drift(w[:1])[0], drift, atol=0.02, rtol=0)
    none = torch.zeros(1, 2, 4)
    assert not effects.displacement_at(w[:1], none).any()


def test_where_the_knee_is_matters_as_far_as_the_bank_shows_it() -> None:
    w, first, last, steps = made_up(1500)
    local = sum_of_steps(first, last, steps) * (1 + 0.5 * w[:, :1])
    seen = StepEffects.fit(bank_of(w, first, last, local))
    far = torch.zeros(2, D)
    far[0, 0], far[1, 0] = 1.5, -1.5
    high, low = seen.steps(far)
    assert (high.norm(dim=1) > 1.5 * low.norm(dim=1)).all()
    noise = 3 * torch.randn(len(w), D, generator=torch.Generator().manual_seed(3))
    unseen = StepEffects.fit(bank_of(w, first, last, sum_of_steps(first, last, steps) + noise))
    assert unseen.shrinkage > seen.shrinkage


def test_change_goes_on_along_each_step() -> None:
    w, first, last, steps = made_up()
    effects = StepEffects.fit(bank_of(w, first, last, sum_of_steps(first, last, steps)))
    chances = torch.tensor([[0.1, 0.0, 0.2, 0.0], [0.2, 0.1, 0.2, 0.0], [0.5, 0.4, 0.3, 0.1]])
    moved = effects.displacement_at(w[:1], chances[None])[0]
    step = effects.steps(w[:1])[0]
    for earlier, later in ((0, 1), (1, 2)):
        torch.testing.assert_close(moved[later] - moved[earlier], (chances[later] - chances[earlier]) @ step)


def test_own_knees_lend_nothing() -> None:
    w, first, last, steps = made_up(60)
    moved = sum_of_steps(first, last, steps)
    moved[0] += 50.0
    first[0], last[0] = 0, 1  # P0's odd knee did step
    effects = StepEffects.fit(bank_of(w, first, last, moved), shrinkages=(60.0,))
    own, other = effects.steps(w[[2, 2]], subject=["P0", "elsewhere"])
    assert (own - other).abs().max() > 1
    rows = torch.from_numpy(effects.subject != "P0")
    rest = ridge(effects.design[rows], effects.displacement[rows], effects.penalty).float()
    u = torch.cat([torch.ones(1), (w[2] - effects.mean) @ effects.axes])
    torch.testing.assert_close(own, u @ rest.unflatten(0, (-1, len(u))), atol=1e-5, rtol=1e-5)


def test_leave_one_out_error_is_that_of_leaving_out() -> None:
    draws = torch.Generator().manual_seed(1)
    x, y = (torch.randn(15, n, generator=draws).double() for n in (4, 3))
    penalty = torch.tensor([0.5, 1, 2, 4]).double()
    by_hand = 0.0
    for row in range(15):
        keep = torch.arange(15) != row
        by_hand += float((y[row] - x[row] @ ridge(x[keep], y[keep], penalty)).square().sum())
    assert leave_one_out_error(x, y, penalty) == pytest.approx(by_hand, rel=1e-9)


def test_coordinates_have_unit_variance() -> None:
    w, *_ = made_up()
    mean, axes = coordinates(w @ torch.diag(torch.arange(1.0, D + 1)), components=3)
    u = (w @ torch.diag(torch.arange(1.0, D + 1)) - mean) @ axes
    torch.testing.assert_close(u.T.cov(), torch.eye(3), atol=1e-3, rtol=0)


def test_a_graded_bank_gives_back_its_transport() -> None:
    w, first, last, _ = made_up(1500, seed=4)
    w = w + first[:, None] * torch.linspace(0.2, 1.0, D)
    names = [f"P{i}" for i in range(len(w))]
    series = torch.stack([first, last], dim=1).numpy()
    bank = build_graded(w, subject=names, grade_series=series, series_months=[0.0, 96.0])
    transport = GradeTransport.fit(w, first, subject=names)
    told = transport.displacement(w[:50], torch.full((50,), 1), torch.full((50,), 2))
    pooled = StepEffects.fit(bank).steps(w[:50])[:, 1]
    assert torch.cosine_similarity(told, pooled, dim=1).min() > 0.9
    assert float((pooled.norm(dim=1) / told.norm(dim=1)).median()) == pytest.approx(1, abs=0.1)


def test_a_bank_without_grades() -> None:
    w, first, _, _ = made_up(10)
    unread = torch.full_like(first, -1)
    with pytest.raises(UsageError, match="build the bank with grades"):
        StepEffects.fit(bank_of(w, unread, unread, torch.zeros(10, D)))


def test_imaged_rows_are_paired_with_the_reading_of_their_own_last_film() -> None:
    """Steps read before or after the last film, but not at it, must not count as made or as not made."""
    w, first, last, steps = made_up()
    moved = sum_of_steps(first, last, steps)
    bank = bank_of(w, first, last, moved, kind="imaged")
    full = StepEffects.fit(bank, shrinkages=NO_LOCAL)
    # half of the last films were not read, but ones at 48 months were, before any step
    half = torch.arange(len(w)) % 2 == 0
    series = bank.grade_series.clone()
    series[half, 1], series[half, 2] = series[half, 0], -1
    part = StepEffects.fit(replace(bank, grade_series=series), shrinkages=NO_LOCAL)
    torch.testing.assert_close(part.steps(w[:1]), full.steps(w[:1]), atol=0.15, rtol=0)


# -- what is left of displacements -----------------------------------------------------------------------


def filmed(n: int = 3000, *, tau: float, film: float, seed: int = 3) -> TrajectoryBank:
    """Knees filmed twice that show a step by 1 ± tau / √steps of its look, each film off by `film` a coordinate."""
    w, first, last, steps = made_up(n, seed=seed)
    draws = torch.Generator().manual_seed(seed + 1)
    made = (last - first).float()
    amount = 1 + tau * torch.randn(n, generator=draws) / made.clamp(min=1).sqrt()
    off = film * 2**0.5 * torch.randn(n, D, generator=draws)
    return bank_of(w, first, last, amount[:, None] * sum_of_steps(first, last, steps) + off, kind="imaged")


@pytest.mark.parametrize(("tau", "film"), [(0.0, 0.5), (0.4, 0.05), (0.4, 0.5)])
def test_variability_is_what_films_do_not_explain(tau: float, film: float) -> None:
    found = StepEffects.fit(filmed(tau=tau, film=film), shrinkages=NO_LOCAL)
    assert found.variability == pytest.approx(tau, abs=0.12)
    assert found.film_variance == pytest.approx(film**2 * D, rel=0.1)


def test_knees_never_filmed_twice_say_nothing_of_films() -> None:
    w, first, last, steps = made_up()
    found = StepEffects.fit(bank_of(w, first, last, sum_of_steps(first, last, steps)), shrinkages=NO_LOCAL)
    assert found.film_variance is None
    assert found.variability < 0.1


def test_a_large_bank_is_learnt_from_by_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    w, first, last, steps = made_up()
    bank = bank_of(w, first, last, sum_of_steps(first, last, steps))
    monkeypatch.setattr(module, "FIT_ROWS", 400)
    effects = StepEffects.fit(bank)
    part = bank.take(np.random.default_rng(0).choice(len(bank), 400, replace=False))
    torch.testing.assert_close(effects.steps(w), StepEffects.fit(part).steps(w))
    assert len(effects.subject) < 400
    torch.testing.assert_close(effects.steps(w[:1])[0], steps, atol=0.2, rtol=0)
