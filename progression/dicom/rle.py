"""RLE Lossless (PS3.5, Annex G), unpacked to no more bytes than the image has.

Other decoders grow with what the data says, 64 bytes from one; a small file could fill the memory.
"""

import struct

import numpy as np
import numpy.typing as npt
from PIL import Image

from progression.errors import ImageError

_HEADER_BYTES = 64


def unpack_frame(
    frame: bytes, *, rows: int, columns: int, samples: int, bytes_a_value: int, label: str
) -> npt.NDArray[np.unsignedinteger]:
    """(H, W) or (H, W, samples) unsigned values of `bytes_a_value` bytes.

    Raises
    ------
    ImageError
        If there are not as many segments as bytes a pixel, or one is too short.
    """
    numbers = struct.unpack("<16I", frame[:_HEADER_BYTES]) if len(frame) >= _HEADER_BYTES else (0,)
    count = samples * bytes_a_value
    if numbers[0] != count:
        raise ImageError(f"{label}: {numbers[0]} run-length segments; expected {count}; get the file again")
    starts = [*numbers[1 : count + 1], len(frame)]
    values = np.zeros((rows * columns, samples), f"<u{bytes_a_value}")
    for segment in range(count):
        unpacked = _unpacked(frame[starts[segment] : starts[segment + 1]], rows * columns, label)
        sample, significance = divmod(segment, bytes_a_value)  # the most significant byte comes first
        shift = 8 * (bytes_a_value - 1 - significance)
        values[:, sample] |= unpacked.astype(values.dtype) << shift
    return values.reshape((rows, columns) if samples == 1 else (rows, columns, samples))


def _unpacked(segment: bytes, length: int, label: str) -> npt.NDArray[np.uint8]:
    """PackBits (G.3.2), stopped at `length`; as one long row of a picture, since runs may go on beyond a row's end."""
    try:
        return np.asarray(Image.frombytes("L", (length, 1), segment, "packbits", "L"))[0]
    except ValueError as error:
        raise ImageError(
            f"{label}: run-length data ends before {length} pixels; get the file again"
        ) from error
