"""Knees in a film of any size, by their bones: a look at the film at a few scales, then a closer one at each knee.

    film, long ones in parts ─ shorter side to 128, 256 pixels ─► middles, widths, tilts
         ─► square of each, upright ─► 74 points ─► shape

The closer look is taken twice, the second time as the first one's outlines stand. Its points and their spreads are
weighed against the shapes that knees have (`progression.bones.shape`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, max_pool2d, pad

from progression.bones.network import MULTIPLE, SIDE, STRIDE, TILT_UNIT_DEG, BoneNet
from progression.bones.shape import Array, Frame, ShapeModel, reverse
from progression.errors import WeightsError
from progression.types import Pixels
from progression.weights import ModelFiles, save_part

PART = "bones"
LOOKS_PX = (128, 256)
"""Shorter side of a film as it is searched."""
PLATEAU_PX = 103.0
"""Width of the tibial plateau in the closer look."""
_BELOW = 0.04
"""The square's middle lies below the joint's, in widths of the plateau."""
_PART = 2
"""Longer over shorter side of the parts of a long film that are looked at one by one: contrast is each part's own."""
LEAST_HEAT = 0.3
RIGHT_WITHIN = 0.03
"""Median error of the points up to which outlines count as right, in widths of the plateau."""
_SAME = 0.6
"""Knees nearer than this share of their width are one."""
_EDGE_PX = 2.0
_ERROR_OF_SPREAD = 0.3
"""A point's error over its map's deviation (an axis; 0.31 to 0.33 on 48 knees that were not learnt from)."""


@dataclass(frozen=True)
class Bones:
    """Outlines of a knee in a film.

    Attributes
    ----------
    points : (74, 2) of the film's pixels, from the lateral to the medial side
    spread_px : (74,) how uncertain each is, the deviation of where it may be
    seen : (74,) whether it lies in the film and in the closer look; others are where the shape has them
    frame : where the knee stands
    heat : how surely a knee's middle is there, 0 to 1
    confidence : chance that the outlines are right to `RIGHT_WITHIN` of the plateau's width
    right : how surely its lateral side is the film's left, as of a right knee, 0 to 1
    unlikely : how far its shape is from usual (`progression.bones.shape.Agreed`)
    """

    points: Array
    spread_px: Array
    seen: npt.NDArray[np.bool_]
    frame: Frame
    heat: float
    right: float
    unlikely: float
    confidence: float = 0.0

    @property
    def blur(self) -> float:
        """Median uncertainty of the points seen, in widths of the plateau: small where outlines are clear."""
        chosen = self.spread_px[self.seen] if self.seen.any() else self.spread_px
        return float(np.median(chosen)) / self.frame.width

    @property
    def signs(self) -> tuple[float, float, float]:
        """What the confidence is made of: logit of the heat, log of the blur, how unlikely the shape is."""
        heat = min(max(self.heat, 1e-6), 1 - 1e-6)
        return math.log(heat / (1 - heat)), math.log(max(self.blur, 1e-6)), min(self.unlikely, 10.0)


@dataclass(frozen=True)
class _Candidate:
    frame: Frame
    heat: float
    right: float


