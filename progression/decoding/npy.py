"""`.npy` arrays (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html), of numbers only.

The header is looked at before anything is allocated, and the file is read, never mapped: another process could cut it
short under our feet, which ends the process that has mapped it.
"""

import math
from io import BytesIO
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from progression.decoding.pictures import too_large
from progression.decoding.sandbox import MAX_INPUT_BYTES
from progression.errors import ImageError

NPY_MARK = b"\x93NUMPY"
_MAX_HEADER_BYTES = 10_000
_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(stream: IO[bytes], label: str, *, max_pixels: int) -> npt.NDArray[np.generic]:
    """An array (H, W) or (H, W, up to 4) of at most so many pixels.

    Raises
    ------
    ImageError
        If it is of another shape or holds no numbers, is too large or is cut off.
    """
    start = BytesIO(stream.read(_MAX_HEADER_BYTES))
    version = np.lib.format.read_magic(start)
    if version not in _HEADERS:
        raise ImageError(f"{label}: version {version} of .npy; expected an array of numbers; save it anew")
    shape, by_columns, dtype = _HEADERS[version](start)
    if dtype.kind not in "buifc":
        raise ImageError(
            f"{label}: an array of {dtype.kind!r}, not of numbers; save the picture's values alone"
        )
    if not 2 <= len(shape) <= 3 or shape[2:] > (4,):
        raise ImageError(f"{label}: shape {shape}; expected (height, width) or (height, width, 3 or 4)")
    if math.prod(shape[:2]) > max_pixels:
        raise ImageError(too_large(label, f"{shape[1]} x {shape[0]} pixels", max_pixels))
    if math.prod(shape) * dtype.itemsize > MAX_INPUT_BYTES:
        raise ImageError(f"{label}: over {MAX_INPUT_BYTES >> 20} MB; save it as float32 or as whole numbers")
    array = np.empty(math.prod(shape), dtype)
    place = array.view(np.uint8).data
    stream.seek(start.tell())
    while place and (count := stream.readinto(place)):  # type: ignore[attr-defined]
        place = place[count:]
    if place:
        raise ImageError(f"{label}: damaged or truncated; export the picture again")
    return array.reshape(shape, order="F" if by_columns else "C")
