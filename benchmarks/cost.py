"""What reading one input costs: processor time and memory of this process and of its decoder, together."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from progression.decoding import sandbox
from progression.errors import ProgressionError

MAX_SECONDS = 2.0
"""Of processor time for a refused input."""
MAX_REFUSED_MB = 1024
"""Above the baseline, for a refused input."""
MAX_ACCEPTED_MB = 1229
"""Resident in all, 1.2 GiB, for an accepted one."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Of one input.

    Attributes
    ----------
    outcome : "read", or the kind of the typed error, or "UNTYPED kind: text"
    seconds : of processor time
    above_mb, resident_mb : peak, of this process's and its worker's memory, above what they had before, and in all
    message : of the error
    """

    outcome: str
    seconds: float
    above_mb: float
    resident_mb: float
    message: str = ""

    @property
    def finding(self) -> str:
        """What breaks a promise; empty if nothing does."""
        if self.outcome.startswith("UNTYPED"):
            return self.outcome
        if self.outcome == "read":
            return f"{self.resident_mb:.0f} MB resident" if self.resident_mb > MAX_ACCEPTED_MB else ""
        if self.seconds > MAX_SECONDS:
            return f"{self.seconds:.2f} s"
        if self.above_mb > MAX_REFUSED_MB:
            return f"{self.above_mb:.0f} MB above the baseline"
        if "\n" in self.message or len(self.message) > 500:
            return f"a message of {len(self.message)} characters, or of several lines"
        return ""


def cost_of(read: Callable[[], object], *, watch: bool = False) -> Cost:
    """Read, and see what that took (Linux).

    The peak is that of both processes' peaks, as if they came at the same moment; or, to `watch` it every 2 ms, of both
    together.
    """
    for process in _processes():
        Path(f"/proc/{process}/clear_refs").write_text("5")  # its peak is what it has now
    before_mb, started, message = _memory("VmRSS"), _seconds(), ""
    watched = _Watched() if watch else None
    try:
        read()
        outcome = "read"
    except ProgressionError as error:
        outcome, message = type(error).__name__, str(error)
    except Exception as error:
        outcome = f"UNTYPED {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    peak_mb = watched.peak_mb() if watched else _memory("VmHWM")
    return Cost(outcome, _seconds() - started, peak_mb - before_mb, peak_mb, message)


class _Watched:
    """Looks at the memory of both processes again and again, from a thread."""

    def __init__(self) -> None:
        self._seen, self._done = 0.0, Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()

    def peak_mb(self) -> float:
        self._done.set()
        self._thread.join()
        return max(self._seen, _memory("VmRSS"))

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self._seen = max(self._seen, _memory("VmRSS"))


def _processes() -> list[int]:
    worker = sandbox.process_id()
    return [os.getpid()] if worker is None else [os.getpid(), worker]


def _memory(field: str) -> float:
    """Megabytes of both processes; the worker's peak counts as if it were at the same moment as ours."""
    total = 0
    for process in _processes():
        try:
            found = re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
        except OSError:  # the worker has just ended
            continue
        total += int(found[1]) if found else 0
    return total / 1024


def _seconds() -> float:
    """Processor time of this process, of its worker, and of workers that have ended."""
    worker = sandbox.process_id()
    own = sum(os.times()[:4])
    if worker is None:
        return own
    fields = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
    return own + (int(fields[11]) + int(fields[12])) / _TICKS
