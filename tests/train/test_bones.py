"""The bones' training: targets by hand, windows that keep points on their pixels, runs that learn and resume."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from progression.bones.find import BoneFinder, Bones
from progression.bones.network import SIDE, STRIDE, TILT_UNIT_DEG, BoneNet, Maps
from progression.bones.shape import ShapeModel, landmark_frame
from progression.data.contours import Outlined
from progression.data.films import FilmMaker, MadeFilm, Shown
from progression.errors import UsageError
from progression.train import bones
from progression.train.bones import (
    FAR,
    NEAR,
    BonesConfig,
    Targets,
    Window,
    batch,
    calibrate,
    losses,
    on_film,
    targets,
    train_bones,
    windowed,
)
from progression.types import Pixels, Side
from tests.outlines import drawn, outline

CELLS = SIDE // STRIDE
KNEE = Outlined(torch.zeros(1, 8, 8, dtype=torch.uint8), outline()[None].astype(np.float32))


def film(*knees: Shown, size: int = 160) -> MadeFilm:
    return MadeFilm(np.zeros((size, size), np.float32), knees, "knees", rows=(0,) * len(knees))


@pytest.mark.parametrize("side", list(Side))
def test_outlines_lie_on_the_bones_of_made_films(side: Side) -> None:
    """The notch lies between bright bones, and the plateau's ends are numbered from the film's left."""
    knees = torch.from_numpy((drawn(outline(), 224) * 255).astype(np.uint8))[None]
    maker = FilmMaker(knees, settings=replace(NEAR, noise=(0.0, 0.0), marked=0.0, letter=0.0, collimated=0.0))
    rng, seen = np.random.default_rng(0), 0
    while seen < 5:
        made = maker.film(rng, longer_px=200, kind="knees", rows=[0])
        if not made.knees or made.knees[0].side is not side:
            continue
        seen += 1
        assert made.rows == (0,)
        points = on_film(outline(), made.knees[0])
        middle = (points[18] + points[55]) / 2
        notch = made.pixels[int(middle[1]), int(middle[0])]
        femur, tibia = points[:37].mean(0), points[37:].mean(0)
        assert all(made.pixels[int(y), int(x)] > notch + 0.1 for x, y in (femur, tibia))
        assert points[47, 0] < points[63, 0]


@pytest.mark.parametrize("mirrored", [1, -1])
def test_a_window_keeps_points_on_their_pixels(mirrored: int) -> None:
    y, x = np.mgrid[:200, :200] + 0.5
    dot = np.exp(-((x - 120) ** 2 + (y - 90) ** 2) / 18).astype(np.float32)
    view = Window((110.0, 100.0), (mirrored * 0.8, 0.9))
    shown = windowed([MadeFilm(dot, (), "knees")], [view])[0, 0]
    row, column = divmod(int(shown.argmax()), SIDE)
    placed = view.of(np.array([[120.0, 90.0]] * 74))[0]
    assert (column + 0.5, row + 0.5) == pytest.approx(tuple(placed), abs=0.6)


def test_targets_by_hand() -> None:
    """A right knee's square of 128 pixels in the middle of the window: shares times 128, and 17 and 16."""
    right = Shown((80.0, 80.0), 128.0, 0.0, Side.RIGHT)
    views = [Window((79.0, 80.0), (1, 1)), Window((81.0, 80.0), (-1, 1))]
    of = targets(KNEE, [film(right)] * 2, views, [right, None])
    placed = outline() * 128 + [17, 16]
    assert of.points[0].numpy() == pytest.approx(placed, abs=1e-3)
    frame = landmark_frame(placed)
    cell = divmod(int(of.middle[0].argmax()), CELLS)
    assert cell == (int(frame.y // STRIDE), int(frame.x // STRIDE))
    assert float(of.log_width[0][cell].exp()) * SIDE == pytest.approx(frame.width, rel=1e-3)
    assert float(of.tilt[0][cell]) * TILT_UNIT_DEG == pytest.approx(frame.tilt_deg, abs=1e-3)
    assert of.right[0][cell] == 1 and of.right[1][cell] == 0
    assert of.weights[1].sum() == 0
    assert (
        of.weights[0, 18] == 1 and 0 < of.weights[0, 0] < 1
    )  # the shaft's end lies beyond the knee's picture


def said(of: Targets, **changes: torch.Tensor) -> Maps:
    """What a network says that knows the targets."""
    at = (torch.arange(CELLS) + 0.5) * STRIDE
    off = (at - of.points[..., :1])[:, :, None].square() + (at - of.points[..., 1:])[..., None].square()
    maps = {
        "points": -off / (2 * STRIDE**2),
        "middle": 20 * (of.middle > 0.85).float() - 10,
        "log_width": of.log_width,
        "tilt": of.tilt,
        "right": 20 * of.right - 10,
    }
    return Maps(**(maps | changes))


def test_the_truth_has_the_lowest_loss() -> None:
    shown = Shown((80.0, 80.0), 100.0, 6.0, Side.LEFT)
    of = targets(KNEE, [film(shown)], [Window((80.0, 80.0), (1, 1))], [shown])

    def loss(maps: Maps) -> float:
        return float(torch.stack(list(losses(maps, of).values())).sum())

    best = loss(said(of))
    truth = said(of)
    for changed in (
        {"points": truth.points.roll(2, -1)},
        {"points": truth.points.flip(1)},
        {"middle": -truth.middle},
        {"log_width": truth.log_width + 0.1},
        {"tilt": truth.tilt - 0.2},
        {"right": -truth.right},
    ):
        assert loss(said(of, **changed)) > best + 0.05


def test_a_batch_without_a_knee_has_a_loss() -> None:
    of = targets(KNEE, [film()], [Window((80.0, 80.0), (1, 1))], [None])
    found = losses(said(of), of)
    assert "place" not in found and all(torch.isfinite(value) for value in found.values())


class Half(BoneFinder):
    """Right and sharp about every other film; elsewhere a plateau's width too low, and blurred."""

    films = 0

    def __call__(self, pixels: Pixels) -> tuple[Bones, ...]:
        Half.films += 1
        right, rng = Half.films % 2 == 0, np.random.default_rng(Half.films)
        points = 100 * outline() + (0 if right else [0, 80])
        spread = np.full(74, (1.0 if right else 4.0) * rng.uniform(0.8, 1.2))
        frame = landmark_frame(points)
        return (Bones(points, spread, np.ones(74, bool), frame, 0.8, 0.9, 0.5),)


def test_confidence_follows_what_tells_right_from_wrong(
    knees: Outlined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bones, "on_film", lambda points, shown: 100 * outline())
    finder = Half(BoneNet(), ShapeModel.fit(knees.points))
    fitted = calibrate(finder, knees, films=30)
    sharp, blurred = (
        fitted.odds[0] + np.dot(fitted.odds[1:], (1.4, np.log(blur), 0.5)) for blur in (0.012, 0.05)
    )
    assert fitted.odds[2] < 0 and sharp > blurred + 2


def test_what_is_never_right_gets_no_odds(knees: Outlined, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bones, "on_film", lambda points, shown: 900 * outline())
    finder = Half(BoneNet(), ShapeModel.fit(knees.points))
    assert calibrate(finder, knees, films=4).odds == finder.odds


@pytest.fixture
def knees() -> Outlined:
    outlines = [outline(seed) for seed in range(3)]
    pictures = [torch.from_numpy((drawn(one, 112) * 255).astype(np.uint8)) for one in outlines]
    return Outlined(torch.stack(pictures), np.stack(outlines).astype(np.float32))


def test_a_batch_is_a_function_of_its_step(knees: Outlined) -> None:
    makers = (FilmMaker(knees.images, settings=NEAR), FilmMaker(knees.images, settings=FAR))
    config = BonesConfig(batch=6)
    x, of = batch(knees, makers, config, 3)
    again, _ = batch(knees, makers, config, 3)
    assert x.shape == (6, 1, SIDE, SIDE) and float(x.min()) >= 0 and float(x.max()) <= 1
    assert torch.equal(x, again) and not torch.equal(x, batch(knees, makers, config, 4)[0])
    assert of.weights.shape == (6, 74)


def test_a_run_learns(knees: Outlined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same windows again and again, so that a few steps show it."""
    makers = (FilmMaker(knees.images, settings=NEAR), FilmMaker(knees.images, settings=FAR))
    config = BonesConfig(steps=12, batch=3, precision="float32")
    same = batch(knees, makers, config, 0)
    assert same[1].weights.sum() > 0
    monkeypatch.setattr(bones, "batch", lambda *_: same)
    monkeypatch.setattr(bones, "_WARM_UP", 1)
    train_bones(knees, tmp_path / "run", config=config, checkpoint_seconds=0.0)
    rows = [json.loads(row) for row in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for term in ("place", "middle", "width"):
        assert rows[-1][term] < 0.7 * rows[0][term], term


class Killed(Exception):
    pass


def test_killed_and_resumed_equals_uninterrupted(
    knees: Outlined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, steps, original = BonesConfig(steps=4, batch=2, precision="float32"), [], batch

    def die(knees: Outlined, makers: Sequence[FilmMaker], config: BonesConfig, step: int) -> object:
        steps.append(step)
        if len(steps) == 3:
            raise Killed
        return original(knees, makers, config, step)  # type: ignore[arg-type]

    whole = train_bones(knees, tmp_path / "whole", config=config)
    monkeypatch.setattr(bones, "batch", die)
    with pytest.raises(Killed):
        train_bones(knees, tmp_path / "cut", config=config, checkpoint_seconds=0.0)
    cut = train_bones(knees, tmp_path / "cut", config=config)
    assert steps == [0, 1, 2, 2, 3]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, cut.state_dict()[key]), key


def test_a_run_of_another_configuration_is_left_alone(knees: Outlined, tmp_path: Path) -> None:
    config = BonesConfig(steps=1, batch=2, precision="float32")
    train_bones(knees, tmp_path, config=config)
    with pytest.raises(UsageError, match="holds a run with another seed"):
        train_bones(knees, tmp_path, config=replace(config, seed=1))
