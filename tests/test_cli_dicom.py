"""DICOM on the command line: films in, objects and reports out, and no patient where none belongs."""

import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from progression import cli, weights
from progression.dicom import example
from progression.image import read_image
from progression.localise.find import Finder
from progression.types import Side
from progression.weights import ENVIRONMENT, MANIFEST, load_model
from tests.dicom.films import SECRETS, again, check_with_dciodvfy, dx, named, save
from tests.fakes import FakePredictor, knee, save_knee

LOAD = Finder.load
OBJECTS = ["future_048m.dcm", "report.dcm", "report.pdf", "risk.dcm"]
ALWAYS = ["figure.png", "future.gif", "future_048m.png", "prediction.json", "report.html"]


@pytest.fixture
def predictor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    """A fake predictor behind the command line, run in an empty folder with films in it."""
    fake = FakePredictor()
    module = SimpleNamespace(load_predictor=lambda model, *, device, engine, bank: fake)
    monkeypatch.setitem(sys.modules, "progression.predict", module)
    monkeypatch.setattr(Finder, "load", lambda files: None)
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "knee.dcm", named(dx(Side.LEFT)))
    save(tmp_path / "both.dcm", named(example.bilateral_film(knee())))
    save_knee(tmp_path / "knee.png")
    return fake


def names(folder: str) -> list[str]:
    return sorted(entry.name for entry in Path("progression-out", folder).iterdir())


def test_one_knee(predictor: FakePredictor) -> None:
    assert cli.run(["predict", "knee.dcm", "--months", "48", "--uid-root", "1.2.3"]) == 0
    assert predictor.calls[0]["sides"] == [Side.LEFT]
    assert names("knee") == sorted(ALWAYS + OBJECTS)
    made = again(Path("progression-out/knee/risk.dcm").read_bytes())
    assert made.PatientID == "PID-77123" and made.SOPInstanceUID.startswith("1.2.3.")
    assert cli.run(["predict", "knee.dcm", "--months", "48", "--no-dicom"]) == 0  # replaces the folder
    assert names("knee") == ALWAYS


