"""The loop between arrival and return: what has settled is predicted, what is made is sent.

| what happens | what becomes of the study |
|---|---|
| a film is refused, or goes wrong in any way | that film's failure, with its reason |
| the disk is full, memory is short | nothing: it is tried again after a pause |
| the process that predicts it ends | tried again after the others; from the third time on held, and seldom tried |
| the service is killed, or stopped | it goes on when the service is started again |
| its folder is not as this package leaves one | set aside |
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from time import monotonic, time
from typing import Protocol

from progression.errors import ProgressionError
from progression.pacs.peers import NodeError
from progression.pacs.queue import BrokenError, Queue, Record, State, StudyFolder
from progression.pacs.trouble import trouble

HELD = 3
"""Starts of predicting a study in a row that did not come to an end; from then on it is held."""
HELD_S = (10.0, 3600.0)
"""Wait before a held study is tried again, doubled each time, and its longest."""
KILLS = 5
"""Most starts that are held against a study when the whole service was killed, which need not be its doing."""
POLL_S = 0.25
RETRY_S = (10.0, 600.0)
"""Wait after a failed sending, doubled each time, and its longest."""
PAUSE_S = (1.0, 60.0)
"""The same when the machine is out of something."""
DAY_S = 86400.0
_NODE, _MACHINE = "node", "machine"
"""Stand for these among the names of studies that wait."""

Send = Callable[[Sequence[Path], Callable[[Path], None]], None]
"""Sends files and calls back for each that was confirmed; OutputError where it cannot."""


class EndedError(ProgressionError):
    """The process that predicted a study ended, or had to be ended."""


class StoppedError(ProgressionError):
    """The service stops; what was at hand is done when it is started again."""


@dataclass(frozen=True)
class Reading:
    """What became of films: keys of all their results, new or not, and why films have none."""

    keys: tuple[str, ...]
    failures: Mapping[str, str] = field(default_factory=dict)


class FilmReader(Protocol):
    """Predicts films; `progression.pacs.reading.Reader` is one."""

    def read(self, films: Sequence[Path], results: Path, *, known: Collection[str] = ()) -> Reading:
        """Predict a study's films: a folder for each key under `results`, but for those that are known."""
        ...


