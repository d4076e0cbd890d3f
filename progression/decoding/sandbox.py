"""Decoders that are not ours, in a process of their own that can be ended.

A decoder believes what a file says, and a small file can say what costs minutes and gigabytes, or ends the process that
it is decoded in. So one worker process decodes for this one. It is started when it is first needed, dies with this one,
and is started anew when it has died. Of it come numbers only: a short header in JSON, which is checked, and an array's
bytes.

| limit | Linux | macOS | Windows |
|---|---|---|---|
| processor time of one input, `MAX_SECONDS` | kept by the system | kept by the system | not counted |
| memory of the worker, `MAX_MEMORY_BYTES` | kept by the system | not kept | not kept |
| time by the clock, `PATIENCE_S` | kept | kept | kept |

Both sides are here: `decode` asks, `serve` answers. The worker imports this module, NumPy and what an input needs, and
never PyTorch.
"""

import atexit
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from progression.errors import DependencyError, ImageError, ProgressionError

MAX_SECONDS = 1.5
"""Of processor time for one input, which leaves half a second for what comes before and after. 40 megapixels of any
format but JPEG 2000 take about 1 s."""
MAX_MEMORY_BYTES = 600 << 20
"""Of the worker; 40 megapixels of any format take less, but for WebP."""
MAX_INPUT_BYTES = 256 << 20
"""Largest input; 40 megapixels in three colours of 16 bits take 240 MB."""
PATIENCE_S = 60.0
"""By the clock, for one input on a machine that is busy with other things."""
DECODERS = {
    "picture": "progression.decoding.pictures",
    "nifti": "progression.nifti",
    "dicom": "progression.dicom.frames",
}
"""Which modules offer what `Decoder` says."""
_ERRORS: dict[str, type[ProgressionError]] = {
    error.__name__: error for error in (ImageError, DependencyError)
}
_MAX_HEADER_BYTES = 1 << 16
_MAX_MESSAGE = 300
_MAX_CHANNELS = 4
_CHUNK_BYTES = 1 << 20
_ROOT = str(Path(__file__).resolve().parents[2])
_CHILD = (
    "import sys; sys.path.insert(0, sys.argv[1]); from progression.decoding.sandbox import serve; serve()"
)


