"""The knee over time as an animation: rendered horizons, linear blends between them, every frame marked."""

from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from progression.report.mark import NOTICE, WORD, burn, to_grey8
from progression.types import Pixels, Prediction

FRAMES = 24
"""Frames from now to the last horizon, besides the pauses."""
LEAST_SIDE_PIXELS = 384
_FRAME_MS, _PAUSE_MS = 90, 1000


def frames(prediction: Prediction) -> list[tuple[int, Image.Image]]:
    """(duration in ms, picture) of every frame, from the reconstruction to the last rendered horizon.

    Between two rendered horizons the grey values are blended linearly; such frames say "blend". The first
    frame is the reconstruction, not the radiograph, so that only the predicted change moves.
    """
    rendered = [(h.horizon_months, h.image) for h in prediction.horizons if h.image is not None]
    stops: list[tuple[int, Pixels]] = [(0, prediction.reconstruction), *rendered]
    window = (float(np.min(prediction.baseline)), float(np.max(prediction.baseline)))
    last = stops[-1][0]
    result = [(_PAUSE_MS, _frame(stops[0][1], "now", window))]
    for (start, before), (end, after) in pairwise(stops):
        between = max(1, round(FRAMES * (end - start) / last))
        for step in range(1, between):
            share = step / between
            blend = ((1 - share) * before + share * after).astype(np.float32)
            label = f"+{start + share * (end - start):.0f} months, blend"
            result.append((_FRAME_MS, _frame(blend, label, window)))
        result.append((_PAUSE_MS, _frame(after, f"+{end} months", window)))
    return result


def save_gif(path: str | Path, prediction: Prediction) -> None:
    """Write future.gif; it repeats for ever."""
    durations, pictures = zip(*frames(prediction), strict=True)
    pictures[0].save(
        path, format="GIF", save_all=True, append_images=list(pictures[1:]), duration=list(durations),
        loop=0, comment=f"{WORD}. {NOTICE}".encode(),
    )  # fmt: skip


def _frame(pixels: Pixels, label: str, window: tuple[float, float]) -> Image.Image:
    low, high = window
    picture = to_grey8((pixels - low) / max(high - low, 1e-6))
    factor = -(-LEAST_SIDE_PIXELS // picture.width)
    if factor > 1:
        size = (picture.width * factor, picture.height * factor)
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return burn(burn(picture), label, top=True)
