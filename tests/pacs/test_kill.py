"""Killed at any moment and started again, a server sends every result, and none twice as another."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs the extra pacs")

from progression import files
from progression.dicom.identify import identify
from progression.pacs.queue import Limits, Queue, State
from progression.pacs.reading import Reader
from progression.pacs.service import Service
from progression.types import Request, Side
from tests.conftest import REPOSITORY
from tests.dicom.films import content, dx
from tests.fakes import FakePredictor
from tests.models import write_model
from tests.pacs.nodes import OWN, TITLE, call, receiving, until


class Killed(BaseException):
    """What a test raises in place of the end of the process."""


def test_stopped_before_any_of_its_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = content(dx(Side.LEFT))
    whole = 0
    for moment in range(30):
        root = tmp_path / str(moment)
        sent: list[tuple[str, bytes]] = []
        with monkeypatch.context() as patched:
            left = _stop_at(patched, moment)
            with suppress(Killed):
                _serve(root, film, sent)
        assert _serve(root, film, sent) is State.SENT
        assert len({uid for uid, _ in sent}) == 3
        assert len(set(sent)) == 3  # what went twice was the same object
        whole += left() > 0
        if whole:
            break
    assert whole == 1 and moment > 6  # film, folder, and a record for each step


def _stop_at(patched: pytest.MonkeyPatch, moment: int) -> Callable[[], int]:
    """End at the n-th renaming; returns how many were left to go."""
    left = [moment + 1]

    def counted(work: Callable[..., None]) -> Callable[..., None]:
        def renamed(*arguments: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            work(*arguments)

        return renamed

    for name in ("replace", "rename"):
        patched.setattr(files.os, name, counted(getattr(os, name)))
    return lambda: left[0]


def _serve(root: Path, film: bytes, sent: list[tuple[str, bytes]]) -> State:
    """One life of a server: the film comes (again), and whatever is to be done is done."""

    def send(paths: Sequence[Path], confirmed: Callable[[Path], None]) -> None:
        for path in paths:
            made = path.read_bytes()
            sent.append((identify(made, path.name).sop_instance, made))
            confirmed(path)

    queue = Queue(root, Limits(free_bytes=0))
    try:
        folder = queue.add(film, identify(film, "film"))
        service = Service(queue, Reader(FakePredictor(), Request(), {}), send, lambda line: None, quiet_s=0)
        while service.step():
            pass
        return folder.record().state
    finally:
        queue.close()


class Deadly(FakePredictor):
    """Ends the process that asks it about a right knee; or so a test sees it."""

    def predict_batch(self, radiographs, **options):  # type: ignore[no-untyped-def, override]
        if any(one.side is Side.RIGHT for one in radiographs):
            raise Killed
        return super().predict_batch(radiographs, **options)


def test_a_study_that_ends_the_process_comes_last_and_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly, good = dx(Side.RIGHT), [dx(Side.LEFT) for _ in range(3)]
    for life, film in enumerate([deadly, *good, None, None]):
        queue = Queue(tmp_path, Limits(free_bytes=0))
        if film is not None:
            queue.add(content(film), identify(content(film), "film"))
        service = Service(queue, Reader(Deadly(), Request(), {}), None, lambda line: None, quiet_s=0)
        if life < 3:
            with pytest.raises(Killed):
                service.step()
        else:
            service.step()
        queue.close()
        others = [queue.study(str(one.StudyInstanceUID)) for one in good[:life]]
        assert all(folder.record().state is State.DONE for folder in others)
    folder = queue.study(str(deadly.StudyInstanceUID))
    assert folder.record().state is State.HELD and folder.record().attempts == 3
    assert "begun 3 times and did not come to an end" in (folder.path / "reason.txt").read_text()
    monkeypatch.setattr("progression.pacs.service.HELD_S", (0.0, 0.0))
    queue = Queue(tmp_path, Limits(free_bytes=0))
    service = Service(queue, Reader(FakePredictor(), Request(), {}), None, lambda line: None, quiet_s=0)
    service.step()  # it was not the study's fault
    assert folder.record().state is State.DONE and folder.record().attempts == 0
    assert not (folder.path / "reason.txt").exists()
    queue.close()


def test_a_real_process_killed_twice(tmp_path: Path) -> None:
    """Right after it confirmed a film, and while it sends its first result."""
    model = write_model(tmp_path / "model")
    film = dx(Side.LEFT)
    with receiving() as receiver:
        process, port = _start(tmp_path, model, receiver.port)
        assert call(port, [film]) == [0, 0]
        _kill(process)
        process, _ = _start(tmp_path, model, receiver.port)
        receiver.on_arrival = lambda: _kill(process) if len(receiver.arrived) == 1 else None
        until(lambda: receiver.arrived)
        process, port = _start(tmp_path, model, receiver.port)
        state = next((tmp_path / "queue").glob("study-*")) / "state.json"
        until(lambda: '"sent"' in re.sub(r'"sent": \[', "", state.read_text()))
        assert len(receiver.uids) == 3 and len(receiver.series) == 3
        assert len(set(receiver.arrived)) == 3
        assert call(port, [film]) == [0, 0]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        _kill(process)
        assert len(set(receiver.arrived)) == 3


def _start(folder: Path, model: Path, node_port: int) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "progression", "pacs", "serve", "--queue", str(folder / "queue")]
    command += ["--peer", f"{TITLE}@127.0.0.1", "--to", f"{TITLE}@127.0.0.1:{node_port}", "--title", OWN]
    command += ["--port", "0", "--quiet-seconds", "0.2", "--min-free-mb", "0", "--model", str(model)]
    command += ["--engine", "torch", "--device", "cpu", "--accept-atypical"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    log = (folder / "log.txt").open("a")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    log.close()
    assert process.stdout is not None
    found = re.search(r"port (\d+)", process.stdout.readline())
    assert found is not None, (folder / "log.txt").read_text()
    return process, int(found[1])


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
