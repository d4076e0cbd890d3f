"""Files that are either written whole or not at all."""

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import IOBase, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

from progression.errors import OutputError, ProgressionError
from progression.texts import printable

_CHUNK_BYTES = 1 << 20
_KEPT_OF_NAME, _LONG_NAME_BYTES = 40, 180
"""Characters that the temporary name keeps of a file's name so long that it would be too long for the system."""
NOT_A_FILE = "not an ordinary file (a folder, pipe, socket or device)"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_UNFINISHED, _REPLACED = "unfinished-", "replaced-"  # in the names of what a killed process may leave behind
_OLD, _DRAWN_CHARACTERS = "old", 8  # the latter as tempfile draws them
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EIO), "free some space or choose another place"),
    **dict.fromkeys(
        (errno.EEXIST, errno.ENOTDIR), "expected a folder where there is a file; choose another place"
    ),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a place where you may write"),
    errno.ENAMETOOLONG: "choose a shorter name",
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
    return OutputError(f"cannot write {printable(path)}: {reason}; {remedy}")


@contextmanager
def atomic_write(path: str | Path, *, private: bool = False) -> Iterator[Path]:
    """Write a file so that `path` holds either its old content or the whole new one.

    Parameters
    ----------
    path
        Where the file shall be; missing parent folders are made.
    private
        Whether the file, and the folders that are made, are for their owner alone, whatever the umask.

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
        made = _make_folders(path.parent, private=private)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=_hidden(path.stem), suffix=path.suffix[:_KEPT_OF_NAME]
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        if not private:
            _give_usual_mode(temporary, 0o666)
        _to_disk(temporary)
        os.replace(temporary, path)
    except Exception as error:
        if (told := _failed_write(path, error)) is None:
            raise
        raise told from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # what went wrong first is told
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
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=_hidden(path.name)))
        yield temporary
        for written in temporary.rglob("*"):
            if written.is_file():
                _to_disk(written)
        _give_usual_mode(temporary, 0o777)
        _replace_folder(temporary, path)
    except Exception as error:
        if (told := _failed_write(path, error)) is None:
            raise
        raise told from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(made)


def remove_leftovers(*targets: Path) -> None:
    """Remove what :func:`atomic_write` and :func:`atomic_folder` left of these when their process was killed.

    A folder that was just being replaced gets its old content back. Only for who alone writes the targets
    (:func:`progression.ownership.locked`): what another process has in work would be removed, too.

    Parameters
    ----------
    targets
        Files and folders; a name may have the wildcards of :meth:`pathlib.Path.glob`.

    Raises
    ------
    OutputError
        If something cannot be removed.
    """
    for target in targets:
        folder, name, drawn = target.parent, target.name, "?" * _DRAWN_CHARACTERS
        try:
            for aside in folder.glob(_hidden(name, _REPLACED) + drawn):
                path = folder / aside.name[1:].rpartition(f".{_REPLACED}")[0]
                if (aside / _OLD).exists() and not path.exists():
                    os.rename(aside / _OLD, path)
                shutil.rmtree(aside)
            for whole in folder.glob(_hidden(name) + drawn):
                shutil.rmtree(whole) if whole.is_dir() else whole.unlink()
            for file in folder.glob(_hidden(target.stem) + drawn + target.suffix):
                file.unlink()
        except OSError as error:
            raise output_error(target, error) from error


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

    def __init__(self, path: Path, stream: RawIOBase, run: str) -> None:
        self.path, self.items = path, 0
        self.note: dict[str, Any] = {}
        self._stream, self._run = stream, run
        self._written = hashlib.sha256()

    def append(self, content: bytes, *, items: int) -> None:
        """Write one piece, which holds so many items.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        try:
            rest = memoryview(content)
            while rest:  # unbuffered, so that nothing is left to be written when the file is closed
                rest = rest[self._stream.write(rest) or 0 :]
            os.fsync(self._stream.fileno())
            bytes_written = self._stream.tell()
        except OSError as error:
            raise output_error(self.path, error) from error
        self.items += items
        self._written.update(content)
        with atomic_write(progress_path(self.path)) as temporary:
            state = {"run": self._run, "items": self.items, "bytes": bytes_written, "note": self.note}
            state["sha256"] = self._written.hexdigest()
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
        try:
            for path in (progress_path(self.path), part_path(self.path)):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise output_error(self.path, error) from error

    def _go_on(self) -> None:
        """Cut off what was not finished, and what is of no known run."""
        with suppress(FileNotFoundError):
            try:
                state = json.loads(progress_path(self.path).read_bytes())
                run, items, kept = str(state["run"]), int(state["items"]), int(state["bytes"])
                note, expected = (
                    dict(state.get("note", {})),
                    state.get("sha256"),
                )  # which earlier versions lack
            except (ValueError, KeyError, TypeError) as error:
                raise self._refusal("is damaged") from error
            if run != self._run:
                raise self._refusal("is of a run with other inputs or options")
            if kept >= 0 and os.fstat(self._stream.fileno()).st_size >= kept:
                self.items, self.note = items, note
                self._stream.truncate(kept)
                while chunk := self._stream.read(_CHUNK_BYTES):  # to the end, where the next piece goes
                    self._written.update(chunk)
                if expected not in (None, self._written.hexdigest()):
                    raise self._refusal(f"tells of other bytes than {part_path(self.path).name} holds")
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

    What a killed run left unfinished of NAME.SUFFIX, files beside it that tell of it, is removed.

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
    stream: RawIOBase | None = None
    try:
        try:
            made = _make_folders(path.parent)
            kept = part_path(path).exists()
            stream = open(part_path(path), "r+b" if kept else "w+b", buffering=0)  # noqa: SIM115
            lock(stream, path)
            if not kept:  # of a run that was stopped after its file was whole
                progress_path(path).unlink(missing_ok=True)
            named = path.with_name(glob.escape(path.name))
            remove_leftovers(progress_path(named), named.with_name(f"{named.name}.*"))
            file = GrowingFile(path, stream, run)
            file._go_on()
        except Exception as error:
            if (told := _failed_write(path, error)) is None:
                raise
            raise told from error
        try:
            yield file
        finally:
            if not file.items:
                file.remove()
    finally:
        try:
            if stream is not None:
                stream.close()
        except OSError as error:
            raise output_error(path, error) from error
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
        content = text.encode(errors="surrogatepass")  # as in names of files that are not UTF-8
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


