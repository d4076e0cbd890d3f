import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progression import files
from progression.cohort import predict_entries, run_cohort
from progression.entries import Entry, parse_grade, read_table
from progression.errors import (
    OutputError,
    ProgressionError,
    StoppedProcessError,
    TableError,
    UsageError,
    WeightsError,
)
from progression.processes import Processes
from progression.report.outputs import COLUMNS, row
from progression.types import Prediction, Radiograph, Request, Side
from tests.fakes import FakePredictor, knee, save_knee

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes table.csv beside three knees and a file that is no picture."""
    for number in range(3):
        save_knee(tmp_path / f"{number}.png", seed=number)
    (tmp_path / "text.png").write_text("not a picture")

    def to_file(text: str) -> Path:
        (tmp_path / "table.csv").write_text(text)
        return tmp_path / "table.csv"

    return to_file


def test_results_have_a_row_a_knee_and_horizon(write: Write, tmp_path: Path) -> None:
    entries = read_table(
        write("name,image,side,grade,age,subject\na,0.png,L,2,60,p\nb,1.png,right,,,\nc,2.png,R,3.0,,q\n")
    )
    predictor = FakePredictor()
    seen: list[int] = []
    request = Request(horizon_months=(96, 48), seed=7, refine_steps=5)
    failed = run_cohort(
        predictor, entries, tmp_path / "r.csv", request=request, batch=2, progress=seen.append
    ).failed
    table = pd.read_csv(tmp_path / "r.csv")
    assert failed == [] and seen == [0, 2, 3]
    assert tuple(table.columns) == COLUMNS
    assert table["name"].tolist() == ["a", "a", "b", "b", "c", "c"]
    assert table["horizon_months"].tolist() == [48, 96] * 3
    assert table["side"].tolist() == ["left"] * 2 + ["right"] * 4
    text = pd.read_csv(tmp_path / "r.csv", dtype=str, keep_default_na=False)
    assert text["grade_read"].tolist() == ["2", "2", "", "", "3", "3"]
    assert [call["names"] for call in predictor.calls] == [["a", "b"], ["c"]]
    assert predictor.calls[0]["sides"] == [Side.LEFT, Side.RIGHT]
    assert [call["subjects"] for call in predictor.calls] == [["p", None], ["q"]]
    assert [call["grades"] for call in predictor.calls] == [[2, None], [3]]
    assert {(call["seed"], call["refine_steps"], call["render"]) for call in predictor.calls} == {
        (7, 5, False)
    }


def test_two_knees_of_a_subject_see_each_other(write: Write) -> None:
    table = "name,image,side,grade,subject\na,0.png,L,2,p\nb,1.png,right,,p\nc,2.png,R,3,q\n"
    predictor = FakePredictor()
    list(predict_entries(predictor, read_table(write(table)), request=Request(), render=False, batch=2))
    first, second = predictor.calls
    assert first["other_sides"] == [Side.RIGHT, Side.LEFT] and second["other_sides"] == [None]
    assert first["other_grades"] == [None, 2] and second["other_grades"] == [None]
    pixels = first["others"]
    assert isinstance(pixels, list) and np.allclose(pixels[0], knee(seed=1), atol=1 / 255)
    assert np.allclose(pixels[1], knee(seed=0), atol=1 / 255)


@pytest.mark.parametrize(
    "rows",
    [
        "a,0.png,L,,\nb,1.png,R,,\n",  # nobody's
        "a,0.png,L,,p\nb,1.png,L,,p\n",  # one side
        "a,0.png,L,,p\nb,1.png,R,,p\nc,2.png,R,,p\n",  # several visits
        "a,0.png,L,,p\nb,1.png,up,,p\n",
    ],
)
def test_knees_that_are_no_pair(write: Write, rows: str) -> None:
    assert {entry.other for entry in read_table(write("name,image,side,grade,subject\n" + rows))} == {None}


def test_an_other_knee_that_cannot_be_read_is_left_out(write: Write) -> None:
    entries = read_table(write("name,image,side,grade,subject\na,0.png,L,1,p\nb,text.png,R,3,p\n"))
    predictor = FakePredictor()
    good, bad = predict_entries(predictor, entries, request=Request(), render=False)
    assert isinstance(good.result, Prediction) and isinstance(bad.result, ProgressionError)
    assert predictor.calls[0]["other_sides"] == [None] and predictor.calls[0]["other_grades"] == [None]


def test_failed_knees_keep_their_rows_and_order(write: Write, tmp_path: Path) -> None:
    entries = read_table(
        write(
            "name,image,side,grade\na,0.png,L,2\nb,text.png,L,\nc,none.png,L,\nd,1.png,up,\ne,2.png,L,7\nf,,L,\ng,2.png,R,\n"
        )
    )
    failed = run_cohort(
        FakePredictor(), entries, tmp_path / "r.csv", request=Request(horizon_months=(24, 48))
    ).failed
    table = pd.read_csv(tmp_path / "r.csv")
    assert [outcome.entry.name for outcome in failed] == ["b", "c", "d", "e", "f"]
    assert table["name"].tolist() == [name for name in "abcdefg" for _ in range(2)]
    assert table["horizon_months"].tolist() == [24, 48] * 7
    reasons = table.drop_duplicates("name").set_index("name")["warnings"]
    assert "not a picture" in reasons["b"] and "no such file" in reasons["c"]
    assert "unknown side 'up'" in reasons["d"] and "grade '7'" in reasons["e"] and "no image" in reasons["f"]
    assert table.loc[table["name"] == "b", "risk_fast"].isna().all()
    assert table.loc[table["name"] == "g", "risk_fast"].notna().all()


def test_a_knee_that_the_predictor_refuses_does_not_stop_its_batch(write: Write) -> None:
    entries = [Entry(name, str(write("").parent / f"{name}.png"), "left") for name in ("0", "1", "2")]
    outcomes = list(predict_entries(FakePredictor(fail_on="1"), entries, request=Request(), render=True))
    assert [isinstance(outcome.result, Prediction) for outcome in outcomes] == [True, False, True]
    assert "did not converge" in str(outcomes[1].result)


def test_a_knee_with_too_small_a_bank_does_not_stop_the_cohort(write: Write, tmp_path: Path) -> None:
    entries = read_table(write("name,image,side,subject\na,0.png,L,p\nb,1.png,L,q\nc,2.png,R,\n"))
    predictor = FakePredictor(refused_subject="q")
    failed = run_cohort(predictor, entries, tmp_path / "r.csv", request=Request()).failed
    table = pd.read_csv(tmp_path / "r.csv")
    assert [outcome.entry.name for outcome in failed] == ["b"]
    assert "5 neighbours asked for" in table["warnings"][1]
    assert table["risk_fast"].notna().tolist() == [True, False, True]


def test_a_side_that_the_picture_contradicts(write: Write, tmp_path: Path) -> None:
    save_knee(tmp_path / "stated.png", side=Side.LEFT)
    entries = read_table(write("name,image,side\na,stated.png,R\nb,stated.png,L\n"))
    failed = run_cohort(FakePredictor(), entries, tmp_path / "r.csv", request=Request()).failed
    assert [outcome.entry.name for outcome in failed] == ["a"]
    reason = pd.read_csv(tmp_path / "r.csv")["warnings"][0]
    assert reason == "failed: a states that it is a left knee, not a right one; correct the side"


def test_numbers_do_not_depend_on_the_batch(write: Write) -> None:
    entries = [Entry(name, str(write("").parent / f"{name}.png"), "left") for name in ("0", "1", "2")]
    risks = []
    for batch in (1, 2, 3):
        outcomes = predict_entries(FakePredictor(), entries, request=Request(), render=True, batch=batch)
        risks.append([o.result.horizons[0].risk_any for o in outcomes if isinstance(o.result, Prediction)])
    np.testing.assert_allclose(risks, [risks[0]] * 3)
    assert len(risks[0]) == 3


def test_images_folder(write: Write, tmp_path: Path) -> None:
    path = write("name,image,side\na,0.png,L\n")
    assert read_table(path)[0].image == str(tmp_path / "0.png")
    assert read_table(path, images="/data")[0].image == "/data/0.png"
    assert read_table(write("name,image,side\na,/x/0.png,L\n"), images="/data")[0].image == "/x/0.png"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a CSV table"),
        ("name,image\na,0.png\n", "lacks the column 'side'"),
        ("name,image,side\n", "has no rows"),
        ("name,image,side\na,0.png,L\n,1.png,L\n", "row 3: the name is missing"),
        ("name,image,side\na,0.png,L\nb,1.png,L\na,2.png,R\n", "row 4: name 'a' is there twice"),
        ('name,image,side\n"a,0.png,L\n', "not a CSV table"),
        ("name,image,side\na,0.png,L,extra,extra\n", "not a CSV table"),
    ],
)
def test_tables_that_are_refused(write: Write, text: str, reason: str) -> None:
    with pytest.raises(TableError, match=reason) as caught:
        read_table(write(text))
    assert "\n" not in str(caught.value)


def test_tables_that_are_not_text(tmp_path: Path) -> None:
    save_knee(tmp_path / "table.png")
    with pytest.raises(TableError, match="not a CSV table"):
        read_table(tmp_path / "table.png")
    with pytest.raises(TableError, match="No such file"):
        read_table(tmp_path / "missing.csv")


def test_short_rows_fail_alone(write: Write, tmp_path: Path) -> None:
    entries = read_table(write("name,image,side\na,0.png\nb,1.png,L\n"))
    failed = run_cohort(FakePredictor(), entries, tmp_path / "r.csv", request=Request()).failed
    assert [outcome.entry.name for outcome in failed] == ["a"]


@pytest.mark.parametrize(
    ("text", "grade"), [("", None), (" ", None), ("0", 0), ("4", 4), ("2.0", 2), ("2,0", 2)]
)
def test_grades(text: str, grade: int | None) -> None:
    assert parse_grade(text) == grade


@pytest.mark.parametrize("text", ["5", "-1", "2.5", "inf", "two", "1e400", "1_0", "２", "٣", "2,5"])
def test_grades_that_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="from 0 to 4"):
        parse_grade(text)


def test_nowhere_to_write(write: Write, tmp_path: Path) -> None:
    entries = read_table(write("name,image,side\na,0.png,L\n"))
    with pytest.raises(OutputError, match="cannot write"):
        run_cohort(FakePredictor(), entries, tmp_path / "0.png" / "r.csv", request=Request())


# -- runs that are stopped, and several processes ------------------------------------------------------------


def many(write: Write, count: int = 9) -> list[Entry]:
    """Knees of three pictures, one of which is none."""
    folder = write("").parent
    images = ("0.png", "text.png", "1.png", "2.png")
    return [Entry(f"k{i}", str(folder / images[i % 4]), "left", str(i % 4)) for i in range(count)]


def whole_table(entries: list[Entry], request: Request) -> bytes:
    """What the file holds if all rows are made at once."""
    rows: list[dict[str, object]] = []
    for outcome in predict_entries(FakePredictor(), entries, request=request, render=False):
        if isinstance(outcome.result, Prediction):
            rows += [row(outcome.result, horizon) for horizon in outcome.result.horizons]
        else:
            told = str(outcome.result).replace("text.png", outcome.entry.name, 1)
            reason = {"name": outcome.entry.name, "warnings": f"failed: {told}"}
            rows += [{**reason, "horizon_months": months} for months in request.horizon_months]
    return (
        pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
        .to_csv(index=False, lineterminator="\n")
        .encode()
    )


REQUEST = Request(horizon_months=(24, 48))


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_the_table_is_the_one_made_at_once(write: Write, tmp_path: Path, batch: int) -> None:
    entries = many(write)
    run_cohort(FakePredictor(), entries, tmp_path / "r.csv", request=REQUEST, batch=batch)
    assert (tmp_path / "r.csv").read_bytes() == whole_table(entries, REQUEST)


def stop_at(count: int) -> Callable[[int], None]:
    def stop(done: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return stop


def test_a_stopped_run_goes_on(write: Write, tmp_path: Path) -> None:
    entries, out = many(write), tmp_path / "r.csv"
    with pytest.raises(KeyboardInterrupt):
        run_cohort(FakePredictor(), entries, out, request=REQUEST, batch=2, progress=stop_at(4))
    assert not out.exists()
    predictor = FakePredictor()
    failed = run_cohort(predictor, entries, out, request=REQUEST, batch=2).failed
    assert [name for call in predictor.calls for name in call["names"]] == ["k4", "k6", "k7", "k8"]  # type: ignore[attr-defined]
    assert [outcome.entry.name for outcome in failed] == ["k1", "k5"]
    assert "not a picture" in str(failed[0].result)
    assert out.read_bytes() == whole_table(entries, REQUEST)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("stopped_at", [None, 2, 9])
def test_what_made_a_table_is_told_beside_it(write: Write, tmp_path: Path, stopped_at: int | None) -> None:
    """Also where the run that ends it predicts nothing more; no name, path or grade of a knee is in it."""
    entries, out = many(write), tmp_path / "r.csv"
    if stopped_at:
        with pytest.raises(KeyboardInterrupt):
            run_cohort(FakePredictor(), entries, out, request=REQUEST, batch=1, progress=stop_at(stopped_at))
        assert not (tmp_path / "r.csv.json").exists()
    run_cohort(FakePredictor(), entries, out, request=REQUEST, batch=1)
    told = json.loads((tmp_path / "r.csv.json").read_text())
    assert told == {
        "table": "r.csv",
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "knees": 9,
        "failed": 2,
        "versions": {"progression": "0"},
        "seed": 0,
        "arguments": {"model": "mine", "horizon_months": [24, 48]},
    }


@pytest.mark.parametrize(
    "other", [{"request": Request(horizon_months=(24,))}, {"identity": {"model": "another"}}, {}]
)
def test_another_run_does_not_go_on_there(write: Write, tmp_path: Path, other: dict[str, Any]) -> None:
    entries, out = many(write), tmp_path / "r.csv"
    with pytest.raises(KeyboardInterrupt):
        run_cohort(FakePredictor(), entries, out, request=REQUEST, batch=2, progress=stop_at(4))
    entries = entries if other else entries[:-1]
    with pytest.raises(OutputError, match=r"\.r\.csv\.progress is of a run with other inputs or options"):
        run_cohort(FakePredictor(), entries, out, **{"request": REQUEST, **other})
    assert not out.exists()


class Deadly:
    """Workers that tell a process's end when one of their tasks has a knee that ends it."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def map(self, work: Any, tasks: Iterable[Any]) -> Iterator[Any]:
        for task in tasks:
            if any(entry.name in self.names for entry in task):
                raise StoppedProcessError("one of 1 processes was stopped")
            yield work(FakePredictor(), task)


