"""Names that nobody should give: nothing fails for them, and nothing that is printed or written does harm."""

import csv
import errno
import io
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from progression import cli
from progression.cohort import predict_entries, run_cohort
from progression.entries import Entry, parse_previous, read_table
from progression.errors import DependencyError, UsageError, WeightsError, failure
from progression.film import Place
from progression.folders import find_films
from progression.metrics.readers.ratings import Ratings
from progression.report import outputs
from progression.report.html import report_html
from progression.report.lettering import drawn, label
from progression.report.outputs import write_prediction
from progression.report.pdf import report_pdf
from progression.report.reader_figure import reader_figure, save_figure
from progression.texts import file_name, printable, same_name
from progression.types import Prediction, Radiograph, Request, Side
from tests.fakes import FakePredictor, knee, prediction, save_knee

NAMES = [
    '=HYPERLINK("x")',
    "+cmd|calc!A0",
    "@SUM(1+1)",
    "\x1b]0;owned\x07\x1b[2Jclear",
    "two\nlines\r",
    "c1\x9b31m",
    "turned\u202egnp.exe",
    "$ _x_ $",
    "$\\frac{1}{0}$ $",
    "_under",
    "李子",
    "عربي",
    "देवनागरी",
    "👩‍⚕️🦵",
    "Å ångström",
    "a<script>alert(1)<b>&",
    "CON",
    "dots..",
    "a:b*c?",
    "%41",
    "'quoted",
    os.fsdecode(b"caf\xe9 \xff"),
]
CONTROLS = {chr(code) for code in (*range(32), *range(127, 160))} | set(
    "\u202a\u202b\u202c\u202d\u202e\u2066"
)


@pytest.fixture
def predictor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    """A fake predictor behind the command line, run in an empty folder."""
    fake = FakePredictor()
    module = SimpleNamespace(load_predictor=lambda model, *, device, engine, bank: fake)
    monkeypatch.setitem(sys.modules, "progression.predict", module)
    monkeypatch.chdir(tmp_path)
    return fake