@dataclass(frozen=True)
class BoneFinder:
    """The network and the shape model, see the module; and the odds that outlines are right.

    `odds` are a constant and the weights of `Bones.signs` (`progression.train.bones.calibrate`); left as they are, the
    confidence is the heat.
    """

    network: BoneNet
    shape: ShapeModel
    odds: tuple[float, ...] = (0.0, 1.0, 0.0, 0.0)

    def __call__(self, pixels: Pixels) -> tuple[Bones, ...]:
        """Knees of a film (H, W), from left to right."""
        film = torch.from_numpy(np.ascontiguousarray(pixels, np.float32))[None, None]
        candidates: list[_Candidate] = []
        for shorter in LOOKS_PX:
            candidates += self._look(film, shorter)
        found: list[Bones] = []
        for one in sorted(candidates, key=lambda c: -c.heat):
            if all(_apart(one.frame, known.frame) for known in found):
                bones = self.outline(film, one.frame, right=one.right)
                if bones.heat >= LEAST_HEAT and all(_apart(bones.frame, known.frame) for known in found):
                    found.append(bones)
        return tuple(sorted(found, key=lambda bones: bones.frame.x))

    @torch.no_grad()
    def _look(self, film: Tensor, shorter: int) -> list[_Candidate]:
        height, width = film.shape[2:]
        scale = shorter / min(height, width)
        rows, columns = round(height * scale), round(width * scale)
        small = interpolate(film, size=(rows, columns), mode="bilinear", antialias=True, align_corners=False)
        return [
            found
            for left, top in _parts(columns, rows)
            for found in self._in_part(
                small[:, :, top : top + _PART * shorter, left : left + _PART * shorter], left, top, scale
            )
            if found.frame.x < width and found.frame.y < height
        ]

    def _in_part(self, part: Tensor, left: int, top: int, scale: float) -> list[_Candidate]:
        maps = self.network(pad(part, (0, -part.shape[3] % MULTIPLE, 0, -part.shape[2] % MULTIPLE)))
        heat = maps.middle[0].sigmoid()
        peaks = (heat == max_pool2d(heat[None], 3, 1, 1)[0]) & (heat >= LEAST_HEAT)
        return [
            _Candidate(
                Frame(
                    (left + (column + 0.5) * STRIDE) / scale,
                    (top + (row + 0.5) * STRIDE) / scale,
                    float(maps.log_width[0, row, column].exp()) * SIDE / scale,
                    float(maps.tilt[0, row, column]) * TILT_UNIT_DEG,
                ),
                float(heat[row, column]),
                float(maps.right[0, row, column].sigmoid()),
            )
            for row, column in peaks.nonzero().tolist()
        ]

    @torch.no_grad()
    def outline(self, film: Tensor, near: Frame, *, right: float = 0.5, looks: int = 2) -> Bones:
        """Outlines of the knee that stands about `near` on a film (1, 1, H, W)."""
        frame = near
        for _ in range(looks):
            scale = PLATEAU_PX / frame.width
            square, middle = _cut(film, frame, scale)
            maps = self.network(square)
            places, spread = (one[0].numpy().astype(np.float64) for one in maps.places())
            spread *= _ERROR_OF_SPREAD
            cell = int(maps.middle[0].sigmoid().flatten().argmax())
            heat = float(maps.middle[0].sigmoid().flatten()[cell])
            right = float(maps.right[0].sigmoid().flatten()[cell])
            upright = Frame(middle[0], middle[1], 1 / scale, frame.tilt_deg)
            points = upright.put(places - SIDE / 2)
            inside = ((places > _EDGE_PX) & (places < SIDE - _EDGE_PX)).all(-1)
            height, width = film.shape[2:]
            inside &= (points > 0).all(-1) & (points < np.array([width, height])).all(-1)
            if inside.sum() < 10:
                return Bones(points, spread / scale, inside, frame, 0.0, right, math.inf)
            shape = self.shape if right >= 0.5 else self.shape.mirrored()
            agreed = shape.agree(points, spread / scale, inside)
            frame = agreed.frame
        ordered, spreads, seen = agreed.points, spread / scale, inside
        if right < 0.5:
            ordered = reverse(ordered)
            spreads = reverse(np.stack([spreads, spreads], -1))[:, 0]
            seen = reverse(np.stack([seen, seen], -1))[:, 0] > 0.5
        bones = Bones(ordered, spreads, seen, frame, heat, right, agreed.unlikely)
        logit = self.odds[0] + float(np.dot(self.odds[1:], bones.signs))
        return replace(bones, confidence=1 / (1 + math.exp(-logit)))

    @classmethod
    def load(cls, files: ModelFiles) -> BoneFinder | None:
        """Part "bones" of a model; None if it has none.

        Raises
        ------
        WeightsError
            If tensors and configuration do not fit together.
        """
        if PART not in files.parts:
            return None
        config, tensors = files.config(PART), dict(files.tensors(PART))
        network = BoneNet(widths=tuple(config["widths"]), pyramid=config["pyramid"])
        try:
            shape = ShapeModel.from_tensors(tensors, rest=config["rest"])
            network.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("shape.")})
        except (RuntimeError, KeyError) as error:
            raise WeightsError(
                f"part {PART} of model {files.folder} is of another version: progression train bones makes it anew"
            ) from error
        return cls(network.eval().requires_grad_(False), shape, tuple(config["odds"]))

    def save(self, folder: str | Path, *, training: Mapping[str, Any]) -> Path:
        """Write part "bones" of a model folder; `training` says how it came about."""
        config = {
            "widths": self.network.widths,
            "pyramid": self.network.pyramid,
            "rest": self.shape.rest,
            "odds": self.odds,
            "training": dict(training),
        }
        tensors = self.network.state_dict() | self.shape.tensors()
        return save_part(folder, PART, tensors, config, resolution=SIDE)


def _parts(width: int, height: int) -> list[tuple[int, int]]:
    """Upper left corners of parts that overlap by half along a film's longer side; one part unless it is far longer."""
    shorter, longer = min(width, height), max(width, height)
    if longer <= 1.25 * _PART * shorter:
        return [(0, 0)]
    starts = range(0, longer - _PART * shorter // 2, _PART * shorter // 2)
    return [(start, 0) if width > height else (0, start) for start in starts]


def _apart(one: Frame, other: Frame) -> bool:
    return math.hypot(one.x - other.x, one.y - other.y) > _SAME * max(one.width, other.width)


def _cut(film: Tensor, frame: Frame, scale: float) -> tuple[Tensor, tuple[float, float]]:
    """The square of a closer look (1, 1, SIDE, SIDE), upright, and its middle on the film; black beyond the film."""
    angle, below = math.radians(frame.tilt_deg), _BELOW * frame.width
    x, y = frame.x - math.sin(angle) * below, frame.y + math.cos(angle) * below
    reach = math.ceil(SIDE / scale * 0.75) + 2
    left, top = max(0, math.floor(x) - reach), max(0, math.floor(y) - reach)
    part = film[:, :, top : math.floor(y) + reach, left : math.floor(x) + reach]
    if part.numel() == 0:
        return torch.zeros(1, 1, SIDE, SIDE), (x, y)
    fold = max(1, min(int(1 / scale), *part.shape[2:]))
    part = avg_pool2d(part, fold)
    at = (torch.arange(SIDE) + 0.5 - SIDE / 2) / scale
    along, down = at[None, :], at[:, None]
    px = x - left + math.cos(angle) * along - math.sin(angle) * down
    py = y - top + math.sin(angle) * along + math.cos(angle) * down
    size = torch.tensor([part.shape[3], part.shape[2]]) * fold
    grid = torch.stack([px, py], -1) * 2 / size - 1
    return grid_sample(part, grid[None], align_corners=False), (x, y)
