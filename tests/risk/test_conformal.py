"""Sets of future grades: by hand, and their promise on exchangeable knees whatever the model is worth."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from progression.errors import UsageError
from progression.risk.conformal import grade_sets, level_at, level_for, levels_by_start, mass_before

P = torch.tensor([0.1, 0.5, 0.3, 0.06, 0.04]).double()


def test_mass_of_likelier_grades_by_hand() -> None:
    assert mass_before(P).tolist() == pytest.approx([0.8, 0.0, 0.5, 0.9, 0.96])
    assert mass_before(torch.full((5,), 0.2)).tolist() == [0] * 5  # none is likelier


def test_sets_by_hand() -> None:
    levels = torch.tensor([0.0, 0.5, 0.85, 1.0]).double()
    sets = grade_sets(P.expand(4, 5), levels[:, None])
    assert [one.nonzero()[:, 0].tolist() for one in sets] == [[1], [1, 2], [0, 1, 2], [0, 1, 2, 3, 4]]
    by_grade = torch.tensor([0.9, 0.0, 0.4, 0.95, 0.9]).double()
    assert grade_sets(P, by_grade).tolist() == [True, True, False, True, False]


def test_level_by_hand() -> None:
    """Nine knees, s = 0 for eight and 0.8 for one: the ⌈10 · 0.9⌉-th smallest is the largest, 0.8."""
    grade = torch.tensor([1] * 8 + [0])
    assert level_for(P.expand(9, 5), grade) == pytest.approx(0.8)
    assert level_for(P.expand(9, 5), grade, coverage=0.8) == 0
    with pytest.raises(UsageError, match=r"8 knees with a known grade: sets of coverage 0\.9 need 9 at"):
        level_for(P.expand(8, 5), grade[:8])


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(0.05, 3))
def test_coverage_holds_whatever_the_model_is_worth(seed: int, sharpness: float) -> None:
    """400 knees set the level, 2,000 others are covered: 90 % at least, but for the chance of both draws."""
    draws = torch.Generator().manual_seed(seed)
    truth = torch.randn(2400, 5, generator=draws).double().softmax(dim=1)
    grade = torch.multinomial(truth, 1, generator=draws)[:, 0]
    model = (sharpness * (truth.log() + torch.randn(2400, 5, generator=draws))).softmax(dim=1)
    level = level_for(model[:400], grade[:400])
    sets = grade_sets(model[400:], torch.full((2000, 1), level))
    covered = sets.gather(1, grade[400:, None]).double().mean()
    assert covered > 0.9 - 4 * (0.09 * (1 / 400 + 1 / 2000)) ** 0.5
    assert bool(sets.any(dim=1).all())


def test_levels_by_start_by_hand() -> None:
    """Ten knees from grade 0 stay likely, ten from grade 1 do not, three from grade 2 are too few."""
    grade = torch.tensor([1] * 10 + [2] * 10 + [0] * 3)
    start = torch.tensor([0] * 10 + [1] * 10 + [2] * 3)
    levels = levels_by_start(P.expand(23, 5), start, grade)
    # of all 23, the ⌈24 · 0.9⌉-th: 0.8
    assert levels.tolist() == pytest.approx([0.0, 0.5, 0.8, 0.8, 0.8])


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_coverage_holds_for_every_grade_to_start_from(seed: int) -> None:
    """Whatever the model thinks of the start, and though the start is not told."""
    draws = torch.Generator().manual_seed(seed)
    n = 6000
    start = torch.randint(0, 3, (n,), generator=draws)
    grade = (start + (torch.rand(n, generator=draws) < 0.2 + 0.2 * start).long()).clamp(max=4)
    sharpness = torch.tensor([4.0, 0.5, 2.0])[start]
    noise = torch.randn(n, 5, generator=draws).double()
    p = (torch.nn.functional.one_hot(grade, 5) * sharpness[:, None] + noise).softmax(dim=1)
    fit, new = slice(0, n // 2), slice(n // 2, n)
    levels = levels_by_start(p[fit], start[fit], grade[fit])
    sets = grade_sets(p[new], levels.cummax(dim=0).values.expand(n // 2, -1))
    right = sets.gather(1, grade[new, None])[:, 0].double()
    for g in range(3):
        rows = start[new] == g
        assert right[rows].mean() > 0.9 - 4 * (0.09 * 2 / int(rows.sum())) ** 0.5


def test_levels_between_visits_are_the_larger_of_both() -> None:
    months = torch.tensor([12.0, 24, 48]).double()
    levels = torch.tensor([[0.9, 0.8, 0.95], [0.1, 0.2, 0.3]], dtype=torch.float64)
    asked = torch.tensor([1.0, 12, 18, 24, 36, 48, 96]).double()
    assert level_at(months, levels, asked).tolist() == [
        [0.9, 0.9, 0.9, 0.8, 0.95, 0.95, 0.95],
        [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.3],
    ]