class Dying(FakePredictor):
    """Is killed, as by the system, when it comes to a knee, or to any."""

    at = ""

    def predict_batch(self, radiographs: Sequence[Radiograph], **options: Any) -> list[Prediction]:
        if not self.at or any(radiograph.name == self.at for radiograph in radiographs):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict_batch(radiographs, **options)


class DyingLater(Dying):
    at = "k6"


def test_several_processes_give_the_same_rows_and_go_on_where_a_run_was_stopped(
    write: Write, tmp_path: Path
) -> None:
    entries, out = many(write), tmp_path / "r.csv"
    with pytest.raises(ProgressionError, match=r"one of 1 processes was stopped.* to go on"):
        run_cohort(Processes(Dying, 1), entries, out, request=REQUEST, batch=3)
    assert not out.exists()
    with pytest.raises(KeyboardInterrupt):
        run_cohort(FakePredictor(), entries, out, request=REQUEST, batch=1, progress=stop_at(3))
    seen: list[int] = []
    failed = run_cohort(
        Processes(FakePredictor, 2), entries, out, request=REQUEST, batch=1, progress=seen.append
    ).failed
    assert seen[0] == 3 and seen[-1] == len(entries)
    assert [outcome.entry.name for outcome in failed] == ["k1", "k5"]
    assert out.read_bytes() == whole_table(entries, REQUEST)


