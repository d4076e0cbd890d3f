"""Pixels: from files and arrays to the model's pictures, and back. The one place where pixels are touched.

| stage | layout | range |
|---|---|---|
| `read_image` | (H, W) float32, orientation as stored | [0, 1], as exposed |
| `to_model` | (1, R, R) float32, every knee looks like a right one | [-1, 1], exposure normalised |
| `from_model` | (R, R) float32, orientation as stored | [0, 1] |

Exposure: the 1st and 99th percentile of the picture's central square go to -0.9 and +0.9, the rest is clipped
to [-1, 1]; on knee radiographs that clips about 0.3 % of the pixels, in background and dense cortex, not in
trabecular bone. Films stored with inverted grey (bone dark; about 1 in 80 of a public cohort) are known by
an edge brighter than the centre, which no knee has otherwise, and turned: their `Exposure` has low > high.
"""

import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from progression.decoding import sources
from progression.decoding.npy import NPY_MARK, read_npy
from progression.decoding.pictures import decoded, too_large
from progression.decoding.png_text import png_texts
from progression.decoding.sandbox import decode
from progression.decoding.sources import opened
from progression.errors import ImageError, ProgressionError, UsageError
from progression.files import open_regular
from progression.types import Pixels, Side, check_unit_range

MIN_SIDE_PIXELS = 64
MAX_PIXELS = 40_000_000
MAX_ASPECT = 2.0
MIN_CONTRAST = 0.02
"""Least difference between the 99th and the 1st percentile; real radiographs have 0.12 and more."""
MAX_COLOURFULNESS = 0.1
"""Largest mean difference between the strongest and the weakest colour channel of a picture that is no tinted grey."""
MAX_TINT_ERROR = 0.03
"""Largest mean distance of a tinted picture's channels from a function of its brightness alone."""
PERCENTILES = (1.0, 99.0)
SPAN = 0.9
"""Where the percentiles go: to -SPAN and +SPAN."""
LATERALITY = "Laterality"
"""PNG text key for the side, named as in DICOM."""
SYNTHETIC = {"Synthetic": "yes"}
"""PNG text of a picture that a model made."""
OUTPUT = {"Origin": "output of progression"}
"""PNG text of what this package writes as a result."""
_LATERALITY = {"L": Side.LEFT, "R": Side.RIGHT}
_INVERTED_BELOW = -0.1
_ROWS_AT_ONCE = 256
_ENOUGH_PIXELS = 4_000_000
"""To see whether a picture has contrast; of more than four times as many, every second is looked at, and so on."""
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_DICOM_MARK = b"DICM"
_DICOM_MARK_AT = 128
_MAX_DICOM_BYTES = 130 << 20
"""More than `progression.dicom.parse` takes, so that it says so."""
_DICOM_SUFFIXES = (".dcm", ".dicom")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".npy", *NIFTI_SUFFIXES)
"""How pictures are called that are not DICOM; which of these one is, its content says, but for NIfTI."""
MAX_OUTSIDE = 0.25
"""Largest share of a square's side that may lie outside the film that it is cut from."""


Picture = str | os.PathLike[str] | npt.NDArray[np.generic] | Image.Image | Tensor
"""What a radiograph may be given as: a file's path, an array or a tensor (H, W), a picture of Pillow's."""


@dataclass(frozen=True)
class Exposure:
    """Grey values that the model sees as its dark and bright reference; low > high if inverted."""

    low: float
    high: float


def as_source(given: Picture) -> str | Path | npt.NDArray[np.generic]:
    """A radiograph as the functions below take it; texts, paths and arrays as they are.

    Parameters
    ----------
    given
        A tensor (H, W) or (1, H, W) becomes an array, and so does a picture of Pillow's, which says no side.

    Raises
    ------
    ImageError
        For a picture of Pillow's that `read_image` would refuse.
    UsageError
        For anything else.
    """
    if isinstance(given, str | Path | np.ndarray):
        return given
    if isinstance(given, os.PathLike):
        return Path(given)
    if isinstance(given, Image.Image):
        with _decoding("picture"):
            return np.concatenate(list(decoded(given, "picture", max_pixels=MAX_PIXELS).pieces))
    if isinstance(given, Tensor):
        values = given.detach().cpu()
        values = values[0] if values.ndim == 3 and len(values) == 1 else values
        array: npt.NDArray[np.generic] = (values.float() if values.is_floating_point() else values).numpy()
        return array
    raise UsageError(
        f"a radiograph of type {type(given).__name__}: expected a file's path, a NumPy array or PyTorch tensor "
        "(height, width), or a Pillow picture"
    )


