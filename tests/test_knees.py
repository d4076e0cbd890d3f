"""What a film is taken to show, by every way in: alone, in a table, in a folder; a finder says what is in it."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import Dataset

from progression import cli
from progression.cohort import predict_entries, run_cohort
from progression.dicom import example
from progression.entries import Entry, read_table
from progression.errors import FilmRefusedError, ImageError, TableError, UsageError
from progression.folders import find_films
from progression.image import LATERALITY, read_image
from progression.knees import cut, read_knees, shown
from progression.localise.find import Finder
from progression.processes import Processes
from progression.report.outputs import COLUMNS
from progression.types import Prediction, Request, Side
from progression.weights import load_model
from tests.dicom.films import dx, forced, save
from tests.fakes import FakePredictor, knee, save_knee
from tests.localise.test_places import LEFT, RIGHT, Says

REQUEST = Request(horizon_months=(24, 48))


def both_knees(**values: object) -> Dataset:
    """A film of both knees whose header says this."""
    return forced(example.bilateral_film(knee()), **values)


ONE_SIDED = {"Laterality": "L", "SeriesDescription": "Knee, standing"}
CONTRADICTORY = {"Laterality": "L", "SeriesDescription": "right knee"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A film of both knees, one whose header says left, one knee, and a picture."""
    save(tmp_path / "both.dcm", both_knees())
    save(tmp_path / "said.dcm", both_knees(**ONE_SIDED))
    save(tmp_path / "one.dcm", dx(Side.LEFT))
    save_knee(tmp_path / "picture.png")
    return tmp_path


# -- what is asked about a film ------------------------------------------------------------------------------


def test_a_film_of_both_knees_is_two_that_see_each_other(folder: Path) -> None:
    right, left = shown(Entry("film", str(folder / "both.dcm"), "", subject="p"), Says())
    assert (right.name, right.side, left.name, left.side) == ("film-right", "right", "film-left", "left")
    assert right.other == replace(left, other=None) and left.other == replace(right, other=None)
    assert {right.subject, left.subject} == {"p"}
    assert shown(right, Says()) == (right,)  # nobody looks twice


def test_the_side_asked_for_has_the_other_one_in_view(folder: Path) -> None:
    entry = Entry("film", str(folder / "both.dcm"), "L", grade="3")
    (left,) = shown(entry, Says())
    assert (left.name, left.grade, left.found[0].spot) == ("film", "3", LEFT)
    assert left.other is not None and left.other.side == "right" and left.other.grade == ""
    beside = Entry("of the table", "x.png", "right")
    assert shown(replace(entry, other=beside), Says())[0].other == beside


def test_what_shows_one_knee_or_has_a_place_is_itself(folder: Path) -> None:
    (one,) = shown(Entry("one", str(folder / "one.dcm"), ""), Says())
    assert (one.name, one.side, one.other, one.found[0].side) == ("one", "", None, Side.LEFT)
    placed = Entry("film", str(folder / "both.dcm"), "left", centre="610,300")
    assert shown(placed, Says()) == (placed,) and shown(Entry("a", "", "left"), Says())[0].image == ""
    with pytest.raises(FilmRefusedError, match="metal"):
        shown(Entry("film", str(folder / "both.dcm"), ""), Says(kind="implant"))


def test_a_grade_is_of_one_knee(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"shows both knees, and the grade is of one; give a row and a side"):
        shown(Entry("film", str(folder / "both.dcm"), "", grade="2"), Says())


@pytest.mark.parametrize(
    ("header", "reason", "note"),
    [
        (ONE_SIDED, "shows both knees, but states that it is a left one", "its header says Laterality left"),
        (CONTRADICTORY, "contradicts itself about the side", "contradicts itself about the side"),
    ],
)
def test_a_header_that_contradicts_the_picture_is_not_believed(
    tmp_path: Path, header: dict[str, object], reason: str, note: str
) -> None:
    film = str(save(tmp_path / "film.dcm", both_knees(**header)))
    with pytest.raises(UsageError, match=reason):
        shown(Entry("film", film, ""), Says())
    for side, spot in ((Side.LEFT, LEFT), (Side.RIGHT, RIGHT)):
        (asked,) = shown(Entry("film", film, str(side)), Says())
        read = cut(asked, Says())
        assert read.side is side and asked.found[0].spot == spot
        assert note in read.notes[0] and f"taken as {side}, as asked" in read.notes[0]
        assert asked.other is not None and cut(asked.other, Says()).side is side.other


