"""How outlines are numbered, where they stand, and what is likely of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progression.bones.shape import (
    FEMUR,
    PLATEAU,
    TIBIA,
    Frame,
    ShapeModel,
    fitted_frame,
    landmark_frame,
    mirror,
    reverse,
)
from tests.outlines import outline

KNEES = np.stack([outline(seed) for seed in range(60)])
FRAMES = st.builds(Frame, st.floats(-500, 5000), st.floats(-500, 5000), st.floats(5, 900), st.floats(-60, 60))


def test_numbered_from_the_other_side_each_bone_stays_itself() -> None:
    points = outline()
    assert (reverse(points)[0] == points[36]).all() and (reverse(points)[37] == points[73]).all()
    assert (reverse(reverse(points)) == points).all()
    assert {tuple(p) for p in reverse(points)[FEMUR]} == {tuple(p) for p in points[FEMUR]}
    assert {tuple(p) for p in reverse(points)[TIBIA]} == {tuple(p) for p in points[TIBIA]}


def test_a_mirrored_knee_is_numbered_from_the_left_as_well() -> None:
    points = outline() - 0.5
    other = mirror(points)
    assert other[PLATEAU[0], 0] < other[PLATEAU[1], 0]
    assert other[PLATEAU[0]] == pytest.approx(points[PLATEAU[1]] * [-1, 1])


def test_a_frame_by_hand() -> None:
    """A plateau from (10, 20) to (50, 50) is 50 wide and falls by 3 in 4."""
    points = np.zeros((74, 2))
    points[47], points[63] = (10, 20), (50, 50)
    points[18], points[53], points[57] = (30, 10), (28, 20), (32, 24)
    frame = landmark_frame(points)
    assert (frame.x, frame.y, frame.width) == pytest.approx((30, 16, 50))
    assert frame.tilt_deg == pytest.approx(math.degrees(math.atan2(3, 4)))
    assert Frame(100, 200, 50, 90).put(np.array([[1.0, 0.0]])) == pytest.approx(np.array([[100, 250]]))


@given(FRAMES)
def test_put_and_take_are_inverse_and_the_frame_is_found_again(frame: Frame) -> None:
    shape = landmark_frame(outline()).take(outline())
    placed = frame.put(shape)
    assert frame.take(placed) == pytest.approx(shape, abs=1e-7)
    for found in (landmark_frame(placed), fitted_frame(placed, shape)):
        assert (found.x, found.y, found.width, found.tilt_deg) == pytest.approx(
            (frame.x, frame.y, frame.width, frame.tilt_deg), abs=1e-5
        )


def test_what_is_seen_sharply_stays_what_is_seen() -> None:
    model = ShapeModel.fit(KNEES)
    points = Frame(300, 200, 90, 12).put(landmark_frame(outline(99)).take(outline(99)))
    agreed = model.agree(points, np.full(74, 0.1), np.ones(74, bool))
    assert np.abs(agreed.points - points).max() < 0.05
    assert agreed.frame.width == pytest.approx(90, rel=0.01) and agreed.frame.tilt_deg == pytest.approx(
        12, abs=0.5
    )
    assert agreed.unlikely < 3


def test_what_is_not_seen_and_what_is_seen_faintly_is_where_the_shape_has_it() -> None:
    model = ShapeModel.fit(KNEES)
    true = Frame(300, 200, 90, 0).put(landmark_frame(outline(99)).take(outline(99)))
    points, spread, seen = true.copy(), np.full(74, 0.3), np.ones(74, bool)
    points[5] += 40
    spread[5] = 30
    points[70:], seen[70:] = 0, False
    agreed = model.agree(points, spread, seen)
    assert np.abs(agreed.points[5] - true[5]).max() < 4
    assert np.abs(agreed.points[70:] - true[70:]).max() < 6


def test_a_shape_that_no_knee_has_is_unlikely() -> None:
    model = ShapeModel.fit(KNEES)
    sharp, seen = np.full(74, 0.001), np.ones(74, bool)
    usual = [model.agree(outline(seed), sharp, seen).unlikely for seed in range(100, 110)]
    squeezed = outline(99) * [1.0, 0.6]
    assert model.agree(squeezed, sharp, seen).unlikely > 2 * max(usual)


def test_left_knees_have_the_mirrored_shapes() -> None:
    model = ShapeModel.fit(KNEES)
    right, sharp, seen = outline(99) * 100, np.full(74, 1.0), np.ones(74, bool)
    left = np.add(mirror(right), [100, 0])
    one, other = model.agree(right, sharp, seen), model.mirrored().agree(left, sharp, seen)
    assert other.points == pytest.approx(np.add(mirror(one.points), [100, 0]), abs=1e-6)
    assert other.unlikely == pytest.approx(one.unlikely, rel=1e-6)
    assert other.frame.tilt_deg == pytest.approx(-one.frame.tilt_deg, abs=1e-6)


def test_a_model_survives_its_tensors() -> None:
    model = ShapeModel.fit(KNEES)
    again = ShapeModel.from_tensors(model.tensors(), rest=model.rest)
    assert again.mean == pytest.approx(model.mean, abs=1e-6) and again.modes.shape == model.modes.shape
