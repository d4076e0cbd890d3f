"""A reader in a process of its own: what happens to that process happens to one study."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs the extra pacs")

from progression.dicom.identify import identify
from progression.errors import UsageError, WeightsError
from progression.pacs import isolated
from progression.pacs.isolated import IsolatedReader
from progression.pacs.queue import Limits, Queue, State
from progression.pacs.service import EndedError, Service, StoppedError
from progression.pacs.trouble import TroubleError
from progression.types import Side
from tests.dicom.films import content, dx
from tests.pacs.fragile import Fragile, Picky, unloadable
from tests.pacs.nodes import until


def film(folder: Path, does: str) -> list[Path]:
    (folder / does).write_text(does)
    return [folder / does]


def test_its_process_answers_fails_ends_and_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = IsolatedReader(Fragile)
    try:
        assert reader.read(film(tmp_path, "well"), tmp_path).keys == ("0" * 32,)
        first = reader._process.pid
        for does, error, told in (
            ("memory", TroubleError, "out of memory"),
            ("disk", TroubleError, "No space left"),
            ("usage", UsageError, "expected another one"),
            ("odd", Exception, "unexpected ZeroDivisionError"),
        ):
            with pytest.raises(error, match=told):
                reader.read(film(tmp_path, does), tmp_path)
        assert reader._process.pid == first
        with pytest.raises(EndedError, match="the process that predicted it ended"):
            reader.read(film(tmp_path, "die"), tmp_path)
        monkeypatch.setattr(isolated, "FILM_S", 1.0)
        with pytest.raises(EndedError, match="not predicted in 1 s"):
            reader.read(film(tmp_path, "hang"), tmp_path)
        assert reader.read(film(tmp_path, "well"), tmp_path).keys == ("0" * 32,)
        reader._stopping = lambda: True
        pid, began = reader._process.pid, time.monotonic()
        with pytest.raises(StoppedError, match="stopped while"):
            reader.read(film(tmp_path, "hang"), tmp_path)
        assert time.monotonic() - began < 5
        until(lambda: not Path(f"/proc/{pid}").exists())
    finally:
        reader.close()


def test_a_model_that_cannot_be_loaded_is_told_at_once() -> None:
    with pytest.raises(WeightsError, match="damaged"):
        IsolatedReader(unloadable).loaded()


def test_a_study_that_ends_the_process_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("progression.pacs.service.HELD", 1)
    lines: list[str] = []
    queue = Queue(tmp_path, Limits(free_bytes=0))
    deadly, *good = (
        queue.add(made, identify(made, "film")) for made in (content(dx(Side.LEFT)) for _ in range(4))
    )
    with deadly.films()[0].open("ab") as stream:
        stream.write(b"\0")
    reader = IsolatedReader(Picky)
    service = Service(queue, reader, None, lines.append, quiet_s=0)
    try:
        for _ in range(3):
            service.step()
        assert all(folder.record().state is State.DONE for folder in good)
        record = deadly.record()
        assert record.state is State.HELD and record.attempts == 1
        monkeypatch.setattr("progression.pacs.service.HELD_S", (0.0, 0.0))
        service.step()
        assert deadly.record().attempts == 2  # it is never given up
        assert sum("tried again after the others" in line for line in lines) == 2
    finally:
        reader.close()
        queue.close()
