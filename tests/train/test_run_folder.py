"""A run folder has one owner, and what a killed owner left goes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from progression.errors import OutputError
from progression.train.run_folder import LOCK, owned

KILLED = """
import os, signal
from pathlib import Path
from progression.files import atomic_folder, atomic_write
from progression.train.run_folder import owned

folder = Path("run")
with owned(folder), atomic_write(folder / "joint.pt"), atomic_folder(folder / "best") as best:
    (best / "figures.json").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_second_owner_is_told_at_once_and_the_next_one_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    for _ in range(2):
        with owned(folder):
            (folder / "joint.pt").write_bytes(b"state")
            with (
                pytest.raises(
                    OutputError, match=r"written by process \d+ on .*: wait for it to end, or choose"
                ),
                owned(folder),
            ):
                pass
        assert names(folder) == ["joint.pt"]


def test_side_by_side_is_no_matter(tmp_path: Path) -> None:
    with owned(tmp_path / "run"), owned(tmp_path / "run" / "fold0"), owned(tmp_path / "run" / "fold1"):
        assert names(tmp_path / "run") == [LOCK, "fold0", "fold1"]
    assert not (tmp_path / "run").exists()  # nothing was put there


def test_a_killed_owner_holds_nobody_up_and_its_leftovers_go(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, check=False)
    assert len(names(folder)) == 3  # the lock, and what it had in work
    of_others = [".manifest.unfinished-abcdefgh.json", ".bank-0123.unfinished-abcdefgh.safetensors", ".notes"]
    for name in of_others:
        (folder / name).touch()
    with owned(folder):
        assert names(folder) == sorted([LOCK, *of_others])
    assert names(folder) == sorted(of_others)


def test_a_folder_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    for name in ("best", "snapshot"):
        aside = tmp_path / f".{name}.replaced-abcdefgh" / "old"
        aside.mkdir(parents=True)
        (aside / "figures.json").write_text("old")
    (tmp_path / "snapshot").mkdir()  # the new one had taken its place
    with owned(tmp_path):
        pass
    assert names(tmp_path) == ["best", "snapshot"]
    assert (tmp_path / "best" / "figures.json").read_text() == "old"
    assert names(tmp_path / "snapshot") == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(OutputError, match="expected a folder where there is a file"), owned(tmp_path / "run"):
        pass
