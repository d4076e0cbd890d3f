"""Pictures that a knee model must refuse, and altered knees that it must take: what `benchmarks/typicality.py` asks.

    kind of picture = function of a generator of random numbers and a knee (H, W) in [0, 1] -> (H, W) in [0, 1]

Drawn ones look at nothing; altered ones change a knee that is given. Other bodies are drawings, for want of films that
may be handed on: easier than real ones, and the table says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, rotate, zoom

from progression.types import Pixels

Make = Callable[[np.random.Generator, Pixels], Pixels]
SIDE_PIXELS = 256
Plane = npt.NDArray[np.float64]


def _plane() -> tuple[Plane, Plane]:
    """Coordinates x to the right and y down, (H, W) in [-1, 1]."""
    y, x = np.mgrid[-1 : 1 : SIDE_PIXELS * 1j, -1 : 1 : SIDE_PIXELS * 1j]
    return x, y


def _unit(values: npt.NDArray[np.floating]) -> Pixels:
    low, high = values.min(), values.max()
    scaled: Pixels = ((values - low) / max(high - low, 1e-9)).astype(np.float32)
    return scaled


def _fractal(rng: np.random.Generator, slope: float) -> Plane:
    """Noise whose amplitude falls as frequency^-slope; natural pictures have slopes near 1."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE_PIXELS), np.fft.fftfreq(SIDE_PIXELS)))
    frequency[0, 0] = 1 / SIDE_PIXELS
    spectrum = np.fft.fft2(rng.standard_normal((SIDE_PIXELS, SIDE_PIXELS))) / frequency**slope
    return np.real(np.fft.ifft2(spectrum))


# ---- drawn ------------------------------------------------------------------------------------------------------


def noise(rng: np.random.Generator, knee: Pixels) -> Pixels:
    return rng.random((SIDE_PIXELS, SIDE_PIXELS), dtype=np.float32)


def gradient(rng: np.random.Generator, knee: Pixels) -> Pixels:
    (x, y), angle = _plane(), rng.uniform(0, 2 * np.pi)
    return _unit(np.cos(angle) * x + np.sin(angle) * y)


def blob(rng: np.random.Generator, knee: Pixels) -> Pixels:
    """Bright in the middle as a limb is, and nothing else."""
    (x, y), (a, b) = _plane(), rng.uniform(0.3, 0.9, 2)
    return _unit(np.exp(-((x / a) ** 2) - (y / b) ** 2))


def texture(rng: np.random.Generator, knee: Pixels) -> Pixels:
    return _unit(_fractal(rng, rng.uniform(0.8, 1.8)))


def leaves(rng: np.random.Generator, knee: Pixels) -> Pixels:
    """Dead leaves: discs that hide each other, sizes as r^-3, which has the edges of photographs (Lee et al. 2001)."""
    x, y = _plane()
    picture = np.zeros_like(x)
    for radius in np.sort(np.minimum(0.03 * (1 - rng.random(1500)) ** -0.5, 1.0))[::-1]:
        at = rng.uniform(-1.2, 1.2, 2)
        picture[(x - at[0]) ** 2 + (y - at[1]) ** 2 < radius**2] = rng.random()
    return _unit(picture + 0.03 * _fractal(rng, 1.0))


def stripes(rng: np.random.Generator, knee: Pixels) -> Pixels:
    (x, y), angle, count = _plane(), rng.uniform(0, np.pi), rng.uniform(2, 20)
    return _unit(np.sin(count * np.pi * (np.cos(angle) * x + np.sin(angle) * y)))


def text(rng: np.random.Generator, knee: Pixels) -> Pixels:
    """A page of letters, dark on bright or bright on dark."""
    size = int(rng.integers(9, 28))
    dark = bool(rng.random() < 0.5)
    page = Image.new("L", (SIDE_PIXELS, SIDE_PIXELS), 255 if dark else 0)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=size)
    for top in range(4, SIDE_PIXELS, int(1.4 * size)):
        line = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz    "), 60))
        draw.text((6, top), line, fill=0 if dark else 255, font=font)
    return _unit(np.asarray(page, dtype=np.float64))


def _film(rng: np.random.Generator, tissue: Plane, bone: Plane) -> Pixels:
    """Soft tissue and bone (H, W) in [0, 1] as a film: blurred a little, grain, trabecular texture in bone."""
    bone = gaussian_filter(bone, 1.5)
    spongy = 0.05 * bone * _fractal(rng, 0.7) / 3
    return _unit(
        0.35 * gaussian_filter(tissue, 4) + 0.55 * bone + spongy + 0.01 * rng.standard_normal(bone.shape)
    )


