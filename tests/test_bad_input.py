"""All that can be wrong with what a person gives: one line, the right exit code, nothing left behind."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from progression import cli
from progression.errors import WeightsError
from progression.report import outputs
from progression.types import Prediction
from progression.weights import MANIFEST
from tests.fakes import FakePredictor, knee, save_knee
from tests.models import write_model


def truncated(path: Path) -> None:
    save_knee(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def colour(path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(path)


def array(values: np.ndarray) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("wb") as stream:
            np.save(stream, values)

    return write


BAD_PICTURES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncated, "damaged or truncated"),
    "text": (lambda path: path.write_text("a letter"), "not a picture"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "folder": (lambda path: path.mkdir(), "not an ordinary file (a folder"),
    "missing": (lambda path: None, "no such file"),
    "tiny": (lambda path: Image.new("L", (8, 8)).save(path), "8 x 8 pixels; expected at least 64"),
    "huge": (lambda path: Image.new("1", (20_000, 20_000)).save(path), "at most 40 megapixels"),
    "black": (lambda path: Image.new("L", (96, 96)).save(path), "all black"),
    "constant": (lambda path: Image.new("RGB", (96, 96), "gray").save(path), "without contrast"),
    "colour": (colour, "colour picture"),
    "nan": (array(np.full((96, 96), np.nan)), "NaN or infinite"),
    "pickle": (array(np.array([{"a": 1}], dtype=object)), "not of numbers"),
    "volume": (array(np.zeros((3, 3, 3, 3))), "shape|pixels"),
}


@pytest.fixture
def predictor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    """A fake predictor behind the command line, run in an empty folder with one good knee in it."""
    fake = FakePredictor()
    module = SimpleNamespace(load_predictor=lambda model, *, device, engine, bank: fake)
    monkeypatch.setitem(sys.modules, "progression.predict", module)
    monkeypatch.chdir(tmp_path)
    save_knee(tmp_path / "good.png")
    return fake


def fails(arguments: str, code: int, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with `code`, one line on stderr that has `reason`, and leaves no output."""
    before = sorted(os.listdir())
    assert cli.run(arguments.split()) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("progression: ") and told.err.count("\n") == 1
    assert reason in told.err
    assert "Traceback" not in told.err
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("kind", BAD_PICTURES)
def test_bad_pictures(kind: str, predictor: FakePredictor, capsys: pytest.CaptureFixture[str]) -> None:
    make, reason = BAD_PICTURES[kind]
    make(Path("bad.png"))
    before = sorted(os.listdir())
    assert cli.run(["predict", "bad.png", "--side", "left"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("progression: error: bad.png: ") and told.count("\n") == 1
    assert any(part in told for part in reason.split("|"))
    assert ";" in told  # says what to do
    assert sorted(os.listdir()) == before
    assert predictor.calls == []


def test_a_batch_goes_on_and_reports_the_failed_at_the_end(
    predictor: FakePredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    truncated(Path("bad.png"))
    assert cli.run(["predict", "bad.png", "missing.png", "good.png", "--side", "left"]) == 1
    told = capsys.readouterr()
    assert "good: wrote" in told.out
    assert told.err.splitlines()[-1] == "progression: 2 of 3 knees failed"
    assert sorted(os.listdir("progression-out")) == ["good"]


def test_a_missing_picture_is_told_before_its_side(
    predictor: FakePredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    fails("predict missing.png", 1, "missing.png: no such file", capsys)
    fails("predict missing.zip::a.png", 1, "missing.zip: no such archive", capsys)


def test_a_knee_that_cannot_be_written_does_not_hide_the_others(
    predictor: FakePredictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, prediction: Prediction) -> None:
        if prediction.name == "good":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(outputs, "save_gif", full)
    save_knee(Path("last.png"))
    assert cli.run(["predict", "missing.png", "good.png", "last.png", "--side", "left"]) == 1
    told = capsys.readouterr()
    assert "last: wrote" in told.out and os.listdir("progression-out") == ["last"]
    missing, unwritten, total = told.err.splitlines()
    assert "missing.png: no such file" in missing and "No space left" in unwritten
    assert total == "progression: 2 of 3 knees failed"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("predict good.png", "pass --side left or --side right"),
        ("predict good.png --side up", "unknown side 'up'"),
        ("predict good.png --side left --months 0", "whole months from 1 to 96"),
        ("predict good.png --side left --months -3", "whole months from 1 to 96"),
        ("predict good.png --side left --months 97", "whole months from 1 to 96"),
        ("predict good.png --side left --months 48 --months 1000000000000", "whole months from 1 to 96"),
        ("predict good.png --side left --months 4.5", "'--months'"),
        ("predict good.png --side left --grade 5", "from 0 to 4"),
        ("predict good.png --side left --grade -1", "from 0 to 4"),
        ("predict good.png --side left --method magic", "paper or joint"),
        ("predict good.png --side left --inversion magic", "encoder or projection"),
        ("predict good.png --side left --refine-steps -1", "from 0 to 10,000"),
        ("predict good.png --side left --refine-steps 10001", "from 0 to 10,000"),
        ("predict good.png --side left --inversion projection --refine-steps 5", "its own 1,000 steps"),
        ("predict good.png --side left --seed -1", "seed -1"),
        ("predict good.png other/good.png --side left", "would both write good/"),
        ("predict", "IMAGE"),
        ("predict good.png --colour", "--colour"),
        ("cohort table.csv", "--out"),
        ("cohort table.csv --out results.csv --months 0", "whole months from 1 to 96"),
        ("forecast good.png", "forecast"),
    ],
)
def test_wrong_use(
    arguments: str, reason: str, predictor: FakePredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(arguments, 2, reason, capsys)
    assert predictor.calls == []


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (None, "No such file"),
        ("name,side\na,left\n", "lacks the column 'image'"),
        ("name,image,side\na,good.png,left\na,good.png,right\n", "'a' is there twice"),
    ],
)
def test_bad_tables(
    table: str | None, reason: str, predictor: FakePredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    if table is not None:
        Path("table.csv").write_text(table)
    fails("cohort table.csv --out results.csv", 1, reason, capsys)


def test_bad_weights(
    predictor: FakePredictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(model: str, *, device: str, engine: str, bank: str | None) -> None:
        raise WeightsError(f"no model {model!r}; install the package again")

    monkeypatch.setitem(sys.modules, "progression.predict", SimpleNamespace(load_predictor=missing))
    fails("predict good.png --side left --model nowhere", 1, "no model 'nowhere'", capsys)


def test_no_permission_to_write(predictor: FakePredictor, capsys: pytest.CaptureFixture[str]) -> None:
    Path("table.csv").write_text("name,image,side\na,good.png,left\n")
    fails("predict good.png --side left --out good.png", 1, "cannot write good.png", capsys)
    fails("predict good.png --side left --out good.png/deep", 1, "cannot write good.png/deep", capsys)
    fails("predict good.png --side left --out /proc/nowhere", 1, "cannot write /proc/nowhere", capsys)
    fails("cohort table.csv --out good.png/results.csv", 1, "cannot write good.png", capsys)
    Path("folder").mkdir()
    fails("cohort table.csv --out folder", 1, "cannot write folder: it is a folder", capsys)
    Path("folder/good").touch()
    fails("predict good.png --side left --out folder", 1, "a file of that name exists", capsys)
    assert predictor.calls == []


def test_other_files_are_not_overwritten(
    predictor: FakePredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("good").mkdir()
    Path("good/thesis.tex").touch()
    fails("predict good.png --side left --out .", 1, "holds other files (thesis.tex)", capsys)
    assert os.listdir("good") == ["thesis.tex"]


def test_disk_full(
    predictor: FakePredictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(outputs, "save_gif", full)
    fails("predict good.png --side left", 1, "No space left on device; free some space", capsys)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_device(
    predictor: FakePredictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(outputs, "save_synthetic_png", lambda *_, **__: Path("/dev/full").write_bytes(b"x"))
    fails("predict good.png --side left", 1, "No space left on device", capsys)


def odd(mode: str) -> str:
    """`knee` in a mode and format; all modes show the same picture."""
    name = "odd.tif" if mode == "CMYK" else "odd.png"
    if mode == "I;16":
        Image.fromarray((knee() * 65535).astype(np.uint16)).save(name)
    else:
        Image.fromarray((knee() * 255).astype(np.uint8)).convert(mode).save(name)
    return name


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "CMYK", "I;16"])
def test_odd_but_good_pictures_give_the_same_numbers(mode: str, predictor: FakePredictor) -> None:
    risks = []
    for one in ("L", mode):
        Path("table.csv").write_text(f"name,image,side\na,{odd(one)},left\n")
        assert cli.run(["cohort", "table.csv", "--out", "results.csv"]) == 0
        risks.append(pd.read_csv("results.csv")["risk_any"][0])
    # the made-up risk goes with the mean grey: exact but for 16 bits, and for dithering to black and white
    tolerance = {"I;16": 0.005, "1": 0.05}.get(mode, 1e-6)
    assert risks[1] == pytest.approx(risks[0], rel=tolerance)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole untrained model."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def model(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `tiny` to be spoilt, in a folder with one good knee: nothing is faked here."""
    monkeypatch.chdir(tmp_path)
    save_knee(tmp_path / "good.png")
    return Path(shutil.copytree(tiny, tmp_path / "model")).relative_to(tmp_path)


def part_file(model: Path, part: str) -> Path:
    return model / json.loads((model / MANIFEST).read_text())["parts"][part]["file"]


REAL = "predict good.png --side left --model model --device cpu --refine-steps 1"


@pytest.mark.parametrize("part", ["generator", "encoder", "grader", "bank", "risk"])
def test_changed_weights(part: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = part_file(model, part)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    fails(REAL, 1, "SHA-256 differs", capsys)


def test_missing_weights(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part_file(model, "grader").unlink()
    fails(REAL, 1, "grader", capsys)
    manifest = json.loads((model / MANIFEST).read_text())
    del manifest["parts"]["encoder"]
    (model / MANIFEST).write_text(json.dumps(manifest))
    fails(REAL, 1, "encoder", capsys)


def test_a_truncated_picture_beside_a_good_one(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truncated(Path("bad.png"))
    assert cli.run([*REAL.split(), "bad.png"]) == 1
    told = capsys.readouterr()
    assert "good: wrote" in told.out and "bad.png: damaged or truncated" in told.err
    assert os.listdir("progression-out") == ["good"]
