"""A reader in a process of its own: what a film does to it, it does not do to the service.

A process that ends while it predicts says whose fault that was: the study's at hand, and of no other. The service goes
on meanwhile, takes films, and starts another one.
"""

import multiprocessing
import os
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from signal import SIG_IGN, SIGTERM, signal
from time import monotonic
from typing import Any

from progression.errors import ProgressionError
from progression.pacs.service import EndedError, FilmReader, Reading, StoppedError
from progression.pacs.trouble import TroubleError, trouble
from progression.processes import go_with_the_parent

LOAD_S, FILM_S = 600.0, 600.0
"""Longest time for the model to load, and for a film of a study to be predicted."""
_POLL_S = 0.1


class IsolatedReader:
    """Has `read` of `Reader`; the process starts at once, and again after it has ended.

    Parameters
    ----------
    load : makes the reader, in the process; picklable.
    stopping : whether the service stops, so that nothing is waited for.
    """

    def __init__(self, load: Callable[[], FilmReader], stopping: Callable[[], bool] = lambda: False) -> None:
        self._load, self._stopping = load, stopping
        self._process: Any = None
        self._line: Connection | None = None
        self._is_loaded = False
        self._start()

    def loaded(self) -> None:
        """Wait until the reader is made.

        Raises
        ------
        ProgressionError
            If it cannot be made.
        StoppedError
            If the service stops.
        """
        if self._line is None:
            self._start()
        if not self._is_loaded:
            self._answer(seconds=LOAD_S)
            self._is_loaded = True

    def read(self, films: Sequence[Path], results: Path, *, known: Collection[str] = ()) -> Reading:
        """See `Reader.read`.

        Raises
        ------
        EndedError
            If the process ends, or takes too long.
        StoppedError
            If the service stops.
        """
        try:
            self.loaded()
        except EndedError as error:
            raise TroubleError("the process that predicts could not be started") from error
        made: Reading = self._asked((list(films), results, tuple(known)), seconds=FILM_S * max(1, len(films)))
        return made

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._line is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._line.close()
            self._line = None

    def _start(self) -> None:
        spawned = multiprocessing.get_context("spawn")
        self._line, theirs = spawned.Pipe()
        self._process = spawned.Process(target=_work, args=(theirs, self._load), name="reader")
        self._process.start()
        theirs.close()
        self._is_loaded = False

    def _asked(self, task: object, *, seconds: float) -> Any:
        """The process's answer to a task."""
        assert self._line is not None
        with suppress(OSError):  # it has ended, as the lack of an answer will say
            self._line.send(task)
        return self._answer(seconds=seconds)

    def _answer(self, *, seconds: float) -> Any:
        """What the process says next."""
        assert self._line is not None
        end = monotonic() + seconds
        try:
            while not self._line.poll(_POLL_S):
                if self._stopping():
                    raise StoppedError("stopped while a study was predicted")
                if monotonic() > end:
                    raise EndedError(f"not predicted in {seconds:.0f} s")
            answer = self._line.recv()
        except (EOFError, OSError) as error:
            self.close()
            if self._stopping():
                raise StoppedError("stopped while a study was predicted") from error
            raise EndedError("the process that predicted it ended") from error
        except BaseException:
            self.close()
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer


def _work(line: Connection, load: Callable[[], FilmReader]) -> None:
    """In the process: answer tasks, until the service ends."""
    go_with_the_parent()
    signal(SIGTERM, SIG_IGN)
    os.umask(0o077)
    answer: object
    with suppress(EOFError, OSError):  # the service has ended
        try:
            reader, answer = load(), None
        except Exception as error:
            line.send(_told(error))
            return
        while True:
            line.send(answer)
            films, results, known = line.recv()
            try:
                answer = reader.read(films, results, known=known)
            except Exception as error:  # the service judges it
                answer = _told(error)


def _told(error: Exception) -> Exception:
    """An error that can be sent, which goes without what it came from."""
    if found := trouble(error):
        return TroubleError(found)
    kind = type(error).__name__
    return error if isinstance(error, ProgressionError) else ProgressionError(f"unexpected {kind}")
