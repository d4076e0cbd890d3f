"""Synthetic films: real or phantom knees set into limbs, collimation, markers and exposure; and what is no knee.

A knee's picture shows some 90 mm around the joint. Beyond it the limb is continued: the picture's edges, smoothed, with
shafts that narrow and soft tissue that thins out towards the air. Seams are feathered at random places inside the
picture, so that they do not tell where its middle is.

    film = exposure(collimated(max over limbs and their metal)), markers on top

The films are composites: they show that knees are found where they stand, not how films of another hospital look.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, grid_sample

from progression.data.drawings import DRAWN_BODIES, Canvas, drawn_lateral
from progression.data.implants import implant
from progression.data.markers import HELD_OUT_FONTS, LETTERING, Letter, Lettering, lettered, marked
from progression.types import Pixels, Side

KINDS = ("knees", "implant", "lateral", "other", "empty")
"""What a film may show. Knees are marked in films of the first two."""
_SHARES = (0.61, 0.25, 0.05, 0.06, 0.03)


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
    """A film.

    Attributes
    ----------
    pixels : (H, W) float32 in [0, 1]
    knees : from left to right
    kind : of `KINDS`
    metal : (H, W), how much of each pixel is an implant's; None where there is none
    letters : that say a side, beside their knees
    rows : of the maker's knees, which one each of `knees` is
    """

    pixels: Pixels
    knees: tuple[Shown, ...]
    kind: str
    metal: Pixels | None = None
    letters: tuple[Letter, ...] = ()
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Settings:
    """How much films vary; pairs are ranges.

    Attributes
    ----------
    of_pair, of_one : a knee's square as a share of the film's longer side, on films of both knees and of one
    tilt_deg : standard deviation
    askew, askew_deg : chance that a limb is laid askew, and by how much at most
    tissue : soft tissue beside the picture, in sides of the square
    gamma, ramp, noise : exposure's tone curve, slope over the film, and standard deviation
    collimated, marked, inverted : chances
    on_joint : chance that marks may lie on a joint, where nobody who takes care puts lead
    letter : chance that a letter stands beside a knee, laid as `lettering` says
    near : chance that a film is what the finder's second look sees: one knee in a square some two times its own, the
        other one partly in view or not
    whole : chance that a film of one knee is but its picture, as the models know it
    """

    of_pair: tuple[float, float] = (0.16, 0.40)
    of_one: tuple[float, float] = (0.22, 0.85)
    tilt_deg: float = 3.5
    askew: float = 0.25
    askew_deg: float = 20.0
    tissue: tuple[float, float] = (0.08, 0.7)
    gamma: tuple[float, float] = (0.6, 1.6)
    ramp: float = 0.35
    noise: tuple[float, float] = (0.0, 0.04)
    collimated: float = 0.5
    marked: float = 0.8
    on_joint: float = 0.5
    inverted: float = 0.1
    letter: float = 0.75
    lettering: Lettering = LETTERING
    near: float = 0.45
    whole: float = 0.12


HELD_OUT = Settings(
    of_pair=(0.18, 0.36), of_one=(0.25, 0.75), tilt_deg=3.0, askew=0.0, tissue=(0.15, 0.55), gamma=(0.5, 1.9), ramp=0.5,
    noise=(0.01, 0.06), collimated=0.7, marked=0.9, on_joint=1.0, inverted=0.1, letter=0.7,
    lettering=Lettering(fonts=HELD_OUT_FONTS),
    near=0.0, whole=0.0,
)  # fmt: skip
"""Other than those of training: harsher exposure, more collimation and markers, letters of other fonts, no picture that
is a knee already."""


class FilmMaker:
    """Draws films of knees (N, R, R) uint8, all shown as right ones (`progression.data.dataset.Knees`).

    Implants are of one style, if that is given (`progression.data.implants.STYLES`).
    """

    def __init__(
        self, knees: Tensor, *, settings: Settings | None = None, implant_style: str | None = None
    ) -> None:
        self.knees, self.settings, self.implant_style = knees, settings or Settings(), implant_style

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
        near = rng.random() < self.settings.near
        whole = not pair and rng.random() < self.settings.whole
        if near or whole:
            aspect = 1.0
        shape = (
            round(longer_px / max(1.0, aspect)),
            round(longer_px * min(1.0, aspect)),
        )
        knees: tuple[Shown, ...] = ()
        metal: Pixels | None = None
        chosen: Sequence[int] = ()
        if kind in ("knees", "implant"):
            if near:
                knees = self._near(rng, longer_px, pair)
            elif whole:
                knees = (_middle(rng, longer_px),)
            else:
                knees = self._stand(rng, shape, longer_px, pair)
            chosen = rows if rows is not None else rng.integers(len(self.knees), size=len(knees)).tolist()
            canvas: Canvas = np.zeros(shape, np.float32)
            if kind == "implant":
                metal = np.zeros(shape, np.float32)
            bears = rng.integers(len(knees)) if rng.random() < 0.6 else None
            for place, (row, shown) in enumerate(zip(chosen, knees, strict=True)):
                knee: Pixels = self.knees[row].numpy().astype(np.float32) / np.float32(255)
                of_knee = None
                if metal is not None and bears in (None, place):
                    of_knee = implant(rng, knee.shape[0], style=self.implant_style)
                if shown.side is Side.LEFT:
                    knee, of_knee = knee[:, ::-1], None if of_knee is None else of_knee[:, ::-1]
                limb, of_knee = self._limb(rng, knee, of_knee, shape, shown)
                np.maximum(canvas, limb, out=canvas)
                if metal is not None and of_knee is not None:
                    np.maximum(metal, of_knee, out=metal)
            if metal is not None:
                # metal takes the film's brightest end: the rest of the picture loses some of its grey
                canvas = canvas * rng.uniform(0.65, 0.95) * (1 - metal) + rng.uniform(0.92, 1.0) * metal
        elif kind == "lateral":
            canvas = drawn_lateral(rng, shape)
        elif kind == "other":
            draw: Callable[[np.random.Generator, tuple[int, int]], Canvas] = DRAWN_BODIES[
                rng.integers(len(DRAWN_BODIES))
            ]
            canvas = draw(rng, shape)
        else:
            canvas = _smooth_noise(rng, shape) * rng.uniform(0, 0.6)
        pixels, letters = self._exposed(rng, canvas, knees)
        inside = [0 <= k.centre[0] < shape[1] and 0 <= k.centre[1] < shape[0] for k in knees]
        return MadeFilm(
            pixels, tuple(compress(knees, inside)), kind, metal, letters, tuple(compress(chosen, inside))
        )

    def _tilt(self, rng: np.random.Generator) -> float:
        if rng.random() < self.settings.askew:
            return float(rng.uniform(-1, 1) * self.settings.askew_deg)
        return float(rng.normal(0, self.settings.tilt_deg))

    def _near(self, rng: np.random.Generator, size: int, pair: bool) -> tuple[Shown, ...]:
        side = size / rng.uniform(1.4, 2.4)
        x, y = size * 0.5 + side * rng.normal(0, 0.05, 2)
        which = Side.RIGHT if rng.random() < 0.5 else Side.LEFT
        first = Shown((float(x), float(y)), float(side), self._tilt(rng), which)
        if not pair:
            return (first,)
        apart = side * rng.uniform(1.02, 2.0) * (1 if which is Side.RIGHT else -1)
        other = Shown(
            (float(x + apart), float(y + rng.normal(0, 0.05) * side)),
            float(side),
            self._tilt(rng),
            which.other,
        )
        return (first, other) if which is Side.RIGHT else (other, first)

    def _stand(
        self, rng: np.random.Generator, shape: tuple[int, int], longer: int, pair: bool
    ) -> tuple[Shown, ...]:
        height, width = shape
        if not pair:
            side = min(rng.uniform(*self.settings.of_one) * longer, 1.1 * min(shape))
            x = width * 0.5 + rng.uniform(-1, 1) * max(0.0, 0.5 * width - 0.42 * side)
            y = height * 0.5 + rng.uniform(-1, 1) * max(0.0, 0.4 * height - 0.42 * side)
            which = Side.RIGHT if rng.random() < 0.5 else Side.LEFT
            return (Shown((float(x), float(y)), float(side), self._tilt(rng), which),)
        side = min(rng.uniform(*self.settings.of_pair) * longer, 0.85 * height)
        apart = rng.uniform(max(1.0 * side, 0.3 * width), max(1.05 * side, width - 1.05 * side))
        middle = 0.5 * width + rng.uniform(-0.05, 0.05) * width
        y = rng.uniform(0.4, 0.62) * height
        return tuple(
            Shown(
                (float(middle + sign * apart / 2), float(y + rng.normal(0, 0.05) * side)),
                float(side * np.exp(rng.normal(0, 0.03))),
                self._tilt(rng),
                which,
            )
            for sign, which in ((-1, Side.RIGHT), (1, Side.LEFT))
        )

    def _limb(
        self,
        rng: np.random.Generator,
        knee: Pixels,
        metal: Pixels | None,
        shape: tuple[int, int],
        shown: Shown,
    ) -> tuple[Pixels, Pixels | None]:
        """A knee (R, R) with the limb that it belongs to, on black; and where its metal (R, R) lies on the film."""
        y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        x, y = (x + 0.5 - shown.centre[0]) / shown.side_px, (y + 0.5 - shown.centre[1]) / shown.side_px
        # scalars of Python's own: NumPy's would turn float32 into float64, at twice the time
        angle = math.radians(shown.tilt_deg)
        u, v = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
        top, bottom, left, right = (rng.uniform(0.0, 0.1, 4) * (rng.random() < 0.8)).tolist()
        above, below = np.maximum(0, top - 0.5 - v), np.maximum(0, v - 0.5 + bottom)
        beyond = above + below
        at_thigh, at_shank = np.float32(rng.uniform(0.3, 1.2)), np.float32(rng.uniform(0.2, 0.8))
        narrower = 1 + (1 - np.exp(-beyond / 0.35)) * np.where(above > 0, at_thigh, at_shank)
        u = (u - rng.uniform(-0.12, 0.12) * beyond) * narrower
        wider = 1 + above * rng.uniform(0, 1.2)
        outer = [np.maximum(0, left - 0.5 - u), np.maximum(0, u - 0.5 + right)]
        thickness = np.ones_like(u)
        for beside in outer:
            share = beside / (rng.uniform(*self.settings.tissue) * wider * narrower)
            thickness *= np.sqrt(np.clip(1 - share**2, 0, 1))
        place = np.stack([u.clip(left - 0.5, 0.5 - right), v.clip(top - 0.5, 0.5 - bottom)], -1) * 2
        fold = max(1, int(knee.shape[0] / shown.side_px))
        sharp = avg_pool2d(torch.from_numpy(np.ascontiguousarray(knee))[None, None], fold)
        smooth = avg_pool2d(adaptive_avg_pool2d(sharp, 32), 5, 1, 2, count_include_pad=False)
        grid = torch.from_numpy(place)[None]

        def on_film(one: Tensor) -> Pixels:
            found: Pixels = grid_sample(one, grid, align_corners=False, padding_mode="border")[0, 0].numpy()
            return found

        seam = np.clip((beyond + outer[0] + outer[1]) / rng.uniform(0.02, 0.15), 0, 1)
        limb = (on_film(sharp) * (1 - seam) + on_film(smooth) * seam) * thickness
        if metal is None:
            return limb, None
        of_limb = on_film(avg_pool2d(torch.from_numpy(np.ascontiguousarray(metal))[None, None], fold))
        return limb, np.where(thickness > 0.1, of_limb, np.float32(0))

    def _exposed(
        self, rng: np.random.Generator, canvas: Canvas, knees: Sequence[Shown]
    ) -> tuple[Pixels, tuple[Letter, ...]]:
        height, width = canvas.shape
        longer, settings = max(canvas.shape), self.settings
        y, x = (np.linspace(-1, 1, size, dtype=np.float32) for size in (height, width))
        slope = rng.uniform(-settings.ramp, settings.ramp, 2).tolist()
        film = np.clip(canvas, 0, 1) ** rng.uniform(*settings.gamma)
        film = film * (1 + slope[0] * y[:, None] + slope[1] * x[None]) * rng.uniform(0.5, 1.0)
        film = film + rng.uniform(0, 0.15) + rng.uniform(0, 0.06) * _smooth_noise(rng, (height, width))
        film = film + rng.uniform(*settings.noise) * rng.standard_normal(film.shape, dtype=np.float32)
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
            anywhere = rng.random() < settings.on_joint
            joints = [] if anywhere else [(*k.centre, 0.35 * k.side_px) for k in knees]
            film = marked(rng, film, fonts=settings.lettering.fonts, joints=joints)
        letters = []
        for k in knees:
            if rng.random() < settings.letter:
                film, letter = lettered(
                    rng, film, knee=k.centre, side_px=k.side_px, side=k.side, lettering=settings.lettering
                )
                letters += [] if letter is None else [letter]
        if rng.random() < settings.inverted:
            film = 1 - film
        return film.astype(np.float32), tuple(letters)


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
