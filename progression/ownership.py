"""Of all processes one works in a place: a lock whose file says who has it, and goes with it.

The lock is the system's, on an open file, so that of a killed process nothing remains but the file, which holds nobody
up. Where a file system has no locks, that is said on stderr, and there is none.
"""

import errno
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from progression.errors import OutputError
from progression.files import output_error
from progression.texts import printable

_IN_USE = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_CANNOT_LOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_LOCKED_BYTE = 1 << 30  # beyond what is written, as Windows lets nobody else read it
_POLL_SECONDS = 0.05
_HOLDER = re.compile(r"process \d+ on [\w.-]{1,99}", re.ASCII)


@contextmanager
def locked(path: str | Path, *, work: str, remedy: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock while the block lasts.

    Parameters
    ----------
    path
        The lock's file, removed when the block ends. Its folder is made, and removed if nothing was put there.
    work, remedy
        What is being written, and what to do, for the message.
    wait_seconds
        How long to wait for another process before it is refused.

    Raises
    ------
    OutputError
        If another process has it, or the file cannot be written.
    """
    path = Path(path)
    new = not path.parent.exists()
    end = time.monotonic() + wait_seconds
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while (stream := _take(path)) is None:
            if time.monotonic() >= end:
                raise OutputError(f"{work} is being written by {_holder(path)}: {remedy}")
            time.sleep(_POLL_SECONDS)
    except OSError as error:
        raise output_error(path.parent, error) from error
    with stream:
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps what is open
                path.unlink()
            with suppress(OSError):  # not if there is something in it
                if new:
                    path.parent.rmdir()


def _take(path: Path) -> BinaryIO | None:
    """The file of a lock, open and locked; None if another process has it."""
    while True:
        stream = open(path, "a+b", buffering=0)  # noqa: SIM115
        try:
            alone = _lock(stream, path)
        except OSError:
            stream.close()
            raise
        if not alone:
            stream.close()
            return None
        # who had it before may have removed the file since it was opened
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), os.stat(path)):
                with suppress(OSError):  # on a full disk it just does not say who
                    stream.truncate(0)
                    stream.write(f"process {os.getpid()} on {platform.node()}".encode())
                return stream
        stream.close()


def _lock(stream: BinaryIO, path: Path) -> bool:
    """Lock an open file for this process; returns whether no other one has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            stream.seek(_LOCKED_BYTE)
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _IN_USE:
            return False
        if error.errno not in _CANNOT_LOCK:
            raise
        print(
            f"{printable(path)}: the file system has no locks; let no other process write there",
            file=sys.stderr,
        )
    return True


def _holder(path: Path) -> str:
    """Who holds a lock, as its file tells."""
    with suppress(OSError, ValueError):
        text = path.read_text(encoding="ascii")
        if _HOLDER.fullmatch(text):
            return text
    return "another process"