@dataclass(frozen=True)
class Decoded:
    """What a decoder gives: an array, whole or in pieces that follow each other in its first axis."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Iterable[npt.NDArray[np.generic]]

    @classmethod
    def whole(cls, array: npt.NDArray[np.generic]) -> "Decoded":
        """In one piece."""
        return cls(array.shape, array.dtype, [array])


class Decoder(Protocol):
    """What a module of `DECODERS` offers; in the worker."""

    def prepare(self) -> object:
        """Import what is needed, which costs no input its time; DependencyError if it is not installed."""

    def decode(self, content: BytesIO, label: str, options: Mapping[str, Any]) -> Decoded:
        """Decode an input; ImageError, or anything else, which means a damaged one."""


def decode(
    decoder: str,
    content: BinaryIO | IO[bytes] | list[memoryview],
    label: str,
    *,
    max_pixels: int,
    seconds: float = MAX_SECONDS,
    **options: Any,
) -> npt.NDArray[np.generic]:
    """Have the worker decode an input.

    Parameters
    ----------
    decoder
        One of `DECODERS`.
    content
        The input: what follows in a stream, or pieces that are to be put together.
    label
        What messages call it.
    max_pixels
        Most values in the first two axes of the answer.
    seconds
        Of processor time.
    options
        What the decoder needs besides; JSON-serialisable.

    Returns
    -------
    (H, W) or (H, W, C)

    Raises
    ------
    ImageError
        If it is damaged, too large, takes more time or memory than the limits, or ends the decoder.
    DependencyError
        If a package that it needs is not installed.
    """
    job = {
        "decoder": decoder,
        "label": label,
        "seconds": seconds,
        "options": {**options, "max_pixels": max_pixels},
    }
    with _LOCK:
        worker = _worker()
        try:
            return worker.ask(job, content, max_pixels=max_pixels)
        finally:
            if not worker.in_step:
                worker.end()  # what is left in its pipes would be taken for the next answer


def too_long(label: str) -> ImageError:
    """The error for an input of more than `MAX_INPUT_BYTES`."""
    return ImageError(f"{label}: over {MAX_INPUT_BYTES >> 20} MB; expected one radiograph; export it alone")


class _Worker:
    """The worker, seen from the process that asks it."""

    def __init__(self) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-c", _CHILD, _ROOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **threads},
            start_new_session=True,  # Ctrl-C is this process's to handle
            bufsize=0,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self.in_step = True
        for pipe in (self._to, self._from):
            _widen(pipe.fileno())

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(
        self, job: Mapping[str, Any], content: BinaryIO | IO[bytes] | list[memoryview], *, max_pixels: int
    ) -> npt.NDArray[np.generic]:
        """Send one input, and take its array."""
        self.in_step = False
        out_of_patience = threading.Event()
        timer = threading.Timer(PATIENCE_S, self._give_up, [out_of_patience])
        timer.daemon = True
        timer.start()
        try:
            self._send(job, content)
            answer = json.loads(self._receive(_length(self._receive(4))))
            if "error" in answer:
                refusal = _ERRORS[answer["error"]](_one_line(answer["message"]))
                self.in_step = True
                raise refusal
            array = self._array(answer, max_pixels)
            self.in_step = True
            return array
        except (
            EOFError,
            BrokenPipeError,
            ValueError,
            KeyError,
            TypeError,
        ) as error:  # it is no longer itself
            raise ImageError(self._how_it_ended(job, out_of_patience.is_set())) from error
        finally:
            timer.cancel()

    def end(self) -> None:
        """End it at once."""
        with suppress(OSError):
            self._to.close()
        self._process.kill()
        self._process.wait()
        self._from.close()

    def forget(self) -> None:
        """In a forked process: it is the parent's."""
        self._process.returncode = 0
        with suppress(OSError):
            self._to.close()
            self._from.close()

    def _give_up(self, out_of_patience: threading.Event) -> None:
        out_of_patience.set()
        self._process.kill()

    def _send(self, job: Mapping[str, Any], content: BinaryIO | IO[bytes] | list[memoryview]) -> None:
        header = json.dumps(job).encode()
        self._write(len(header).to_bytes(4, "little") + header)
        sent = 0
        for piece in _pieces(content):
            sent += len(piece)
            if sent > MAX_INPUT_BYTES:
                raise too_long(job["label"])
            if piece:
                self._write(len(piece).to_bytes(4, "little"))
                self._write(piece)
        self._write(bytes(4))

    def _write(self, content: bytes | memoryview) -> None:
        left = memoryview(content)
        while left:
            left = left[self._to.write(left) :]

    def _receive(self, count: int) -> bytes:
        content = bytearray(count)
        self._fill(memoryview(content))
        return bytes(content)

    def _fill(self, place: memoryview) -> None:
        while place:
            count = self._from.readinto(place)  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            place = place[count:]

    def _array(self, answer: Mapping[str, Any], max_pixels: int) -> npt.NDArray[np.generic]:
        shape, dtype = tuple(answer["shape"]), np.dtype(str(answer["dtype"]))
        sizes = all(type(size) is int and size >= 0 for size in shape)
        if not (sizes and 2 <= len(shape) <= 3 and dtype.kind in "uif" and dtype.itemsize <= 8):
            raise ValueError(shape)
        if math.prod(shape[:2]) > max_pixels or math.prod(shape[2:]) > _MAX_CHANNELS:
            raise ValueError(shape)
        array = np.empty(shape, dtype)
        self._fill(array.reshape(-1).view(np.uint8).data)
        return array

    def _how_it_ended(self, job: Mapping[str, Any], out_of_patience: bool) -> str:
        label = job["label"]
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            code = 0
        if out_of_patience:
            return f"{label}: was not decoded in {PATIENCE_S:.0f} s; try again, or export it again"
        if code == -getattr(signal, "SIGPROF", 0) != 0:
            return (
                f"{label}: takes more than {job['seconds']:.1f} s of processor time to decode; expected one "
                "radiograph; export it again, uncompressed"
            )
        return f"{label}: damaged: its decoder ended with it; export it again"