def test_one_knee_is_read_with_the_other_one_of_its_film(folder: Path) -> None:
    for film in ("both.dcm", "said.dcm"):
        with pytest.raises(
            UsageError, match=r"both\.dcm shows both knees; give the side|but states that it is a left"
        ):
            read_knees(folder / film, Says())
        wanted, beside = read_knees(folder / film, Says(), side=Side.RIGHT)
        assert beside is not None and (wanted.side, beside.side) == (Side.RIGHT, Side.LEFT)
        assert any("taken as right, as asked" in note for note in wanted.notes) == (film == "said.dcm")
    said = PngInfo()
    said.add_text(LATERALITY, "L")
    wide = np.tile(np.linspace(0, 255, 900).astype(np.uint8), (600, 1))
    picture = folder / "said.png"
    Image.fromarray(wide).save(picture, pnginfo=said)
    for side in Side:
        wanted, beside = read_knees(picture, Says(), side=side)
        assert beside is not None and (wanted.side, beside.side) == (side, side.other)
        assert any(f"taken as {side}, as asked" in note for note in wanted.notes)
    alone, none = read_knees(folder / "one.dcm", Says())
    assert alone.side is Side.LEFT and none is None
    assert read_knees(knee(), Says(), side=Side.LEFT)[1] is None


def test_what_is_said_of_a_film_is_said_of_its_knees(tmp_path: Path) -> None:
    film = str(save(tmp_path / "film.dcm", both_knees(PatientOrientation=["R", "F"])))
    left, right = shown(Entry("film", film, ""), Says())
    assert (left.found[0].spot, right.found[0].spot) == (RIGHT, LEFT)  # left and right in the film
    for one in (left, right):
        assert any("mirrored by its Patient Orientation" in note for note in cut(one, Says()).notes)


@pytest.mark.parametrize("orientation", [["L", "F"], ["R", "F"]])
def test_a_knee_of_the_other_half_is_not_taken_for_the_one_asked_for(
    tmp_path: Path, orientation: list[str]
) -> None:
    """Of a film of both knees one is found, where the right one is; on a mirrored film that is the left one."""
    film = save(tmp_path / "film.dcm", both_knees(PatientOrientation=orientation))
    there, finder = Side.RIGHT if orientation[0] == "L" else Side.LEFT, Says(knees=(RIGHT,))
    (found,) = shown(Entry("film", str(film), str(there)), finder)
    assert found.found[0].side is there and found.found[0].notes == ()
    with pytest.raises(FilmRefusedError, match=rf"lies in the half of the {there} knee; give .*--centre"):
        shown(Entry("film", str(film), str(there.other)), finder)
    (taken,) = shown(Entry("film", str(film), str(there.other)), finder, accept_atypical=True)
    assert f"lies in the half of the {there} one: check the side" in taken.found[0].notes[0]
    given = Entry("film", str(film), str(there.other), centre=f"{RIGHT.x},{RIGHT.y}")
    assert cut(given, finder).side is there.other  # who says where it is knows which it is


def test_a_films_own_header_knows_better_than_its_halves(tmp_path: Path) -> None:
    """One knee need not lie in the middle of its film; one that reaches over the middle lies in no half."""
    said = str(save(tmp_path / "said.dcm", both_knees(ImageLaterality="L", SeriesDescription="Knee AP")))
    (found,) = shown(Entry("film", said, "left"), Says(knees=(RIGHT,)))
    assert "lies in the half of the right one: check the side" in found.found[0].notes[0]
    both = str(save(tmp_path / "both.dcm", both_knees()))
    middle = Says(knees=(replace(RIGHT, x=490.0),))  # of a film 1120 wide, with a square of 200
    assert shown(Entry("film", both, "left"), middle)[0].found[0].notes == ()


