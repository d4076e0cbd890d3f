"""Synthetic films: real or phantom knees set into limbs, collimation, markers and exposure; and what is no knee.

A knee's picture shows some 90 mm around the joint. Beyond it the limb is continued: the picture's edges, smoothed, with
shafts that narrow and soft tissue that thins out towards the air. Seams are feathered at random places inside the
picture, so that they do not tell where its middle is.

    film = exposure(collimated(max over limbs)), markers on top

The films are composites: they show that knees are found where they stand, not how films of another hospital look.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from progression.data.drawings import DRAWN_BODIES, Canvas, drawn_lateral
from progression.types import Pixels, Side

KINDS = ("knees", "implant", "lateral", "other", "empty")
"""What a film may show. Knees are marked in films of the first two."""
_SHARES = (0.78, 0.08, 0.05, 0.06, 0.03)


@dataclass(frozen=True)
class Shown:
    """A knee in a film: the square that the models know, by its middle (x, y), its side and its tilt.

    Attributes
    ----------
    centre : pixels from the film's upper left corner
    side_px : of the square
    tilt_deg : of the limb, clockwise
    side : by where it stands and its shape; a right knee has its fibula at the film's left
    """

    centre: tuple[float, float]
    side_px: float
    tilt_deg: float
    side: Side


@dataclass(frozen=True)
class MadeFilm:
    """A film (H, W) float32 in [0, 1], its knees from left to right, and its kind, of `KINDS`."""

    pixels: Pixels
    knees: tuple[Shown, ...]
    kind: str


@dataclass(frozen=True)
class Settings:
    """How much films vary; pairs are ranges.

    Attributes
    ----------
    of_pair, of_one : a knee's square as a share of the film's longer side, on films of both knees and of one
    tilt_deg : standard deviation
    tissue : soft tissue beside the picture, in sides of the square
    gamma, ramp, noise : exposure's tone curve, slope over the film, and standard deviation
    collimated, marked, inverted : chances
    whole : chance that a film of one knee is but its picture, as the models know it
    """

    of_pair: tuple[float, float] = (0.16, 0.40)
    of_one: tuple[float, float] = (0.22, 0.85)
    tilt_deg: float = 3.5
    tissue: tuple[float, float] = (0.08, 0.7)
    gamma: tuple[float, float] = (0.6, 1.6)
    ramp: float = 0.35
    noise: tuple[float, float] = (0.0, 0.04)
    collimated: float = 0.5
    marked: float = 0.7
    inverted: float = 0.1
    whole: float = 0.12


HELD_OUT = Settings(
    of_pair=(0.18, 0.36), of_one=(0.25, 0.75), tilt_deg=3.0, tissue=(0.15, 0.55), gamma=(0.5, 1.9), ramp=0.5,
    noise=(0.01, 0.06), collimated=0.7, marked=0.9, inverted=0.1, whole=0.0,
)  # fmt: skip
"""Other than those of training: harsher exposure, more collimation and markers, no picture that is a knee already."""


class FilmMaker:
    """Draws films of knees (N, R, R) uint8, all shown as right ones (`progression.data.dataset.Knees`)."""

    def __init__(self, knees: Tensor, *, settings: Settings | None = None) -> None:
        self.knees, self.settings = knees, settings or Settings()

    def film(
        self,
        rng: np.random.Generator,
        *,
        longer_px: int,
        kind: str | None = None,
        rows: Sequence[int] | None = None,
    ) -> MadeFilm:
        """A film whose longer side has `longer_px` pixels.

        Parameters
        ----------
        kind : of `KINDS`; drawn where not given.
        rows : which knees, one or two (the film's left one first); drawn where not given.
        """
        kind = kind or str(rng.choice(KINDS, p=_SHARES))
        pair = len(rows) == 2 if rows is not None else bool(rng.random() < 0.55)
        aspect = rng.uniform(1.1, 1.75) if pair else np.exp(rng.uniform(np.log(0.5), np.log(1.5)))
        shape = (
            round(longer_px / max(1.0, aspect)),
            round(longer_px * min(1.0, aspect)),
        )
        knees: tuple[Shown, ...] = ()
        if kind in ("knees", "implant"):
            if not pair and rng.random() < self.settings.whole:
                shape = (longer_px, longer_px)
                knees = (_middle(rng, longer_px),)
            else:
                knees = self._stand(rng, shape, longer_px, pair)
            chosen = rows if rows is not None else rng.integers(len(self.knees), size=len(knees)).tolist()
            canvas: Canvas = np.zeros(shape, np.float32)
            for row, shown in zip(chosen, knees, strict=True):
                knee: Pixels = self.knees[row].numpy().astype(np.float32) / np.float32(255)
                if kind == "implant":
                    knee = with_implant(rng, knee)
                if shown.side is Side.LEFT:
                    knee = knee[:, ::-1]
                np.maximum(canvas, self._limb(rng, knee, shape, shown), out=canvas)
        elif kind == "lateral":
            canvas = drawn_lateral(rng, shape)
        elif kind == "other":
            draw: Callable[[np.random.Generator, tuple[int, int]], Canvas] = DRAWN_BODIES[
                rng.integers(len(DRAWN_BODIES))
            ]
            canvas = draw(rng, shape)
        else:
            canvas = _smooth_noise(rng, shape) * rng.uniform(0, 0.6)
        return MadeFilm(self._exposed(rng, canvas, knees), knees, kind)

    def _stand(
        self, rng: np.random.Generator, shape: tuple[int, int], longer: int, pair: bool
    ) -> tuple[Shown, ...]:
        height, width = shape
        tilt = self.settings.tilt_deg
        if not pair:
            side = min(rng.uniform(*self.settings.of_one) * longer, 1.1 * min(shape))
            x = width * 0.5 + rng.uniform(-1, 1) * max(0.0, 0.5 * width - 0.42 * side)
            y = height * 0.5 + rng.uniform(-1, 1) * max(0.0, 0.4 * height - 0.42 * side)
            which = Side.RIGHT if rng.random() < 0.5 else Side.LEFT
            return (Shown((float(x), float(y)), float(side), float(rng.normal(0, tilt)), which),)
        side = min(rng.uniform(*self.settings.of_pair) * longer, 0.85 * height)
        apart = rng.uniform(max(1.0 * side, 0.3 * width), max(1.05 * side, width - 1.05 * side))
        middle = 0.5 * width + rng.uniform(-0.05, 0.05) * width
        y = rng.uniform(0.4, 0.62) * height
        return tuple(
            Shown(
                (float(middle + sign * apart / 2), float(y + rng.normal(0, 0.05) * side)),
                float(side * np.exp(rng.normal(0, 0.03))),
                float(rng.normal(0, tilt)),
                which,
            )
            for sign, which in ((-1, Side.RIGHT), (1, Side.LEFT))
        )

    def _limb(self, rng: np.random.Generator, knee: Pixels, shape: tuple[int, int], shown: Shown) -> Pixels:
        """A knee (R, R) with the limb that it belongs to, on black."""
        y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        x, y = (x + 0.5 - shown.centre[0]) / shown.side_px, (y + 0.5 - shown.centre[1]) / shown.side_px
        angle = np.deg2rad(shown.tilt_deg)
        u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        top, bottom, left, right = rng.uniform(0.0, 0.1, 4) * (rng.random() < 0.8)
        above, below = np.maximum(0, top - 0.5 - v), np.maximum(0, v - 0.5 + bottom)
        beyond = above + below
        narrower = 1 + (1 - np.exp(-beyond / 0.35)) * np.where(
            above > 0, rng.uniform(0.3, 1.2), rng.uniform(0.2, 0.8)
        )
        u = (u - rng.uniform(-0.12, 0.12) * beyond) * narrower
        wider = 1 + above * rng.uniform(0, 1.2)
        outer = [np.maximum(0, left - 0.5 - u), np.maximum(0, u - 0.5 + right)]
        thickness = np.ones_like(u)
        for beside in outer:
            share = beside / (rng.uniform(*self.settings.tissue) * wider * narrower)
            thickness *= np.sqrt(np.clip(1 - share**2, 0, 1))
        place = np.stack([u.clip(left - 0.5, 0.5 - right), v.clip(top - 0.5, 0.5 - bottom)], -1) * 2
        sharp = torch.from_numpy(np.ascontiguousarray(knee))[None, None]
        if (fold := int(knee.shape[0] / shown.side_px)) > 1:
            sharp = avg_pool2d(sharp, fold)
        size = sharp.shape[-1]
        smooth = avg_pool2d(sharp, 2 * (size // 16) + 1, 1, size // 16, count_include_pad=False)
        grid = torch.from_numpy(place.astype(np.float32))[None]
        inner, rest = (
            grid_sample(one, grid, align_corners=False, padding_mode="border")[0, 0].numpy()
            for one in (sharp, smooth)
        )
        seam = np.clip((beyond + outer[0] + outer[1]) / rng.uniform(0.02, 0.15), 0, 1)
        return ((inner * (1 - seam) + rest * seam) * thickness).astype(np.float32)

    def _exposed(self, rng: np.random.Generator, canvas: Canvas, knees: Sequence[Shown]) -> Pixels:
        height, width = canvas.shape
        longer, settings = max(canvas.shape), self.settings
        y, x = (np.linspace(-1, 1, size, dtype=np.float32) for size in (height, width))
        slope = rng.uniform(-settings.ramp, settings.ramp, 2)
        film = np.clip(canvas, 0, 1) ** rng.uniform(*settings.gamma)
        film = film * (1 + slope[0] * y[:, None] + slope[1] * x[None]) * rng.uniform(0.5, 1.0)
        film = film + rng.uniform(0, 0.15) + rng.uniform(0, 0.06) * _smooth_noise(rng, (height, width))
        film = film + rng.uniform(*settings.noise) * rng.standard_normal(film.shape).astype(np.float32)
        if rng.random() < settings.collimated:
            reach = [longer, longer, longer, longer]
            if knees:
                reach = [
                    min(k.centre[0] - 0.4 * k.side_px for k in knees),
                    min(k.centre[1] - 0.4 * k.side_px for k in knees),
                    min(width - k.centre[0] - 0.4 * k.side_px for k in knees),
                    min(height - k.centre[1] - 0.4 * k.side_px for k in knees),
                ]
            inset = [int(max(0, min(r, 0.18 * longer)) * rng.random()) for r in reach]
            shutter = float(rng.choice([0.0, 0.0, 0.03, 1.0]))
            inside = np.full_like(film, shutter)
            window = np.s_[inset[1] : height - inset[3], inset[0] : width - inset[2]]
            inside[window] = film[window]
            film = inside
        film = np.clip(film, 0, 1)
        if rng.random() < settings.marked:
            film = _marked(rng, film)
        if rng.random() < settings.inverted:
            film = 1 - film
        return film.astype(np.float32)


def with_implant(rng: np.random.Generator, knee: Pixels) -> Pixels:
    """A knee (R, R) with a drawn replacement, whole or of one compartment; or a nail, or a plate with screws."""
    size = knee.shape[0]
    layer = Image.new("L", (4 * size, 4 * size), 0)
    draw = ImageDraw.Draw(layer)

    def scaled(*values: float) -> list[float]:
        return [4 * size * (value + float(rng.normal(0, 0.008))) for value in values]

    style = rng.choice(["total", "total", "half", "nail", "plate"])
    line = rng.uniform(0.53, 0.6)
    if style in ("total", "half"):
        sides = ((0.1, 0.48), (0.52, 0.9))
        for left, right in sides if style == "total" else (sides[rng.integers(2)],):
            draw.rounded_rectangle(
                scaled(left, line - rng.uniform(0.16, 0.28), right, line - 0.02), 0.3 * size, 255
            )
            draw.rectangle(scaled(left, line + 0.04, right, line + rng.uniform(0.07, 0.11)), 255)
        if style == "total":
            draw.rectangle(scaled(0.4, line - 0.2, 0.6, line - 0.12), 255)
            draw.rectangle(scaled(0.1, line + 0.04, 0.9, line + 0.08), 255)
            draw.polygon(
                scaled(0.42, line + 0.05, 0.58, line + 0.05, 0.53, line + 0.32, 0.47, line + 0.32), 255
            )
    elif style == "nail":
        wide, x = rng.uniform(0.05, 0.1), rng.uniform(0.42, 0.58)
        ends = (-0.1, line - 0.15) if rng.random() < 0.5 else (line + 0.08, 1.1)
        draw.rectangle(scaled(x - wide / 2, ends[0], x + wide / 2, ends[1]), 255)
    else:
        x, top = rng.choice([0.17, 0.83]), float(rng.choice([-0.1, line + 0.02]))
        draw.rectangle(scaled(x - 0.025, top, x + 0.025, top + 0.55), 255)
        for y in np.linspace(top + 0.05, top + 0.5, int(rng.integers(3, 6))):
            draw.line(scaled(x, y, x + np.sign(0.5 - x) * rng.uniform(0.3, 0.6), y), 255, int(0.08 * size))
    metal = np.asarray(layer.resize((size, size), Image.Resampling.BOX), np.float32) / 255
    # metal takes the film's brightest end: the rest of the picture loses some of its grey
    return np.maximum(knee * rng.uniform(0.65, 0.9), metal * rng.uniform(0.95, 1.0)).astype(np.float32)


def _middle(rng: np.random.Generator, size: int) -> Shown:
    side = Side.RIGHT if rng.random() < 0.5 else Side.LEFT
    share = np.exp(rng.uniform(np.log(0.9), np.log(1.1)))
    x, y = size * (0.5 + rng.uniform(-0.04, 0.04, 2))
    return Shown((float(x), float(y)), float(size * share), float(rng.normal(0, 2)), side)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int]) -> Pixels:
    """Clouds in [0, 1], (H, W)."""
    coarse = gaussian_filter(rng.standard_normal((24, 24)), rng.uniform(0.8, 4))
    low, high = coarse.min(), coarse.max()
    picture = Image.fromarray(((coarse - low) / (high - low)).astype(np.float32))
    made: npt.NDArray[np.float32] = np.asarray(picture.resize(shape[::-1], Image.Resampling.BICUBIC)).clip(
        0, 1
    )
    return made


def _marked(rng: np.random.Generator, film: Pixels) -> Pixels:
    """Lead letters, a block, a ruler: somewhere, bright or dark."""
    height, width = film.shape
    longer = max(film.shape)
    picture = Image.fromarray((film * 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(1, 4)):
        x, y = rng.random() * width * 0.93, rng.random() * height * 0.93
        size, grey = rng.uniform(0.03, 0.09) * longer, int(rng.choice([255, 255, 230, 0]))
        style = rng.choice(["text", "text", "block", "ruler"])
        if style == "text":
            word = str(rng.choice(["L", "R", "PA", "AP", "WB", "STANDING", "R 12", "L KNEE"]))
            font = ImageFont.load_default(size=max(6, size))
            draw.text((x, y), word, fill=grey, font=font)
        elif style == "block":
            draw.rectangle([x, y, x + size * rng.uniform(0.5, 2), y + size * rng.uniform(0.3, 1)], fill=grey)
        else:
            for step in range(12):
                at = y + step * size * 0.4
                draw.line(
                    [x, at, x + size * (0.6 if step % 5 else 1.0), at], fill=grey, width=max(1, longer // 300)
                )
    marked: Pixels = np.asarray(picture, np.float32) / np.float32(255)
    return marked
