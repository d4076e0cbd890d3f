"""PNG, JPEG, WebP and TIFF to stored values, by Pillow."""

from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from progression.decoding.sandbox import Decoded
from progression.errors import ImageError

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
ACCEPTED = "a DICOM, PNG, JPEG, WebP, TIFF or NIfTI picture or a .npy array"
_ROWS_AT_ONCE = 256


def prepare() -> None:
    """Import Pillow's readers."""
    Image.init()


def decode(content: BytesIO, label: str, options: Mapping[str, Any]) -> Decoded:
    """One picture; a `Decoder` of `progression.decoding.sandbox`."""
    try:
        picture = Image.open(content, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(too_large(label, "too many pixels", options["max_pixels"])) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{label}: not a picture; expected {ACCEPTED}") from error
    return decoded(picture, label, max_pixels=options["max_pixels"])


def decoded(picture: Image.Image, label: str, *, max_pixels: int) -> Decoded:
    """A picture's values, upright: (H, W), or (H, W, 3 or 4) of colours, a palette or with transparency.

    Raises
    ------
    ImageError
        If it is too large, which is seen before it is decoded, or animated.
    """
    if picture.width * picture.height > max_pixels:
        raise ImageError(too_large(label, f"{picture.width} x {picture.height} pixels", max_pixels))
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise ImageError(f"{label}: holds {frames} pictures; save the one radiograph to its own file")
    picture.load()
    if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    grey = picture.mode in ("L", "F", "I") or picture.mode.startswith("I;16")
    mode = (
        picture.mode
        if grey
        else "L"
        if picture.mode == "1"
        else "RGBA"
        if picture.has_transparency_data
        else "RGB"
    )
    first = _values(picture, mode, 0, 1)
    return Decoded((picture.height, *first.shape[1:]), first.dtype, _strips(picture, mode))


def _strips(picture: Image.Image, mode: str) -> Iterator[npt.NDArray[np.generic]]:
    """Row by row from above, so that no second picture is in memory."""
    for top in range(0, picture.height, _ROWS_AT_ONCE):
        yield _values(picture, mode, top, min(top + _ROWS_AT_ONCE, picture.height))


def _values(picture: Image.Image, mode: str, top: int, bottom: int) -> npt.NDArray[np.generic]:
    strip = picture.crop((0, top, picture.width, bottom))
    return np.asarray(strip if strip.mode == mode else strip.convert(mode))


def too_large(label: str, size: str, max_pixels: int) -> str:
    """The message for a picture of more pixels than are read."""
    return f"{label}: {size}; expected at most {max_pixels // 1_000_000} megapixels; crop it to one knee"
