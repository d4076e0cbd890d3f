"""Lead on films: letters that say the side, and what else is laid on a cassette (words, blocks, rulers).

A letter stands beside its knee, plain, framed, or cut out of a plate; upright, askew, on its side or upside down; and
mirrored, where the film or the marker lies the wrong way round.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from progression.types import Pixels, Side

FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "STIXGeneralBol", "cmss10", "DejaVuSans-Oblique",
)  # fmt: skip
HELD_OUT_FONTS = ("", "DejaVuSerif-Bold", "STIXGeneral", "DejaVuSansMono-Bold")
"""Never trained on; "" is Pillow's own, Aileron."""
_WORDS = ("PA", "AP", "WB", "STANDING", "12", "KNEE", "TS", "M7", "10 DEG", "ERECT")
_LEGIBLE = 0.2
"""Change of grey under lead; less on a white shutter or a bright bone cannot be read."""
_OTHER_LETTERS = "ABCDEFHIJKMNPSTUVWXYZ1234567890"


@dataclass(frozen=True)
class Letter:
    """A letter on a film: its middle (x, y) and height in pixels, and what it says: R, L, mirrored R or mirrored L."""

    centre: tuple[float, float]
    size_px: float
    says: str


@dataclass(frozen=True)
class Lettering:
    """How letters are laid.

    Attributes
    ----------
    fonts : names of Matplotlib's, or "" for Pillow's
    mirrored, turned : chances that a letter is mirrored, and that it lies on its side or upside down
    other : chance that another letter stands where one for the side would
    """

    fonts: Sequence[str] = FONTS
    mirrored: float = 0.25
    turned: float = 0.2
    other: float = 0.3


LETTERING = Lettering()


def lettered(
    rng: np.random.Generator,
    film: Pixels,
    *,
    knee: tuple[float, float],
    side_px: float,
    side: Side,
    lettering: Lettering,
) -> tuple[Pixels, Letter | None]:
    """A film (H, W) with a letter beside a knee whose square has its middle at `knee`; None if it says no side."""
    outward = -1 if side is Side.RIGHT else 1
    if rng.random() < 0.25:
        outward = -outward
    size = rng.uniform(0.1, 0.24) * side_px
    x = knee[0] + outward * rng.uniform(0.4, 0.95) * side_px
    y = knee[1] + rng.uniform(-0.9, 0.9) * side_px
    height, width = film.shape
    x, y = (float(np.clip(at, 0.7 * size, reach - 0.7 * size)) for at, reach in ((x, width), (y, height)))
    if (
        max(abs(x - knee[0]), abs(y - knee[1])) < 0.3 * side_px
    ):  # the film ends there: nobody lays lead on a joint
        return film, None
    says_side = rng.random() >= lettering.other
    text = str(side)[0].upper() if says_side else str(rng.choice(list(_OTHER_LETTERS)))
    mirrored = rng.random() < lettering.mirrored
    tile = _tile(rng, text, str(rng.choice(list(lettering.fonts))), size, mirrored, lettering.turned)
    made, change = _laid(film, tile, (x, y), float(rng.choice([1.0, 1.0, 0.92, 0.8])))
    if not says_side or change < _LEGIBLE:
        return made, None
    return made, Letter((x, y), float(size), "mirrored " * mirrored + text)


def marked(
    rng: np.random.Generator,
    film: Pixels,
    *,
    fonts: Sequence[str] = FONTS,
    joints: Sequence[tuple[float, float, float]] = (),
) -> Pixels:
    """A film with words, a block, a ruler that say nothing of the side: somewhere, bright or dark.

    They keep off `joints`, each given by its middle and half the side of what to keep off.
    """
    height, width = film.shape
    longer = max(film.shape)
    picture = Image.fromarray((film * 255).astype(np.uint8))
    for _ in range(rng.integers(1, 4)):
        layer, mask = picture.copy(), Image.new("L", picture.size, 0)
        size, grey = rng.uniform(0.03, 0.09) * longer, int(rng.choice([255, 255, 230, 0]))
        _mark(rng, [(ImageDraw.Draw(layer), grey), (ImageDraw.Draw(mask), 255)], width, height, size, fonts)
        box = mask.getbbox()
        if box and not any(
            box[0] < x + half and box[2] > x - half and box[1] < y + half and box[3] > y - half
            for x, y, half in joints
        ):
            picture = layer
    return np.asarray(picture, np.float32) / np.float32(255)


