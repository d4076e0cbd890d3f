"""What pictures are read from: ordinary files, and members of zip archives, named `archive.zip::member`."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import PurePath
from typing import IO, BinaryIO

from progression.decoding.sandbox import MAX_INPUT_BYTES, too_long
from progression.errors import ImageError
from progression.files import open_regular

MAX_DIRECTORY_BYTES = 12 << 20
"""Of a zip archive's list of members; 100,000 of them take about 10 MB, and a second to read."""
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_UNREADABLE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError)
"""What `zipfile` raises besides OSError: for damage, encryption, packings and versions that it does not know."""
_END = b"PK\x05\x06"
_END_BYTES, _LONGEST_COMMENT = 22, 1 << 16
_END_64 = b"PK\x06\x06"
_LOCATOR_64_BYTES = 20


def label_of(source: str | os.PathLike[str]) -> str:
    """What messages call a source: its file's name without the path."""
    return PurePath(str(source).rpartition("::")[2]).name


def members_of(archive: str | os.PathLike[str]) -> list[str]:
    """Names of what a zip archive holds.

    Raises
    ------
    ImageError
        If it cannot be read, or lists too many.
    """
    return _listed(str(archive)).namelist()


@contextmanager
def opened(source: str | os.PathLike[str]) -> Iterator[BinaryIO | IO[bytes]]:
    """A source's content as a stream that can be gone back in.

    Raises
    ------
    ImageError
        If there is no such file or member, or it is no ordinary file.
    """
    archive, separator, member = str(source).rpartition("::")
    with _member(archive, member) if separator else _file(source, label_of(source)) as stream:
        yield stream


def _file(path: str | os.PathLike[str], label: str) -> BinaryIO:
    try:
        stream = open_regular(path)
    except FileNotFoundError as error:
        raise ImageError(f"{label}: no such file; check the path") from error
    except OSError as error:
        raise ImageError(f"{label}: {error.strerror or error}; expected a file that can be read") from error
    if os.fstat(stream.fileno()).st_size > MAX_INPUT_BYTES:
        stream.close()
        raise too_long(label)
    return stream


def _member(archive: str, member: str) -> IO[bytes]:
    listed = _listed(archive)
    try:
        info = listed.getinfo(member)
    except KeyError as error:
        raise ImageError(f"{member}: not in {PurePath(archive).name}; check the name after '::'") from error
    if info.compress_type not in _PACKED:
        raise ImageError(
            f"{member}: packed in a way that is not read; expected a zip archive of deflated files"
        )
    if info.file_size > MAX_INPUT_BYTES:
        raise too_long(label_of(member))
    try:
        return listed.open(info)
    except _UNREADABLE as error:
        raise ImageError(f"{label_of(member)}: damaged in its archive; make that anew") from error


def _listed(archive: str) -> zipfile.ZipFile:
    label = PurePath(archive).name
    try:
        return _archive(archive, os.stat(archive).st_mtime_ns, os.getpid())
    except FileNotFoundError as error:
        raise ImageError(f"{label}: no such archive; check the path before '::'") from error
    except OSError as error:
        raise ImageError(f"{label}: {error.strerror or error}; expected a zip archive") from error
    except _UNREADABLE as error:
        raise ImageError(f"{label}: no readable zip archive; make it anew") from error


@lru_cache(maxsize=4)
def _archive(path: str, mtime_ns: int, process: int) -> zipfile.ZipFile:
    """An open archive; a changed file or a forked process (they share the read position) opens it anew."""
    with open_regular(path) as stream:
        if _directory_bytes(stream) > MAX_DIRECTORY_BYTES:
            raise ImageError(
                f"{PurePath(path).name}: its list of members is over {MAX_DIRECTORY_BYTES >> 20} MB; "
                "expected about 100,000 files at most; divide it"
            )
    return zipfile.ZipFile(path)


def _directory_bytes(stream: BinaryIO) -> int:
    """Size of an archive's list of members as its last record states it (APPNOTE 4.3.14, 4.3.16); 0 if it has none.

    `zipfile` reads as much as is stated, and makes an object of every member.
    """
    size = stream.seek(0, os.SEEK_END)
    start = stream.seek(max(0, size - _END_BYTES - _LONGEST_COMMENT - _LOCATOR_64_BYTES))
    tail = stream.read(size - start)
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + _END_BYTES:
        return 0
    stated = int.from_bytes(tail[at + 12 : at + 16], "little")
    locator = tail[max(0, at - _LOCATOR_64_BYTES) : at]
    if locator.startswith(b"PK\x06\x07"):
        stream.seek(int.from_bytes(locator[8:16], "little"))
        record = stream.read(48)
        if record.startswith(_END_64):
            stated = max(stated if stated != 0xFFFFFFFF else 0, int.from_bytes(record[40:48], "little"))
    return stated
