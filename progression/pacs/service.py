"""The loop between arrival and return: what has settled is predicted, what is made is sent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from time import monotonic, time

from progression.errors import ProgressionError
from progression.pacs.peers import NodeError
from progression.pacs.queue import Queue, Record, State, StudyFolder
from progression.pacs.reading import Reader

ATTEMPTS = 3
"""Starts of predicting a study that did not come to an end, as one does not that kills the process; then it failed."""
POLL_S = 0.25
RETRY_S = (10.0, 600.0)
"""Wait after a failed sending, doubled each time, and its longest."""
DAY_S = 86400.0
_NODE = ""
"""Stands for the node among the names of studies that wait."""

Send = Callable[[Sequence[Path], Callable[[Path], None]], None]
"""Sends files and calls back for each that was confirmed; OutputError where it cannot."""


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
    reader: Reader
    send: Send | None
    tell: Callable[[str], None]
    quiet_s: float = 30.0
    keep_days: float = 30.0
    coming: Callable[[], set[str]] = field(default=set)
    _resting: dict[str, int] = field(default_factory=dict)
    _waits: dict[str, float] = field(default_factory=dict)
    _due: dict[str, float] = field(default_factory=dict)

    def run(self, stop: Event) -> None:
        """Work until stopped; a study at hand is finished first."""
        while not stop.is_set():
            if not self.step():
                stop.wait(POLL_S)

    def step(self) -> bool:
        """Take the next step of whichever study is ready; False if there is none."""
        worked = False
        for folder in self.queue.studies():
            try:
                worked = self._step(folder) or worked
            except ProgressionError as error:
                self.tell(f"{folder.name}: {error}")
                self._wait(_NODE if isinstance(error, NodeError) else folder.name)
        return worked

    def _step(self, folder: StudyFolder) -> bool:
        if self._rests(folder) or self._waiting(folder.name):
            return False
        record = before = folder.record()
        unread = [film.name for film in folder.films() if film.name not in record.films]
        if unread:
            if time() - folder.last_arrival() < self.quiet_s or folder.name in self.coming():
                return False
            record = self._predict(folder, replace(record, attempts=record.attempts + 1))
        if record.state is State.DONE and self.send is not None and not self._waiting(_NODE):
            record = self._send(folder, record)
        if record.state in (State.SENT, State.FAILED) or self.send is None:
            self._resting[folder.name] = _changed(folder)
        return record is not before

    def _predict(self, folder: StudyFolder, record: Record) -> Record:
        """Predict all films of a study; what is known already is not made again."""
        films = folder.films()
        names = tuple(film.name for film in films)
        record = replace(record, state=State.RECEIVED)
        folder.write(record)  # counts the attempt, in case it is the last thing that is done
        self.tell(f"{folder.name}: received, {len(films)} films")
        keys, failures = record.keys, {}
        if record.attempts > ATTEMPTS:
            failures = {
                name: f"not finished in {ATTEMPTS} attempts" for name in names if name not in record.films
            }
        else:
            try:
                made = self.reader.read(films, folder.path / "results", known=record.keys)
                keys, failures = tuple(dict.fromkeys((*keys, *made.keys))), dict(made.failures)
            except Exception as error:  # whatever it is, the other studies go on
                failures = {name: f"unexpected {type(error).__name__}" for name in names}
        state = State.DONE if keys else State.FAILED
        record = replace(record, state=state, films=names, keys=keys, failures=failures, attempts=0)
        folder.write(record)
        self.tell(f"{folder.name}: {state}, {len(keys)} knees predicted, {len(failures)} films not")
        return record

    def _send(self, folder: StudyFolder, record: Record) -> Record:
        """Send what was not confirmed yet; what was is noted one by one."""
        assert self.send is not None
        sent = list(record.sent)
        waiting = [
            path
            for key in record.keys
            for path in folder.objects(key)
            if f"{key}/{path.name}" not in record.sent
        ]

        def confirmed(path: Path) -> None:
            sent.append(f"{path.parent.name}/{path.name}")
            folder.write(replace(record, sent=tuple(sent)))

        if waiting:
            self.send(waiting, confirmed)
        record = replace(record, state=State.SENT, sent=tuple(sent))
        folder.write(record)
        for name in (folder.name, _NODE):
            self._waits.pop(name, None)
        self.tell(f"{folder.name}: sent, {len(waiting)} objects")
        return record

    def _wait(self, name: str) -> None:
        """Leave a study, or all sending, alone for a while, and longer each time."""
        self._waits[name] = min(2 * self._waits.get(name, RETRY_S[0] / 2), RETRY_S[1])
        self._due[name] = monotonic() + self._waits[name]

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
        if self.send is not None and changed and time() - folder.last_written() > self.keep_days * DAY_S:
            folder.empty()
            self._resting[folder.name] = _changed(folder)
        return True


def _changed(folder: StudyFolder) -> int:
    try:
        return folder.films_folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
