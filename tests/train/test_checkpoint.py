"""Checkpoints: what was damaged is noticed, and what a kill or a full disk interrupts costs nothing."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from progression.errors import OutputError, WeightsError
from progression.train.checkpoint import Checkpoints, load_checkpoint, save_checkpoint

STATE = {"step": 7, "weights": torch.arange(5.0)}


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may become larger than this, as on a disk that is nearly full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("written") / "run.pt"
    save_checkpoint(path, STATE)
    return path.read_bytes()


def test_a_checkpoint_comes_back_and_torch_alone_reads_it_too(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run.pt", STATE)
    assert names(tmp_path) == ["run.pt"]
    for state in (load_checkpoint(tmp_path / "run.pt"), torch.load(tmp_path / "run.pt", weights_only=True)):
        assert state["step"] == 7
        assert state["weights"].tolist() == [0, 1, 2, 3, 4]


def test_a_flipped_bit_in_any_byte_is_noticed(written: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    for position in range(len(written)):
        path.write_bytes(written)
        flip(path, position, position % 8)
        with pytest.raises(WeightsError, match=r"run\.pt is damaged.*; remove it to begin anew"):
            load_checkpoint(path)


@given(st.data())
def test_a_checkpoint_that_lacks_its_end_or_has_more_is_noticed(
    written: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "run.pt"
    kept = data.draw(st.integers(0, len(written) - 1), label="kept")
    more = data.draw(st.binary(min_size=1), label="more")
    for content in (written[:kept], written + more):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="is damaged"):
            load_checkpoint(path)


def test_a_checkpoint_of_an_earlier_version_has_no_digest_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    torch.save(STATE, path)
    assert load_checkpoint(path)["weights"].tolist() == [0, 1, 2, 3, 4]
    flip(path, path.read_bytes().index(torch.tensor([3.0, 4.0]).numpy().tobytes()), 5)
    with pytest.raises(WeightsError, match="is damaged: a CRC is wrong"):
        load_checkpoint(path)


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(1, 1), tmp_path / "run.pt")  # a class, which would have to be executed
    with pytest.raises(WeightsError, match=r"not readable \(UnpicklingError\): expected what a run wrote"):
        load_checkpoint(tmp_path / "run.pt")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(WeightsError, match="cannot be read: Is a directory"):
        load_checkpoint(tmp_path / "folder.pt")


def test_a_new_run_has_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "run.pt").load() is None


def test_a_damaged_checkpoint_is_told_and_the_one_before_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path / "run.pt")
    for step in (1, 2, 3):
        checkpoints.save({"step": step})
    assert names(tmp_path) == ["run.previous.pt", "run.pt"]
    assert Checkpoints(tmp_path / "run.pt").load() == {"step": 3}
    assert capsys.readouterr().out == ""

    flip(tmp_path / "run.pt", 100)
    resumed = Checkpoints(tmp_path / "run.pt")
    assert resumed.load() == {"step": 2}
    assert re.search(r"run\.pt is damaged.*going on from .*run\.previous\.pt\n", capsys.readouterr().out)
    resumed.save({"step": 4})  # takes the damaged one's place, not the good one's
    assert load_checkpoint(resumed.path) == {"step": 4}
    assert load_checkpoint(resumed.previous) == {"step": 2}


def test_two_damaged_checkpoints_are_both_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run.pt")
    for step in (1, 2):
        checkpoints.save({"step": step})
    for path in (checkpoints.path, checkpoints.previous):
        flip(path, 100)
    with pytest.raises(WeightsError, match=r"run\.pt is damaged.*run\.previous\.pt is damaged.*begin anew"):
        Checkpoints(tmp_path / "run.pt").load()
    checkpoints.previous.unlink()
    with pytest.raises(WeightsError, match=r"run\.pt is damaged.*; remove it to begin anew"):
        Checkpoints(tmp_path / "run.pt").load()


def test_killed_while_the_new_one_takes_its_place_the_one_before_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path / "run.pt")
    checkpoints.save({"step": 1})
    replace = os.replace

    def once(source: Path, target: Path) -> None:
        replace(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", once)
        checkpoints.save({"step": 2})
    assert names(tmp_path) == ["run.previous.pt"]
    resumed = Checkpoints(tmp_path / "run.pt")
    assert resumed.load() == {"step": 1}
    resumed.save({"step": 2})
    assert names(tmp_path) == ["run.previous.pt", "run.pt"]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_disk_that_fills_up_at_any_byte_leaves_the_last_one(tmp_path: Path, share: float) -> None:
    checkpoints = Checkpoints(tmp_path / "run.pt")
    for step in (1, 2):
        checkpoints.save(STATE | {"step": step})
    room = int(share * checkpoints.path.stat().st_size)
    with room_for(room), pytest.raises(OutputError, match=r"cannot write .*run\.pt: File too large"):
        checkpoints.save(STATE | {"step": 3})
    assert names(tmp_path) == ["run.previous.pt", "run.pt"]
    assert [load_checkpoint(path)["step"] for path in (checkpoints.previous, checkpoints.path)] == [1, 2]
    checkpoints.save(STATE | {"step": 3})
    assert load_checkpoint(checkpoints.path)["step"] == 3
