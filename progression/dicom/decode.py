"""Pixel data to stored values, with its size known before anything is unpacked.

A compressed frame has its own idea of how large it is; a decoder believes it and may ask for any amount of memory.
So it is read from the frame's header first, and must be what the data set says.

The decoders are in `progression.dicom.frames`, which runs in a process of its own.
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import FileDataset
from pydicom.pixels import pixel_array

from progression.decoding import sandbox
from progression.dicom.frames import DESCRIPTION, JPEG_2000, PLUGINS
from progression.errors import ImageError

MAX_FILM_PIXELS = 40_000_000
MIN_FILM_PIXELS = 64
"""A side's least number of pixels."""
NATIVE = frozenset({uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian})
_JP2_SIGNATURE = b"\0\0\0\x0cjP  "
_BOX_HEADER_BYTES = 8
SECONDS_A_MEGABYTE = 0.4
"""Processor time that JPEG 2000 may take if that is more than what every input may; it takes about 0.15."""
MAX_FRAGMENTS = 100_000
"""Of one frame; most writers make one, some one every few kilobytes."""
_MAX_MARKERS = 1_000
"""Before a frame's own size; a real one comes after ten or so."""
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


def check_size(data: FileDataset, label: str) -> tuple[int, int, int]:
    """Rows, columns and samples, in bounds; ImageError otherwise."""
    rows, columns = int(data.Rows), int(data.Columns)
    samples = int(data.get("SamplesPerPixel") or 1)
    if rows * columns > MAX_FILM_PIXELS:
        raise ImageError(
            f"{label}: {columns} x {rows} pixels; expected at most {MAX_FILM_PIXELS // 1_000_000} megapixels"
        )
    if min(rows, columns) < MIN_FILM_PIXELS or samples not in (1, 3):
        raise ImageError(
            f"{label}: {columns} x {rows} pixels, {samples} samples each; expected at least {MIN_FILM_PIXELS} a side "
            "and 1 or 3 samples; export it at full resolution"
        )
    bits = int(data.BitsAllocated)
    if bits not in (8, 16) or not 1 <= int(data.BitsStored) <= bits:
        raise ImageError(f"{label}: {bits} bits a value; expected 8 or 16; export the film again")
    return rows, columns, samples


def stored_values(data: FileDataset, label: str) -> npt.NDArray[np.integer]:
    """(H, W) stored values, or (H, W, 3) RGB.

    Raises
    ------
    ImageError
        If there is no pixel data, its transfer syntax is not known, or it is not what the header says.
    DependencyError
        If its decoder is not installed.
    """
    rows, columns, samples = check_size(data, label)
    syntax = data.file_meta.get("TransferSyntaxUID")
    if "PixelData" not in data:
        raise ImageError(f"{label}: no pixel data; expected a radiograph")
    if syntax in NATIVE:
        expected = rows * columns * samples * int(data.BitsAllocated) // 8
        if len(data.PixelData) < expected and text_of_interpretation(data) != "YBR_FULL_422":
            raise ImageError(
                f"{label}: {len(data.PixelData)} bytes of pixels; expected {expected}; it was cut off, get it again"
            )
        return np.asarray(pixel_array(data, index=0))
    lossless_12_bit = syntax == uid.JPEGExtended12Bit and int(data.BitsStored) != 8
    if syntax != uid.RLELossless and (syntax not in PLUGINS or lossless_12_bit):
        raise ImageError(
            f"{label}: a transfer syntax that is not read; convert it to Explicit VR Little Endian"
        )
    fragments = list(_fragments(data.PixelData, label))
    if syntax != uid.RLELossless:
        _check_frame(b"".join(fragments), syntax, data, label)
    megabytes = sum(map(len, fragments)) / 1e6
    seconds = SECONDS_A_MEGABYTE * megabytes if syntax in JPEG_2000 else 0
    values: npt.NDArray[Any] = sandbox.decode(
        "dicom",
        fragments,
        label,
        max_pixels=MAX_FILM_PIXELS,
        seconds=max(sandbox.MAX_SECONDS, seconds),
        syntax=str(syntax),
        **_description(data),
    )
    shape = (rows, columns) if samples == 1 else (rows, columns, samples)
    if values.shape != shape or values.dtype.kind not in "iu":
        raise ImageError(f"{label}: its compressed pixels are damaged; get the file again")
    return _as_signed(values, data) if syntax == uid.RLELossless else values


