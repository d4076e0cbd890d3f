import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from progression.errors import OutputError, ProgressionError
from progression.files import (
    atomic_folder,
    atomic_write,
    check_writable,
    digest,
    growing_file,
    output_error,
    part_path,
    progress_path,
    remove_leftovers,
    sha256,
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_atomic_write_makes_parents_and_leaves_one_file(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "numbers.csv"
    with atomic_write(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".csv"
        temporary.write_text("1")
        assert not target.exists()
    assert target.read_text() == "1"
    assert names(target.parent) == ["numbers.csv"]


def test_atomic_write_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    target = tmp_path / "numbers.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["numbers.csv"]


def test_failure_removes_the_parents_that_were_made(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), atomic_write(tmp_path / "a" / "b" / "c"):
        raise RuntimeError("stop")
    with pytest.raises(RuntimeError, match="stop"), atomic_folder(tmp_path / "a" / "b" / "c"):
        raise RuntimeError("stop")
    assert names(tmp_path) == []


def test_files_have_the_mode_of_ordinary_files(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file"), atomic_folder(tmp_path / "folder"):
        pass
    (tmp_path / "ordinary").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    assert (tmp_path / "folder").stat().st_mode & 0o111


def test_disk_full_is_an_output_error(tmp_path: Path) -> None:
    reason = "No space left on device; free some space"
    with pytest.raises(OutputError, match=reason), atomic_write(tmp_path / "file"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EDQUOT, "free some space or choose another place"),
        (errno.EEXIST, "expected a folder where there is a file; choose another place"),
        (errno.EACCES, "choose a place where you may write"),
        (errno.ENOENT, "choose another place"),
    ],
)
def test_advice_fits_the_reason(code: int, advice: str) -> None:
    told = str(output_error("out", OSError(code, os.strerror(code))))
    assert told == f"cannot write out: {os.strerror(code)}; {advice}"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            ValueError("Error while serializing: I/O error: x (os error 28)"),
            "No space left on device; free some",
        ),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
            "not written whole",
        ),
    ],
)
def test_libraries_that_tell_a_full_disk_in_their_own_way(
    tmp_path: Path, error: Exception, reason: str
) -> None:
    for writing in (atomic_write, atomic_folder):
        with pytest.raises(OutputError, match=reason), writing(tmp_path / "out"):
            raise error
    assert names(tmp_path) == []


def test_a_file_where_a_folder_should_be_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    for target in (tmp_path / "file" / "x", tmp_path / "file" / "x" / "y"):
        with pytest.raises(OutputError, match="cannot write"), atomic_write(target):
            pass
        with pytest.raises(OutputError, match="cannot write"):
            check_writable(target)
    with pytest.raises(OutputError, match="a file of that name exists"), atomic_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "keep"


def test_atomic_folder_replaces_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with atomic_folder(tmp_path / "out") as temporary:
        (temporary / "new").touch()
        assert names(tmp_path / "out") == ["old"]
    assert names(tmp_path / "out") == ["new"]
    assert names(tmp_path) == ["out"]


def test_atomic_folder_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if Path(source, "new").exists():
            raise OSError(errno.EIO, "input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OutputError, match="input/output error"), atomic_folder(tmp_path / "out") as temporary:
        (temporary / "new").touch()
    assert names(tmp_path / "out") == ["old"]
    assert names(tmp_path) == ["out"]


def test_check_writable_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert names(tmp_path) == []


@given(content=st.binary(max_size=1000))
def test_sha256_is_that_of_the_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("sha") / "file"
    path.write_bytes(content)
    assert sha256(path) == hashlib.sha256(content).hexdigest()


def test_sha256_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ProgressionError, match=r"cannot read .*missing"):
        sha256(tmp_path / "missing")


# -- files that grow ------------------------------------------------------------------------------------


def test_a_growing_file_goes_on_and_cuts_off_what_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.csv"
    with growing_file(path, run="a") as file:
        file.append(b"one\n", items=1)
        file.append(b"two\nthree\n", items=2)
    assert not path.exists()
    with part_path(path).open("ab") as stream:
        stream.write(b"hal")  # written, but not said to be
    with growing_file(path, run="a") as file:
        assert file.items == 3
        file.append(b"four\n", items=1)
        file.finish()
    assert path.read_bytes() == b"one\ntwo\nthree\nfour\n"
    assert names(path.parent) == ["rows.csv"]


