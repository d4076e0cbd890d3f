"""A NIfTI file that holds one radiograph, (W, H) or with axes of length one, turned as radiographs are looked at.

The patient's right is at the viewer's left, and the head (or, of a picture taken to lie flat, the front) at the top, as
the file's affine says (RAS+, https://nifti.nimh.nih.gov/nifti-1). Only as much is unpacked as the header promises and
the size allows. NIfTI does not say which knee it shows, and its spacing is not taken: many converters write 1 mm.

`decode` runs in the worker of `progression.decoding.sandbox`.
"""

import zlib
from collections.abc import Mapping
from io import BytesIO
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from progression.decoding.pictures import too_large
from progression.decoding.sandbox import Decoded
from progression.errors import ImageError, import_extra

_MAX_EXTENSION_BYTES = 1 << 20
_COLUMNS_AT_ONCE = 256
_CHUNK_BYTES = 1 << 20
_MAX_MEMBERS = 20_000
"""Of a gzip file; those of bgzip have 64 kB each."""
_HEADER_BYTES = {348: "Nifti1Header", 540: "Nifti2Header"}
_MAGIC = (b"n+1", b"n+2")
_SCREEN = {"L": 1, "P": 0, "I": 0}
"""Which way the columns and the rows of a screen run: to the patient's left; to the back, or to the feet."""


def prepare() -> ModuleType:
    """Import what is needed, which costs no input its time.

    Raises
    ------
    DependencyError
        If nibabel is not installed.
    """
    return import_extra("nibabel", feature="NIfTI", extra="nifti", otherwise=", or export a PNG")


def decode(stream: BytesIO, label: str, options: Mapping[str, Any]) -> Decoded:
    """Read one radiograph: (H, W) with the file's scale applied; a `Decoder` of `progression.decoding.sandbox`.

    Whole numbers from 0 to 65,535 are given as unsigned integers, however they are stored. gzip is known by its first
    bytes. A picture that is too large is refused before its pixels are unpacked.

    Raises
    ------
    ImageError
        For a volume or a series, a picture from the side, colour, an orientation that is not stated or stated in two
        ways, and files that are damaged.
    """
    nibabel = prepare()
    start = stream.read(2)
    stream.seek(0)
    unpacked = _Gzip(stream) if start == b"\x1f\x8b" else stream
    head = unpacked.read(540)
    size = next((n for n in _HEADER_BYTES if n in (_int32(head, "<i4"), _int32(head, ">i4"))), 0)
    header = (
        getattr(nibabel, _HEADER_BYTES[size])(head[:size], check=False) if len(head) >= size > 0 else None
    )
    if header is None or bytes(header["magic"])[:3] not in _MAGIC:
        raise ImageError(f"{label}: not a NIfTI file of one part; save it as .nii or .nii.gz")
    shape = header.get_data_shape()
    axes = [axis for axis, length in enumerate(shape) if length != 1]
    if len(axes) != 2 or axes[-1] > 2:
        raise ImageError(
            f"{label}: {' x '.join(map(str, shape))}: expected one radiograph, not a volume or a series; "
            "export the one picture that shows the knee"
        )
    picture = tuple(int(shape[axis]) for axis in axes)
    kind = header.get_data_dtype()
    if kind.kind not in "uif":
        raise ImageError(f"{label}: not grey; expected whole numbers or floats; export it in grey")
    ways = _ways(nibabel, header, axes, label)
    rows = next(axis for axis in (0, 1) if ways[axis].upper() in "SIAP")
    if min(picture) < 1:
        raise ImageError(
            f"{label}: {' x '.join(map(str, shape))} pixels; expected one radiograph; export it again"
        )
    if picture[0] * picture[1] > options["max_pixels"]:
        told = f"{picture[1 - rows]} x {picture[rows]} pixels"
        raise ImageError(too_large(label, told, options["max_pixels"]))
    offset = int(header["vox_offset"])
    if not len(head[:size]) <= offset <= _MAX_EXTENSION_BYTES:
        raise ImageError(
            f"{label}: its pixels begin at byte {offset}; expected {size} to {_MAX_EXTENSION_BYTES}"
        )
    wanted = offset + picture[0] * picture[1] * kind.itemsize
    content = stream.getbuffer() if unpacked is stream else _unpacked(unpacked, head, wanted)
    if len(content) < wanted:
        raise ImageError(f"{label}: damaged or truncated; export the picture again")
    stored = np.frombuffer(content[offset:wanted], dtype=kind).reshape(picture, order="F")
    values = _Scaled(stored, *header.get_slope_inter())
    made = np.empty(picture if rows == 0 else picture[::-1], values.kind)
    upright = made if rows == 0 else made.T
    for axis, way in enumerate(ways):
        if way not in _SCREEN:
            upright = np.flip(upright, axis)
    for part in values.parts:
        upright[:, part] = values[part]
    return Decoded.whole(made)


