"""Directions: what is known by construction is found again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from progression.errors import UsageError, WeightsError
from progression.latent.directions import Directions, disentanglement
from progression.weights import load_model, save_part
from tests.models import write_model


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


def test_edit_is_one_move_after_another_and_none_leaves_codes_alone() -> None:
    w, attributes = correlated(100)
    found = Directions.fit(w, attributes)
    assert torch.equal(found.edit(w), w)
    both = found.edit(w, grade=1.0, size=-0.5)
    torch.testing.assert_close(both, found.move(found.move(w, "size", -0.5), "grade", 1.0))
    torch.testing.assert_close(found.edit(both, grade=-1.0, size=0.5), w, atol=1e-5, rtol=1e-5)
    # a knee's edit is its own, and does not depend on where the knee is
    torch.testing.assert_close(found.edit(w[:1], grade=1.0) - w[:1], found.edit(w[5:6], grade=1.0) - w[5:6])


def test_calibrated_directions_give_what_is_asked_and_nothing_else() -> None:
    w, attributes = correlated()
    found = Directions.fit(w, attributes)
    # a picture that shows half the grade, and a tenth of the size as grade
    mixed = torch.tensor([[0.5, 0.0], [0.1, 1.0]])

    def measure(codes: Tensor) -> dict[str, Tensor]:
        seen = torch.stack([codes[:, 0] / 2, codes[:, 1] / 3], dim=1) @ mixed
        return {"grade": seen[:, 0], "size": seen[:, 1]}

    before = disentanglement(found, w[:50], measure)
    assert before[0, 0] == pytest.approx(0.5, abs=0.05)
    after = disentanglement(found.calibrated(before), w[:50], measure)
    assert torch.allclose(after, torch.eye(2), atol=0.06)


def test_calibration_is_damped() -> None:
    w, attributes = correlated(50)
    found = Directions.fit(w, attributes)
    torch.testing.assert_close(found.calibrated(torch.eye(2)).effect, found.effect, rtol=0.011, atol=0)
    # what does not answer at all is left out, what hardly does is not blown up
    silent = found.calibrated(torch.tensor([[1.0, 0.0], [0.0, 0.0]])).effect
    assert not silent[1].any()
    weak = found.calibrated(torch.tensor([[1.0, 0.0], [0.0, 0.01]])).effect
    assert weak[1].norm() < found.effect[1].norm() * 1.01


def test_directions_are_stored_with_the_model_that_they_were_found_for(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    files = load_model(model)
    with pytest.raises(WeightsError, match=r"has no directions: run progression train directions"):
        Directions.load(files)
    w, attributes = correlated(50)
    found = Directions.fit(w, attributes)
    found.save(model, made_for=files, training={"knees": 50})
    read = Directions.load(load_model(model))
    assert read.names == found.names and torch.equal(read.effect, found.effect)
    torch.testing.assert_close(read.move(w, "grade", 1.0), found.move(w, "grade", 1.0))
    other = load_model(write_model(tmp_path / "other", seed=1))
    found.save(other.folder, made_for=files)
    with pytest.raises(WeightsError, match=r"found for another generator or encoder"):
        Directions.load(load_model(other.folder))
    save_part(model, "directions", {"effect": found.effect}, load_model(model).config("directions"))
    with pytest.raises(WeightsError, match=r"are damaged \('mean'\)"):
        Directions.load(load_model(model))
