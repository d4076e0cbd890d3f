"""Knees are found at their place on films of any size, by a network that knows where they are.

The made-up network sees two bright dots, the ends of a plateau, the right one fainter for a left knee, and answers
with the outlines of a knee that stands on them.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from progression.bones.find import BoneFinder
from progression.bones.network import SIDE, STRIDE, TILT_UNIT_DEG, BoneNet, Maps
from progression.bones.shape import PLATEAU, Frame, ShapeModel, mirror
from progression.errors import WeightsError
from progression.types import Pixels
from progression.weights import load_model, save_part
from tests.outlines import outline

SHAPES = ShapeModel.fit(np.stack([outline(seed) for seed in range(60)]))


class Dots(nn.Module):
    """See the module."""

    def forward(self, x: Tensor) -> Maps:
        rows, columns = x.shape[2] // STRIDE, x.shape[3] // STRIDE
        points = torch.zeros(1, 74, rows, columns)
        middle, log_width, tilt, right = (torch.full((1, rows, columns), -9.0) for _ in range(4))
        picture = x[0, 0].numpy()
        y, bright = np.mgrid[: x.shape[2], : x.shape[3]], picture > 0.25 * max(picture.max(), 1e-3)
        for left_half in self._knees(picture, y, bright):
            frame, is_right = left_half
            shape = SHAPES.mean if is_right else mirror(SHAPES.mean)
            at = torch.from_numpy(frame.put(shape)).float()
            grid = [(torch.arange(count) + 0.5) * STRIDE for count in (columns, rows)]
            off = (grid[0] - at[:, :1])[:, None].square() + (grid[1] - at[:, 1:])[:, :, None].square()
            points[0] = -off / (2 * 3.0**2)
            row, column = int(frame.y // STRIDE), int(frame.x // STRIDE)
            if 0 <= row < rows and 0 <= column < columns:
                middle[0, row, column] = 5
                log_width[0, row, column] = math.log(frame.width / SIDE)
                tilt[0, row, column] = frame.tilt_deg / TILT_UNIT_DEG
                right[0, row, column] = 5 if is_right else -5
        return Maps(points, middle, log_width, tilt, right)

    @staticmethod
    def _knees(picture: Pixels, at: np.ndarray, bright: np.ndarray) -> list[tuple[Frame, bool]]:
        if not bright.any() or picture.max() < 0.02:
            return []
        columns = np.flatnonzero(bright.any(0))
        split = (columns[0] + columns[-1]) / 2
        ends, weights = [], []
        for part in (at[1] < split, at[1] >= split):
            weight = picture * bright * part
            ends.append([(at[axis] * weight).sum() / weight.sum() + 0.5 for axis in (1, 0)])
            weights.append(weight.sum())
        (x0, y0), (x1, y1) = ends
        width, angle = math.hypot(x1 - x0, y1 - y0), math.atan2(y1 - y0, x1 - x0)
        stood = Frame(0, 0, width, math.degrees(angle)).put(SHAPES.mean)
        offset = (np.array([x0 + x1, y0 + y1]) - stood[PLATEAU[0]] - stood[PLATEAU[1]]) / 2
        return [(Frame(*offset, width, math.degrees(angle)), weights[1] > 0.85 * weights[0])]


FINDER = BoneFinder(Dots(), SHAPES)  # type: ignore[arg-type]


def film(height: int, width: int, ends: tuple[tuple[float, float], ...], *, second: float = 1.0) -> Pixels:
    y, x = np.mgrid[:height, :width] + 0.5
    radius = 0.03 * math.dist(*ends)
    made = np.zeros((height, width))
    for (px, py), height_of in zip(ends, (1.0, second), strict=True):
        made += height_of * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * radius**2))
    return made.astype(np.float32)


@pytest.mark.parametrize(
    ("size", "ends"),
    [
        ((400, 300), ((100.0, 200.0), (220.0, 200.0))),
        ((1200, 400), ((120.0, 700.0), (260.0, 720.0))),
        ((224, 224), ((25.0, 120.0), (200.0, 118.0))),
        ((500, 500), ((200.0, 220.0), (300.0, 260.0))),
    ],
)
def test_outlines_lie_where_the_knee_stands(
    size: tuple[int, int], ends: tuple[tuple[float, float], ...]
) -> None:
    (found,) = FINDER(film(*size, ends))
    width = math.dist(*ends)
    for end, point in zip(ends, found.points[list(PLATEAU)], strict=True):
        assert math.dist(end, point) < 0.03 * width
    assert found.frame.width == pytest.approx(width, rel=0.04)
    assert found.right > 0.9 and found.heat > 0.9 and found.unlikely < 1.5
    assert found.seen[list(PLATEAU)].all()


def test_a_left_knee_is_numbered_from_its_lateral_side_as_well() -> None:
    (found,) = FINDER(film(300, 300, ((90.0, 150.0), (210.0, 150.0)), second=0.6))
    assert found.right < 0.1
    lateral, medial = found.points[list(PLATEAU)]
    assert lateral[0] == pytest.approx(210, abs=4) and medial[0] == pytest.approx(90, abs=4)


def test_nothing_is_found_where_nothing_is() -> None:
    assert FINDER(np.zeros((300, 200), np.float32)) == ()


def test_a_part_is_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = BoneFinder(BoneNet(widths=(4, 8, 8, 8, 8), pyramid=8).eval(), SHAPES)
    made.save(tmp_path / "m", training={"steps": 0})
    again = BoneFinder.load(load_model(tmp_path / "m"))
    assert again is not None
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(made.network(x).points, again.network(x).points, atol=0.02, rtol=0.02)
    assert again.shape.mean == pytest.approx(made.shape.mean, abs=1e-3)


def test_a_model_without_bones_has_none_and_a_foreign_one_is_refused(tmp_path: Path) -> None:
    save_part(tmp_path / "m", "other", {"a": torch.zeros(1)}, {}, resolution=8)
    assert BoneFinder.load(load_model(tmp_path / "m")) is None
    config = {"widths": [4, 8, 8, 8, 8], "pyramid": 8, "rest": 0.1}
    save_part(tmp_path / "m", "bones", {"a": torch.zeros(1)}, config, resolution=SIDE)
    with pytest.raises(WeightsError, match="progression train bones makes it anew"):
        BoneFinder.load(load_model(tmp_path / "m"))
