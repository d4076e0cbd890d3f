"""multipart/related bodies (RFC 2387), as DICOMweb sends and takes them; read in pieces, within limits."""

import secrets
from collections.abc import Iterator
from typing import Protocol

from progression.errors import ImageError

_CHUNK_BYTES = 1 << 18
_HEADER_BYTES = 1 << 14


class Stream(Protocol):
    """What can be read."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; empty at the end."""
        ...


def read_parts(stream: Stream, boundary: str, *, part_bytes: int) -> Iterator[bytes]:
    """The parts' contents, one after the other; no more than one is held.

    Raises
    ------
    ImageError
        If a part is larger than `part_bytes`, or the end is missing.
    """
    delimiter = b"\r\n--" + boundary.encode("latin-1")
    held, searched, inside = bytearray(b"\r\n"), 0, False
    while True:
        at = held.find(delimiter, searched)
        if at >= 0:
            if inside:
                yield _content(held[:at], part_bytes)
            del held[: at + len(delimiter)]
            searched, inside = 0, True
            while len(held) < 2:
                held += _more(stream)
            if held.startswith(b"--"):
                return
            continue
        if len(held) > part_bytes + _HEADER_BYTES:
            raise _too_large(part_bytes)
        searched = max(0, len(held) - len(delimiter) + 1)
        held += _more(stream)


def write_part(content: bytes) -> tuple[bytes, str]:
    """A body of one DICOM file, and its Content-Type."""
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return (
        head + content + f"\r\n--{boundary}--\r\n".encode(),
        f'multipart/related; type="application/dicom"; boundary={boundary}',
    )


def _more(stream: Stream) -> bytes:
    chunk = stream.read(_CHUNK_BYTES)
    if not chunk:
        raise ImageError("the server's answer ends before its last part; try again")
    return chunk


def _content(part: bytearray, part_bytes: int) -> bytes:
    """Without its headers."""
    _, found, content = bytes(part).partition(b"\r\n\r\n")
    if not found:
        raise ImageError("a part of the server's answer has no content; expected DICOM files")
    if len(content) > part_bytes:
        raise _too_large(part_bytes)
    return content


def _too_large(part_bytes: int) -> ImageError:
    return ImageError(f"an object is over {part_bytes >> 20} MB; expected a radiograph (--max-object-mb)")