# -- predict and cohort ---------------------------------------------------------------------------------------


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time, and have tests of their own."""
    for slow in ("save_prediction_figure", "save_gif"):
        monkeypatch.setattr(outputs, slow, lambda path, made: path.touch())


def test_knees_of_any_names_are_predicted_written_and_told(
    no_figures: None, predictor: FakePredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkdir("films")
    pictures = [str(save_knee(Path("films", f"{name}.png"))) for name in NAMES]
    assert cli.run(["predict", *pictures, "--side", "left", "--out", "out"]) == 0
    told = capsys.readouterr()
    assert told.err == "" and not CONTROLS & set(told.out.replace("\n", ""))
    assert told.out.count(": wrote out/") == len(NAMES)
    assert sorted(os.listdir("out")) == sorted(map(file_name, NAMES))
    for name in NAMES:
        kept = json.loads(Path("out", file_name(name), "prediction.json").read_bytes())
        assert kept["name"] == printable(name)
    assert cli.run(["cohort", "films", "--out", "r.csv"]) == 1  # which knees they are, nothing says
    assert not CONTROLS & set(capsys.readouterr().err.replace("\n", ""))


def test_the_table_of_a_cohort_holds_every_name_and_no_formula(
    predictor: FakePredictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(NAMES):
        save_knee(tmp_path / f"{name}.png", seed=number, side=Side.LEFT)
    assert cli.run(["cohort", str(tmp_path), "--out", "r.csv"]) == 0
    assert capsys.readouterr().out == f"{len(NAMES)} of {len(NAMES)} knees predicted: r.csv\n"
    with open("r.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert sorted(row["name"].removeprefix("'") for row in rows) == sorted(
        printable(name).removeprefix("'") for name in NAMES
    )
    assert not [row for row in rows if row["name"][0] in "=+-@\t\r"]
    assert all(float(row["risk_any"]) > 0 for row in rows)


def test_a_stopped_run_knows_its_knees_again_whatever_they_are_called(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("none")
    entries = [Entry(name, str(tmp_path / "no.png"), "left") for name in NAMES]

    def stop(done: int) -> None:
        if done == len(NAMES) // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cohort(FakePredictor(), entries, tmp_path / "r.csv", request=Request(), batch=1, progress=stop)
    done = run_cohort(FakePredictor(), entries, tmp_path / "r.csv", request=Request(), batch=1)
    assert done.knees == len(NAMES)
    assert [outcome.entry.name for outcome in done.failed] == [
        *map(printable, NAMES[: len(NAMES) // 2]),
        *NAMES[len(NAMES) // 2 :],
    ]


@pytest.mark.parametrize("encoding", ["cp1252:strict", "ascii:strict", "utf-8"])
def test_no_encoding_of_the_console_is_an_error(encoding: str, tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "progression", "data", "check", "李\x1b[2J.csv"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": root},
        capture_output=True,
        check=False,
    )
    (told,) = done.stderr.splitlines()
    assert done.returncode == 1 and b"\\x1b[2J.csv: No such file" in told and b"\x1b" not in told
    assert (b"\\u674e" in told) == (encoding != "utf-8")


def test_names_that_some_system_takes_for_one_are_wrong_use(
    predictor: FakePredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    for first, second in (("Knee", "knee"), ("Jos\u00e9", "Jose\u0301"), ("a", "a")):
        for folder, name in (("x", first), ("y", second)):
            os.makedirs(folder, exist_ok=True)
            save_knee(Path(folder, f"{name}.png"))
        assert cli.run(["predict", f"x/{first}.png", f"y/{second}.png", "--side", "left"]) == 2
        assert "would both write" in capsys.readouterr().err
    assert predictor.calls == []


def test_a_name_as_long_as_the_system_allows(no_figures: None, predictor: FakePredictor) -> None:
    for name in ("a" * 251, "李" * 83):
        save_knee(Path(f"{name}.png"))
        assert cli.run(["predict", f"{name}.png", "--side", "left", "--out", "out"]) == 0
        assert Path("out", file_name(name), "prediction.json").is_file()
    (knee_of, other) = (file_name("a" * 251), file_name("a" * 250 + "b"))
    assert knee_of != other and max(map(len, map(os.fsencode, (knee_of, other)))) <= 180
    Path("t.csv").write_text(f"name,image,side\na,{'a' * 251}.png,left\n")
    assert cli.run(["cohort", "t.csv", "--out", "r" * 235 + ".csv"]) == 0


@given(name=st.text(max_size=300))
def test_a_name_leads_nowhere_else_on_any_system(name: str) -> None:
    found = file_name(name)
    assert found and found not in (".", "..") and not set(found) & (set('<>:"/\\|?*') | CONTROLS)
    assert found[-1] not in ". " and len(found.encode()) <= 180
    assert found.split(".")[0].upper() not in ("CON", "NUL", "AUX", "PRN", "COM1", "LPT9")
    assert same_name(name) == same_name(name.casefold())


def test_ordinary_names_stay() -> None:
    for name in ("knee-1", "P0001_L", "José", "李", ".hidden", "100%", "a b"):
        assert file_name(name) == name


@given(text=st.text(max_size=40))
def test_printable_texts_are_one_line_that_utf_8_can_write(text: str) -> None:
    shown = printable(text)
    assert not CONTROLS & set(shown) and len(shown.splitlines()) <= 1
    shown.encode()
    assert printable(shown) == shown


# -- one bad knee ---------------------------------------------------------------------------------------------


class Breaks(FakePredictor):
    """Fails in an unforeseen way when it comes to a knee called bad."""

    error: BaseException = RuntimeError("'Geheimnis' at /home/geheimnis/x.png")

    def predict_batch(self, radiographs: Sequence[Radiograph], **options: Any) -> list[Prediction]:
        if any(one.name.startswith("bad") for one in radiographs):
            raise self.error
        return super().predict_batch(radiographs, **options)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("'Geheimnis' at /home/geheimnis/x.png"),
        ValueError('could not convert "Geheimnis"'),
        OverflowError("too large"),
        MemoryError(),
        RecursionError("maximum recursion depth exceeded"),
        UnicodeEncodeError("ascii", "Geheimnis\udcff", 9, 10, "surrogates not allowed"),
        OSError(5, "Input/output error", "/home/geheimnis"),
        KeyError("Geheimnis"),
        DependencyError("needs a decoder"),
        AssertionError(),
        StopIteration(),
    ],
)
def test_whatever_goes_wrong_with_one_knee_is_its_failure(error: Exception, tmp_path: Path) -> None:
    entries = [Entry(name, str(save_knee(tmp_path / "0.png")), "left") for name in ("a", "bad", "c")]
    predictor = Breaks()
    predictor.error = error
    done = run_cohort(predictor, entries, tmp_path / "r.csv", request=Request())
    assert [outcome.entry.name for outcome in done.failed] == ["bad"] and done.knees == 3
    told = str(done.failed[0].result)
    assert "eheimnis" not in told and "/home" not in told and "\n" not in told and told
    assert "eheimnis" not in (tmp_path / "r.csv").read_text()


@pytest.mark.parametrize("error", [WeightsError("part risk is damaged"), KeyboardInterrupt()])
def test_what_no_further_knee_would_survive_stops_the_run(error: BaseException, tmp_path: Path) -> None:
    entries = [Entry(name, str(save_knee(tmp_path / "0.png")), "left") for name in ("bad", "a")]
    predictor = Breaks()
    predictor.error = error
    with pytest.raises(type(error)):
        run_cohort(predictor, entries, tmp_path / "r.csv", request=Request())


@pytest.mark.parametrize(
    "cell",
    [
        "nan,nan,100",
        "inf,5,10",
        "1e400,5",
        "5",
        "1,2,3,4,5",
        "a,b",
        "٣,٣",
        "1,2,3,99",
        "1,2,0",
        "9e307,9e307",
    ],
)
@pytest.mark.parametrize("column", ["centre", "spacing_mm", "grade"])
def test_a_cell_that_is_no_place_is_its_knees_failure(cell: str, column: str, tmp_path: Path) -> None:
    save_knee(tmp_path / "0.png")
    (tmp_path / "t.csv").write_text(
        f'name,image,side,{column}\nok,0.png,left,\nbad,0.png,left,"{cell}"\nlast,0.png,left,\n',
        encoding="utf-8",
    )
    done = run_cohort(FakePredictor(), read_table(tmp_path / "t.csv"), tmp_path / "r.csv", request=Request())
    assert (done.knees, [outcome.entry.name for outcome in done.failed]) == (3, ["bad"])


def test_decimal_commas_of_a_place_are_read_where_nothing_else_is_meant() -> None:
    assert Place.parse("610,5;300,2") == Place((610.5, 300.2))
    assert Place.parse("610,5 300,2", "0,2") == Place((610.5, 300.2), spacing_mm=0.2)
    assert Place.parse("610, 300") == Place((610.0, 300.0))
    assert Place.parse("NA", "-") == Place()


@pytest.mark.parametrize(
    "text", ["old.png:٢٤", "old.png:1e3", "old.png:nan", f"old.png:{'9' * 400}", "old.png:0"]
)
def test_months_of_an_earlier_film_are_plain_finite_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="PICTURE:MONTHS"):
        parse_previous(text)


@pytest.mark.parametrize(
    "arguments",
    [
        "predict 0.png --side left --spacing-mm nan",
        "predict 0.png --side left --spacing-mm inf",
        "readers analyse r.csv --out o --threshold nan",
        "readers analyse r.csv --out o --confidence nan",
        "readers plan r.json --difference nan",
        "evaluate generator --table t.csv --out o --psi nan",
        "data split t.csv --out o.csv --train nan",
    ],
)
def test_options_take_finite_numbers(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments.split()) == 2
    assert "expected a finite number" in capsys.readouterr().err


def test_special_files_in_a_folder_are_skipped_and_told(tmp_path: Path) -> None:
    save_knee(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    found = find_films([tmp_path])
    assert [entry.name for entry in found.entries] == ["a"]
    assert {one.name: one.reason for one in found.skipped} == {
        "pipe": "no ordinary file",
        "gone": "no ordinary file",
    }


class Full(io.StringIO):
    """An output that has no room."""

    def write(self, text: str) -> int:
        """Fail as on a full disk."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_output_without_room_costs_no_knee_and_is_told(
    no_figures: None,
    predictor: FakePredictor,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("a", "b"):
        save_knee(Path(f"{name}.png"))
    monkeypatch.setattr(sys, "stdout", Full())
    assert cli.run(["predict", "a.png", "b.png", "--side", "left", "--out", "out"]) == 1
    assert sorted(os.listdir("out")) == ["a", "b"]
    assert "cannot write the standard output: No space left on device" in capsys.readouterr().err


