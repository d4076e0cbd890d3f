import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from progression import cli, weights
from progression.types import Side
from progression.weights import ENVIRONMENT, MANIFEST
from tests.fakes import FakePredictor, save_knee


@pytest.fixture
def predictor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    """A fake predictor behind the command line, run in an empty folder with two knees in it."""
    fake = FakePredictor()
    module = SimpleNamespace(load_predictor=lambda model, *, device, engine, bank: fake)
    monkeypatch.setitem(sys.modules, "progression.predict", module)
    monkeypatch.chdir(tmp_path)
    save_knee(tmp_path / "one.png", seed=1)
    save_knee(tmp_path / "two.png", seed=2)
    return fake


def test_predict_writes_the_promised_files(
    predictor: FakePredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["predict", "one.png", "two.png", "--side", "L", "--months", "96", "--months", "24"]) == 0
    for stem in ("one", "two"):
        folder = Path("progression-out", stem)
        assert sorted(entry.name for entry in folder.iterdir()) == [
            "figure.png", "future.gif", "future_024m.png", "future_096m.png", "prediction.json", "report.html",
        ]  # fmt: skip
        content = json.loads((folder / "prediction.json").read_text())
        assert content["name"] == stem and content["side"] == "left"
    assert predictor.calls[0]["sides"] == [Side.LEFT, Side.LEFT]
    out = capsys.readouterr().out
    assert (
        "one: wrote" in out
        and "  Asked with: this radiograph, no grade read; no other knee; no earlier" in out
    )
    assert "(1.0% to 40.0%); by 1 or more: " in out and "read beyond 48 months" in out


def test_defaults(predictor: FakePredictor) -> None:
    assert cli.run(["predict", "one.png", "--side", "right"]) == 0
    assert predictor.calls == [
        {
            "names": ["one"], "sides": [Side.RIGHT], "horizon_months": (48,), "grades": [None], "others": [None],
            "other_sides": [None], "other_grades": [None], "subjects": [None], "histories": [[]],
            "refine_steps": None, "inversion": "encoder", "method": "joint", "seed": 0, "spread": False, "render": True,
            "accept_atypical": False,
        }
    ]  # fmt: skip


def test_options_arrive(predictor: FakePredictor) -> None:
    options = "--grade 3 --subject anna --seed 5 --refine-steps 0 --out there --device cpu --model default"
    assert cli.run(["predict", "one.png", "--side", "right", *options.split()]) == 0
    call = predictor.calls[0]
    found = (call["grades"], call["subjects"], call["seed"], call["refine_steps"])
    assert found == ([3], ["anna"], 5, 0)
    assert Path("there/one/prediction.json").is_file()
    both = ["predict", "one.png", "--side", "right", "--other", "two.png", "--other-grade", "1"]
    assert cli.run(both) == 0
    assert predictor.calls.pop()["other_sides"] == [Side.LEFT]
    assert cli.run(["predict", "one.png", "--side", "right", "--inversion", "projection"]) == 0
    assert predictor.calls[1]["inversion"] == "projection"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("one.png --side right --other-grade 2", "--other-grade without --other"),
        ("one.png two.png --side right --other three.png", "--other with 2 knees: give one knee, or a table"),
        ("one.png --side right --other gone.png", "gone.png: no such file"),
        ("one.png --side right --other two.png --other-grade 5", "expected a Kellgren-Lawrence grade"),
    ],
)
def test_other_knees_that_are_refused(
    predictor: FakePredictor, capsys: pytest.CaptureFixture[str], options: str, reason: str
) -> None:
    assert cli.run(["predict", *options.split()]) != 0
    assert reason in capsys.readouterr().err and predictor.calls == []