_LOCK = threading.RLock()
_STARTED: list[_Worker] = []


def _worker() -> _Worker:
    if _STARTED and (not _STARTED[0].alive):
        _STARTED.pop().end()
    if not _STARTED:
        _STARTED.append(_Worker())
    return _STARTED[0]


def process_id() -> int | None:
    """Of the worker; None where there is none."""
    return _STARTED[0].process_id if _STARTED and _STARTED[0].alive else None


def close() -> None:
    """End the worker, if there is one; the next input starts another."""
    with _LOCK:
        while _STARTED:
            _STARTED.pop().end()


def _after_fork() -> None:
    global _LOCK
    _LOCK = threading.RLock()
    while _STARTED:
        _STARTED.pop().forget()


atexit.register(close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _widen(descriptor: int) -> None:
    """A pipe that holds a megabyte: fewer turns for a picture."""
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _CHUNK_BYTES)


def _pieces(content: BinaryIO | IO[bytes] | list[memoryview]) -> Iterator[bytes | memoryview]:
    if isinstance(content, list):
        yield from content
    else:
        while piece := content.read(_CHUNK_BYTES):
            yield piece


def _length(written: bytes) -> int:
    length = int.from_bytes(written, "little")
    if length > _MAX_HEADER_BYTES:
        raise ValueError(length)
    return length


def _one_line(message: object) -> str:
    return " ".join(str(message).split())[:_MAX_MESSAGE]


# ---------------------------------------------------------------------------- in the worker


def serve() -> None:
    """Decode what comes on standard input until that ends."""
    _limit_memory()
    given, told = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a decoder prints is no answer
    while length := given.read(4):
        job = json.loads(given.read(int.from_bytes(length, "little")))
        content = _content(given)
        decoder: Decoder = import_module(DECODERS[job["decoder"]])
        try:
            decoder.prepare()
            _limit_seconds(job["seconds"])
            found: Decoded = decoder.decode(content, job["label"], job["options"])
            header = {"shape": found.shape, "dtype": found.dtype.str}
            pieces = iter(found.pieces)
            first = next(pieces)  # errors come with the first piece
            _limit_seconds(0)  # what is left is to hand it over
        except Exception as error:
            _answer(told, _told(error, job["label"]))
        else:
            _answer(told, header)
            for piece in [first, *pieces]:
                told.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
            told.flush()
            del found, first, piece, pieces
        finally:
            _limit_seconds(0)
        del content


def _content(given: BinaryIO) -> BytesIO:
    content = BytesIO()
    while length := int.from_bytes(given.read(4), "little"):
        content.write(given.read(length))
    content.seek(0)
    return content


def _answer(told: BinaryIO, header: Mapping[str, Any]) -> None:
    text = json.dumps(header).encode()
    told.write(len(text).to_bytes(4, "little") + text)
    told.flush()


def _told(error: Exception, label: str) -> dict[str, str]:
    if isinstance(error, ImageError | DependencyError):
        return {"error": type(error).__name__, "message": _one_line(error)}
    if isinstance(error, MemoryError):
        limit = f"takes more than {MAX_MEMORY_BYTES >> 20} MB of memory to decode; expected one radiograph"
        return {"error": "ImageError", "message": f"{label}: {limit}; export it again"}
    reason = _one_line(error) or type(error).__name__
    return {
        "error": "ImageError",
        "message": f"{label}: damaged or truncated ({reason[:200]}); export the picture again",
    }


def _limit_memory() -> None:
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))


def _limit_seconds(seconds: float) -> None:
    """Have the system end this process after so much more processor time; 0 for no limit."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)
