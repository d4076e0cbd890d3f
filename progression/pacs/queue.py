"""Studies on disk, from their arrival until their results are sent; right whenever the process is killed.

    QUEUE/study-<digest>/films/film-<digest>.dcm     as received, each written whole before it is confirmed
                         results/<key>/              a prediction's folder, written whole
                         state.json                  what is known of the films and the results
                         reason.txt                  why films could not be predicted, or results not be sent

| state | meaning |
|---|---|
| received | films are waiting |
| done | results are made, and not all of them sent |
| failed | no film of it could be predicted: reason.txt |
| sent | the node has confirmed all results |

Threads that receive only add films; one thread alone writes the rest. So no file has two writers.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from threading import Lock

from progression.dicom.identify import Identity, short_digest
from progression.errors import OutputError
from progression.files import atomic_write, check_writable, lock, output_error

_STATE, _REASON = "state.json", "reason.txt"


class State(StrEnum):
    """Where a study is on its way."""

    RECEIVED = "received"
    DONE = "done"
    FAILED = "failed"
    SENT = "sent"


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
    attempts : how often predicting was begun since a film last came
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
        return self.path / "films"

    def films(self) -> list[Path]:
        """Its films, by name."""
        return _files(self.films_folder)

    def last_arrival(self) -> float:
        """When the newest film came, seconds since the epoch."""
        return max((film.stat().st_mtime for film in self.films()), default=0.0)

    def last_written(self) -> float:
        """When its record was last written, seconds since the epoch."""
        return (self.path / _STATE).stat().st_mtime

    def result(self, key: str) -> Path:
        """Folder of one prediction."""
        return self.path / "results" / key

    def objects(self, key: str) -> list[Path]:
        """DICOM objects of one prediction."""
        return _files(self.result(key))

    def record(self) -> Record:
        """What is known; of a new study, that it was received."""
        try:
            read = json.loads((self.path / _STATE).read_bytes())
        except FileNotFoundError:
            return Record()
        except (OSError, ValueError) as error:
            raise OutputError(f"{self.path / _STATE} is damaged; remove the study's folder") from error
        lists = {name: tuple(read[name]) for name in ("films", "keys", "sent")}
        return Record(
            state=State(read["state"]), failures=read["failures"], attempts=read["attempts"], **lists
        )

    def write(self, record: Record) -> None:
        """Replace what is known, and reason.txt with it."""
        reasons = "".join(f"{name}: {reason}\n" for name, reason in sorted(record.failures.items()))
        if reasons:
            with atomic_write(self.path / _REASON) as temporary:
                temporary.write_text(reasons, encoding="utf-8")
        with atomic_write(self.path / _STATE) as temporary:
            temporary.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
        if not reasons:
            (self.path / _REASON).unlink(missing_ok=True)

    def empty(self) -> None:
        """Remove films and results; what was sent stays known."""
        for folder in (self.films_folder, self.path / "results"):
            shutil.rmtree(folder, ignore_errors=True)


class Queue:
    """All studies; one process at a time has it open, until it ends.

    Raises
    ------
    OutputError
        If the folder cannot be written, or another process has it.
    """

    def __init__(self, root: Path, limits: Limits) -> None:
        check_writable(root)
        self.root, self.limits = root, limits
        self._adding = Lock()
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._locked = (root / ".lock").open("wb")
        except OSError as error:
            raise output_error(root, error) from error
        try:
            lock(self._locked, root)
        except OutputError:
            self._locked.close()
            raise
        for left in root.glob("study-*/**/.*"):  # by a process that was killed while it wrote
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process have it."""
        self._locked.close()

    def study(self, study_uid: str) -> StudyFolder:
        """The folder of a study, there or not."""
        return StudyFolder(self.root / f"study-{short_digest(study_uid)}")

    def studies(self) -> Iterator[StudyFolder]:
        """All that are there."""
        for path in sorted(self.root.glob("study-*")):
            yield StudyFolder(path)

    def add(self, content: bytes, identity: Identity) -> StudyFolder:
        """Keep an object; it is safely on the disk afterwards. One that is there already stays as it is.

        Raises
        ------
        FullError
            If a limit is reached.
        OutputError
            If it cannot be written.
        """
        folder = self.study(identity.study)
        path = folder.films_folder / identity.file_name
        with self._adding:
            if path.exists():
                return folder
            if len(content) > self.limits.object_bytes:
                raise FullError(
                    f"an object of {len(content)} bytes: expected at most {self.limits.object_bytes}"
                )
            if len(folder.films()) >= self.limits.study_objects:
                raise FullError(
                    f"{folder.name}: has {self.limits.study_objects} objects, as many as are taken"
                )
            free = shutil.disk_usage(self.root).free
            if free - len(content) < self.limits.free_bytes:
                raise FullError(f"{self.root}: {free >> 20} MB free, which shall stay free; make room")
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
        return folder


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.dcm")) if not path.name.startswith(".")]
