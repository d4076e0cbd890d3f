"""A deadline for a whole exchange: a line that gives a byte now and then keeps any time limit for one read."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Condition, Thread
from time import monotonic
from types import TracebackType

_POLL_S = 0.25


class Watch:
    """Ends a line when its time is over, whoever waits on it; from a thread of its own, as long as the block lasts.

    Parameters
    ----------
    line : the socket that is used at present, None if there is none.
    stopping : asked now and then; if it is true, the line is ended, too.

    Attributes
    ----------
    expired : whether the time was over
    """

    def __init__(
        self, line: Callable[[], socket.socket | None], stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self._line, self._stopping = line, stopping
        self._due = float("inf")
        self._over = False
        self._changed = Condition()
        self._thread = Thread(target=self._watch, name="watch", daemon=True)
        self.expired = False

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """End the line if the block takes longer."""
        self.until(monotonic() + seconds)
        try:
            yield
        finally:
            self.until(float("inf"))

    def until(self, due: float) -> None:
        """End the line at that time of the monotonic clock."""
        with self._changed:
            self._due = due
            self._changed.notify()

    def close(self) -> None:
        """End the line now: who reads gets its end, who writes an error."""
        line = self._line()
        if line is not None:
            with suppress(OSError):
                socket.socket.shutdown(line, socket.SHUT_RDWR)  # not that of TLS, which would speak first

    def _watch(self) -> None:
        with self._changed:
            while not self._over:
                if self._stopping() or monotonic() > self._due:
                    self.expired = self.expired or monotonic() > self._due
                    self.close()
                self._changed.wait(_POLL_S)
