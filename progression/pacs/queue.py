"""Studies on disk, from their arrival until their results are sent; right whenever the process is killed.

    QUEUE/study-<digest>/films/film-<digest of UID>-<digest of content>.dcm   as received, whole before confirmed
                         results/<key>/              a prediction's folder, written whole
                         state.json                  what is known of the films and the results
                         reason.txt                  why films could not be predicted, or results not be sent
          aside/                                     what lay in the queue and is none of this

| state | meaning |
|---|---|
| received | films are waiting |
| held | predicting it did not come to an end several times: tried again after the others, and seldom |
| done | results are made, and not all of them sent |
| failed | no film of it could be predicted: reason.txt |
| sent | the node has confirmed all results |

Threads that receive only add films; one thread alone writes the rest. So no file has two writers. Folders and files
are their owner's alone. What another has put into the queue is looked at with care: it is moved aside, not believed.
"""

import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

from progression.dicom.identify import Identity, short_digest
from progression.errors import OutputError
from progression.files import atomic_write, lock, output_error, private_folder

_STATE, _REASON, _FILMS, _RESULTS, _ASIDE = "state.json", "reason.txt", "films", "results", "aside"
_STATE_BYTES = 1 << 22
"""Largest record that is read; one of 64 films takes about 20 kB."""
_STUDY = re.compile(r"study-[0-9a-f]{16}")
_FILM = re.compile(r"film-[0-9a-f]{16}(-[0-9a-f]{16})?\.dcm")
_KEY = re.compile(r"[0-9a-f]{32}")
_RESULT = re.compile(r"[a-z0-9_]+\.dcm")
_OBJECT = re.compile(f"{_KEY.pattern}/{_RESULT.pattern}")
_PREAMBLE_BYTES, _META_LENGTH = 132, b"\x02\x00\x00\x00UL\x04\x00"


class State(StrEnum):
    """Where a study is on its way."""

    RECEIVED = "received"
    HELD = "held"
    DONE = "done"
    FAILED = "failed"
    SENT = "sent"


class BrokenError(OutputError):
    """A study's folder is not as this package leaves one."""


class FullError(OutputError):
    """No room for another object: too many of a study, or too little space on the disk."""


@dataclass(frozen=True)
class Limits:
    """What is taken in.

    Attributes
    ----------
    object_bytes : largest object
    study_objects : most objects of a study
    free_bytes : space that stays free on the disk
    """

    object_bytes: int = 256 << 20
    study_objects: int = 64
    free_bytes: int = 2 << 30


@dataclass(frozen=True)
class Record:
    """What state.json says.

    Attributes
    ----------
    state : of the study
    films : names of the films that were looked at
    keys : of results that were made
    sent : objects that the node confirmed, as KEY/NAME
    failures : film, or key, to why it failed
    attempts : how often predicting was begun in a row without coming to an end
    """

    state: State = State.RECEIVED
    films: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    sent: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    attempts: int = 0