def _description(data: FileDataset) -> dict[str, int | str | None]:
    """What the decoders look at, as plain numbers and one text."""
    found: dict[str, int | str | None] = {
        name: None if data.get(name) is None else int(data.get(name)) for name in DESCRIPTION[:-1]
    }
    return found | {
        "SamplesPerPixel": found["SamplesPerPixel"] or 1,
        DESCRIPTION[-1]: text_of_interpretation(data),
    }


def _as_signed(values: npt.NDArray[np.integer], data: FileDataset) -> npt.NDArray[np.integer]:
    """Run lengths come as unsigned values of all allocated bits."""
    bits = int(data.BitsAllocated)
    if int(data.get("PixelRepresentation") or 0) == 0:
        return values & values.dtype.type(2 ** int(data.BitsStored) - 1)
    unused = bits - int(data.BitsStored)
    return (values << unused).view(f"<i{bits // 8}") >> unused  # the sign is the highest stored bit


def _fragments(value: bytes, label: str) -> Iterator[memoryview]:
    """The one frame of encapsulated pixel data, in the pieces it is stored in (PS3.5, A.4)."""
    whole, at, count = memoryview(value), 0, 0
    while at + _BOX_HEADER_BYTES <= len(value) and whole[at : at + 4] != _DELIMITER:
        length = int.from_bytes(whole[at + 4 : at + 8], "little")
        if whole[at : at + 4] != _ITEM or count > MAX_FRAGMENTS:
            raise ImageError(f"{label}: its compressed pixels are damaged; get the file again")
        if count:  # the first item is a table of offsets
            yield whole[at + 8 : at + 8 + length]
        at, count = at + 8 + length, count + 1
    if count < 2:
        raise ImageError(f"{label}: no compressed pixels; get the file again")


def text_of_interpretation(data: FileDataset) -> str:
    """Photometric Interpretation as stripped text."""
    return str(data.get("PhotometricInterpretation") or "").strip()


def _check_frame(frame: bytes, syntax: uid.UID, data: FileDataset, label: str) -> None:
    """ImageError unless the frame's own size is the data set's."""
    rows, columns, samples = check_size(data, label)
    own = _j2k_size(frame) if syntax in JPEG_2000 else _jpeg_size(frame)
    if own is None:
        raise ImageError(f"{label}: its compressed pixels have no readable header; get the file again")
    if own != (rows, columns, samples):
        raise ImageError(
            f"{label}: compressed pixels of {own[1]} x {own[0]} ({own[2]} samples), but its header says "
            f"{columns} x {rows} ({samples}); get the file again"
        )


def _jpeg_size(frame: bytes) -> tuple[int, int, int] | None:
    """Rows, columns, components of the first frame header in a JPEG or JPEG-LS stream (ISO 10918-1, B.2.2)."""
    position = 2
    for _ in range(_MAX_MARKERS):
        if frame[:2] != b"\xff\xd8" or position + 10 > len(frame) or frame[position] != 0xFF:
            break
        marker, length = frame[position + 1], int.from_bytes(frame[position + 2 : position + 4])
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns, components = struct.unpack(">HHB", frame[position + 5 : position + 10])
            return rows, columns, components
        else:
            position += 2 + max(length, 2)
    return None


def _j2k_size(frame: bytes) -> tuple[int, int, int] | None:
    """Rows, columns, components by the SIZ marker, which comes first in a code stream (ISO 15444-1, A.5.1)."""
    start = _j2k_start(frame)
    if start is None or frame[start : start + 4] != b"\xff\x4f\xff\x51" or start + 42 > len(frame):
        return None
    x1, y1, x0, y0 = struct.unpack(">4I", frame[start + 8 : start + 24])
    components = int.from_bytes(frame[start + 40 : start + 42])
    return y1 - y0, x1 - x0, components


def _j2k_start(frame: bytes) -> int | None:
    """Where the code stream starts: at once, or in a JP2 file's box (I.4); None if its boxes lead nowhere.

    Decoders follow the boxes too, and a box of length 0 would have them go round for ever.
    """
    if not frame.startswith(_JP2_SIGNATURE):
        return 0
    at = len(_JP2_SIGNATURE) + 4
    for _ in range(_MAX_MARKERS):
        if at + _BOX_HEADER_BYTES > len(frame):
            break
        length, kind = int.from_bytes(frame[at : at + 4]), frame[at + 4 : at + _BOX_HEADER_BYTES]
        if kind == b"jp2c":
            return at + _BOX_HEADER_BYTES
        if length < _BOX_HEADER_BYTES:
            return None
        at += length
    return None
