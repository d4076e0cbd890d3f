"""The text metadata before a PNG's pixels (https://www.w3.org/TR/png-3, 11.3.3), read without decoding anything else.

Texts are looked for in tEXt chunks and in iTXt chunks that are not compressed, as this package writes them.
"""

import struct
from collections.abc import Iterator
from typing import IO

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 5_000
"""Looked through; a picture has ten or so before its pixels."""
MAX_TEXT_BYTES = 4_096
"""Of one text with its keyword; longer ones are passed over."""


def png_texts(stream: IO[bytes]) -> dict[str, str]:
    """Keyword to text; of anything that is no PNG none."""
    return dict(_texts(stream)) if stream.read(len(_SIGNATURE)) == _SIGNATURE else {}


def _texts(stream: IO[bytes]) -> Iterator[tuple[str, str]]:
    for _ in range(MAX_CHUNKS):
        head = stream.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"IDAT", b"IEND"):
            return
        if kind in (b"tEXt", b"iTXt") and length <= MAX_TEXT_BYTES:
            keyword, _, text = stream.read(length).partition(b"\0")
            stream.seek(4, 1)
            if kind == b"tEXt":
                yield keyword.decode("latin-1"), text.decode("latin-1")
            elif (
                text[:1] == b"\0"
            ):  # not compressed; a method, a language and a translated keyword come first
                yield keyword.decode("latin-1"), text[2:].split(b"\0", 2)[-1].decode("utf-8", "replace")
        else:
            stream.seek(length + 4, 1)