def lock(stream: IOBase, path: Path) -> None:
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
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(
            f"cannot write {printable(path)}: another run is writing it; wait for it to end"
        ) from error
    except OSError as error:
        raise output_error(path, error) from error


def _hidden(name: str, mark: str = _UNFINISHED) -> str:
    """The beginning of a temporary name."""
    kept = name if len(name.encode("utf-8", "surrogatepass")) <= _LONG_NAME_BYTES else name[:_KEPT_OF_NAME]
    return f".{kept}.{mark}"


def _to_disk(path: Path) -> None:
    """Wait until a file is on the disk: a full one, or one over its quota, may tell so only then."""
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _failed_write(path: Path, error: Exception) -> OutputError | None:
    """What an exception says of the writing of `path`; None for one of another kind.

    Not all libraries that write files by themselves raise OSError: safetensors quotes its number, torch counts bytes.
    """
    if isinstance(error, ValueError) and "\0" in str(path):
        return OutputError(f"cannot write {printable(path)}: no file can be called so; choose another name")
    if quoted := re.search(r"\(os error (\d+)\)", str(error)):
        error = OSError(int(quoted[1]), os.strerror(int(quoted[1])))
    elif isinstance(error, RuntimeError) and "inline_container" in str(error):
        error = OSError(errno.EIO, "not written whole, as on a full disk")
    return output_error(path, error) if isinstance(error, OSError) else None


def private_folder(folder: str | Path, *, narrow: bool = False) -> None:
    """Make a folder that only its owner may enter, whatever the umask; one that is there must be such a one.

    Parameters
    ----------
    narrow
        Whether to take other people's rights from a folder that is there, with all that is in it, as they are ours.
        An empty one loses them in any case.

    Raises
    ------
    OutputError
        If it cannot be made, or others may enter it.
    """
    folder = Path(folder)
    try:
        _make_folders(folder, private=True)
        if not folder.stat().st_mode & _OTHERS or os.name != "posix":
            return
        if not narrow and any(folder.iterdir()):
            raise OutputError(
                f"{folder} is open to other users, and shall hold patient data: expected a folder of your own; "
                "choose another, or close it (chmod 700)"
            )
        for path in (folder, *folder.rglob("*")):
            mode = path.lstat().st_mode
            if not stat.S_ISLNK(mode) and mode & _OTHERS:
                path.chmod(stat.S_IMODE(mode) & ~_OTHERS)
    except OSError as error:
        raise output_error(folder, error) from error


def _make_folders(folder: Path, *, private: bool = False) -> list[Path]:
    """Make a folder with its parents; returns those that were missing, innermost first."""
    missing = [step for step in (folder, *folder.parents) if not step.exists()]
    for step in reversed(missing) if private else ():  # parents=True would make those by the umask
        step.mkdir(mode=0o700, exist_ok=True)
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
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=_hidden(path.name, _REPLACED)))
    try:
        os.rename(path, aside / _OLD)
        try:
            os.rename(new, path)
        except OSError:
            os.rename(aside / _OLD, path)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _give_usual_mode(path: Path, mode: int) -> None:
    """tempfile makes private files; give the mode that an ordinary open() or mkdir() would have given."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(mode & ~umask)
