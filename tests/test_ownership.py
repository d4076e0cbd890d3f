"""Of all processes one works in a place."""

import errno
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from progression.errors import OutputError
from progression.ownership import locked


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_lock_says_who_has_it_and_goes_with_the_block(tmp_path: Path) -> None:
    held = {"work": "the table", "remedy": "wait"}
    with locked(tmp_path / "a" / ".lock", **held):
        (tmp_path / "a" / "rows.csv").touch()
        with (
            pytest.raises(
                OutputError, match=rf"the table is being written by process {os.getpid()} on \S+: wait"
            ),
            locked(tmp_path / "a" / ".lock", **held),
        ):
            pass
        (tmp_path / "a" / ".lock").write_text("\x1b[2J")  # not what is written there
        with (
            pytest.raises(OutputError, match="by another process: wait"),
            locked(tmp_path / "a" / ".lock", **held),
        ):
            pass
    assert names(tmp_path / "a") == ["rows.csv"]


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / ".lock", work="it", remedy="wait", wait_seconds=60):
            order.append("second")

    other = threading.Thread(target=second)
    with locked(tmp_path / ".lock", work="it", remedy="wait"):
        other.start()
        time.sleep(0.2)
        order.append("first")
    other.join()
    assert order == ["first", "second"]


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
def test_where_files_cannot_be_locked_it_is_said_and_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(stream: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path / ".lock", work="it", remedy="wait"):
        pass
    assert "the file system has no locks; let no other process write there\n" in capsys.readouterr().err