def _shaft(x: Plane, y: Plane, centre: float, half_width: float) -> Plane:
    """A long bone upright: bright cortex, darker marrow."""
    from_axis = np.abs(x - centre - 0.03 * np.sin(2 * y)) / half_width
    return np.where(from_axis < 1, 0.55 + 0.45 * (from_axis > 0.7), 0.0)


def forearm(rng: np.random.Generator, knee: Pixels) -> Pixels:
    (x, y), apart = _plane(), rng.uniform(0.2, 0.35)
    bones = np.maximum(
        _shaft(x, y, -apart, rng.uniform(0.1, 0.15)), _shaft(x, y, apart, rng.uniform(0.1, 0.15))
    )
    return _film(rng, (np.abs(x) < rng.uniform(0.6, 0.8)).astype(float), bones)


def thigh(rng: np.random.Generator, knee: Pixels) -> Pixels:
    (x, y), width = _plane(), rng.uniform(0.2, 0.35)
    return _film(rng, (np.abs(x) < rng.uniform(0.6, 0.9)).astype(float), _shaft(x, y, 0, width))


def hip(rng: np.random.Generator, knee: Pixels) -> Pixels:
    x, y = _plane()
    head = np.hypot(x + 0.1, y + 0.25)
    bone = np.where(head < 0.3, 0.8, 0.0)
    bone = np.maximum(bone, np.where((head > 0.34) & (head < 0.75) & (y < 0.05 - x), 0.9, 0.0))
    neck = np.abs((x - 0.15) - (y + 0.05)) < 0.22
    bone = np.maximum(bone, 0.75 * (neck & (x > -0.1) & (x < 0.45)))
    bone = np.maximum(bone, _shaft(x, y, rng.uniform(0.4, 0.5), 0.2) * (y > 0.2))
    return _film(rng, np.ones_like(x), bone)


def hand(rng: np.random.Generator, knee: Pixels) -> Pixels:
    x, y = _plane()
    bone, tissue = np.zeros_like(x), np.zeros_like(x)
    for finger in range(5):
        angle = (finger - 2) * rng.uniform(0.18, 0.25)
        along, across = (
            np.cos(angle) * (y - 1) + np.sin(angle) * x,
            np.cos(angle) * x - np.sin(angle) * (y - 1),
        )
        reach = -1.7 + 0.15 * abs(finger - 2)
        joint = np.abs(((along + 2) % 0.45) - 0.22) < 0.19
        bone = np.maximum(bone, 0.9 * ((np.abs(across) < 0.06) & joint & (along > reach)))
        tissue = np.maximum(tissue, (np.abs(across) < 0.13) & (along > reach - 0.05))
    return _film(rng, tissue, bone)


def chest(rng: np.random.Generator, knee: Pixels) -> Pixels:
    x, y = _plane()
    lungs = (((np.abs(x) - 0.42) / 0.3) ** 2 + ((y + 0.1) / 0.65) ** 2) < 1
    ribs = np.abs(((y + 0.5 * np.abs(x) ** 1.5 + rng.uniform(0, 0.2)) % 0.2) - 0.1) < 0.025
    bone = np.maximum(0.5 * (ribs & (np.abs(x) < 0.85)), 0.9 * (np.abs(x) < 0.09))
    return _film(rng, np.where(lungs, 0.1, 1.0), bone)


# ---- altered knees ----------------------------------------------------------------------------------------------


def upside_down(rng: np.random.Generator, knee: Pixels) -> Pixels:
    return knee[::-1].copy()


def quarter_turn(rng: np.random.Generator, knee: Pixels) -> Pixels:
    return np.rot90(knee, rng.choice([1, 3])).copy()


def half_turn(rng: np.random.Generator, knee: Pixels) -> Pixels:
    return np.rot90(knee, 2).copy()


def other_side(rng: np.random.Generator, knee: Pixels) -> Pixels:
    return knee[:, ::-1].copy()


def _part(knee: Pixels, share: float, down: float, right: float) -> Pixels:
    """A square of `share` of the side, placed from 0 (top, left) to 1 (bottom, right)."""
    side = min(knee.shape)
    size = int(share * side)
    top, left = int(down * (knee.shape[0] - size)), int(right * (knee.shape[1] - size))
    return knee[top : top + size, left : left + size].copy()