def test_which_picture_a_made_up_name_stands_for(
    predictor: FakePredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    save(Path("geheimnis.dcm"), named(dx(Side.LEFT)))
    assert cli.run(["predict", "knee.dcm", "geheimnis.dcm"]) == 0
    told = capsys.readouterr().out
    (made_up,) = (path.name for path in Path("progression-out").iterdir() if path.name != "knee")
    assert f"picture 2 is called {made_up} here" in told and "picture 1 is called" not in told


def test_dciodvfy_finds_no_error(predictor: FakePredictor) -> None:
    """In what the command writes, with the report as it is drawn."""
    for root in ([], ["--uid-root", "1.2.40.0.34.7"]):
        assert cli.run(["predict", "knee.dcm", "--months", "24", "--months", "48", "--spread", *root]) == 0
        check_with_dciodvfy(*sorted(Path("progression-out/knee").glob("*.dcm")))


def test_both_knees(predictor: FakePredictor, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["predict", "both.dcm"]) == 1
    assert "shows both knees" in capsys.readouterr().err
    centres = [f"--centre={side}={x},{y}" for side in Side for x, y in [example.centre_px(side)]]
    assert cli.run(["predict", "both.dcm", *centres]) == 0
    assert predictor.calls[-1]["sides"] == [Side.LEFT, Side.RIGHT]
    assert predictor.calls[-1]["other_sides"] == [Side.RIGHT, Side.LEFT]
    assert names("both-left") == names("both-right") == sorted(ALWAYS + OBJECTS)
    assert cli.run(["predict", "both.dcm", "--side", "left", "--centre", "808,400"]) == 0
    assert names("both") == sorted(ALWAYS + OBJECTS)


def test_in_a_study_one_film_does_not_stop_the_others(
    predictor: FakePredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    chest, unsided = named(dx()), named(example.cr(knee(), spacing_mm=None))
    chest.BodyPartExamined = "CHEST"
    save(Path("chest.dcm"), chest)
    save(Path("unsided.dcm"), unsided)
    assert cli.run(["predict", "chest.dcm", "knee.dcm", "unsided.dcm", "both.dcm", "gone.dcm"]) == 1
    told = capsys.readouterr().err
    assert "chest.dcm: its Body Part Examined is not a knee" in told
    assert "unsided.dcm does not say which knee it is" in told and "both.dcm: shows both knees" in told
    assert "gone.dcm: no such file" in told and "4 of 5 knees failed" in told
    assert [path.name for path in Path("progression-out").iterdir()] == ["knee"]


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ("knee.dcm --side right", 2, "states that it is a left knee"),
        ("both.dcm --centre 808,400", 2, "pass --centre left=x,y or right=x,y"),
        ("both.dcm --centre left=610", 2, "expected x,y in pixels"),
        ("both.dcm --centre up=808,400", 2, "unknown side 'up'"),
        ("both.dcm --centre left=808,400 --centre left=230,300", 2, "two centres of one side"),
        ("both.dcm --centre left=9000,300", 1, "does not lie in the film"),
        ("both.dcm --centre left=808,400 --spacing-mm 0.7", 2, "states pixels of 0.375 mm"),
        ("knee.png --side left --dicom", 2, "is not DICOM and belongs to no study"),
        ("knee.png --side left --centre 48,48", 1, "does not say the size of its pixels"),
        ("knee.dcm --uid-root a.b", 2, "UID root 'a.b'"),
    ],
)
def test_refused_with_nothing_left(
    predictor: FakePredictor, arguments: str, code: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = cli.run(["predict", *arguments.split()])
    told = capsys.readouterr().err
    assert reason in told and told.count("\n") == 1
    assert found in (code, 1)
    assert not Path("progression-out").exists()


def test_only_objects_of_the_study_name_the_patient(
    predictor: FakePredictor, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    film = named(dx(Side.LEFT))
    film.SeriesDescription = "left knee of Annegret Geheimnis"
    save(Path("Geheimnis_Annegret.dcm"), film)
    assert cli.run(["predict", "Geheimnis_Annegret.dcm"]) == 0
    told = capfd.readouterr()
    texts = {"stdout": told.out.encode(), "stderr": told.err.encode(), "log": caplog.text.encode()}
    for path in Path("progression-out").rglob("*"):
        texts[f"name {path}"] = str(path).encode()
        if path.is_file() and path.suffix != ".dcm":
            texts[str(path)] = path.read_bytes()
    for place, text in texts.items():
        assert [secret for secret in SECRETS if secret.lower().encode() in text.lower()] == [], place
    (folder,) = Path("progression-out").iterdir()
    assert folder.name.startswith("knee-")


def test_cohorts_take_films(predictor: FakePredictor) -> None:
    rows = ["name,image,side,centre,spacing_mm", "a,knee.dcm,,,", 'b,both.dcm,left,"808,400",', "c,both.dcm,left,,",
            'd,knee.png,left,"48,48",1.0']  # fmt: skip
    Path("table.csv").write_text("\n".join(rows) + "\n")
    assert cli.run(["cohort", "table.csv", "--out", "results.csv"]) == 1
    text = Path("results.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in text[1:]] == ["a", "b", "c", "d"]
    assert ["failed:" in line for line in text[1:]] == [False, False, True, False]
    assert "shows both knees" in text[3]


def test_deidentify(predictor: FakePredictor, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "dicom",
        "deidentify",
        "knee.dcm",
        "both.dcm",
        "knee.png",
        "--out",
        "clean",
        "--key-file",
        "key",
    ]
    assert cli.run(arguments) == 1
    told = capsys.readouterr()
    assert "2 of 3 films de-identified" in told.out and "file 3: not a DICOM file" in told.err
    first = sorted(path.name for path in Path("clean").iterdir())
    assert len(first) == 2 and Path("key").stat().st_mode & 0o077 == 0
    for path in Path("clean").iterdir():
        assert not [secret for secret in SECRETS if secret.encode() in path.read_bytes()]
    assert cli.run(arguments) == 1
    assert sorted(path.name for path in Path("clean").iterdir()) == first  # one key, one name
    Path("key").write_text("short")
    assert cli.run(arguments) == 2
    assert "is no key" in capsys.readouterr().err


def test_deidentify_takes_folders(predictor: FakePredictor, capsys: pytest.CaptureFixture[str]) -> None:
    below = Path("study", "below")
    below.mkdir(parents=True)
    for target in (below / "IM1", Path("study", "IM2"), below / ".hidden"):
        target.write_bytes(Path("knee.dcm").read_bytes())
    save_knee(below / "knee.png")
    assert cli.run(["dicom", "deidentify", "study", "both.dcm", "--out", "clean"]) == 0
    assert "3 of 3 films de-identified: clean" in capsys.readouterr().out
    assert len(list(Path("clean").iterdir())) == 2  # one of them was there twice
    assert cli.run(["dicom", "deidentify", "knee.dcm", "nowhere.dcm", "--out", "clean"]) == 1
    assert "file 2: no such file; check the path" in capsys.readouterr().err
    clean = {path.name for path in Path("clean").iterdir()}  # 3: each run without a key has one of its own
    assert cli.run(["dicom", "deidentify", ".", "--out", "clean/again"]) == 0
    assert "7 of 7 films" in capsys.readouterr().out
    assert cli.run(["dicom", "deidentify", "clean", "--out", "clean"]) == 2  # its own output is no input
    assert {path.name for path in Path("clean").iterdir()} == clean | {"again"}
    capsys.readouterr()
    Path("empty").mkdir()
    assert cli.run(["dicom", "deidentify", "empty", "--out", "clean"]) == 2
    assert "no DICOM file in these folders" in capsys.readouterr().err


def test_examples_predict_as_they_say(
    predictor: FakePredictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped, model = load_model("default"), Path("models/default")
    model.mkdir(parents=True)
    (model / MANIFEST).write_text('{"format": 1, "name": "default", "resolution": 64, "parts": {}}')
    (model / "example.png").write_bytes((shipped.folder / "example.png").read_bytes())
    finder = LOAD(shipped)
    monkeypatch.setattr(Finder, "load", lambda files: finder)
    monkeypatch.setenv(ENVIRONMENT, "models")
    monkeypatch.setattr(weights, "locations", lambda: (Path("models"),))
    assert cli.run(["dicom", "example", "--out", "examples"]) == 0
    for line in capsys.readouterr().out.splitlines():
        assert cli.run(line.split()[1:]) == 0
    assert names("knee") == names("film-left") == names("film-right") == sorted(ALWAYS + OBJECTS)
    assert predictor.calls[-1]["sides"] == [Side.RIGHT, Side.LEFT]
    assert predictor.calls[-1]["other_sides"] == [Side.LEFT, Side.RIGHT]


def test_knees_of_each_film_see_each_other(
    predictor: FakePredictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = load_model("default")
    finder, shown = LOAD(shipped), read_image(shipped.folder / "example.png")
    monkeypatch.setattr(Finder, "load", lambda files: finder)
    for name in ("one", "two"):
        save(Path(f"{name}.dcm"), example.bilateral_film(shown))
    assert cli.run(["predict", "one.dcm", "two.dcm"]) == 0
    assert predictor.calls[-1]["names"] == ["one-right", "one-left", "two-right", "two-left"]
    assert predictor.calls[-1]["other_sides"] == [Side.LEFT, Side.RIGHT, Side.LEFT, Side.RIGHT]


def test_a_film_is_refused_by_the_name_of_what_it_shows(
    predictor: FakePredictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finder = LOAD(load_model("default"))
    monkeypatch.setattr(Finder, "load", lambda files: finder)
    Image.fromarray(np.tile(np.arange(600, dtype=np.uint16) // 3, (300, 1)).astype(np.uint8)).save(
        "empty.png"
    )
    for more in ([], ["--side", "left"]):
        assert cli.run(["predict", "empty.png", *more]) != 0
        assert "empty.png: shows no knee" in capsys.readouterr().err
    assert not predictor.calls