def read_image(source: Picture) -> Pixels:
    """Read one radiograph.

    Parameters
    ----------
    source
        Path of a DICOM, PNG, JPEG, WebP, TIFF, NIfTI or `.npy` file; or `archive.zip::member`; or an array (H, W),
        (H, W, 1), (H, W, 3) or (H, W, 4), unsigned integers or floats in [0, 1]; or what `as_source` makes an array of.

    Returns
    -------
    (H, W) float32 in [0, 1]
        8-bit values over 255; wider integers over the largest value of their used bits (a 12-bit film in
        16-bit storage over 4095). Colour becomes luminance, transparency is laid over black, CMYK and palette
        are converted, an orientation tag is applied.

    Raises
    ------
    ImageError
        Not a picture, damaged, animated, under 64 pixels a side, over 40 megapixels (checked before
        decoding), longer than twice its width, in colour (a tinted grey is none), constant, or with values that
        are NaN or out of range. Of DICOM, what `progression.dicom.read` refuses; of NIfTI, what
        `progression.nifti` does.
    DependencyError
        If a package that only this format needs is not installed.
    """
    source = as_source(source)
    values = load(source)
    check_shape(values, label_of(source))
    return check_pixels(values, label_of(source))


def label_of(source: str | Path | npt.NDArray[np.generic]) -> str:
    """What messages call a source: its file's name without the path."""
    return "array" if isinstance(source, np.ndarray) else sources.label_of(source)