def test_one_film_by_every_way_gives_the_same_pixels(folder: Path) -> None:
    """A folder, a row without a side, and a row with one."""
    table = folder / "table.csv"
    table.write_text("name,image,side\nunsided,both.dcm,\nleft,both.dcm,left\n")
    predictor = FakePredictor(finder=Says())
    (of_folder,) = (one for one in find_films([folder]).entries if one.name == "both")
    outcomes = list(
        predict_entries(predictor, [of_folder, *read_table(table)], request=REQUEST, render=False)
    )
    assert [one.entry.name for one in outcomes] == [
        "both-right",
        "both-left",
        "unsided-right",
        "unsided-left",
        "left",
    ]
    risks = [one.result.horizons[0].risk_any for one in outcomes if isinstance(one.result, Prediction)]
    assert risks[0] == risks[2] and risks[1] == risks[3] == risks[4]
    others = predictor.calls[0]["others"]
    assert isinstance(others, list) and np.array_equal(others[4], others[1])


# -- cohorts -------------------------------------------------------------------------------------------------


ROWS = """name,image,side,grade
a,one.dcm,,
b,both.dcm,,
c,said.dcm,,
d,both.dcm,right,3
e,both.dcm,,2
f,said.dcm,R,
"""
NAMES = ["a", "b-right", "b-left", "c", "d", "e", "f"]


def entries_of(folder: Path) -> list[Entry]:
    (folder / "table.csv").write_text(ROWS)
    return read_table(folder / "table.csv")


def test_rows_of_films_of_both_knees(folder: Path) -> None:
    predictor, out = FakePredictor(finder=Says()), folder / "r.csv"
    done = run_cohort(predictor, entries_of(folder), out, request=REQUEST)
    table = pd.read_csv(out, keep_default_na=False)
    assert table["name"].tolist() == [name for name in NAMES for _ in range(2)]
    assert done.knees == 7 and [outcome.entry.name for outcome in done.failed] == ["c", "e"]
    reasons = table.drop_duplicates("name").set_index("name")["warnings"]
    assert "c shows both knees, but states that it is a left one; give the side" in reasons["c"]
    assert "the grade is of one" in reasons["e"] and "taken as right, as asked" in reasons["f"]
    (call,) = predictor.calls
    assert call["names"] == ["a", "b-right", "b-left", "d", "f"]
    assert call["other_sides"] == [None, Side.LEFT, Side.RIGHT, Side.LEFT, Side.LEFT]
    assert call["grades"] == [None, None, None, 3, None] and call["other_grades"] == [None] * 5


@pytest.mark.parametrize("stopped_at", [2, 4])
def test_a_stopped_run_goes_on_among_films_of_both_knees(folder: Path, stopped_at: int) -> None:
    entries, whole, out = entries_of(folder), folder / "whole.csv", folder / "r.csv"
    run_cohort(FakePredictor(finder=Says()), entries, whole, request=REQUEST, batch=1)

    def stop(done: int) -> None:
        if done == stopped_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cohort(FakePredictor(finder=Says()), entries, out, request=REQUEST, batch=2, progress=stop)
    predictor = FakePredictor(finder=Says())
    done = run_cohort(predictor, entries, out, request=REQUEST, batch=2)
    assert done.knees == 7 and [outcome.entry.name for outcome in done.failed] == ["c", "e"]
    assert "but states that it is a left one" in str(done.failed[0].result)
    assert out.read_bytes() == whole.read_bytes()
    names = [name for call in predictor.calls for name in call["names"]]  # type: ignore[attr-defined]
    assert names == (["d", "f"] if stopped_at == 2 else ["f"])


def finding_predictor() -> FakePredictor:
    return FakePredictor(finder=Says())


def test_processes_give_the_same_table(folder: Path) -> None:
    entries = entries_of(folder)
    for name, predictor in (("one", finding_predictor()), ("two", Processes(finding_predictor, 2))):
        run_cohort(predictor, entries, folder / name, request=REQUEST, batch=2)
    assert (folder / "one").read_bytes() == (folder / "two").read_bytes()


