"""What is the machine's fault and passes, told from what is a film's and stays."""

import errno
import os
import re
from collections.abc import Iterator

from progression.errors import ProgressionError

_OF_THE_MACHINE = frozenset(
    getattr(errno, name)
    for name in (
        "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ESTALE",  # disk
        "ENOMEM", "EMFILE", "ENFILE", "EAGAIN", "ENOBUFS", "ENOLCK",  # memory, descriptors, processes
    )
    if hasattr(errno, name)
)  # fmt: skip
_NO_MEMORY = re.compile(r"out of memory|allocate memory|bad_alloc|can't start new thread", re.IGNORECASE)
"""In the messages of torch and OpenVINO, whose errors are of the class RuntimeError."""


class TroubleError(ProgressionError):
    """The machine could not do it: no space, no memory. It is tried again later."""


def trouble(error: BaseException) -> str:
    """Why the machine could not do it, in a few words; empty if that was not the reason."""
    for one in _chain(error):
        if isinstance(one, TroubleError):
            return str(one)
        if isinstance(one, OSError) and one.errno is not None and one.errno in _OF_THE_MACHINE:
            return os.strerror(one.errno)
        if isinstance(one, MemoryError) or (isinstance(one, RuntimeError) and _NO_MEMORY.search(str(one))):
            return "out of memory"
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
