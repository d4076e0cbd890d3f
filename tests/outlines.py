"""Outlines of a knee that nobody has, and a drawing of it."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from progression.types import Pixels

_FEMUR = {0: (0.22, -0.1), 8: (0.06, 0.28), 11: (0.1, 0.5), 13: (0.2, 0.57), 18: (0.5, 0.43), 23: (0.8, 0.57),
          25: (0.9, 0.5), 28: (0.94, 0.28), 36: (0.76, -0.1)}  # fmt: skip
_TIBIA = {0: (0.3, 1.1), 8: (0.08, 0.78), 10: (0.09, 0.63), 14: (0.36, 0.6), 16: (0.44, 0.52), 18: (0.5, 0.55),
          20: (0.56, 0.5), 22: (0.64, 0.6), 26: (0.9, 0.63), 28: (0.9, 0.7), 36: (0.7, 1.1)}  # fmt: skip


def outline(seed: int | None = None) -> np.ndarray:
    """(74, 2) of a right knee, in shares of its picture's side; with a seed, one of many such knees."""
    parts = []
    for corners in (_FEMUR, _TIBIA):
        at, places = list(corners), np.array(list(corners.values()))
        parts.append(np.stack([np.interp(range(37), at, places[:, axis]) for axis in (0, 1)], 1))
    points = np.concatenate(parts)
    if seed is not None:
        rng = np.random.default_rng(seed)
        wave = np.sin(np.arange(74) / rng.uniform(4, 9) + rng.uniform(0, 6))
        points = 0.5 + (points - 0.5) * rng.normal(1, 0.03, 2) + 0.01 * wave[:, None] * rng.normal(0, 1, 2)
    return points


def drawn(points: np.ndarray, size: int = 112) -> Pixels:
    """Bright bones on grey flesh, the fibula at the left."""
    picture = Image.new("L", (size, size), 70)
    draw = ImageDraw.Draw(picture)
    draw.rectangle([0.02 * size, 0.8 * size, 0.1 * size, size], fill=120)
    for part in (points[:37], points[37:]):
        draw.polygon([(float(x) * size, float(y) * size) for x, y in part], fill=190)
    made: Pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(1)), np.float32) / np.float32(255)
    return made