def test_a_knee_that_ends_its_process_fails_alone(write: Write, tmp_path: Path) -> None:
    entries, out = many(write), tmp_path / "r.csv"
    failed = run_cohort(Deadly("k6"), entries, out, request=REQUEST, batch=3).failed
    reason = "ended the process that read it, perhaps for lack of memory; look at its picture"
    assert [(one.entry.name, str(one.result)) for one in failed if one.entry.name == "k6"] == [("k6", reason)]
    whole, made = (text.decode().splitlines() for text in (whole_table(entries, REQUEST), out.read_bytes()))
    assert [line for line in made if not line.startswith("k6,")] == [
        line for line in whole if not line.startswith("k6,")
    ]
    assert sum(line.startswith("k6,") and reason in line for line in made) == len(REQUEST.horizon_months)
    with pytest.raises(
        StoppedProcessError, match="was stopped"
    ):  # whatever ends all of a batch is no single knee's
        run_cohort(Deadly(*(entry.name for entry in entries)), entries, out, request=REQUEST, batch=3)


def no_predictor() -> FakePredictor:
    raise WeightsError("no model 'x'")


def test_a_process_that_cannot_load(write: Write, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no model 'x'"):
        run_cohort(Processes(no_predictor, 1), many(write), tmp_path / "r.csv", request=REQUEST)
    assert not list(tmp_path.glob("*r.csv*"))


KILLED = """
import sys
from pathlib import Path
from tests.test_cohort import DyingLater, many, run_cohort, REQUEST
if __name__ == "__main__":
    run_cohort(DyingLater(), many(lambda text: Path(sys.argv[1]) / "table.csv"), sys.argv[2], request=REQUEST, batch=2)
"""


def test_a_run_goes_on_after_kill_9(write: Write, tmp_path: Path) -> None:
    entries, out = many(write), tmp_path / "out" / "r.csv"
    script = [sys.executable, "-c", KILLED, str(tmp_path), str(out)]
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run(script, cwd=root, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    predictor = FakePredictor()
    run_cohort(predictor, entries, out, request=REQUEST, batch=2)
    assert predictor.calls[0]["names"] == ["k6", "k7"]
    assert out.read_bytes() == whole_table(entries, REQUEST)


def test_a_ray_cluster_gives_the_same_rows(write: Write, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    script = [sys.executable, "-c", ON_RAY, str(tmp_path), str(tmp_path / "r.csv")]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(script, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "no model 'x'"
    assert (tmp_path / "r.csv").read_bytes() == whole_table(many(write), REQUEST)


ON_RAY = """
import sys
from pathlib import Path
import ray
from progression.errors import WeightsError
from progression.processes import Ray
from tests.test_cohort import FakePredictor, many, no_predictor, run_cohort, REQUEST
entries = many(lambda text: Path(sys.argv[1]) / "table.csv")
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
try:
    run_cohort(Ray(no_predictor, "local"), entries, sys.argv[2], request=REQUEST, batch=1)
except WeightsError as error:
    print(error)
run_cohort(Ray(FakePredictor, "local"), entries, sys.argv[2], request=REQUEST, batch=1)
"""


def test_a_refused_knee_is_found_by_halves(write: Write) -> None:
    folder = write("").parent
    entries = [Entry(f"k{i}", str(folder / f"{i % 3}.png"), "left") for i in range(8)]
    predictor = FakePredictor(fail_on="k5")
    outcomes = list(predict_entries(predictor, entries, request=Request(), render=False))
    assert [o.entry.name for o in outcomes if not isinstance(o.result, Prediction)] == ["k5"]
    sizes = [len(call["names"]) for call in predictor.calls]  # type: ignore[arg-type]
    assert sizes == [8, 4, 4, 2, 1, 1, 2]


def test_refused_knees_that_the_error_names_cost_one_more_batch(write: Write, tmp_path: Path) -> None:
    folder = write("").parent
    entries = [Entry(f"k{i}", str(folder / f"{i % 3}.png"), "left") for i in range(8)]
    predictor = FakePredictor(no_knees=("k2", "k5"))
    failed = run_cohort(predictor, entries, tmp_path / "r.csv", request=Request()).failed
    assert [outcome.entry.name for outcome in failed] == ["k2", "k5"]
    assert {str(outcome.result) for outcome in failed} == {"refused, it is none"}
    assert [len(call["names"]) for call in predictor.calls] == [8, 6]  # type: ignore[arg-type]
    assert pd.read_csv(tmp_path / "r.csv")["name"].tolist() == [entry.name for entry in entries]


# -- full and broken disks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize(
    ("module", "function"),
    [("os", "fsync"), ("os", "replace"), ("tempfile", "mkstemp"), ("pathlib.Path", "write_text")],
)
def test_a_disk_that_fails_at_any_call_is_an_output_error_and_the_run_goes_on(
    code: int, module: str, function: str, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every call in turn, until a run meets none that fails."""
    entries, out = many(write), tmp_path / "out" / "r.csv"
    owner: Any = {"os": os, "tempfile": tempfile, "pathlib.Path": Path}[module]
    real, failing_call, calls = getattr(owner, function), 1, 0

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == failing_call:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    while True:
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(owner, function, failing)
            try:
                done = run_cohort(FakePredictor(), entries, out, request=REQUEST, batch=4)
                break
            except OutputError as error:
                told = str(error)
        assert os.strerror(code) in told and str(out.parent) in told and ("; " in told)
        left = {path.name for path in out.parent.iterdir()} if out.parent.exists() else set()
        assert left <= {
            ".r.csv.part",
            ".r.csv.progress",
            "r.csv.json",
        }  # the table is not there, nor what is half
        failing_call += 1
    assert failing_call > 1 and [outcome.entry.name for outcome in done.failed] == ["k1", "k5"]
    assert out.read_bytes() == whole_table(entries, REQUEST)
    assert sorted(path.name for path in out.parent.iterdir()) == ["r.csv", "r.csv.json"]


@given(sizes=st.lists(st.integers(0, 9000), min_size=1, max_size=3))
@settings(max_examples=12)
def test_files_that_may_not_grow_at_some_byte_lose_and_double_nothing(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    """By a limit of the system's own, which cuts a write in the middle of a piece."""
    resource = pytest.importorskip("resource")
    folder = tmp_path_factory.mktemp("disk")
    for number in range(3):
        save_knee(folder / f"{number}.png", seed=number)
    (folder / "text.png").write_text("not a picture")
    entries, out = many(lambda _: folder / "table.csv"), folder / "r.csv"
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in sorted(sizes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            run_cohort(FakePredictor(), entries, out, request=REQUEST, batch=2)
        except OutputError as error:
            assert "cannot write" in str(error) and not out.exists()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
    done = run_cohort(FakePredictor(), entries, out, request=REQUEST, batch=2)
    assert (done.knees, [outcome.entry.name for outcome in done.failed]) == (9, ["k1", "k5"])
    assert out.read_bytes() == whole_table(entries, REQUEST)


def test_a_full_disk_at_the_first_piece_names_the_table_and_the_remedy(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries, out = many(write), tmp_path / "r.csv"
    with monkeypatch.context() as patch:
        patch.setattr(files, "open", lambda *_, **__: FullFile(out, "w"), raising=False)
        with pytest.raises(
            OutputError, match=r"cannot write .*r\.csv: No space left on device; free some space"
        ):
            run_cohort(FakePredictor(), entries, out, request=REQUEST)
    run_cohort(FakePredictor(), entries, out, request=REQUEST)
    assert out.read_bytes() == whole_table(entries, REQUEST)


class FullFile(io.FileIO):
    """Has no room for anything; its name is another's."""

    def __init__(self, path: Path, mode: str) -> None:
        super().__init__(path.with_name(f".{path.name}.part"), mode)

    def write(self, content: Any) -> int:
        """Fail as on a full disk."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
