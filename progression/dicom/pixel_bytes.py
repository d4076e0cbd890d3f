"""Pixel data without what is no pixel: comments, thumbnails and bytes after the end of a compressed frame."""

from collections.abc import Iterator

from pydicom import uid
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_frames

from progression.dicom.decode import NATIVE
from progression.dicom.values import needed, term, whole
from progression.errors import ImageError

_JPEG = b"\xff\xd8"
_CODE_STREAM = b"\xff\x4f\xff\x51"
_END = b"\xff\xd9"
_NEEDED = (b"\xff\xe0\x00\x10JFIF\0", b"\xff\xee\x00\x0eAdobe", b"\xff\xe8\x00\x07mrfx")
"""Applications' segments that decoders need, as they tell how colours were transformed; without a thumbnail."""
_SCAN, _TILE = 0xDA, 0x90
"""Markers with which the pixels begin (ISO 10918-1, B.2.3; ISO 15444-1, A.4.2)."""
_J2K_COMMENT = 0x64


def only_pixels(data: FileDataset, label: str) -> bytes:
    """The value of Pixel Data, with nothing in it but the picture.

    Raises
    ------
    ImageError
        If it is packed in a way of which that cannot be told.
    """
    syntax = data.file_meta.TransferSyntaxUID
    frames = whole(data, "NumberOfFrames", label) or 1
    if syntax in NATIVE:
        size = needed(data, "Rows", label) * needed(data, "Columns", label) * frames
        size *= (whole(data, "SamplesPerPixel", label) or 1) * needed(data, "BitsAllocated", label) // 8
        if term(data, "PhotometricInterpretation", label) == "YBRFULL422":
            size = size * 2 // 3
        content = data.PixelData[:size]
        return content + b"\0" * (len(content) % 2)
    return encapsulate(
        [_only_frame(one, syntax, label) for one in generate_frames(data.PixelData, number_of_frames=frames)]
    )


def _only_frame(frame: bytes, syntax: uid.UID, label: str) -> bytes:
    if syntax == uid.RLELossless:
        return frame
    if frame.startswith(_JPEG):
        made = b"".join(_segments(frame, last=_SCAN))
    elif (start := frame.find(_CODE_STREAM)) >= 0:  # in a JP2 file's box, or bare
        made = b"".join(_segments(frame[start:], last=_TILE))
    else:
        raise ImageError(
            f"{label}: compressed pixels that cannot be looked into; convert them (gdcmconv --raw)"
        )
    end = made.rfind(_END)
    return made if end < 0 else made[: end + len(_END)]


def _segments(frame: bytes, *, last: int) -> Iterator[bytes]:
    """What comes before the pixels, segment by segment but for comments and applications' own; then all the rest."""
    yield frame[:2]
    at = 2
    while at + 4 <= len(frame) and frame[at] == 0xFF and frame[at + 1] != last:
        if frame[at + 1] == 0xFF:  # fill byte
            at += 1
            continue
        end = at + 2 + max(int.from_bytes(frame[at + 2 : at + 4]), 2)
        if not _is_comment(frame[at:end], last):
            yield frame[at:end]
        at = end
    yield frame[at:]


def _is_comment(segment: bytes, last: int) -> bool:
    marker = segment[1]
    if last == _TILE:
        return marker == _J2K_COMMENT
    return marker == 0xFE or (0xE0 <= marker <= 0xEF and not segment.startswith(_NEEDED))
