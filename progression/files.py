"""Files that are either written whole or not at all."""

import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from progression.errors import OutputError, ProgressionError

_CHUNK_BYTES = 1 << 20
NOT_A_FILE = "not an ordinary file (a folder, pipe, socket or device)"
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space or choose another place"),
    **dict.fromkeys(
        (errno.EEXIST, errno.ENOTDIR), "expected a folder where there is a file; choose another place"
    ),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a place where you may write"),
}


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open an ordinary file, or a link to one, for reading.

    A pipe or a terminal would keep its reader waiting, and a device may never end: neither is opened for longer than it
    takes to see what it is.

    Raises
    ------
    OSError
        If it cannot be opened, or is no ordinary file; `strerror` says which.
    """
    # without waiting for somebody to write into a pipe, and without becoming the owner of a terminal
    flags = (
        os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    )
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, NOT_A_FILE, str(path))
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], *, most: int) -> bytes:
    """An ordinary file's content, of at most so many bytes.

    Raises
    ------
    OSError
        As of `open_regular`, and if it is larger.
    """
    with open_regular(path) as stream:
        known = os.fstat(stream.fileno()).st_size  # 0 of files that the system makes up as they are read
        content = b"" if known > most else stream.read(most + 1) or b""
    if max(known, len(content)) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))
    return content


def output_error(path: str | Path, error: OSError) -> OutputError:
    """One line for a failed write: what, why (disk full, no permission ...), and what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0, "choose another place")
    return OutputError(f"cannot write {path}: {reason}; {remedy}")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file so that `path` holds either its old content or the whole new one.

    Parameters
    ----------
    path
        Where the file shall be; missing parent folders are made.

    Yields
    ------
    Path
        A temporary path in the same folder, with the same suffix, to be written by the caller. It is
        renamed to `path` when the block ends and removed when the block raises.

    Raises
    ------
    OutputError
        For any ``OSError`` in the block or in the renaming.
    """
    path = Path(path)
    temporary: Path | None = None
    made: list[Path] = []
    try:
        made = _make_folders(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _give_usual_mode(temporary, 0o666)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        _remove_empty(made)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Write a folder so that `path` is either as it was or wholly new.

    Yields a temporary folder beside `path`; when the block ends it takes the place of `path` (an older
    folder of that name is replaced), when the block raises it is removed.

    Raises
    ------
    OutputError
        For any ``OSError`` in the block or in the renaming, and when `path` is an existing file.
    """
    path = Path(path)
    temporary: Path | None = None
    made: list[Path] = []
    try:
        made = _make_folders(path.parent)
        if path.exists() and not path.is_dir():
            raise OutputError(f"cannot write folder {path}: a file of that name exists; choose another place")
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        yield temporary
        _give_usual_mode(temporary, 0o777)
        _replace_folder(temporary, path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(made)


class GrowingFile:
    """A file that is written piece by piece, and bears its name only when it is whole.

    Pieces go to `.NAME.part`; after each, once it is safely on the disk, `.NAME.progress` says how far that is and
    of which run.  A run that was killed goes on there: what it had not finished is cut off.  :func:`growing_file`
    opens one.

    Attributes
    ----------
    path : where the file shall be
    items : how many have been written, by this run and the ones that it goes on from
    note : kept with the next piece, for the runs that go on from here; JSON
    """

    def __init__(self, path: Path, stream: BinaryIO, run: str) -> None:
        self.path, self.items = path, 0
        self.note: dict[str, Any] = {}
        self._stream, self._run = stream, run

    def append(self, content: bytes, *, items: int) -> None:
        """Write one piece, which holds so many items.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        try:
            self._stream.write(content)
            self._stream.flush()
            os.fsync(self._stream.fileno())
            bytes_written = self._stream.tell()
        except OSError as error:
            raise output_error(self.path, error) from error
        self.items += items
        with atomic_write(progress_path(self.path)) as temporary:
            state = {"run": self._run, "items": self.items, "bytes": bytes_written, "note": self.note}
            temporary.write_text(json.dumps(state), encoding="utf-8")

    def finish(self) -> None:
        """Give the file its name."""
        try:
            _give_usual_mode(part_path(self.path), 0o666)
            os.replace(part_path(self.path), self.path)
        except OSError as error:
            raise output_error(self.path, error) from error
        self.remove()

    def remove(self) -> None:
        """Drop what is there of an unfinished file."""
        for path in (progress_path(self.path), part_path(self.path)):
            path.unlink(missing_ok=True)

    def _go_on(self) -> None:
        """Cut off what was not finished, and what is of no known run."""
        with suppress(FileNotFoundError):
            try:
                state = json.loads(progress_path(self.path).read_bytes())
                run, items, kept = str(state["run"]), int(state["items"]), int(state["bytes"])
                note = dict(state.get("note", {}))
            except (ValueError, KeyError, TypeError) as error:
                raise self._refusal("is damaged") from error
            if run != self._run:
                raise self._refusal("is of a run with other inputs or options")
            if os.fstat(self._stream.fileno()).st_size >= kept:
                self.items, self.note = items, note
                self._stream.truncate(kept)
                self._stream.seek(kept)
                return
        self._stream.truncate(0)

    def _refusal(self, fault: str) -> OutputError:
        return OutputError(
            f"{progress_path(self.path)} {fault}: expected to go on with the same command; repeat that, "
            f"or remove it to begin anew"
        )


@contextmanager
def growing_file(path: str | Path, *, run: str) -> Iterator[GrowingFile]:
    """Open a file that grows, where the last run with this `run` left it; `finish` makes it whole.

    Parameters
    ----------
    path
        Where the file shall be; missing parent folders are made.
    run
        What the content depends on (:func:`digest`): another run's pieces are not taken for this one's.

    Raises
    ------
    OutputError
        If it cannot be written, another process is writing it, or an unfinished one of another run is there.
    """
    path, made = Path(path), []
    try:
        try:
            made = _make_folders(path.parent)
            stream = open(part_path(path), "r+b" if part_path(path).exists() else "w+b")  # noqa: SIM115
        except OSError as error:
            raise output_error(path, error) from error
        with stream:
            lock(stream, path)
            file = GrowingFile(path, stream, run)
            file._go_on()
            try:
                yield file
            finally:
                if not file.items:
                    file.remove()
    finally:
        _remove_empty(made)


def part_path(path: Path) -> Path:
    """Where a growing file's pieces are."""
    return path.with_name(f".{path.name}.part")


def progress_path(path: Path) -> Path:
    """Where it is noted how far a growing file is."""
    return path.with_name(f".{path.name}.progress")


def digest(texts: Iterable[str]) -> str:
    """SHA-256 of a list of texts, as 64 hexadecimal digits; how they are divided counts."""
    found = hashlib.sha256()
    for text in texts:
        content = text.encode()
        found.update(len(content).to_bytes(8, "little") + content)
    return found.hexdigest()


def check_writable(folder: str | Path) -> None:
    """Try to write in a folder, or make it, so that a long run does not fail at its end; nothing is left.

    Raises
    ------
    OutputError
        If that fails.
    """
    made: list[Path] = []
    try:
        made = _make_folders(Path(folder))
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(bytes(4096))
            stream.flush()
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        _remove_empty(made)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Raises
    ------
    ProgressionError
        If the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open_regular(path) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise ProgressionError(f"cannot read {path}: {error.strerror}; check the path") from error
    return digest.hexdigest()


def lock(stream: BinaryIO, path: Path) -> None:
    """One writer at a time, where the system can say so; the lock goes with the process.

    Raises
    ------
    OutputError
        If another one has it.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise OutputError(f"cannot write {path}: another run is writing it; wait for it to end") from error


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder with its parents; returns those that were missing, innermost first."""
    missing = [step for step in (folder, *folder.parents) if not step.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders made for nothing; those with something in them stay."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _replace_folder(new: Path, path: Path) -> None:
    """Rename `new` to `path`; an older `path` is put aside first and put back if the renaming fails."""
    if not path.exists():
        os.rename(new, path)
        return
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        os.rename(path, aside / "old")
        try:
            os.rename(new, path)
        except OSError:
            os.rename(aside / "old", path)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _give_usual_mode(path: Path, mode: int) -> None:
    """tempfile makes private files; give the mode that an ordinary open() or mkdir() would have given."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(mode & ~umask)