def _mark(
    rng: np.random.Generator,
    layers: Sequence[tuple[ImageDraw.ImageDraw, int]],
    width: int,
    height: int,
    size: float,
    fonts: Sequence[str],
) -> None:
    """The same mark in each layer, in that layer's grey."""
    x, y = rng.random() * width * 0.93, rng.random() * height * 0.93
    style = rng.choice(["text", "text", "block", "ruler"])
    word, font = str(rng.choice(_WORDS)), _font(str(rng.choice(list(fonts))), max(6, round(size)))
    across, down = size * rng.uniform(0.5, 2), size * rng.uniform(0.3, 1)
    for draw, grey in layers:
        if style == "text":
            draw.text((x, y), word, fill=grey, font=font)
        elif style == "block":
            draw.rectangle([x, y, x + across, y + down], fill=grey)
        else:
            for step in range(12):
                at, long = y + step * size * 0.4, size * (0.6 if step % 5 else 1.0)
                draw.line([x, at, x + long, at], fill=grey, width=max(1, max(width, height) // 300))


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if not name:
        return ImageFont.load_default(size=size)
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


def _tile(
    rng: np.random.Generator, text: str, font: str, size: float, mirrored: bool, turned: float
) -> Pixels:
    """Lead in the shape of a letter of `size` pixels' height, or with such a hole: (3 size, 3 size) in [0, 1]."""
    finer = 48
    tile = Image.new("L", (3 * finer, 3 * finer), 0)
    draw, middle = ImageDraw.Draw(tile), 1.5 * finer
    style = str(rng.choice(["plain", "plain", "plain", "frame", "ring", "plate", "disc"]))
    reach = finer * rng.uniform(0.72, 0.9)
    box = [middle - reach, middle - reach, middle + reach, middle + reach]
    shape = draw.rectangle if style in ("frame", "plate") else draw.ellipse
    hole = style in ("plate", "disc")
    if hole:
        shape(box, fill=255)
    elif style != "plain":
        shape(box, outline=255, width=int(rng.uniform(4, 8)))
    font_drawn = _font(font, 72)
    left, top, right, bottom = font_drawn.getbbox(text)
    letter = Image.new("L", (max(1, round(right - left)), max(1, round(bottom - top))), 0)
    ImageDraw.Draw(letter).text((-left, -top), text, fill=255, font=font_drawn)
    wide = finer * letter.width / letter.height * rng.uniform(0.85, 1.2)
    letter = letter.resize((max(1, round(wide)), finer))
    tile.paste(0 if hole else 255, (round(middle - letter.width / 2), round(middle - finer / 2)), letter)
    if mirrored:
        tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    quarter = 90 * int(rng.integers(1, 4)) if rng.random() < turned else 0
    tile = tile.rotate(quarter + float(rng.normal(0, 8)), resample=Image.Resampling.BILINEAR)
    across = max(2, round(3 * size))
    return np.asarray(tile.resize((across, across), Image.Resampling.BOX), np.float32) / np.float32(255)


def _laid(film: Pixels, lead: Pixels, centre: tuple[float, float], grey: float) -> tuple[Pixels, float]:
    """A film with lead (S, S) around a place, and by how much that changes it there."""
    size = len(lead)
    left, top = round(centre[0] - size / 2), round(centre[1] - size / 2)
    rows, columns = (
        slice(max(0, start), max(0, min(reach, start + size)))
        for start, reach in ((top, film.shape[0]), (left, film.shape[1]))
    )
    part = lead[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    made = film.copy()
    made[rows, columns] += (grey - made[rows, columns]) * part
    change = np.abs(made[rows, columns] - film[rows, columns]).sum() / max(float(lead.sum()), 1e-6)
    return made, float(change)