def test_a_picture_that_states_its_side_needs_no_option(
    predictor: FakePredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    save_knee(Path("stated.png"), side=Side.LEFT)
    assert cli.run(["predict", "stated.png"]) == 0
    assert predictor.calls[0]["sides"] == [Side.LEFT]
    assert cli.run(["predict", "stated.png", "--side", "right"]) == 2
    assert "states that it is a left knee" in capsys.readouterr().err


def test_cohort_and_predict_give_the_same_numbers(predictor: FakePredictor) -> None:
    Path("table.csv").write_text("name,image,side,grade\none,one.png,left,2\ntwo,two.png,right,\n")
    months = ["--months", "48", "--months", "96"]
    assert cli.run(["cohort", "table.csv", *months, "--out", "sub/results.csv"]) == 0
    assert cli.run(["predict", "one.png", "--side", "left", "--grade", "2", *months]) == 0
    table = pd.read_csv("sub/results.csv")
    content = json.loads(Path("progression-out/one/prediction.json").read_text())
    for stored, (_, told) in zip(content["horizons"], table[table["name"] == "one"].iterrows(), strict=True):
        assert {key: stored[key] for key in table} == pytest.approx(told.to_dict())


def test_cohort_reports_failed_knees_and_keeps_the_rest(
    predictor: FakePredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("table.csv").write_text("name,image,side\na,gone.png,left\nb,two.png,right\n")
    assert cli.run(["cohort", "table.csv", "--out", "results.csv"]) == 1
    told = capsys.readouterr()
    assert "1 of 2 knees predicted" in told.out
    assert "error: a: no such file" in told.err and "1 of 2 knees failed" in told.err
    assert len(pd.read_csv("results.csv")) == 2


def test_demo_uses_the_shipped_example(predictor: FakePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Path("models/default")
    model.mkdir(parents=True)
    (model / MANIFEST).write_text("{}")
    save_knee(model / "example.png", side=Side.RIGHT)
    monkeypatch.setenv(ENVIRONMENT, "models")
    assert cli.run(["demo"]) == 0
    assert Path("progression-demo/example/figure.png").is_file()


def test_ctrl_c_stops_without_a_trace(
    predictor: FakePredictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predictor, "predict_batch", stop)
    assert cli.run(["predict", "one.png", "--side", "left"]) == cli.EXIT_STOPPED
    assert capsys.readouterr().err == "progression: stopped\n"
    assert not Path("progression-out").exists()


def test_bugs_are_one_line_too_unless_debug(
    predictor: FakePredictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug\nin two lines")

    monkeypatch.setattr(predictor, "predict_batch", broken)
    assert cli.run(["predict", "one.png", "--side", "left"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "unexpected ZeroDivisionError" in told and "--debug" in told
    assert cli.run(["predict", "one.png", "--side", "left", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_help_version_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    assert cli.run(["predict", "--help"]) == 0
    assert "--refine-steps" in capsys.readouterr().out
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("progression 0")
    assert cli.run([]) == 2


def test_weights_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from progression.weights import save_part

    monkeypatch.setattr(weights, "locations", lambda: (tmp_path,))
    assert cli.run(["weights", "list"]) == 0
    assert "no models are installed" in capsys.readouterr().out
    file = save_part(tmp_path / "mine", "bank", {"latents": torch.eye(3)}, {}, resolution=64)
    assert cli.run(["weights", "list"]) == 0
    assert "mine: 64 x 64 pixels" in capsys.readouterr().out
    assert cli.run(["weights", "verify", "mine"]) == 0
    assert "mine: ok (bank)" in capsys.readouterr().out
    file.write_bytes(file.read_bytes()[:-1])
    assert cli.run(["weights", "verify", "mine"]) == 1
    assert "SHA-256 differs" in capsys.readouterr().err


def test_the_module_runs_and_help_is_light() -> None:
    code = (
        "import sys; from progression import cli; assert cli.run(['--help']) == 0;"
        "print(sorted({'torch', 'matplotlib', 'pandas', 'faiss', 'pydicom', 'highdicom'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_grades_of_two_knees(predictor: FakePredictor, capsys: pytest.CaptureFixture[str]) -> None:
    knees = ["predict", "one.png", "two.png", "--side", "left"]
    assert cli.run([*knees, "--grade", "3"]) == 0
    assert cli.run([*knees, "--grade", "3", "--grade", "1"]) == 0
    assert [call["grades"] for call in predictor.calls] == [[3, 3], [3, 1]]
    assert cli.run([*knees, *["--grade", "3"] * 3]) == 2
    assert "3 grades with 2 knees" in capsys.readouterr().err
    assert cli.run([*knees, "--grade", "3", "--grade", "5"]) == 2
    assert "from 0 to 4" in capsys.readouterr().err