@dataclass
class Service:
    """Works through a queue, one study at a time.

    Attributes
    ----------
    queue, reader : where studies come from, and what predicts them
    send : None to leave results in the queue
    quiet_s : time without a new film after which a study is complete
    keep_days : after which films and results of a sent or failed study are removed
    coming : names of studies of which more may come, as an association is open
    tell : gets a line for each thing that happens
    """

    queue: Queue
    reader: FilmReader
    send: Send | None
    tell: Callable[[str], None]
    quiet_s: float = 30.0
    keep_days: float = 30.0
    coming: Callable[[], set[str]] = field(default=set)
    _resting: dict[str, int] = field(default_factory=dict)
    _waits: dict[str, float] = field(default_factory=dict)
    _due: dict[str, float] = field(default_factory=dict)
    _confirmed: dict[str, set[str]] = field(default_factory=dict)

    def run(self, stop: Event) -> None:
        """Work until stopped."""
        while not stop.is_set():
            try:
                if self.step():
                    continue
            except StoppedError:
                return
            except Exception as error:  # of the queue itself: its disk may come back
                self._trouble(error)
            stop.wait(POLL_S)

    def step(self) -> bool:
        """Take the next step of whichever study is ready; False if there is none."""
        worked = False
        for folder in self._in_order():
            if self._waiting(_MACHINE):
                break
            try:
                worked = self._step(folder) or worked
            except StoppedError:
                raise
            except BrokenError:
                self.queue.set_aside(folder.path)
            except Exception as error:  # whatever it is, the other studies go on
                if not self._trouble(error, folder.name):
                    reason = (
                        str(error)
                        if isinstance(error, ProgressionError)
                        else f"unexpected {type(error).__name__}"
                    )
                    self.tell(f"{folder.name}: {reason}")
                    self._wait(_NODE if isinstance(error, NodeError) else folder.name, RETRY_S)
        return worked

    def _in_order(self) -> list[StudyFolder]:
        """What may be ready; those that were begun in vain come last, and those that had trouble."""
        found = []
        for folder in self.queue.studies():
            if not self._rests(folder) and not self._waiting(folder.name):
                try:
                    found.append((folder.record().attempts, self._due.get(folder.name, 0.0), folder))
                except BrokenError:
                    self.queue.set_aside(folder.path)
        return [folder for *_, folder in sorted(found, key=lambda one: one[:2])]

    def _step(self, folder: StudyFolder) -> bool:
        record = before = folder.record()
        for path in folder.strange():
            self.queue.set_aside(path)
        unread = [film.name for film in folder.films() if film.name not in record.films]
        if unread:
            if 0 <= time() - folder.last_arrival() < self.quiet_s or folder.name in self.coming():
                return False
            if not self._is_held(folder, record):
                record = self._predict(folder, record)
                if record.state in (State.RECEIVED, State.HELD):
                    return True  # in vain
        if record.state in (State.DONE, State.HELD) and self.send is not None and not self._waiting(_NODE):
            record = self._send(folder, record)
        if record.state in (State.SENT, State.FAILED) or (record.state is State.DONE and self.send is None):
            self._resting[folder.name] = _changed(folder)
        return record is not before

    def _predict(self, folder: StudyFolder, before: Record) -> Record:
        """Predict all films of a study; what is known already is not made again."""
        films = folder.films()
        names = tuple(film.name for film in films)
        begun = max(before.attempts, min(before.attempts + 1, KILLS))
        folder.tidy()
        _note(folder, before, begun)  # in case it is the last thing that is done
        self.tell(f"{folder.name}: received, {len(films)} films")
        try:
            made = self.reader.read(films, folder.results_folder, known=before.keys)
        except EndedError as error:
            self.tell(f"{folder.name}: {error}; tried again after the others")
            return _note(folder, before, before.attempts + 1)
        except Exception as error:
            if isinstance(error, StoppedError) or trouble(error):
                _note(folder, before, before.attempts)  # nobody is to blame
                raise
            reason = str(error) if isinstance(error, ProgressionError) else type(error).__name__
            made = Reading(before.keys, {name: f"unexpected {reason}" for name in names})
        keys, failures = tuple(dict.fromkeys((*before.keys, *made.keys))), dict(made.failures)
        seen = tuple(dict.fromkeys((*before.films, *names)))
        state = State.DONE if keys else State.FAILED
        record = replace(before, state=state, films=seen, keys=keys, failures=failures, attempts=0)
        folder.write(record)
        self._works(folder.name)
        self.tell(f"{folder.name}: {state}, {len(keys)} knees predicted, {len(failures)} films not")
        return record

    def _is_held(self, folder: StudyFolder, record: Record) -> bool:
        if record.attempts < HELD:
            return False
        wait = min(HELD_S[0] * 2.0 ** min(record.attempts - HELD, 32), HELD_S[1])
        return 0 <= time() - folder.last_written() < wait

    def _send(self, folder: StudyFolder, record: Record) -> Record:
        """Send what was not confirmed yet; what was is noted one by one."""
        assert self.send is not None
        sent = self._confirmed.setdefault(folder.name, set())  # also what could not be written down
        sent.update(record.sent)
        waiting = [
            path for key in record.keys for path in folder.objects(key) if f"{key}/{path.name}" not in sent
        ]

        def confirmed(path: Path) -> None:
            sent.add(f"{path.parent.name}/{path.name}")
            folder.write(replace(record, sent=tuple(sorted(sent))))

        if waiting:
            self.send(waiting, confirmed)
        elif record.state is State.HELD:
            return record
        state = State.HELD if record.state is State.HELD else State.SENT
        record = replace(record, state=state, sent=tuple(sorted(sent)))
        folder.write(record)
        del self._confirmed[folder.name]
        self._works(folder.name, _NODE)
        self.tell(f"{folder.name}: sent, {len(waiting)} objects")
        return record

    def _trouble(self, error: Exception, name: str = "") -> bool:
        """Whether an error is the machine's; then all work pauses, and the study that met it comes last."""
        found = trouble(error) or (f"unexpected {type(error).__name__}" if not name else "")
        if found:
            self._wait(_MACHINE, PAUSE_S)
            if name:
                self._wait(name, PAUSE_S)
            self.tell(f"{name or 'the queue'}: {found}; goes on in {self._waits[_MACHINE]:.0f} s")
        return bool(found)

    def _wait(self, name: str, seconds: tuple[float, float]) -> None:
        """Leave a study, or more, alone for a while, and longer each time."""
        self._waits[name] = min(2 * self._waits.get(name, seconds[0] / 2), seconds[1])
        self._due[name] = monotonic() + self._waits[name]

    def _works(self, *names: str) -> None:
        """Forget the waits of what goes well."""
        for name in (*names, _MACHINE):
            self._waits.pop(name, None)
            self._due.pop(name, None)

    def _waiting(self, name: str) -> bool:
        return self._due.get(name, 0.0) > monotonic()

    def _rests(self, folder: StudyFolder) -> bool:
        """Whether there was nothing to do when it was last looked at, and nothing came since; removes old ones."""
        if folder.name not in self._resting:
            return False
        changed = self._resting[folder.name]
        if changed != _changed(folder):
            del self._resting[folder.name]
            return False
        written = folder.last_written()
        if self.send is not None and changed and written and time() - written > self.keep_days * DAY_S:
            folder.empty()
            self._resting[folder.name] = _changed(folder)
        return True


def _note(folder: StudyFolder, before: Record, attempts: int) -> Record:
    """Write down that predicting is begun, or was in vain."""
    record = replace(before, state=State.RECEIVED, attempts=attempts)
    if attempts >= HELD:
        reason = (
            f"predicting it was begun {attempts} times and did not come to an end; it is tried again, seldom"
        )
        record = replace(record, state=State.HELD, failures={"study": reason})
    folder.write(record)
    return record


def _changed(folder: StudyFolder) -> int:
    try:
        return folder.films_folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
