"""What lies in the queue may be another's, broken, or in the way of the machine: it is never fatal, and never lost."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs the extra pacs")

from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from progression.dicom.identify import identify
from progression.errors import OutputError
from progression.files import output_error
from progression.pacs.listen import NOT_UNDERSTOOD, OUT_OF_RESOURCES
from progression.pacs.queue import BrokenError, Limits, Queue, State, StudyFolder
from progression.pacs.reading import Reader
from progression.pacs.service import Service
from progression.types import Request, Side
from tests.dicom.films import content, dx, named
from tests.fakes import FakePredictor
from tests.pacs.nodes import call
from tests.pacs.test_serve import Serving, serving, study  # noqa: F401  a fixture

NAME = "study-0123456789abcdef"
STATE = {"state": "received", "films": [], "keys": [], "sent": [], "failures": {}, "attempts": 0}


@contextmanager
def at_work(root: Path, predictor: FakePredictor | None = None) -> Iterator[tuple[Queue, Service, list[str]]]:
    """A queue and a service without a node."""
    lines: list[str] = []
    queue = Queue(root, Limits(free_bytes=0), lines.append)
    reader = Reader(predictor or FakePredictor(), Request(), {})
    try:
        yield queue, Service(queue, reader, None, lines.append, quiet_s=0), lines
    finally:
        queue.close()


def add(queue: Queue, film: Dataset) -> StudyFolder:
    made = content(film)
    return queue.add(made, identify(made, "film"))


def work(service: Service) -> None:
    for _ in range(20):
        if not service.step():
            return
    pytest.fail("it never rests")


def _write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def _fifo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


def _link(path: Path, target: str = "/dev/zero") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


RECORDS: list[str | bytes] = [
    "",
    "{}",
    "[]",
    "null",
    "7",
    "[" * 100_000,
    b"\xff\xfe",
    json.dumps(STATE | {"state": "unknown"}),
    json.dumps(STATE | {"state": None}),
    json.dumps({name: value for name, value in STATE.items() if name != "state"}),
    json.dumps(STATE | {"films": "film"}),
    json.dumps(STATE | {"keys": ["../../../../etc"]}),
    json.dumps(STATE | {"sent": [{}]}),
    json.dumps(STATE | {"failures": []}),
    json.dumps(STATE | {"failures": {"a": 1}}),
    json.dumps(STATE | {"attempts": -1}),
    json.dumps(STATE | {"attempts": "many"}),
    json.dumps(STATE | {"attempts": True}),
    json.dumps(STATE | {"attempts": 10**400}),
    json.dumps(STATE) + " " * (1 << 23),
]
FILM = "films/film-0123456789abcdef.dcm"
BROKEN: list[Callable[[Path], None]] = [
    lambda study: _write(study, "a file"),
    lambda study: _fifo(study),
    lambda study: _link(study, "/"),
    lambda study: _link(study, "study-gone"),
    lambda study: _fifo(study / "state.json"),
    lambda study: _link(study / "state.json"),
    lambda study: (study / "state.json").mkdir(parents=True),
    lambda study: _write(study / "films", "a file"),
    lambda study: _link(study / "films", "/usr"),
    lambda study: _link(study / "results", "/usr"),
    lambda study: _fifo(study / FILM),
    lambda study: _link(study / FILM),
    lambda study: _write(study / "films" / "Geheimnis^Annegret.dcm", "a film"),
]
NAMES = [b"study-x", b"study-Geheimnis", b"study-\xff\n\x1b[31m", b"study-" + b"0" * 17]


@pytest.mark.skipif(os.name != "posix", reason="pipes and links")
@pytest.mark.parametrize("running", [False, True], ids=["at the start", "while it runs"])
def test_what_is_none_of_ours_is_set_aside_and_the_rest_goes_on(tmp_path: Path, running: bool) -> None:
    root = tmp_path / "queue"

    def break_all() -> int:
        for number, text in enumerate(RECORDS):
            _write(root / f"study-{number:016x}" / "state.json", text)
        for number, put in enumerate(BROKEN, start=100):
            put(root / f"study-{number:016x}")
        for name in NAMES:
            (root / os.fsdecode(name)).mkdir()
        return len(RECORDS) + len(BROKEN) + len(NAMES)

    with at_work(root) as (queue, *_):
        folder = add(queue, dx(Side.LEFT))
        broken = 0 if running else break_all()
    for life in range(2):
        with at_work(root) as (_, service, lines):
            broken = broken or break_all()
            work(service)
            work(service)
            assert folder.record().state is State.DONE
            told = [line for line in lines if "not as this program leaves it; set aside as aside/" in line]
            aside = {path.name for path in (root / "aside").iterdir()}
            assert len(aside) == broken and len(told) == (broken if life == 0 else 0)  # each once
            assert all(line.rpartition("/")[2] in aside and line.isprintable() for line in told)
            assert "Geheimnis" not in "".join((*lines, *aside))


def test_a_garbage_film_is_its_own_failure(tmp_path: Path) -> None:
    with at_work(tmp_path / "queue") as (queue, service, _):
        folder = add(queue, dx(Side.LEFT))
        (folder.films_folder / "film-0123456789abcdef.dcm").write_bytes(bytes(1000))
        work(service)
        assert folder.record().state is State.DONE
        assert list(folder.record().failures) == ["film-0123456789abcdef.dcm"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(STATE)), inner),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional={name: json_values for name in STATE}) | json_values)
def test_any_record_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, record: object) -> None:
    folder = StudyFolder(tmp_path_factory.getbasetemp() / NAME)
    folder.path.mkdir(exist_ok=True)
    (folder.path / "state.json").write_text(json.dumps(record))
    try:
        found = folder.record()
    except BrokenError:
        return
    assert json.loads(json.dumps(found.__dict__)) == record


def test_a_folder_of_other_files_becomes_no_queue(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="open to other users"):
        Queue(tmp_path, Limits())
    (tmp_path / ".lock").symlink_to("/etc/passwd")
    tmp_path.chmod(0o700)
    with pytest.raises(OutputError, match="cannot write"):
        Queue(tmp_path, Limits())


@pytest.mark.skipif(os.name != "posix", reason="modes")
def test_folders_and_files_are_their_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        root = tmp_path / "queue"
        with at_work(root) as (queue, service, _):
            add(queue, named(dx(Side.LEFT)))
            work(service)
            assert _open(root) == []
        for path in (root, *root.rglob("*")):  # as an older version left it
            path.chmod(0o777 if path.is_dir() else 0o666)
        Queue(root, Limits()).close()
        assert _open(root) == []
    finally:
        os.umask(before)


def _open(root: Path) -> list[str]:
    """What others may use."""
    return [path.name for path in (root, *root.rglob("*")) if stat.S_IMODE(path.lstat().st_mode) & 0o077]


TROUBLES: list[Exception] = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EMFILE, "Too many open files"),
    output_error("somewhere", OSError(errno.EIO, "Input/output error")),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:83] DefaultCPUAllocator: can't allocate memory"),
]
TROUBLES[3].__cause__ = OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("error", TROUBLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["write_prediction", "identify"])
def test_a_machine_in_trouble_fails_no_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    def troubled(*_: object, **__: object) -> None:
        raise error

    with at_work(tmp_path) as (queue, service, lines):
        folders = [add(queue, dx(Side.LEFT)) for _ in range(2)]
        with monkeypatch.context() as patched:
            patched.setattr(f"progression.pacs.reading.{where}", troubled)
            for _ in range(3):
                service.step()
                assert all(folder.record().state is State.RECEIVED for folder in folders)
        assert len([line for line in lines if "goes on in 1 s" in line]) == 1  # then it waited
        service._due.clear()
        work(service)
        assert all(folder.record().state is State.DONE for folder in folders)
        assert all(folder.record().attempts == 0 for folder in folders)


def test_the_pause_grows_and_what_met_the_trouble_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("progression.pacs.service.PAUSE_S", (0.001, 0.01))

    class Hungry(FakePredictor):
        def predict_batch(self, radiographs, **options):  # type: ignore[no-untyped-def, override]
            if radiographs[0].side is Side.RIGHT:
                raise MemoryError
            return super().predict_batch(radiographs, **options)

    with at_work(tmp_path, Hungry()) as (queue, service, lines):
        hungry = add(queue, dx(Side.RIGHT))
        others = [add(queue, dx(Side.LEFT)) for _ in range(3)]
        for _ in range(30):
            service.step()
        assert all(folder.record().state is State.DONE for folder in others)
        assert hungry.record().state is State.RECEIVED
        assert any("out of memory; goes on in 0 s" in line for line in lines)


def test_an_error_that_nobody_foresaw_is_one_knees_failure(tmp_path: Path) -> None:
    class Odd(FakePredictor):
        def predict_batch(self, radiographs, **options):  # type: ignore[no-untyped-def, override]
            if any(one.side is Side.RIGHT for one in radiographs):
                raise ZeroDivisionError
            return super().predict_batch(radiographs, **options)

    with at_work(tmp_path, Odd()) as (queue, service, _):
        films = study(dx(Side.LEFT), dx(Side.RIGHT))
        folder, _ = (add(queue, film) for film in films)
        work(service)
        record = folder.record()
        assert record.state is State.DONE and len(record.keys) == 1
        (reason,) = record.failures.values()
        assert reason.startswith("unexpected ZeroDivisionError;")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OUT_OF_RESOURCES),
        (MemoryError(), OUT_OF_RESOURCES),
        (ZeroDivisionError(), NOT_UNDERSTOOD),
    ],
)
def test_an_object_that_cannot_be_kept_is_asked_for_again(
    serving: Serving,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    film = dx(Side.LEFT)
    with monkeypatch.context() as patched:
        patched.setattr("progression.files.os.fsync", full)
        assert call(serving.listener.port, [film]) == [0, status]
    assert not list(serving.queue.root.glob("study-*/films/*"))
    assert call(serving.listener.port, [film]) == [0, 0]
    serving.work()
    assert serving.queue.study(film.StudyInstanceUID).record().state is State.SENT


def test_a_clock_that_was_set_back_keeps_no_film_waiting(tmp_path: Path) -> None:
    with at_work(tmp_path) as (queue, service, _):
        service.quiet_s = 30
        folder = add(queue, dx(Side.LEFT))
        assert not service.step()
        os.utime(folder.films()[0], (4e9, 4e9))
        work(service)
        assert folder.record().state is State.DONE
