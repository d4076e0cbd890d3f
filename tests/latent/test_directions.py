"""Directions: what is known by construction is found again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from progression.errors import UsageError
from progression.latent.directions import Directions, disentanglement


def correlated(count: int = 2000) -> tuple[Tensor, dict[str, Tensor]]:
    """Codes whose coordinate 0 is grade and 1 is size, which go together in the cohort (r = 0.8)."""
    draws = torch.Generator().manual_seed(0)
    grade = torch.randn(count, generator=draws)
    size = 0.8 * grade + 0.6 * torch.randn(count, generator=draws)
    w = torch.randn(count, 4, generator=draws) * 0.1
    w[:, 0] += 2 * grade
    w[:, 1] += 3 * size
    return w, {"grade": grade, "size": size}


def test_effects_are_partial() -> None:
    w, attributes = correlated()
    found = Directions.fit(w, attributes)
    # a regression on grade alone would give it 0.8 · 3 of coordinate 1
    assert found.effect[0].tolist() == pytest.approx([2, 0, 0, 0], abs=0.06)
    assert found.effect[1].tolist() == pytest.approx([0, 3, 0, 0], abs=0.06)


def test_move_is_in_the_attributes_own_units_and_takes_codes_of_either_shape() -> None:
    w, attributes = correlated()
    found = Directions.fit(w, {"grade": attributes["grade"] * 10, "size": attributes["size"]})
    moved = found.move(w[:2], "grade", 10.0) - w[:2]
    assert moved[0, 0] == pytest.approx(2.0, abs=0.06)
    layers = w[:2, None].expand(-1, 3, -1)
    assert torch.allclose(found.move(layers, "grade", 10.0), (w[:2] + moved)[:, None].expand(-1, 3, -1))
    with pytest.raises(UsageError, match=r"'age': expected one of grade, size"):
        found.move(w, "age", 1.0)


@given(amount=st.floats(-3, 3), back=st.floats(-3, 3))
def test_moves_add_up(amount: float, back: float) -> None:
    w, attributes = correlated(50)
    found = Directions.fit(w, attributes)
    both = found.move(found.move(w, "size", amount), "size", back)
    assert torch.allclose(both, found.move(w, "size", amount + back), atol=1e-4)


def test_disentanglement_of_a_perfect_renderer_is_the_identity() -> None:
    w, attributes = correlated()
    found = Directions.fit(w, attributes)
    change = disentanglement(found, w[:50], lambda codes: {"grade": codes[:, 0] / 2, "size": codes[:, 1] / 3})
    assert torch.allclose(change, torch.eye(2), atol=0.05)


def test_bad_attributes_are_refused() -> None:
    w, attributes = correlated(20)
    with pytest.raises(UsageError, match=r"attribute still is the same for all knees"):
        Directions.fit(w, attributes | {"still": torch.zeros(20)})
    with pytest.raises(UsageError, match=r"finite values"):
        Directions.fit(w, attributes | {"unread": torch.full((20,), torch.nan)})
