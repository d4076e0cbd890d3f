"""Checkpoints: the exact state of a run, with a digest that tells a damaged one, and the one before in reserve.

A checkpoint is what `torch.save` writes, a ZIP archive; the digest is the archive's comment, so that any version of
torch reads the file. One without, as earlier versions wrote, is checked by the archive's own CRCs.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from progression.errors import WeightsError
from progression.files import atomic_write, output_error

_LABEL = b"sha256:"
_COMMENT_BYTES = len(_LABEL) + 64
_END = b"PK\x05\x06"
_END_BYTES = 22  # of a ZIP archive's end record; the last two are the length of its comment
_CHUNK_BYTES = 1 << 20


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values; a kill or a full disk at any moment leaves the old file or the new one.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with _writing(path, state):
        pass


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Raises
    ------
    WeightsError
        If a single byte of it is another than was written, or it is no checkpoint.
    """
    if fault := _fault(path):
        raise WeightsError(f"checkpoint {path} {fault}; remove it to begin anew, or put a copy in its place")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises for what is not of its making
        raise WeightsError(
            f"checkpoint {path} is not readable ({type(error).__name__}): expected what a run wrote; remove it to "
            "begin anew, or put a copy in its place"
        ) from error
    return state


class Checkpoints:
    """The newest checkpoint of a run, and the one before it, which is read when the newest is damaged.

    Attributes
    ----------
    path, previous : where they are
    """

    def __init__(self, path: Path) -> None:
        self.path, self.previous = path, path.with_name(f"{path.stem}.previous{path.suffix}")
        self._newest_is_good = False

    def load(self) -> dict[str, Any] | None:
        """The state to go on from; None for a new run.

        Raises
        ------
        WeightsError
            If what is there is damaged.
        """
        damaged: WeightsError | None = None
        if self.path.is_file():
            try:
                state = load_checkpoint(self.path)
            except WeightsError as error:
                damaged = error
            else:
                self._newest_is_good = True
                return state
        if self.previous.is_file():
            try:
                state = load_checkpoint(self.previous)
            except WeightsError as error:
                raise WeightsError(f"{damaged or f'{self.path} is not there'}; {error}") from error
            print(f"{damaged or f'{self.path} is not there'}: going on from {self.previous}", flush=True)
            return state
        if damaged is not None:
            raise damaged
        return None

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the newest one; it becomes the one before, unless it is damaged.

        Raises
        ------
        OutputError
            If it cannot be written; the old ones are then as they were.
        """
        with _writing(self.path, state):
            if self._newest_is_good and self.path.is_file():
                os.replace(self.path, self.previous)
        self._newest_is_good = True

    def remove(self) -> None:
        """Remove both."""
        for path in (self.path, self.previous):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise output_error(path, error) from error


@contextmanager
def _writing(path: Path, state: Mapping[str, Any]) -> Iterator[None]:
    """Write a checkpoint, which takes its place after the block."""
    content = io.BytesIO()  # torch itself would tell of a full disk by a RuntimeError
    torch.save(dict(state), content)
    with atomic_write(path) as temporary:
        with temporary.open("wb") as stream:
            _write_sealed(stream, content.getbuffer())
        yield


def _write_sealed(stream: BinaryIO, archive: memoryview) -> None:
    """Write a ZIP archive without comment with one that is its digest; the comment's length is digested, too."""
    assert archive[-_END_BYTES:].tobytes().startswith(_END)
    length = _COMMENT_BYTES.to_bytes(2, "little")
    hashed = hashlib.sha256(archive[:-2])
    hashed.update(length)
    stream.write(archive[:-2])
    stream.write(length + _LABEL + hashed.hexdigest().encode())


def _fault(path: Path) -> str:
    """What is wrong with a checkpoint's bytes; nothing if nothing is."""
    try:
        with path.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, end - _COMMENT_BYTES))
            tail = stream.read()
            if tail.startswith(_LABEL):
                found, left = hashlib.sha256(), end - _COMMENT_BYTES
                stream.seek(0)
                while chunk := stream.read(min(_CHUNK_BYTES, left)):
                    found.update(chunk)
                    left -= len(chunk)
                whole = found.hexdigest().encode() == tail.removeprefix(_LABEL)
                return "" if whole else "is damaged: its bytes are not those of its SHA-256"
            if not tail[-_END_BYTES:].startswith(_END):
                return "is damaged: its end is missing"
            stream.seek(0)
            with zipfile.ZipFile(stream) as archive:
                return "is damaged: a CRC is wrong" if archive.testzip() else ""
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        return f"is damaged ({type(error).__name__})"
