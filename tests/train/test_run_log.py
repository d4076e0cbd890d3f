"""The log of a run: however often the run is killed and goes on, each step has one row and one point of each curve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from progression.errors import OutputError
from progression.train.run_log import LOG, RunLog
from tests.train.test_checkpoint import room_for


def rows(folder: Path) -> list[tuple[float, float]]:
    return [(row["kimg"], row["loss"]) for row in map(json.loads, (folder / LOG).read_text().splitlines())]


def points(folder: Path) -> list[tuple[int, float]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(point.step, point.value) for point in events.Scalars("loss")]


def log_of(folder: Path, done: float) -> RunLog:
    return RunLog(folder, total=10, unit="kimg", done=done)


def test_rows_after_the_checkpoint_are_cut_off_as_the_run_comes_past_them_again(tmp_path: Path) -> None:
    killed = log_of(tmp_path, 0)
    for step in (1, 2, 3):
        killed.write(step, {"loss": step})
    killed.figures(3, {"fid": 9})
    with log_of(tmp_path, 2) as resumed:
        for step in (3, 4):
            resumed.write(step, {"loss": step / 2})
    assert rows(tmp_path) == [(1, 1), (2, 2), (3, 1.5), (4, 2)]
    assert points(tmp_path) == [(1000, 1), (2000, 2), (3000, 1.5), (4000, 2)]
    killed.__exit__()


def test_without_a_checkpoint_the_log_begins_anew(tmp_path: Path) -> None:
    for _ in range(2):
        with log_of(tmp_path, 0) as log:
            log.write(1, {"loss": 3})
    assert rows(tmp_path) == [(1, 3)]
    assert points(tmp_path) == [(1000, 3)]


@given(done=st.integers(0, 6), cut=st.integers(1, 30))
def test_what_a_kill_left_of_a_row_is_removed(
    tmp_path_factory: pytest.TempPathFactory, done: int, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)  # as if not installed
        with log_of(folder, 0) as log:
            for step in range(1, 6):
                log.write(step, {"loss": step})
        content = (folder / LOG).read_bytes()
        (folder / LOG).write_bytes(content[:-cut])
        with log_of(folder, done):
            pass
    assert rows(folder) == [(step, step) for step in range(1, 5) if step <= done]


def test_rows_that_stay_are_not_written_again(tmp_path: Path) -> None:
    with log_of(tmp_path, 0) as log:
        log.write(1.00004, {"loss": 1})  # rounded in the row
    before = (tmp_path / LOG).stat()
    with log_of(tmp_path, 1.00004):
        pass
    assert (tmp_path / LOG).stat().st_ino == before.st_ino


def test_a_full_disk_is_told_and_the_row_comes_later(tmp_path: Path) -> None:
    with log_of(tmp_path, 0) as log:
        log.write(1, {"loss": 1})
        with (
            room_for((tmp_path / LOG).stat().st_size + 9),
            pytest.raises(OutputError, match=r"cannot write .*log\.jsonl: File too large"),
        ):
            log.write(2, {"loss": 2})
    assert (tmp_path / LOG).read_text().count("\n") == 1
    with log_of(tmp_path, 1) as log:
        log.write(2, {"loss": 2})
    assert rows(tmp_path) == [(1, 1), (2, 2)]


def test_a_disk_too_full_for_curves_is_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with log_of(tmp_path, 0) as log:
        log.write(1, {"loss": 1})
        curves = next((tmp_path / "tensorboard").iterdir())
        with (
            room_for(curves.stat().st_size + 100),
            pytest.raises(OutputError, match=r"cannot write .*tensorboard: File too large"),
        ):
            log.image("samples", torch.rand(64, 64), 1)
    with room_for(0), pytest.raises(OutputError, match=r"cannot write .*tensorboard: File too large"):
        log_of(tmp_path, 1)
