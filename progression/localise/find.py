"""Knees in a film's pixels: a look at the whole film, then one at each knee.

The network sees a film fitted into 192 pixels, where a knee of a film of both may have 35. So each knee found is looked
at again, in a square twice its own: its middle, size, tilt and metal are those of the second look; what else
the film shows is said by the first.
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
from progression.localise.network import SIDE, STRIDE, TILT_UNIT_DEG, Cells, KneeFinder, any_metal
from progression.networks import check_fits
from progression.types import Pixels
from progression.weights import ModelFiles, save_part

PART = "localiser"
KINDS = ("knees", "lateral", "other", "empty")
"""What the network says of a whole film. Implants are among the knees, and told by their metal."""
METAL = "implant"
LEAST_HEAT = 0.3
"""Below this nothing stands in a cell."""
_CLOSER = 2.0
"""Side of the second look's square over the knee's."""
TURNED_FROM_DEG = 8.0
"""Tilt from which a knee is cut upright: not one in a thousand of the pictures that the models know leans so much, and
only then does that bring a knee's risk nearer to what it is upright (model card)."""
_METAL_ODDS = 1 / 4
"""A fourth of the films in training show metal; in use it is rarer: its odds are taken for a fourth, one film in 13."""
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
    metal : how surely there is metal in the square, 0 to 1
    """

    x: float
    y: float
    side_px: float
    tilt_deg: float
    confidence: float
    metal: float = 0.0

    @property
    def turn_deg(self) -> float:
        """By how much the square is turned when it is cut: by the tilt, if that is more than pictures of knees have."""
        return self.tilt_deg if abs(self.tilt_deg) >= TURNED_FROM_DEG else 0.0


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
class _Glance:
    """A look at a film or a part: its knees in its own pixels, what it shows, how surely there is metal anywhere."""

    spots: tuple[Spot, ...]
    kinds: dict[str, float]
    metal: float


@dataclass(frozen=True)
class Finder:
    """The network, the names of its kinds, and the ranges of what is usual (`progression.quality`), by name."""

    network: KneeFinder
    kinds: tuple[str, ...]
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __call__(self, pixels: Pixels) -> Seen:
        """Look at a film (H, W) in [0, 1], on the CPU."""
        whole = self._look(pixels)
        knees = sorted((self._closer(pixels, spot) for spot in whole.spots), key=lambda spot: spot.x)
        metal = max((knee.metal for knee in knees), default=whole.metal)
        metal = _METAL_ODDS * metal / (_METAL_ODDS * metal + 1 - metal)
        kinds = {name: (1 - metal) * chance for name, chance in whole.kinds.items()} | {METAL: metal}
        return Seen(kinds, tuple(knees))

    @torch.no_grad()
    def _look(self, pixels: Pixels) -> "_Glance":
        height, width = pixels.shape
        cells = self.network(fitted(pixels)[None])
        longer = max(height, width)
        left, top, cell = (longer - width) / 2, (longer - height) / 2, STRIDE * longer / SIDE
        found: list[Spot] = []
        for chance, row, column in _peaks(cells.heat[0].sigmoid(), LEAST_HEAT):
            dx, dy = cells.offset[0, :, row, column].tolist()
            spot = Spot(
                x=(column + 0.5 + dx) * cell - left,
                y=(row + 0.5 + dy) * cell - top,
                side_px=float(cells.log_side[0, row, column].exp()) * longer,
                tilt_deg=float(cells.tilt[0, row, column]) * TILT_UNIT_DEG,
                confidence=chance,
                metal=_metal_around(cells, row, column),
            )
            inside = 0 <= spot.x < width and 0 <= spot.y < height
            if inside and all(_apart(spot, one) > _SAME * max(spot.side_px, one.side_px) for one in found):
                found.append(spot)
        return _Glance(
            spots=tuple(found),
            kinds=dict(zip(self.kinds, cells.kind[0].softmax(0).tolist(), strict=True)),
            metal=float(cells.any_metal().sigmoid()),
        )

    def _closer(self, pixels: Pixels, spot: Spot) -> Spot:
        size = round(_CLOSER * spot.side_px)
        left, top = round(spot.x - size / 2), round(spot.y - size / 2)
        box = [max(0, left), max(0, top), min(pixels.shape[1], left + size), min(pixels.shape[0], top + size)]
        part = pixels[box[1] : box[3], box[0] : box[2]]
        spots = [replace(one, x=one.x + box[0], y=one.y + box[1]) for one in self._look(part).spots]
        near = [one for one in spots if _apart(one, spot) < 0.3 * spot.side_px]
        if not near:
            return spot
        best = min(near, key=lambda one: _apart(one, spot))
        return replace(best, confidence=max(best.confidence, spot.confidence))

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
        config, tensors = files.config(PART), files.tensors(PART)
        try:
            kinds = tuple(str(kind) for kind in config["kinds"])
            limits = {str(name): (float(low), float(high)) for name, (low, high) in config["usual"].items()}
            check_fits(lambda: KneeFinder(kinds=len(kinds)), tensors)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WeightsError(
                f"part {PART} of model {files.folder} is of another version: progression train localiser makes it anew"
            ) from error
        network = KneeFinder(kinds=len(kinds))
        network.load_state_dict(tensors)
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


def fitted(pixels: npt.NDArray[np.float32], *, exposed: bool = True) -> Tensor:
    """A film (H, W) as the network sees it: (1, 192, 192), exposure in [0, 1] unless left as it is, black beside it."""
    height, width = pixels.shape
    scale = SIDE / max(height, width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    x = torch.from_numpy(np.ascontiguousarray(pixels, np.float32))[None, None]
    if (rows, columns) != (height, width):
        x = interpolate(x, size=(rows, columns), mode="bilinear", antialias=True, align_corners=False)
    low, high = np.percentile(x.numpy(), PERCENTILES) if exposed else (0.0, 1.0)
    x = ((x - float(low)) / max(float(high - low), 1e-6)).clamp(0, 1)
    made = torch.zeros(1, SIDE, SIDE)
    top, left = (SIDE - rows) // 2, (SIDE - columns) // 2
    made[0, top : top + rows, left : left + columns] = x[0, 0]
    return made


def _metal_around(cells: Cells, row: int, column: int) -> float:
    """How surely there is metal in the square of the knee in that cell; lead beside it is none."""
    half = 0.5 * float(cells.log_side[0, row, column].exp()) * SIDE / STRIDE
    rows, columns = (
        slice(max(0, round(at + 0.5 - half)), max(1, round(at + 0.5 + half))) for at in (row, column)
    )
    return float(any_metal(cells.metal[:, rows, columns]).sigmoid())


def _peaks(heat: Tensor, least: float) -> list[tuple[float, int, int]]:
    """Value, row and column of the local maxima of a map (G, G), the highest first."""
    top = (heat == max_pool2d(heat[None], 3, 1, 1)[0]) & (heat >= least)
    return sorted(
        ((float(heat[row, column]), row, column) for row, column in top.nonzero().tolist()), reverse=True
    )


def _apart(one: Spot, other: Spot) -> float:
    return float(np.hypot(one.x - other.x, one.y - other.y))
