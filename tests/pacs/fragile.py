"""Readers for a process of their own, which should have little to import."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from progression.errors import UsageError, WeightsError
from progression.pacs.service import Reading


class Fragile:
    """Reads films by what stands in them: how its process ends, or what it raises."""

    def read(self, films: Sequence[Path], results: Path, *, known: Collection[str] = ()) -> Reading:
        for film in films:
            match film.read_text():
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "exit":
                    os._exit(0)
                case "hang":
                    time.sleep(60)
                case "memory":
                    raise MemoryError
                case "disk":
                    raise OSError(28, "No space left on device")
                case "usage":
                    raise UsageError("expected another one")
                case "odd":
                    raise ZeroDivisionError
        return Reading(("0" * 32,))


class Picky:
    """Ends its process for the films of one name."""

    def read(self, films: Sequence[Path], results: Path, *, known: Collection[str] = ()) -> Reading:
        if any(film.stat().st_size % 2 for film in films):
            os.kill(os.getpid(), signal.SIGKILL)
        return Reading((f"{os.getpid():032x}",))


def unloadable() -> Fragile:
    raise WeightsError("the weights are damaged; get them again")