def test_names_that_a_film_of_both_knees_would_take(folder: Path) -> None:
    table = folder / "table.csv"
    for rows in ("a,both.dcm,\na-left,one.dcm,\n", "a-left,one.dcm,\na,both.dcm,\n"):
        table.write_text("name,image,side\n" + rows)
        with pytest.raises(TableError, match=r"name 'a-left' is what a knee of row \d is called"):
            read_table(table)
    table.write_text("name,image,side\na,both.dcm,right\na-left,both.dcm,left\n")
    assert len(read_table(table)) == 2
    for name in ("both-left.png", "both-2.png", "one-left.png"):
        save_knee(folder / name)
    names = [entry.name for entry in find_films([folder]).entries]
    assert names == ["both-2", "both-left", "both-3", "one-left", "one", "picture", "said"]


# -- on the command line -------------------------------------------------------------------------------------


@pytest.fixture
def predictor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    fake = FakePredictor(finder=Says())
    module = SimpleNamespace(load_predictor=lambda model, *, device, engine, bank: fake)
    monkeypatch.setitem(sys.modules, "progression.predict", module)
    monkeypatch.setattr(Finder, "load", lambda files: Says())
    monkeypatch.chdir(folder)
    return fake


def test_predict_says_the_same(predictor: FakePredictor, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["predict", "said.dcm", "--no-dicom"]) == 2
    assert "but states that it is a left one; give the side that is wanted (--side" in capsys.readouterr().err
    assert predictor.calls == []
    assert cli.run(["predict", "said.dcm", "--side", "right", "--no-dicom"]) == 0
    told = capsys.readouterr().out
    assert (
        f"right knee found at {RIGHT.x:.0f},{RIGHT.y:.0f}" in told
        and "warning: the film shows both knees, but" in told
    )
    assert predictor.calls[-1]["sides"] == [Side.RIGHT] and predictor.calls[-1]["other_sides"] == [Side.LEFT]
    assert [path.name for path in Path("progression-out").iterdir()] == ["said"]
    assert cli.run(["predict", "both.dcm", "said.dcm", "--grade", "1", "--no-dicom"]) == 1
    assert "1 of 3 knees failed" in capsys.readouterr().err
    assert predictor.calls[-1]["names"] == ["both-right", "both-left"]
    assert predictor.calls[-1]["other_grades"] == [1, 1]
    # another film of the other knee, if one is given
    assert cli.run(["predict", "both.dcm", "--side", "right", "--other", "picture.png", "--no-dicom"]) == 0
    (other,) = predictor.calls[-1]["others"]  # type: ignore[misc]
    assert np.allclose(other, knee(), atol=1 / 255)


def test_explain_says_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Finder, "load", lambda files: Says())
    monkeypatch.chdir(folder)
    for film, reason in (
        ("said.dcm", "but states that it is a left one"),
        ("both.dcm", "shows both knees; give the side"),
        ("picture.png", "does not say which knee"),
    ):
        assert cli.run(["explain", film]) == 2
        assert reason in capsys.readouterr().err and not Path("progression-explained").exists()


def test_cohort_counts_knees(predictor: FakePredictor, capsys: pytest.CaptureFixture[str]) -> None:
    entries_of(Path())
    assert cli.run(["cohort", "table.csv", "--out", "r.csv"]) == 1
    told = capsys.readouterr()
    assert "5 of 7 knees predicted: r.csv" in told.out and "2 of 7 knees failed" in told.err
    assert "skipped" not in told.out and tuple(pd.read_csv("r.csv").columns) == COLUMNS


def test_the_shipped_finder_sees_both_knees_of_the_example(tmp_path: Path) -> None:
    files = load_model("default")
    picture = read_image(files.folder / "example.png")
    film = str(save(tmp_path / "film.dcm", example.bilateral_film(picture)))
    right, left = shown(Entry("film", film, ""), Finder.load(files))
    for one in (right, left):
        assert one.found[0].spot is not None and one.found[0].side is not None
        assert abs(one.found[0].spot.x - example.centre_px(one.found[0].side)[0]) < 14
        assert 200 < one.found[0].spot.side_px < 350
    with pytest.raises(
        ImageError, match=r"shows both knees \(SeriesDescription both\); give each one's centre"
    ):
        cut(*shown(Entry("film", film, ""), None), None)
