"""Files that are either written whole or not at all."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from progression.errors import OutputError, ProgressionError

_CHUNK_BYTES = 1 << 20


def output_error(path: str | Path, error: OSError) -> OutputError:
    """One line for a failed write: what, why (disk full, no permission ...), and what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    return OutputError(f"cannot write {path}: {reason}; free some space or choose another place")


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
        with open(path, "rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise ProgressionError(f"cannot read {path}: {error.strerror}; check the path") from error
    return digest.hexdigest()


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
