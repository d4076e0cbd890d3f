"""The log of a run: lines on the screen, `log.jsonl`, and TensorBoard curves where it is installed.

A run goes on from its checkpoint, so rows of steps after it are cut off first: the run comes past them again.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from progression.files import atomic_write, check_writable, output_error

LOG = "log.jsonl"
CURVES = "tensorboard"
_STEPS_PER_UNIT = 1000
_DIGITS = 4  # of `done` in a row


class RunLog:
    """Open for as long as the run lasts: a context manager.

    Parameters
    ----------
    folder : of the run
    total, unit : its length, in "kimg" for one
    done : of the checkpoint that it goes on from, 0 for a new run
    """

    def __init__(self, folder: Path, *, total: float, unit: str, done: float = 0.0) -> None:
        self.folder, self.total, self.unit = folder, total, unit
        self.start_time, self.start_done = time.monotonic(), done
        self.last_time, self.last_done = self.start_time, done
        self.writer: Any = None
        _cut(folder / LOG, unit, done)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        check_writable(
            folder / CURVES
        )  # the writer begins in its thread, which may fail after it was waited for
        with self._curves():
            # the checkpoint's own step stays
            self.writer = SummaryWriter(str(folder / CURVES), purge_step=_step(done) + 1 if done else 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            with self._curves():
                self.writer.close()

    def write(self, done: float, scalars: Mapping[str, float]) -> None:
        """Record means since the last call at `done` of `total` units."""
        now = time.monotonic()
        rate = (done - self.last_done) / max(now - self.last_time, 1e-9)
        overall = (done - self.start_done) / max(now - self.start_time, 1e-9)
        left = (self.total - done) / overall if overall > 0 else math.inf
        self.last_time, self.last_done = now, done
        self._row(done, {f"{self.unit}_per_s": round(rate, 5), **scalars}, curves=scalars)
        text = "  ".join(f"{k} {v:.3g}" for k, v in scalars.items())
        clock = "?" if math.isinf(left) else f"{int(left // 3600)}:{int(left % 3600 // 60):02d}"
        print(
            f"{done:9.2f}/{self.total:g} {self.unit}  {rate * 1000:.1f} m{self.unit}/s  left {clock}  {text}",
            flush=True,
        )

    def figures(self, done: float, scalars: Mapping[str, float]) -> None:
        """Record figures of merit at `done`: a row of its own, the time they took left out of the rate."""
        self._row(done, scalars, curves={f"held_out/{key}": value for key, value in scalars.items()})
        text = "  ".join(f"{k} {v:.4g}" for k, v in scalars.items())
        print(f"{done:9.2f}/{self.total:g} {self.unit}  held out: {text}", flush=True)
        self.last_time = time.monotonic()

    def image(self, tag: str, grid: Tensor, done: float) -> None:
        """Add a (H, W) picture in [0, 1] to TensorBoard."""
        if self.writer is not None:
            with self._curves():
                self.writer.add_image(tag, grid[None], _step(done))
                self.writer.flush()

    def _row(self, done: float, values: Mapping[str, float], *, curves: Mapping[str, float]) -> None:
        """A line of the log, and points of curves, on the disk when this returns: a checkpoint follows."""
        text = json.dumps({self.unit: round(done, _DIGITS), **values}) + "\n"
        path = self.folder / LOG
        try:
            with path.open("ab") as stream:
                stream.write(text.encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise output_error(path, error) from error
        if self.writer is not None:
            with self._curves():
                for key, value in curves.items():
                    self.writer.add_scalar(key, value, _step(done))
                self.writer.flush()

    @contextmanager
    def _curves(self) -> Iterator[None]:
        """A failed write is told; the writer, which would try it again, is not used any more."""
        usual = threading.excepthook
        # the writer's thread hands over what it fails of, and would print its traceback as well
        threading.excepthook = lambda failed: None if issubclass(failed.exc_type, OSError) else usual(failed)
        try:
            yield
        except OSError as error:
            self.writer = None
            raise output_error(self.folder / CURVES, error) from error
        finally:
            threading.excepthook = usual


def _step(done: float) -> int:
    """A curve's step: thousandths of the unit."""
    return round(done * _STEPS_PER_UNIT)


def _cut(path: Path, unit: str, done: float) -> None:
    """Cut rows after `done` off a log, and what a kill or a full disk left of a row."""
    if not path.is_file():
        return
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError as error:
        raise output_error(path, error) from error
    kept = [line for line in lines if line.endswith("\n") and _done(line, unit) <= round(done, _DIGITS)]
    if kept != lines:
        with atomic_write(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


def _done(line: str, unit: str) -> float:
    """How far a row's run was; infinity for what is no row."""
    try:
        return float(json.loads(line)[unit])
    except (ValueError, KeyError, TypeError):
        return math.inf