def _unpacked(packed: "_Gzip | BytesIO", head: bytes, wanted: int) -> memoryview:
    """The first bytes of a file, of which `head` has been read."""
    content = memoryview(bytearray(max(wanted, len(head))))
    content[: len(head)] = head
    at = len(head)
    while at < wanted and (piece := packed.read(min(_CHUNK_BYTES, wanted - at))):
        content[at : at + len(piece)] = piece
        at += len(piece)
    return content[:at]


class _Gzip:
    """What a gzip file holds, of at most `_MAX_MEMBERS` members: an empty one takes 20 bytes, and time."""

    def __init__(self, stream: BytesIO) -> None:
        self._stream, self._members = stream, _MAX_MEMBERS
        self._packed, self._inflate = b"", zlib.decompressobj(wbits=31)

    def read(self, count: int) -> bytes:
        """So many bytes; fewer at the end."""
        found = bytearray()
        while len(found) < count:
            if self._inflate.eof:
                self._packed = self._inflate.unused_data
                self._inflate, self._members = zlib.decompressobj(wbits=31), self._members - 1
            self._packed = self._packed or self._inflate.unconsumed_tail or self._stream.read(_CHUNK_BYTES)
            if not self._packed or self._members < 0:
                break
            found += self._inflate.decompress(self._packed, count - len(found))
            self._packed = b""
        return bytes(found)


def _int32(head: bytes, kind: str) -> int:
    return int(np.frombuffer(head[:4], kind)[0]) if len(head) >= 4 else 0


def _ways(nibabel: object, header: object, axes: list[int], label: str) -> list[str]:
    """Where the two axes of the picture lead: one of L R, and one of S I A P."""
    codes = [nibabel.aff2axcodes(affine) for affine in _affines(header)]  # type: ignore[attr-defined]
    found = {tuple(code[axis] for axis in axes) for code in codes}
    if not found:
        raise ImageError(f"{label}: does not say how it is oriented; set its sform or qform, or export a PNG")
    if len(found) > 1:
        raise ImageError(f"{label}: its sform and its qform contradict each other; correct one of them")
    ways = list(found.pop())
    if len({"L", "R"} & set(ways)) != 1:
        raise ImageError(f"{label}: shows the knee from the side; expected a radiograph from the front")
    return ways


def _affines(header: object) -> list[npt.NDArray[np.float64]]:
    """All that the header states, sform first."""
    stated = (header.get_sform(coded=True)[0], header.get_qform(coded=True)[0])  # type: ignore[attr-defined]
    return [affine for affine in stated if affine is not None]


class _Scaled:
    """Stored values (A, B) with the file's scale applied, a few columns at a time.

    Attributes
    ----------
    parts : the columns
    kind : type of all of them
    """

    def __init__(self, stored: npt.NDArray[Any], slope: float | None, intercept: float | None) -> None:
        self._stored = stored
        self._scale = (
            (slope, intercept or 0.0) if slope is not None and (slope, intercept) != (1, 0) else None
        )
        self.parts = [slice(at, at + _COLUMNS_AT_ONCE) for at in range(0, stored.shape[1], _COLUMNS_AT_ONCE)]
        plain = stored.dtype.newbyteorder("=") if self._scale is None else np.dtype(np.float64)
        self.kind = plain if plain == np.uint8 else self._kind(plain)

    def __getitem__(self, part: slice) -> npt.NDArray[Any]:
        values = self._stored[:, part].astype(self._stored.dtype.newbyteorder("="))
        return values if self._scale is None else values.astype(np.float64) * self._scale[0] + self._scale[1]

    def _kind(self, plain: np.dtype[Any]) -> np.dtype[Any]:
        """Most tools store whole numbers as floats or signed; 0 to 1 is a range of its own."""
        low, high, whole = np.inf, -np.inf, True
        for part in self.parts:
            values = self[part]
            if not np.isfinite(values).all():
                return plain
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            whole = whole and bool(np.all(values == np.round(values)))
        if low >= 0 and 1 < high < 2**16 and whole:
            return np.dtype(np.uint16)
        return np.dtype(np.float32) if plain.kind == "f" else plain
