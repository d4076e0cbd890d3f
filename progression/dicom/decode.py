"""Pixel data to stored values, with its size known before anything is unpacked.

A compressed frame has its own idea of how large it is; a decoder believes it and may ask for any amount of memory.
So it is read from the frame's header first, and must be what the data set says.

JPEG, JPEG-LS and RLE need nothing more than the core installs; JPEG Lossless (frequent in CR and DX) and JPEG 2000
need the extra `dicom`, of permissive licences: pylibjpeg and pylibjpeg-openjpeg MIT, python-gdcm Apache 2.0.
"""

import struct

import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder, pixel_array

from progression.dicom.isolated import unpack
from progression.dicom.rle import unpack_frame
from progression.errors import DependencyError, ImageError

MAX_FILM_PIXELS = 40_000_000
MIN_FILM_PIXELS = 64
"""A side's least number of pixels."""
NATIVE = frozenset({uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian})
_JPEG_2000 = frozenset(
    {uid.JPEG2000, uid.JPEG2000Lossless, uid.HTJ2K, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL}
)
_JP2_SIGNATURE = b"\0\0\0\x0cjP  "
_BOX_HEADER_BYTES = 8
_PLUGIN = {  # which decoder, so that it does not depend on what else is installed
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "gdcm",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    **dict.fromkeys(_JPEG_2000, "pylibjpeg"),
}


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
    if syntax == uid.RLELossless:
        return _run_length(data, rows, columns, samples, label)
    plugin = _PLUGIN.get(syntax)
    if plugin is None or (syntax == uid.JPEGExtended12Bit and int(data.BitsStored) != 8):
        raise ImageError(
            f"{label}: a transfer syntax that is not read; convert it to Explicit VR Little Endian"
        )
    frame = next(generate_frames(data.PixelData, number_of_frames=1))
    _check_frame(frame, syntax, data, label)
    if plugin not in get_decoder(syntax).available_plugins:
        raise DependencyError(
            f"{label} is {syntax.name}, which needs a decoder that is not installed: "
            "pip install 'progression-imaging[dicom]', or convert it (gdcmconv --raw)"
        )
    if plugin == "gdcm":
        return unpack(data, label)
    return np.asarray(pixel_array(data, index=0, decoding_plugin=plugin))


def _run_length(
    data: FileDataset, rows: int, columns: int, samples: int, label: str
) -> npt.NDArray[np.integer]:
    frame = next(generate_frames(data.PixelData, number_of_frames=1))
    bits = int(data.BitsAllocated)
    values = unpack_frame(
        frame, rows=rows, columns=columns, samples=samples, bytes_a_value=bits // 8, label=label
    )
    if int(data.get("PixelRepresentation") or 0) == 0:
        return values & values.dtype.type(2 ** int(data.BitsStored) - 1)
    unused = bits - int(data.BitsStored)
    return (values << unused).view(f"<i{bits // 8}") >> unused  # the sign is the highest stored bit


def text_of_interpretation(data: FileDataset) -> str:
    """Photometric Interpretation as stripped text."""
    return str(data.get("PhotometricInterpretation") or "").strip()


def _check_frame(frame: bytes, syntax: uid.UID, data: FileDataset, label: str) -> None:
    """ImageError unless the frame's own size is the data set's."""
    rows, columns, samples = check_size(data, label)
    own = _j2k_size(frame) if syntax in _JPEG_2000 else _jpeg_size(frame)
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
    while frame[:2] == b"\xff\xd8" and position + 10 <= len(frame) and frame[position] == 0xFF:
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
    while at + _BOX_HEADER_BYTES <= len(frame):
        length, kind = int.from_bytes(frame[at : at + 4]), frame[at + 4 : at + _BOX_HEADER_BYTES]
        if kind == b"jp2c":
            return at + _BOX_HEADER_BYTES
        if length < _BOX_HEADER_BYTES:
            return None
        at += length
    return None
