"""Drawn radiographs of what is no knee from the front: a lateral knee, and other parts of the body.

Bones are thick strokes with a brighter rim and a trabecular grain, in soft tissue: easier to tell from knees than real
films are. Each drawing is a function of a generator and a shape (H, W) -> (H, W) in [0, 1].
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

Canvas = npt.NDArray[np.float32]
Point = tuple[float, float]
_DETAIL = 256


class _Drawing:
    """Strokes in a frame of [-1, 1] across the film's shorter side, moved, turned and mirrored at random."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int]) -> None:
        self.rng = rng
        self.size = (round(_DETAIL * shape[1] / max(shape)), round(_DETAIL * shape[0] / max(shape)))
        self.shape = shape
        self.tissue, self.bone, self.air = (Image.new("L", self.size, 0) for _ in range(3))
        self.unit = 0.5 * min(self.size) * rng.uniform(0.8, 1.3)
        angle = rng.normal(0, 0.15)
        self.turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if rng.random() < 0.5:
            self.turn = self.turn @ np.diag([-1, 1])
        self.middle = np.array(self.size) / 2 + rng.normal(0, 0.06, 2) * min(self.size)

    def _at(self, points: Sequence[Point]) -> list[Point]:
        moved = np.array(points) @ self.turn.T * self.unit + self.middle
        return [(float(x), float(y)) for x, y in moved]

    def flesh(self, *points: Point, wide: float) -> None:
        self._stroke(ImageDraw.Draw(self.tissue), points, wide, 255)

    def gap(self, *points: Point, wide: float) -> None:
        self._stroke(ImageDraw.Draw(self.air), points, wide, 255)

    def shaft(self, *points: Point, wide: float) -> None:
        draw = ImageDraw.Draw(self.bone)
        self._stroke(draw, points, wide, 235)
        self._stroke(draw, points, 0.72 * wide, 165)

    def ellipse(self, centre: Point, across: float, down: float, angle: float = 0.0) -> None:
        t = np.linspace(0, 2 * np.pi, 24)
        for share, grey in ((1.0, 230), (0.86, 180)):
            x, y = share * across * np.cos(t), share * down * np.sin(t)
            ring = zip(
                centre[0] + np.cos(angle) * x - np.sin(angle) * y,
                centre[1] + np.sin(angle) * x + np.cos(angle) * y,
                strict=True,
            )
            ImageDraw.Draw(self.bone).polygon(self._at(list(ring)), fill=grey)

    def _stroke(self, draw: ImageDraw.ImageDraw, points: Sequence[Point], wide: float, grey: int) -> None:
        at, width = self._at(points), max(1, round(wide * self.unit))
        draw.line(at, fill=grey, width=width, joint="curve")
        for x, y in at:
            draw.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=grey)

    def film(self) -> Canvas:
        rng = self.rng
        tissue, bone, air = (
            gaussian_filter(np.asarray(layer, np.float32) / 255, spread)
            for layer, spread in ((self.tissue, 4), (self.bone, rng.uniform(0.6, 1.5)), (self.air, 3))
        )
        grain = 1 + 0.25 * gaussian_filter(rng.standard_normal(bone.shape), rng.uniform(0.7, 1.5))
        made = rng.uniform(0.2, 0.5) * tissue * (1 - 0.8 * air) + rng.uniform(0.4, 0.6) * bone * grain
        small = Image.fromarray(np.clip(made, 0, 1).astype(np.float32))
        return np.clip(np.asarray(small.resize(self.shape[::-1], Image.Resampling.BICUBIC)), 0, 1)


def drawn_lateral(rng: np.random.Generator, shape: tuple[int, int]) -> Canvas:
    """A knee from the side: condyles behind the shaft, the kneecap in front, bent by up to 70 degrees."""
    d = _Drawing(rng, shape)
    bend = np.deg2rad(rng.uniform(5, 70))
    down = (-np.sin(bend), np.cos(bend))
    foot = (0.05 + 2.5 * down[0], 0.1 + 2.5 * down[1])
    d.flesh((0.2, -2.5), (0.1, 0.0), foot, wide=rng.uniform(1.0, 1.4))
    d.shaft((0.15, -2.5), (0.1, -0.2), wide=rng.uniform(0.32, 0.42))
    d.ellipse((0.02, -0.05), rng.uniform(0.36, 0.44), 0.32, 0.3)
    d.ellipse((-0.03, -0.02), rng.uniform(0.33, 0.42), 0.3, 0.2)
    d.shaft((0.0 + 0.45 * down[0], 0.1 + 0.45 * down[1]), foot, wide=rng.uniform(0.3, 0.4))
    d.ellipse((0.0 + 0.42 * down[0], 0.02 + 0.42 * down[1]), 0.4, 0.14, bend)
    d.ellipse((0.55, rng.uniform(-0.3, 0.0)), 0.12, 0.24, rng.normal(0, 0.15))
    behind = (-0.28 * np.cos(bend), -0.28 * np.sin(bend))
    d.shaft(
        (behind[0] + 0.6 * down[0], 0.1 + behind[1] + 0.6 * down[1]),
        (behind[0] + foot[0], behind[1] + foot[1]),
        wide=0.1,
    )
    return d.film()


