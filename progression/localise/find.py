"""Knees in a film's pixels: a look at the whole film, then one at each knee.

The network sees a film fitted into 192 pixels, where a knee of a film of both may have 35. So each knee found is looked
at again, in a square twice its own: its middle, size and tilt are those of the second look, which also has half the say
about what the film shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from progression.errors import WeightsError
from progression.image import PERCENTILES
from progression.localise.network import SIDE, STRIDE, TILT_UNIT_DEG, KneeFinder
from progression.types import Pixels
from progression.weights import ModelFiles, save_part

PART = "localiser"
LEAST_HEAT = 0.3
"""Below this nothing stands in a cell."""
_CLOSER = 2.0
"""Side of the second look's square over the knee's."""
_SAME = 0.6
"""Knees nearer than this share of their side are one."""


@dataclass(frozen=True)
class Spot:
    """A knee in a film.

    Attributes
    ----------
    x, y : middle of the square that the models know, pixels from the upper left corner
    side_px : of that square, which the tibia fills to about four fifths
    tilt_deg : of the limb, clockwise
    confidence : 0 to 1
    """

    x: float
    y: float
    side_px: float
    tilt_deg: float
    confidence: float


@dataclass(frozen=True)
class Seen:
    """What a film shows: its kind's chances, by name, and its knees from left to right."""

    kinds: dict[str, float]
    knees: tuple[Spot, ...]

    @property
    def kind(self) -> str:
        """The likeliest kind."""
        return max(self.kinds, key=self.kinds.__getitem__)


@dataclass(frozen=True)
class Finder:
    """The network, the names of its kinds, and the ranges of what is usual (`progression.quality`), by name."""

    network: KneeFinder
    kinds: tuple[str, ...]
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __call__(self, pixels: Pixels) -> Seen:
        """Look at a film (H, W) in [0, 1], on the CPU."""
        spots, kinds = self._look(pixels)
        closer = [self._closer(pixels, spot) for spot in spots]
        if closer:  # metal is small on a whole film: half the say has the knee that looks most like it
            metal = self.kinds.index("implant")
            kinds = (kinds + max((of_knee for _, of_knee in closer), key=lambda one: float(one[metal]))) / 2
        knees = sorted((spot for spot, _ in closer), key=lambda spot: spot.x)
        return Seen(dict(zip(self.kinds, kinds.tolist(), strict=True)), tuple(knees))

    @torch.no_grad()
    def _look(self, pixels: Pixels) -> tuple[list[Spot], Tensor]:
        height, width = pixels.shape
        cells = self.network(fitted(pixels)[None])
        heat = cells.heat[0].sigmoid()
        peaks = (heat == max_pool2d(heat[None], 3, 1, 1)[0]) & (heat >= LEAST_HEAT)
        scale = max(height, width) / SIDE
        left, top = (max(height, width) - width) / 2, (max(height, width) - height) / 2
        found: list[Spot] = []
        for row, column in sorted(peaks.nonzero().tolist(), key=lambda at: -float(heat[at[0], at[1]])):
            dx, dy = cells.offset[0, :, row, column].tolist()
            spot = Spot(
                x=(column + 0.5 + dx) * STRIDE * scale - left,
                y=(row + 0.5 + dy) * STRIDE * scale - top,
                side_px=float(cells.log_side[0, row, column].exp()) * max(height, width),
                tilt_deg=float(cells.tilt[0, row, column]) * TILT_UNIT_DEG,
                confidence=float(heat[row, column]),
            )
            inside = 0 <= spot.x < width and 0 <= spot.y < height
            if inside and all(_apart(spot, one) > _SAME * max(spot.side_px, one.side_px) for one in found):
                found.append(spot)
        return found, cells.kind[0].softmax(0)

    def _closer(self, pixels: Pixels, spot: Spot) -> tuple[Spot, Tensor]:
        size = round(_CLOSER * spot.side_px)
        left, top = round(spot.x - size / 2), round(spot.y - size / 2)
        box = [max(0, left), max(0, top), min(pixels.shape[1], left + size), min(pixels.shape[0], top + size)]
        spots, kinds = self._look(pixels[box[1] : box[3], box[0] : box[2]])
        spots = [replace(one, x=one.x + box[0], y=one.y + box[1]) for one in spots]
        near = [one for one in spots if _apart(one, spot) < 0.3 * spot.side_px]
        if not near:
            return spot, kinds
        best = min(near, key=lambda one: _apart(one, spot))
        return replace(best, confidence=max(best.confidence, spot.confidence)), kinds

    @classmethod
    def load(cls, files: ModelFiles) -> "Finder | None":
        """Part "localiser" of a model; None if it has none.

        Raises
        ------
        WeightsError
            If tensors and configuration do not fit together.
        """
        if PART not in files.parts:
            return None
        config = files.config(PART)
        kinds = tuple(config["kinds"])
        network = KneeFinder(kinds=len(kinds))
        try:
            network.load_state_dict(files.tensors(PART))
        except RuntimeError as error:
            raise WeightsError(
                f"part {PART} of model {files.folder} is of another version: progression train localiser makes it anew"
            ) from error
        limits = {name: (float(low), float(high)) for name, (low, high) in config["usual"].items()}
        return cls(network.eval().requires_grad_(False), kinds, limits)

    def save(
        self,
        folder: str | Path,
        *,
        limits: Mapping[str, tuple[float, float]],
        training: Mapping[str, Any],
    ) -> Path:
        """Write part "localiser" of a model folder; `training` says how it came about."""
        config = {"kinds": self.kinds, "usual": dict(limits), "training": dict(training)}
        return save_part(folder, PART, self.network.state_dict(), config, resolution=SIDE)


def fitted(pixels: npt.NDArray[np.float32]) -> Tensor:
    """A film (H, W) as the network sees it: (1, 192, 192), exposure in [0, 1], black beside it."""
    height, width = pixels.shape
    scale = SIDE / max(height, width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    x = torch.from_numpy(np.ascontiguousarray(pixels, np.float32))[None, None]
    if (rows, columns) != (height, width):
        x = interpolate(x, size=(rows, columns), mode="bilinear", antialias=True, align_corners=False)
    low, high = np.percentile(x.numpy(), PERCENTILES)
    x = ((x - float(low)) / max(float(high - low), 1e-6)).clamp(0, 1)
    made = torch.zeros(1, SIDE, SIDE)
    top, left = (SIDE - rows) // 2, (SIDE - columns) // 2
    made[0, top : top + rows, left : left + columns] = x[0, 0]
    return made


def _apart(one: Spot, other: Spot) -> float:
    return float(np.hypot(one.x - other.x, one.y - other.y))
