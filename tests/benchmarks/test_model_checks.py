"""The benchmarks of generator and inversion, whole, on a tiny untrained model and made-up pictures."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from progression.errors import UsageError
from progression.evaluate.extractors import grader_features
from progression.weights import load_model
from tests.models import write_model

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        coarse = rng.integers(0, 255, size=(6, 6), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        rows.append(
            {"subject": f"s{i // 2}", "side": ("left", "right")[i % 2], "months": 0, "image": f"{i}.png",
             "grade": i % 5, "split": "train" if i < 24 else "val"}
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "visits.csv", index=False)
    return folder / "visits.csv"


def test_generator_benchmark(
    model: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("generator")
    files = load_model(model)
    grader = script.Grader.from_tensors(files.tensors("grader"), files.config("grader"))
    monkeypatch.setattr(script, "imagenet_features", lambda: grader_features(grader, model="tiny"))
    arguments = [str(table), "--model", str(model), "--out", str(tmp_path), "--samples", "20"]
    monkeypatch.setattr(sys, "argv", ["generator.py", *arguments])
    script.main()
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "checks.json").read_text())
    assert "real or synthetic, samples: AUC" in printed and "moved by one deviation" in printed
    assert 0 <= report["samples_told_apart"]["auc"] <= 1
    assert np.array(report["directions"]["change"]).shape == (5, 5)
    assert sum(report["grades"]["made"]) == pytest.approx(1, abs=1e-3)
    key = json.loads((tmp_path / "blind_key.json").read_text())["synthetic"]
    assert len(key) == 2 * script.BLIND // 2 and sum(key.values()) == script.BLIND - min(
        script.BLIND // 2, 16
    )
    for sheet in ("truncation", "interpolation"):
        with Image.open(tmp_path / f"{sheet}.png") as picture:
            assert picture.info["Synthetic"] == "yes"


def test_the_blind_sheet_may_not_lie_in_the_project(
    table: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("generator")
    out = BENCHMARKS / "sheets"
    monkeypatch.setattr(sys, "argv", ["generator.py", str(table), "--model", str(model), "--out", str(out)])
    with pytest.raises(UsageError, match=r"shows real knees; choose a folder outside"):
        script.main()
    assert not out.exists()


def test_inversion_benchmark(
    model: Path, table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("inversion")
    monkeypatch.setattr(script, "load_lpips", lambda _: lambda a, b: (a - b).square().mean(dim=(1, 2, 3)))
    monkeypatch.setattr(script, "STEPS", (0, 3))
    monkeypatch.setattr(script, "TIMED", 2)
    monkeypatch.setattr(script, "SCALED", 1)
    arguments = [str(table), "--model", str(model), "--knees", "4", "--projection-steps", "5", "--turns", "1"]
    monkeypatch.setattr(sys, "argv", ["inversion.py", *arguments])
    script.main()
    lines = capsys.readouterr().out.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("4 knees of 4 people at 32 pixels"))
    assert [line.split("  ")[0] for line in lines[at + 4 : at + 9]] == [
        "encoder + 0 steps",
        "encoder + 3 steps",
        "3 steps, float32",
        "3 steps, pyramid",
        "projection, 5 steps",
    ]
    assert [line.split(",")[0] for line in lines[-4:]] == ["refinement"] * 2 + ["projection"] * 2
    assert lines[-4].endswith("1.000")


def test_one_knee_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("inversion")
    people = np.array(["a", "a", "b", "c", "c", "d"])
    rows = script.one_a_person(people, 3)
    assert len(rows) == 3 and len(set(people[rows])) == 3