def _hand(rng: np.random.Generator, shape: tuple[int, int]) -> Canvas:
    d = _Drawing(rng, shape)
    for finger in range(5):
        angle = (finger - 2) * rng.uniform(0.16, 0.28)
        reach = 0.95 - 0.12 * abs(finger - 2)
        ray = lambda t, angle=angle: (np.sin(angle) * t, 0.5 - np.cos(angle) * t)  # noqa: E731
        d.flesh(ray(0.1), ray(1.5 * reach), wide=0.24)
        for start, end in ((0.2, 0.62), (0.7, 1.0), (1.06, 1.25), (1.3, 1.45)):
            d.shaft(ray(start * reach), ray(end * reach), wide=rng.uniform(0.08, 0.12))
    d.flesh((0, 0.5), (0, 2), wide=0.8)
    for _ in range(8):
        d.ellipse((rng.uniform(-0.25, 0.25), rng.uniform(0.4, 0.62)), 0.1, 0.09)
    d.shaft((-0.15, 0.75), (-0.12, 2.2), wide=0.26)
    d.shaft((0.2, 0.75), (0.15, 2.2), wide=0.18)
    return d.film()


def _hip(rng: np.random.Generator, shape: tuple[int, int]) -> Canvas:
    d = _Drawing(rng, shape)
    d.flesh((0, -2), (0, 2), wide=3.0)
    d.ellipse((-0.5, -0.6), 0.55, 0.6, rng.normal(0.4, 0.2))
    d.ellipse((0.0, -0.1), rng.uniform(0.25, 0.32), 0.3)
    d.shaft((0.0, -0.1), (0.45, 0.2), wide=0.3)
    d.shaft((0.5, 0.1), (0.4, 2.2), wide=rng.uniform(0.3, 0.4))
    d.shaft((-0.5, 0.1), (-0.2, 0.6), (-0.7, 0.7), wide=0.2)
    return d.film()


def _chest(rng: np.random.Generator, shape: tuple[int, int]) -> Canvas:
    d = _Drawing(rng, shape)
    d.flesh((0, -1), (0, 1), wide=2.2)
    for sign in (-1, 1):
        d.gap((sign * 0.45, -0.45), (sign * 0.48, 0.45), wide=rng.uniform(0.5, 0.65))
        for y in np.linspace(-0.8, 0.6, int(rng.integers(6, 10))):
            d.shaft((sign * 0.08, y - 0.1), (sign * 0.5, y), (sign * 0.85, y + 0.25), wide=0.05)
        d.shaft((sign * 0.1, -0.75), (sign * 0.9, -0.95), wide=0.09)
    for y in np.linspace(-1, 1, 14):
        d.ellipse((0, y), 0.1, 0.06)
    return d.film()


def _two_bones(rng: np.random.Generator, shape: tuple[int, int]) -> Canvas:
    """Forearm or shank without a joint."""
    d = _Drawing(rng, shape)
    d.flesh((0, -2.5), (0, 2.5), wide=rng.uniform(0.9, 1.4))
    d.shaft((-0.2, -2.5), (-0.17, 2.5), wide=rng.uniform(0.2, 0.4))
    d.shaft((0.25, -2.5), (0.2, 2.5), wide=rng.uniform(0.1, 0.3))
    return d.film()


def _one_bone(rng: np.random.Generator, shape: tuple[int, int]) -> Canvas:
    """Thigh or upper arm."""
    d = _Drawing(rng, shape)
    d.flesh((0, -2.5), (0, 2.5), wide=rng.uniform(1.0, 2.0))
    d.shaft((rng.normal(0, 0.1), -2.5), (rng.normal(0, 0.1), 2.5), wide=rng.uniform(0.3, 0.5))
    return d.film()


def _ankle(rng: np.random.Generator, shape: tuple[int, int]) -> Canvas:
    d = _Drawing(rng, shape)
    d.flesh((0, -2), (0, 0.6), wide=0.9)
    d.flesh((0, 0.6), (0.1, 1.3), wide=1.0)
    d.shaft((-0.1, -2), (-0.1, 0.0), wide=0.34)
    d.shaft((0.3, -2), (0.32, 0.15), wide=0.15)
    d.ellipse((0.0, 0.28), 0.3, 0.18)
    d.ellipse((0.02, 0.65), 0.28, 0.2)
    for ray in np.linspace(-0.3, 0.35, 5):
        d.shaft((ray * 0.6, 0.9), (ray, 1.6), wide=0.09)
    return d.film()


def _spine(rng: np.random.Generator, shape: tuple[int, int]) -> Canvas:
    d = _Drawing(rng, shape)
    d.flesh((0, -2), (0, 2), wide=rng.uniform(1.6, 2.6))
    for y in np.arange(-1.6, 1.6, rng.uniform(0.3, 0.42)):
        d.ellipse((0, y), rng.uniform(0.26, 0.32), 0.14)
        d.shaft((-0.5, y), (0.5, y), wide=0.06)
    return d.film()


def _shoulder(rng: np.random.Generator, shape: tuple[int, int]) -> Canvas:
    d = _Drawing(rng, shape)
    d.flesh((-1.5, 0.4), (0.1, -0.1), (0.4, 2), wide=1.2)
    d.ellipse((0.1, -0.1), 0.27, 0.27)
    d.shaft((0.2, 0.0), (0.35, 2.2), wide=0.28)
    d.shaft((-0.25, -0.2), (-0.35, 0.3), (-0.8, 0.9), wide=0.2)
    d.shaft((0.15, -0.5), (-1.4, -0.5), wide=0.13)
    for y in np.linspace(0.0, 1.2, 5):
        d.shaft((-1.6, y), (-0.7, y + 0.3), wide=0.06)
    return d.film()


DRAWN_BODIES: tuple[Callable[[np.random.Generator, tuple[int, int]], Canvas], ...] = (
    _hand, _hip, _chest, _two_bones, _one_bone, _ankle, _spine, _shoulder,
)  # fmt: skip