@dataclass(frozen=True)
class StudyFolder:
    """One study of the queue."""

    path: Path

    @property
    def name(self) -> str:
        """By which messages call it."""
        return self.path.name

    @property
    def films_folder(self) -> Path:
        """Where its films are."""
        return self.path / _FILMS

    @property
    def results_folder(self) -> Path:
        """Where its results are."""
        return self.path / _RESULTS

    def films(self) -> list[Path]:
        """Its films, by name."""
        return [
            self.films_folder / one.name for one in _listed(self.films_folder) if _is_file(one, called=_FILM)
        ]

    def strange(self) -> list[Path]:
        """What lies among its films and is none: a link, a folder, a pipe, a file of another name."""
        return [
            self.films_folder / one.name
            for one in _listed(self.films_folder)
            if not one.name.startswith(".") and not _is_file(one, called=_FILM)
        ]

    def last_arrival(self) -> float:
        """When the newest film came, seconds since the epoch; a film that goes meanwhile came never."""
        times = [_modified(film) for film in self.films()]
        return max(times, default=0.0)

    def last_written(self) -> float:
        """When its record was last written, seconds since the epoch."""
        return _modified(self.path / _STATE)

    def result(self, key: str) -> Path:
        """Folder of one prediction."""
        return self.results_folder / key

    def objects(self, key: str) -> list[Path]:
        """DICOM objects of one prediction."""
        folder = self.result(key)
        return [folder / one.name for one in _listed(folder) if _is_file(one, called=_RESULT)]

    def record(self) -> Record:
        """What is known; of a new study, that it was received.

        Raises
        ------
        BrokenError
            If its record, or what it should be about, is not what `write` left.
        """
        for folder in (self.path, self.films_folder, self.results_folder):
            if os.path.lexists(folder) and not stat.S_ISDIR(folder.lstat().st_mode):
                raise BrokenError(f"{self.name}: expected folders of films and results")
        try:
            # a pipe, or a link out of the queue, is not waited for and not followed
            handle = os.open(self.path / _STATE, os.O_RDONLY | _NO_LINK | _NO_WAIT)
        except FileNotFoundError:
            return Record()
        except OSError as error:
            raise BrokenError(f"{self.name}: its record cannot be opened") from error
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise BrokenError(f"{self.name}: its record is no file")
            with open(handle, "rb", closefd=False) as stream:
                read = stream.read(_STATE_BYTES + 1)
        finally:
            os.close(handle)
        try:
            if len(read) > _STATE_BYTES:
                raise ValueError("expected a short one")
            return _record(json.loads(read))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BrokenError(f"{self.name}: its record is damaged") from error

    def write(self, record: Record) -> None:
        """Replace what is known, and reason.txt with it."""
        reasons = "".join(f"{name}: {reason}\n" for name, reason in sorted(record.failures.items()))
        if reasons:
            with atomic_write(self.path / _REASON, private=True) as temporary:
                temporary.write_text(reasons, encoding="utf-8")
        with atomic_write(self.path / _STATE, private=True) as temporary:
            temporary.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
        if not reasons:
            (self.path / _REASON).unlink(missing_ok=True)

    def empty(self) -> None:
        """Remove films and results; what was sent stays known."""
        for folder in (self.films_folder, self.results_folder):
            shutil.rmtree(folder, ignore_errors=True)

    def tidy(self, *, all_of_it: bool = False) -> None:
        """Remove what a process left that was killed while it wrote results, or anything."""
        for folder in (self.results_folder, *((self.films_folder, self.path) if all_of_it else ())):
            for one in _listed(folder):
                if one.name.startswith("."):
                    if one.is_dir(follow_symlinks=False):
                        shutil.rmtree(one.path, ignore_errors=True)
                    else:
                        os.unlink(one.path)