@pytest.mark.parametrize("lost", [b"", b"on"])
def test_a_growing_file_that_lost_pieces_begins_anew(tmp_path: Path, lost: bytes) -> None:
    path = tmp_path / "rows.csv"
    with growing_file(path, run="a") as file:
        file.append(b"one\n", items=1)
    part_path(path).write_bytes(lost)
    with growing_file(path, run="a") as file:
        assert file.items == 0
        file.append(b"uno\n", items=1)
        file.finish()
    assert path.read_bytes() == b"uno\n"


def test_a_growing_file_of_another_run_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with growing_file(path, run="a") as file:
        file.append(b"one\n", items=1)
    with (
        pytest.raises(OutputError, match=r"of a run with other inputs or options.*begin anew"),
        growing_file(path, run="b"),
    ):
        pass
    with growing_file(path, run="a") as file:
        assert file.items == 1
    progress_path(path).write_text('{"run": "a"}')
    with pytest.raises(OutputError, match="is damaged"), growing_file(path, run="a"):
        pass


def test_a_flipped_bit_in_what_a_growing_file_goes_on_from_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with growing_file(path, run="a") as file:
        for piece in (b"one\n", b"two\n"):
            file.append(piece, items=1)
    part_path(path).write_bytes(b"one\ntvo\nhal")
    for _ in range(2):
        with (
            pytest.raises(
                OutputError, match=r"tells of other bytes than \.rows\.csv\.part holds.*begin anew"
            ),
            growing_file(path, run="a"),
        ):
            pass
    part_path(path).write_bytes(b"one\ntwo\nhal")
    state = json.loads(progress_path(path).read_text())
    assert state.pop("sha256") == hashlib.sha256(b"one\ntwo\n").hexdigest()
    progress_path(path).write_text(json.dumps(state))  # as an earlier version wrote it
    with growing_file(path, run="a") as file:
        file.append(b"three\n", items=1)
        state = json.loads(progress_path(path).read_text())
        assert state["sha256"] == hashlib.sha256(b"one\ntwo\nthree\n").hexdigest()
        file.finish()
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_two_writers_of_a_growing_file(tmp_path: Path) -> None:
    with growing_file(tmp_path / "rows.csv", run="a") as file:
        file.append(b"one\n", items=1)
        with (
            pytest.raises(OutputError, match="another run is writing it"),
            growing_file(tmp_path / "rows.csv", run="a"),
        ):
            pass


def test_a_growing_file_without_pieces_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="stop"),
        growing_file(tmp_path / "new" / "rows.csv", run="a"),
    ):
        raise RuntimeError("stop")
    assert names(tmp_path) == []


def test_a_digest_tells_how_texts_are_divided() -> None:
    assert digest(["ab", "c"]) != digest(["a", "bc"])
    assert digest(["ab", "c"]) == digest(iter(["ab", "c"]))


def test_a_killed_writers_leftovers_go_when_the_growing_file_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "rows [1].csv"
    with growing_file(path, run="a") as file:
        file.append(b"one\n", items=1)
    for name in ("..rows [1].csv.unfinished-abcdefgh.progress", ".rows [1].csv.unfinished-abcdefgh.json"):
        (tmp_path / name).touch()
    (tmp_path / "..rows 1.csv.unfinished-abcdefgh.progress").touch()  # of another one
    with growing_file(path, run="a") as file:
        file.finish()
    assert names(tmp_path) == ["..rows 1.csv.unfinished-abcdefgh.progress", "rows [1].csv"]


def test_leftovers_are_known_by_the_name_of_what_was_being_written(tmp_path: Path) -> None:
    left = tmp_path / "left"
    with atomic_write(tmp_path / "rows.csv") as file, atomic_folder(tmp_path / "best") as folder:
        (left / folder.name / "inside").mkdir(parents=True)
        (left / file.name).touch()
        file.write_text("1")
    remove_leftovers(left / "rows.csv")
    assert names(left) == [folder.name]
    remove_leftovers(left / "best")
    assert names(left) == []
    remove_leftovers(tmp_path / "nowhere" / "rows.csv")


def test_what_only_looks_like_a_leftover_stays(tmp_path: Path) -> None:
    for name in (".rows.unfinished-abcdefgh.csv.txt", ".rows.unfinished-abc.csv", ".rows.csv", "rows.csv"):
        (tmp_path / name).touch()
    before = names(tmp_path)
    remove_leftovers(tmp_path / "rows.csv", tmp_path / "rows", tmp_path / "*.csv")
    assert names(tmp_path) == before