def load(source: str | Path | npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """A source's values as they are stored (DICOM: as they are displayed), (H, W) or (H, W, 3 or 4).

    Raises
    ------
    ImageError
        Not a picture, damaged, animated, or over 40 megapixels. `check_pixels` refuses what else is wrong.
    """
    if isinstance(source, np.ndarray):
        return source
    label = label_of(source)
    if (content := dicom_content(source)) is not None:
        from progression.dicom.read import read_film  # pydicom is imported for DICOM only

        return read_film(content, label).values
    with _decoding(label):
        values = _load(str(source), label)
    _check_size(values.shape[0], values.shape[1], label)
    return values


@contextmanager
def _decoding(label: str) -> Iterator[None]:
    """Decoders raise nearly anything on damaged files: ImageError for all of it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow on odd metadata; what matters is checked afterwards
            yield
    except ProgressionError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{label}: damaged or truncated ({reason}); export the picture again") from error


def dicom_content(source: str | Path | npt.NDArray[np.generic]) -> bytes | None:
    """The bytes of a DICOM file; None if it is something else, missing or unreadable, as `load` will tell.

    Raises
    ------
    ImageError
        If it is called .dcm but lacks DICOM's mark.
    """
    if isinstance(source, np.ndarray):
        return None
    named_so = label_of(source).lower().endswith(_DICOM_SUFFIXES)
    if "::" in str(source) and not named_so:
        return None
    try:
        with opened(source) as stream:
            content = stream.read(_DICOM_MARK_AT + len(_DICOM_MARK)) or b""
            if content[_DICOM_MARK_AT:] == _DICOM_MARK:
                content += stream.read(_MAX_DICOM_BYTES)
    except (ImageError, OSError, zipfile.BadZipFile, zlib.error, ValueError):
        return None
    if content[_DICOM_MARK_AT:].startswith(_DICOM_MARK):
        return content
    if content and named_so:
        raise ImageError(
            f"{label_of(source)}: lacks the DICM mark of a DICOM file; export it again, with its preamble"
        )
    return None


def is_dicom(path: str | Path) -> bool:
    """Whether a file bears DICOM's mark, whatever it is called; one that cannot be opened does not."""
    try:
        with open_regular(path) as stream:
            return stream.read(_DICOM_MARK_AT + len(_DICOM_MARK))[_DICOM_MARK_AT:] == _DICOM_MARK
    except OSError:
        return False


def cut_square(
    values: npt.NDArray[np.generic],
    *,
    centre: tuple[float, float],
    size: float,
    tilt_deg: float = 0.0,
    label: str,
) -> npt.NDArray[np.generic]:
    """A square of a film; what lies outside the film repeats its edge.

    Parameters
    ----------
    values : (H, W) or (H, W, C).
    centre : x (column) and y (row), pixels from the film's upper left corner.
    size : side of the square, pixels.
    tilt_deg : by which the square is turned, clockwise; a limb that leans as much stands upright in it. Values are then
        interpolated.

    Returns
    -------
    (S, S) or (S, S, C), S = size rounded; of the same type

    Raises
    ------
    ImageError
        If the centre is outside the film, or more than a quarter of the square's side is.
    """
    height, width = values.shape[:2]
    side = round(size)
    left, top = round(centre[0] - size / 2), round(centre[1] - size / 2)
    outside = max(-left, -top, left + side - width, top + side - height)
    if not (0 <= centre[0] < width and 0 <= centre[1] < height) or outside > MAX_OUTSIDE * side:
        raise ImageError(
            f"{label}: a square of {side} pixels around {centre[0]:g},{centre[1]:g} does not lie in the film of "
            f"{width} x {height}; expected the joint's centre as x,y from the upper left corner, and the right spacing"
        )
    if tilt_deg:
        return _turned(values, centre, size, tilt_deg)
    columns, rows = (
        np.arange(left, left + side).clip(0, width - 1),
        np.arange(top, top + side).clip(0, height - 1),
    )
    return values[rows[:, None], columns[None, :]]


def _turned(
    values: npt.NDArray[np.generic], centre: tuple[float, float], size: float, tilt_deg: float
) -> npt.NDArray[np.generic]:
    """A square of a film, turned clockwise; bilinear."""
    along = ((np.arange(round(size)) + 0.5) / round(size) - 0.5) * size
    u, v = np.meshgrid(along, along)
    cos, sin = math.cos(math.radians(tilt_deg)), math.sin(math.radians(tilt_deg))
    x, y = centre[0] + cos * u - sin * v - 0.5, centre[1] + sin * u + cos * v - 0.5
    height, width = values.shape[:2]
    x, y = x.clip(0, width - 1), y.clip(0, height - 1)
    column, row = x.astype(int).clip(0, width - 2), y.astype(int).clip(0, height - 2)
    right, down = x - column, y - row
    if values.ndim == 3:
        right, down = right[..., None], down[..., None]
    upper, lower = (
        values[at, column] * (1 - right) + values[at, column + 1] * right for at in (row, row + 1)
    )
    made = upper * (1 - down) + lower * down
    return (np.round(made) if values.dtype.kind in "iu" else made).astype(values.dtype)


def stated_side(source: str | Path) -> Side | None:
    """The side that a picture's own text metadata states (PNG text key `Laterality`: L or R), or None.

    File names are not looked at. A file that cannot be read states nothing; `read_image` says why. What DICOM
    states is more than that: see `progression.film`.
    """
    return None if "::" in str(source) else _LATERALITY.get(_texts(source).get(LATERALITY, ""))


def states(source: str | Path, text: Mapping[str, str]) -> bool:
    """Whether a picture's text metadata (PNG) says all that; one that cannot be read says nothing."""
    return text.items() <= _texts(source).items()


def _texts(source: str | Path) -> dict[str, str]:
    """The text metadata before a PNG's pixels; of anything else none."""
    try:
        with opened(source) as stream:
            return png_texts(stream)
    except (ImageError, OSError, zipfile.BadZipFile, zlib.error, ValueError):
        return {}


def exposure(pixels: Pixels) -> Exposure:
    """Dark and bright reference of a picture: percentiles of its central square, swapped if inverted."""
    return _exposure(_central_square(pixels))


def to_model(pixels: Pixels, *, side: Side, resolution: int) -> Tensor:
    """The model's view of a radiograph.

    Parameters
    ----------
    pixels
        (H, W) float32 in [0, 1]; the central square is used.
    side
        Left knees are mirrored, so that the fibula is at the left edge of every picture.
    resolution
        R, pixels a side; the resize (bicubic) is antialiased.

    Returns
    -------
    (1, R, R) float32 in [-1, 1]
    """
    square = _central_square(pixels)
    reference = _exposure(square)
    if side is Side.LEFT:
        square = square[:, ::-1]
    x = torch.from_numpy(np.ascontiguousarray(square, dtype=np.float32))[None, None]
    if x.shape[-1] != resolution:
        x = torch.nn.functional.interpolate(
            x, size=(resolution, resolution), mode="bicubic", align_corners=False, antialias=True
        )
    unit = (x[0] - reference.low) / (reference.high - reference.low)
    return (SPAN * (2 * unit - 1)).clamp(-1, 1)


def from_model(x: Tensor, *, side: Side, exposure: Exposure | None = None) -> Pixels:
    """Inverse of `to_model`, up to crop, resize and clipping.

    Parameters
    ----------
    x
        (1, R, R) or (R, R) in [-1, 1].
    side
        Left knees are mirrored back.
    exposure
        That of the original gives its grey values; without it -1 becomes black and +1 white.

    Returns
    -------
    (R, R) float32 in [0, 1]
    """
    values = x.detach().to("cpu", torch.float32).reshape(x.shape[-2:]).numpy()
    if side is Side.LEFT:
        values = values[:, ::-1]
    if exposure is None:
        grey = (values + 1) / 2
    else:
        grey = exposure.low + (values / SPAN + 1) / 2 * (exposure.high - exposure.low)
    return np.clip(grey, 0, 1).astype(np.float32)


def _exposure(square: Pixels) -> Exposure:
    found = np.percentile(square.flatten(), PERCENTILES, overwrite_input=True)  # one copy, not two
    low, high = float(found[0]), float(found[1])
    high = max(high, low + 1e-6)
    width = square.shape[1]
    border = max(1, width // 20)
    centre = float(square[:, width // 4 : width - width // 4].mean())
    edges = (float(square[:, :border].mean()) + float(square[:, -border:].mean())) / 2
    inverted = (centre - edges) / (high - low) < _INVERTED_BELOW
    return Exposure(high, low) if inverted else Exposure(low, high)


def _central_square(pixels: Pixels) -> Pixels:
    height, width = pixels.shape
    size = min(height, width)
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[top : top + size, left : left + size]


def _load(source: str, label: str) -> npt.NDArray[np.generic]:
    """Decode a file or an archive's member to (H, W) or (H, W, 3 or 4), limits checked before decoding."""
    with opened(source) as stream:
        start = stream.read(len(NPY_MARK))
        stream.seek(0)
        if not start:
            raise ImageError(f"{label}: the file is empty; export the picture again")
        if label.lower().endswith(NIFTI_SUFFIXES):
            return decode("nifti", stream, label, max_pixels=MAX_PIXELS)
        if start == NPY_MARK:
            return read_npy(stream, label, max_pixels=MAX_PIXELS)
        return decode("picture", stream, label, max_pixels=MAX_PIXELS)


def check_shape(values: npt.NDArray[np.generic], label: str) -> None:
    """ImageError for a picture (H, W) or (H, W, C) too long to be taken whole as one knee; a film may be as long."""
    height, width = values.shape[:2] if values.ndim > 1 else (1, 1)
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ImageError(
            f"{label}: {width} x {height} pixels; expected one knee, about square; crop it, or give the joint's centre "
            "(--centre x,y)"
        )


def check_pixels(values: npt.NDArray[np.generic], label: str) -> Pixels:
    """Size, range and content checks of a knee's picture or a film's; to (H, W) float32 in [0, 1].

    Raises
    ------
    ImageError
        As `read_image`, but for pictures that are long.
    """
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[2] in (3, 4)):
        raise ImageError(
            f"{label}: shape {values.shape}; expected (height, width) or (height, width, 3 or 4)"
        )
    _check_size(values.shape[0], values.shape[1], label)
    white = _white(values, label)
    unit = _grey(values, white, label) if values.ndim == 3 else _unit(values, white)
    square = _central_square(unit)
    step = max(1, math.isqrt(square.size // _ENOUGH_PIXELS))
    low, high = np.percentile(square[::step, ::step], PERCENTILES)
    if high - low < MIN_CONTRAST:
        what = "all black" if high < MIN_CONTRAST else "of one grey, without contrast"
        raise ImageError(f"{label}: {what}; expected a knee radiograph; check the export")
    return unit


def _white(values: npt.NDArray[np.generic], label: str) -> int:
    """The value that is white: 1 of floats, the largest of the used bits of integers."""
    if values.dtype == np.bool_ or values.dtype.kind not in "uif":
        raise ImageError(
            f"{label}: values of type {values.dtype}; expected unsigned integers or floats in [0, 1]"
        )
    if values.dtype.kind == "f":
        check_unit_range(values, label)
        return 1
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0:
        raise ImageError(f"{label}: negative values (from {lowest}); shift and rescale them to [0, 1] floats")
    bits = 8 if values.dtype.itemsize == 1 else max(8, highest.bit_length())
    return 2**bits - 1


def _unit(values: npt.NDArray[np.generic], white: int) -> Pixels:
    """In [0, 1], without a second array of the values' own size."""
    if white == 1:
        return values.astype(np.float32, copy=False)
    return np.divide(values, np.float32(white), dtype=np.float32, casting="unsafe")


def _grey(colour: npt.NDArray[np.generic], white: int, label: str) -> Pixels:
    """(H, W, 3 or 4) -> (H, W) in [0, 1]: luminance (ITU-R BT.601), over black where transparent; in strips."""
    made, spread = np.empty(colour.shape[:2], np.float32), 0.0
    for top in range(0, len(colour), _ROWS_AT_ONCE):
        rows = slice(top, top + _ROWS_AT_ONCE)
        unit = _unit(colour[rows], white)
        red, green, blue = (colour[rows, :, channel] for channel in range(3))
        strongest, weakest = (
            np.maximum(np.maximum(red, green), blue),
            np.minimum(np.minimum(red, green), blue),
        )
        spread += float((strongest - weakest).sum(dtype=np.float64))
        grey = unit[:, :, :3] @ _LUMINANCE
        np.clip(grey * unit[:, :, 3] if unit.shape[2] == 4 else grey, 0, 1, out=made[rows])
    step = max(1, math.isqrt(made.size // 250_000))
    if (
        spread / white / made.size > MAX_COLOURFULNESS
        and _tint_error(_unit(colour[::step, ::step, :3], white)) > MAX_TINT_ERROR
    ):
        raise ImageError(
            f"{label}: a colour picture; expected a grey radiograph; convert it to grey if it is one"
        )
    return made


def _tint_error(rgb: Pixels) -> float:
    """How far a picture's channels are from functions of its brightness, on average; about 0 for a tinted grey.

    A film dyed blue, a duplitised one on a warm screen or a sepia print has one colour for each brightness.
    """
    level = (rgb @ _LUMINANCE * 255).round().astype(np.intp).ravel()
    pixels = rgb.reshape(-1, 3)
    count = np.bincount(level, minlength=256).clip(min=1)
    means = [np.bincount(level, weights=channel, minlength=256) / count for channel in pixels.T]
    return float(
        np.mean([np.abs(channel - mean[level]).mean() for channel, mean in zip(pixels.T, means, strict=True)])
    )


def _check_size(height: int, width: int, label: str) -> None:
    if height * width > MAX_PIXELS:
        raise ImageError(too_large(label, f"{width} x {height} pixels", MAX_PIXELS))
    if min(height, width) < MIN_SIDE_PIXELS:
        raise ImageError(
            f"{label}: {width} x {height} pixels; expected at least {MIN_SIDE_PIXELS} a side; "
            "export it at full resolution"
        )