def test_a_picture_whose_decoder_is_not_installed_fails_alone(
    no_figures: None,
    predictor: FakePredictor,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_knee(Path("good.png"))
    Path("volume.nii").write_bytes(bytes(400))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    for rest in ([], ["--centre", "48,48,90"]):
        assert cli.run(["predict", "volume.nii", "good.png", "--side", "left", "--out", "out", *rest]) == 1
        told = capsys.readouterr()
        assert "good: wrote out/good" in told.out and "progression-imaging[nifti]" in told.err
        assert told.err.endswith("1 of 2 knees failed\n")


# -- the same picture -----------------------------------------------------------------------------------------


def test_a_picture_is_not_its_own_other_knee(tmp_path: Path) -> None:
    save_knee(tmp_path / "0.png")
    save_knee(tmp_path / "copy.tif")
    save_knee(tmp_path / "1.png", seed=1)
    (tmp_path / "t.csv").write_text(
        "name,image,side,subject\na,0.png,left,p\nb,copy.tif,right,p\nc,0.png,left,q\nd,1.png,right,q\n"
    )
    predictor = FakePredictor()
    outcomes = list(
        predict_entries(predictor, read_table(tmp_path / "t.csv"), request=Request(), render=False)
    )
    (call,) = predictor.calls
    assert call["other_sides"] == [None, None, Side.RIGHT, Side.LEFT]
    for outcome in outcomes[:2]:
        assert isinstance(outcome.result, Prediction)
        assert "other knee left out: it is the same picture as this knee's" in outcome.result.warnings


def test_a_picture_is_not_its_own_earlier_film(
    predictor: FakePredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    save_knee(Path("0.png"))
    save_knee(Path("1.png"), seed=1)
    save_knee(Path("copy.tif"), seed=1)
    ask = ["predict", "0.png", "--side", "left", "--previous"]
    assert cli.run([*ask, "0.png:24"]) == 1
    assert "an earlier film is the same picture as the knee's own" in capsys.readouterr().err
    assert cli.run([*ask, "1.png:24", "--previous", "copy.tif:48"]) == 1
    assert "the same picture as another earlier film's" in capsys.readouterr().err
    assert cli.run([*ask, "1.png:24", "--other", "copy.tif"]) == 1
    assert "the same picture as the other knee's" in capsys.readouterr().err
    assert cli.run([*ask, "1.png:24"]) == 0
    assert cli.run(["predict", "1.png", "--side", "left", "--other", "copy.tif"]) == 2
    assert "--other is the same picture as the knee's own" in capsys.readouterr().err


# -- figures and reports --------------------------------------------------------------------------------------


@given(text=st.text(max_size=12))
@settings(max_examples=30)
def test_figures_draw_any_text_as_it_is_without_a_warning(text: str) -> None:
    figure = Figure(figsize=(1, 1), dpi=20)
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.text(0, 0, drawn(text))
        axes = figure.add_subplot()
        axes.plot([0], [0], label=label(text or "x"))
        axes.legend()
        axes.set_yticks([0], [drawn(text)])
        figure.canvas.draw()


def test_letters_that_figures_cannot_draw_are_told_by_their_codes() -> None:
    assert drawn("Müller ½ $x$") == r"Müller ½ \$x\$"
    assert drawn("李") == r"\u674e" and drawn("\U0001f9b5") == r"\U0001f9b5"
    assert drawn("ع") == r"\u0639" and drawn("\x1b") == r"\x1b"


def test_every_report_of_a_knee_of_any_name(tmp_path: Path) -> None:
    made = prediction(Radiograph(knee(), Side.LEFT, " ".join(NAMES)))
    write_prediction(tmp_path / "out", made)
    page = report_html(made)
    page.encode()
    assert "<script>alert" not in page and not (CONTROLS - {"\n", "\t"}) & set(page)
    assert report_pdf(made).startswith(b"%PDF")


def test_readers_and_treatments_of_any_name_are_drawn(tmp_path: Path) -> None:
    for first, second in (("$ _x_ $", "_hidden"), ("李", "=x"), ("ع\x1b", "$")):
        table: dict[str, list[Any]] = {key: [] for key in ("reader", "treatment", "case", "truth", "rating")}
        for reader in (first, second):
            for treatment in (second, first):
                for case in range(6):
                    row = (reader, treatment, case, case % 2, (case * 7 + len(reader)) % 5)
                    for key, value in zip(table, row, strict=True):
                        table[key].append(value)
        ratings = Ratings.of(table)
        entry = {"first": ratings.treatments[0], "second": ratings.treatments[1], "reader": None}
        figures = {"low": -0.1, "high": 0.1, "difference": 0.0}
        rows = [(reader, entry | figures) for reader in ratings.readers]
        save_figure(tmp_path / "figure.png", reader_figure(ratings, rows, threshold=2.0))
        assert (tmp_path / "figure.png").stat().st_size > 1000


def test_an_error_of_this_package_stays_itself_and_any_other_is_told_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = UsageError("expected this")
    assert failure(known) is known
    with caplog.at_level(logging.DEBUG, "progression"):
        told = failure(ValueError("x" * 500))
    assert len(str(told)) < 300 and caplog.records[0].exc_info is not None


@given(quoted=st.text(max_size=2000))
def test_every_message_is_one_line_and_says_what_to_do(quoted: str) -> None:
    told = str(UsageError(f"grade {quoted}: expected 0 to 4; leave it out"))
    assert not CONTROLS & set(told) and len(told) <= 900
    assert told.startswith("grade ") and told.endswith(": expected 0 to 4; leave it out")
