"""Knees in a film's pixels: a look at the whole film, then one at each knee.

The network sees a film fitted into 192 pixels, where a knee of a film of both may have 35. So each knee found is looked
at again, in a square twice its own: its middle, size and tilt are those of the second look, which also has half the say
about what the film shows.
"""

import math
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
from progression.localise.network import LETTERS, SIDE, STRIDE, TILT_UNIT_DEG, Cells, KneeFinder, any_metal
from progression.types import Pixels, Side
from progression.weights import ModelFiles, save_part

PART = "localiser"
KINDS = ("knees", "lateral", "other", "empty")
"""What the network says of a whole film. Implants are among the knees, and told by their metal."""
METAL = "implant"
LEAST_HEAT = 0.3
"""Below this nothing stands in a cell."""
LEAST_LETTER = 0.5
"""Below this a cell holds no letter."""
_CLOSER = 2.0
"""Side of the second look's square over the knee's."""
TURNED_FROM_DEG = 8.0
"""Tilt from which a knee is cut upright: only then does that bring its risk nearer to a straight one (model card)."""
_SAME = 0.6
"""Knees nearer than this share of their side are one."""
_APART = 0.15
"""Letters nearer than this share of a knee's side are one."""


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
class Marker:
    """A letter of lead: its middle (x, y) in pixels, the side that it says, how surely (0 to 1), if it is mirrored."""

    x: float
    y: float
    side: Side
    confidence: float
    mirrored: bool


@dataclass(frozen=True)
class Seen:
    """What a film shows: its kind's chances, by name, its knees from left to right, and letters beside them."""

    kinds: dict[str, float]
    knees: tuple[Spot, ...]
    markers: tuple[Marker, ...] = ()

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
    markers: tuple[Marker, ...]

    def moved(self, x: float, y: float) -> "_Glance":
        """The same in the pixels of a film in which the part's upper left corner is at x, y."""
        return replace(
            self,
            spots=tuple(replace(one, x=one.x + x, y=one.y + y) for one in self.spots),
            markers=tuple(replace(one, x=one.x + x, y=one.y + y) for one in self.markers),
        )


@dataclass(frozen=True)
class Finder:
    """The network, the names of its kinds, and the ranges of what is usual (`progression.quality`), by name."""

    network: KneeFinder
    kinds: tuple[str, ...]
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __call__(self, pixels: Pixels) -> Seen:
        """Look at a film (H, W) in [0, 1], on the CPU."""
        whole = self._look(pixels)
        closer = [self._closer(pixels, spot) for spot in whole.spots]
        metal = max((spot.metal for spot, _ in closer), default=whole.metal)
        kinds = {name: (1 - metal) * chance for name, chance in whole.kinds.items()} | {METAL: metal}
        knees = sorted((spot for spot, _ in closer), key=lambda spot: spot.x)
        markers: list[Marker] = []
        seen = (marker for _, glance in closer for marker in glance.markers)
        for marker in sorted(seen, key=lambda one: -one.confidence):
            if all(
                math.hypot(marker.x - one.x, marker.y - one.y) > _APART * knees[0].side_px for one in markers
            ):
                markers.append(marker)
        return Seen(kinds, tuple(knees), tuple(markers))

    @torch.no_grad()
    def _look(self, pixels: Pixels) -> "_Glance":
        height, width = pixels.shape
        cells = self.network(fitted(pixels)[None])
        longer = max(height, width)
        left, top = (longer - width) / 2, (longer - height) / 2

        def at(x: float, y: float) -> tuple[float, float]:
            return x * STRIDE * longer / SIDE - left, y * STRIDE * longer / SIDE - top

        found: list[Spot] = []
        for chance, row, column in _peaks(cells.heat[0].sigmoid(), LEAST_HEAT):
            dx, dy = cells.offset[0, :, row, column].tolist()
            x, y = at(column + 0.5 + dx, row + 0.5 + dy)
            spot = Spot(
                x=x,
                y=y,
                side_px=float(cells.log_side[0, row, column].exp()) * longer,
                tilt_deg=float(cells.tilt[0, row, column]) * TILT_UNIT_DEG,
                confidence=chance,
                metal=_metal_around(cells, row, column),
            )
            inside = 0 <= spot.x < width and 0 <= spot.y < height
            if inside and all(_apart(spot, one) > _SAME * max(spot.side_px, one.side_px) for one in found):
                found.append(spot)
        letters = cells.letters[0].sigmoid()
        markers = []
        for chance, row, column in _peaks(letters.amax(0), LEAST_LETTER):
            says = LETTERS[int(letters[:, row, column].argmax())]
            markers.append(
                Marker(
                    *at(column + 0.5, row + 0.5), Side.parse(says[-1]), chance, says.startswith("mirrored")
                )
            )
        return _Glance(
            markers=tuple(markers),
            spots=tuple(found),
            kinds=dict(zip(self.kinds, cells.kind[0].softmax(0).tolist(), strict=True)),
            metal=float(cells.any_metal().sigmoid()),
        )

    def _closer(self, pixels: Pixels, spot: Spot) -> "tuple[Spot, _Glance]":
        size = round(_CLOSER * spot.side_px)
        left, top = round(spot.x - size / 2), round(spot.y - size / 2)
        box = [max(0, left), max(0, top), min(pixels.shape[1], left + size), min(pixels.shape[0], top + size)]
        glance = self._look(pixels[box[1] : box[3], box[0] : box[2]]).moved(box[0], box[1])
        near = [one for one in glance.spots if _apart(one, spot) < 0.3 * spot.side_px]
        if not near:
            return spot, glance
        best = min(near, key=lambda one: _apart(one, spot))
        return replace(best, confidence=max(best.confidence, spot.confidence)), glance

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