def condyle(rng: np.random.Generator, knee: Pixels) -> Pixels:
    """So close that one compartment fills the picture."""
    return _part(knee, 0.4, 0.5, rng.choice([0.2, 0.8]))


def corner(rng: np.random.Generator, knee: Pixels) -> Pixels:
    """Half the side, at a corner: shaft and soft tissue, no joint line in the middle."""
    return _part(knee, 0.5, rng.choice([0.0, 1.0]), rng.choice([0.0, 1.0]))


def far_away(rng: np.random.Generator, knee: Pixels) -> Pixels:
    """A third of the picture, black around it."""
    small = zoom(knee, 1 / 3, order=1)
    rest = [2 * side for side in small.shape]
    return np.pad(small, [(side // 2, side - side // 2) for side in rest])


def two_knees(rng: np.random.Generator, knee: Pixels) -> Pixels:
    """An uncut film of both knees, padded to a square."""
    pair = np.concatenate([knee[:, ::-1], knee], axis=1)
    rest = max(pair.shape[1] - pair.shape[0], 0)
    return np.pad(pair, [(rest // 2, rest - rest // 2), (0, 0)])[::2, ::2].copy()


def between_knees(rng: np.random.Generator, knee: Pixels) -> Pixels:
    """The middle of an uncut film: the inner halves of both."""
    half = knee.shape[1] // 2
    return np.concatenate([knee[:, half:][:, ::-1], knee[:, half:]][::-1], axis=1)


def blurred(rng: np.random.Generator, knee: Pixels) -> Pixels:
    return gaussian_filter(knee, 0.04 * knee.shape[0])


def drowned(rng: np.random.Generator, knee: Pixels) -> Pixels:
    """Under noise as strong as the film's own contrast."""
    return np.clip(knee + rng.normal(0, 2 * knee.std(), knee.shape), 0, 1).astype(np.float32)


def coarse(rng: np.random.Generator, knee: Pixels) -> Pixels:
    """Sixteen squares a side."""
    step = max(knee.shape[0] // 16, 1)
    grey = gaussian_filter(knee, step / 2)[step // 2 :: step, step // 2 :: step]
    return np.kron(grey, np.ones((step, step), dtype=np.float32))


# ---- a knee with metal in it, drawn by other code than the localiser learns from (`progression.data.implants`) -------


def metal(rng: np.random.Generator, knee: Pixels) -> Pixels:
    """A knee (R, R) with a replacement, whole or of one compartment; or a nail, or a plate with screws."""
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


# ---- still a knee -----------------------------------------------------------------------------------------------


def unchanged(rng: np.random.Generator, knee: Pixels) -> Pixels:
    return knee


def inverted(rng: np.random.Generator, knee: Pixels) -> Pixels:
    """MONOCHROME1 that was stored as it is: `to_model` turns it."""
    return (1 - knee).astype(np.float32)


def tilted(rng: np.random.Generator, knee: Pixels) -> Pixels:
    turned = rotate(knee, rng.choice([-5, 5]), reshape=False, mode="nearest", order=1)
    return np.clip(turned, 0, 1).astype(np.float32)


def softer(rng: np.random.Generator, knee: Pixels) -> Pixels:
    return gaussian_filter(knee, 0.005 * knee.shape[0])


def darker(rng: np.random.Generator, knee: Pixels) -> Pixels:
    """Another curve from dose to grey."""
    return (knee ** rng.choice([0.7, 1.4])).astype(np.float32)


def closer(rng: np.random.Generator, knee: Pixels) -> Pixels:
    """A tenth less of the film around the joint."""
    return _part(knee, 0.9, 0.5, 0.5)


NOT_KNEES: Mapping[str, Make] = {
    make.__name__: make
    for make in (noise, gradient, blob, texture, leaves, stripes, text, forearm, thigh, hip, hand, chest)
}
"""Drawn: to be refused."""
SPOILT: Mapping[str, Make] = {
    make.__name__: make
    for make in (upside_down, quarter_turn, half_turn, other_side, condyle, corner, far_away, two_knees,
                 between_knees, blurred, drowned, coarse)
}  # fmt: skip
"""Altered: to be refused."""
STILL_KNEES: Mapping[str, Make] = {
    make.__name__: make for make in (unchanged, inverted, tilted, softer, darker, closer)
}
"""Altered: to be taken."""