class Queue:
    """All studies; one process at a time has it open, until it ends.

    Parameters
    ----------
    root : folder, empty or a queue.
    limits : of what is taken in.
    tell : gets a line for each thing that is set aside.

    Raises
    ------
    OutputError
        If the folder cannot be written, is open to other users and none of ours, or another process has it.
    """

    def __init__(self, root: Path, limits: Limits, tell: Callable[[str], None] = lambda line: None) -> None:
        self.root, self.limits, self._tell = root, limits, tell
        self._adding = Lock()
        self._unmoved: set[str] = set()
        private_folder(root, narrow=(root / ".lock").is_file())
        try:
            handle = os.open(root / ".lock", os.O_WRONLY | os.O_CREAT | _NO_LINK | _NO_WAIT, 0o600)
        except OSError as error:
            raise output_error(root, error) from error
        self._locked = open(handle, "wb")  # noqa: SIM115  as long as the queue
        try:
            lock(self._locked, root)
            for folder in self.studies():
                folder.tidy(all_of_it=True)
        except (OutputError, OSError) as error:
            self._locked.close()
            raise error if isinstance(error, OutputError) else output_error(root, error) from error

    def close(self) -> None:
        """Let another process have it."""
        self._locked.close()

    def study(self, study_uid: str) -> StudyFolder:
        """The folder of a study, there or not."""
        return StudyFolder(self.root / f"study-{short_digest(study_uid)}")

    def studies(self) -> Iterator[StudyFolder]:
        """All that are there, by name; what only looks like one is set aside."""
        for one in _listed(self.root):
            if one.name.startswith("study-"):
                path = self.root / one.name
                if _STUDY.fullmatch(one.name) and one.is_dir(follow_symlinks=False):
                    yield StudyFolder(path)
                else:
                    self.set_aside(path)

    def set_aside(self, path: Path) -> None:
        """Move what is none of ours out of the way, and say so once; its name is kept only if it is one of ours."""
        inside = path.relative_to(self.root)
        ours = _STUDY.fullmatch(inside.parts[0]) is not None
        named = [inside.parts[0] if ours else "entry", sha256(os.fsencode(inside)).hexdigest()[:8]]
        target = self.root / _ASIDE / "-".join(named)
        try:
            private_folder(target.parent, narrow=True)
            while os.path.lexists(target):
                target = target.with_name(f"{target.name}-again")
            path.rename(target)
            self._tell(f"{named[0]}: not as this program leaves it; set aside as {_ASIDE}/{target.name}")
        except OSError as error:
            if str(inside) not in self._unmoved:
                self._unmoved.add(str(inside))
                self._tell(
                    f"{named[0]}: not as this program leaves it, and cannot be moved: {error.strerror}"
                )

    def add(self, content: bytes, identity: Identity) -> StudyFolder:
        """Keep an object; it is safely on the disk afterwards. One that is there already stays as it is.

        Another content under a UID that is there is another object, kept beside it: a correction, or a mistake.

        Raises
        ------
        FullError
            If a limit is reached.
        OutputError
            If it cannot be written.
        """
        folder = self.study(identity.study)
        path = folder.films_folder / film_name(content, identity)
        with self._adding:
            if path.is_file():
                return folder
            if len(content) > self.limits.object_bytes:
                raise FullError(
                    f"an object of {len(content)} bytes: expected at most {self.limits.object_bytes}"
                )
            if len(folder.films()) >= self.limits.study_objects:
                raise FullError(
                    f"{folder.name}: has {self.limits.study_objects} objects, as many as are taken"
                )
            if self.free() - len(content) < self.limits.free_bytes:
                raise FullError(f"{self.free() >> 20} MB are free on the queue's disk, which shall stay free")
            with atomic_write(path, private=True) as temporary:
                temporary.write_bytes(content)
        return folder

    def free(self) -> int:
        """Bytes that are free on its disk."""
        try:
            return shutil.disk_usage(self.root).free
        except OSError as error:
            raise output_error(self.root, error) from error


def film_name(content: bytes, identity: Identity) -> str:
    """What a film's file is called: digests of its UID and its content, the same wherever it comes from."""
    return f"film-{short_digest(identity.sop_instance)}-{content_digest(content)[:16]}.dcm"


def content_digest(content: bytes) -> str:
    """SHA-256 of a DICOM file's data set; not of the file meta information, which each receiver writes anew."""
    start = 0
    if content[_PREAMBLE_BYTES : _PREAMBLE_BYTES + len(_META_LENGTH)] == _META_LENGTH:  # PS3.10, 7.1
        end = _PREAMBLE_BYTES + len(_META_LENGTH)
        start = end + 4 + int.from_bytes(content[end : end + 4], "little")
    return sha256(memoryview(content)[start:]).hexdigest()


_NO_LINK, _NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)


def _record(read: Any) -> Record:
    """A record from JSON; KeyError, TypeError or ValueError for anything that `StudyFolder.write` does not write."""
    films, keys, sent = (_texts(read[name]) for name in ("films", "keys", "sent"))
    failures, attempts = read["failures"], read["attempts"]
    if not all(_KEY.fullmatch(key) for key in keys) or not all(_OBJECT.fullmatch(one) for one in sent):
        raise ValueError("expected digests, which become paths")
    if not isinstance(failures, dict) or type(attempts) is not int or not 0 <= attempts < 1 << 31:
        raise ValueError("expected reasons and a number of attempts")
    _texts(list(failures.values()))
    return Record(State(read["state"]), films, keys, sent, failures, attempts)


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("expected a list of texts")
    return tuple(values)


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; nothing where it is missing or none."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda one: one.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_file(one: os.DirEntry[str], *, called: re.Pattern[str]) -> bool:
    return called.fullmatch(one.name) is not None and one.is_file(follow_symlinks=False)


def _modified(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
