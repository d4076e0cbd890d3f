"""The phantom benchmark: its statistics on numbers checked by hand, and a whole run in miniature."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from progression.data.phantom import VISIT_MONTHS
from progression.train.gan import GanConfig
from progression.train.joint_trainer import JointConfig

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, imported as Python runs it: with its own folder on the path."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("extrapolation_phantom")


@pytest.fixture
def measures(benchmark: ModuleType) -> ModuleType:
    return benchmark.measures


def test_compare_by_hand(measures: ModuleType) -> None:
    found = measures.compare(np.array([1.0, 1.0, 4.0, 2.0]), np.array([2.0, 2.0, 2.0, 2.0]), draws=500)
    assert found["difference"] == 0.0
    assert found["relative"] == 0.0
    assert found["nearer"] == 0.5
    assert found["low"] < 0 < found["high"]


def test_compare_without_any_difference(measures: ModuleType) -> None:
    same = np.array([1.0, 2.0, 3.0])
    assert measures.compare(same, same)["p"] == 1.0


def test_compare_finds_a_steady_gain(measures: ModuleType) -> None:
    carried = np.linspace(1, 2, 40)
    found = measures.compare(0.9 * carried, carried)
    assert found["relative"] == pytest.approx(-0.1)
    assert found["low"] == pytest.approx(-0.1)
    assert found["nearer"] == 1.0
    assert found["p"] < 1e-6
    assert found["p_mean"] < 1e-6


def test_holm_by_hand(measures: ModuleType) -> None:
    head = {"metric": "grader", "truth": "film", "months": 96.0, "group": "all"}
    methods = ("imaged, chosen", "imaged, joint", "graded, chosen", "graded, joint")
    ps = (0.01, 0.04, 0.03, 0.5)
    rows = [head | {"method": method, "p_mean": p} for method, p in zip(methods, ps, strict=True)]
    found = measures.primary([*rows, head | {"method": "imaged, mean", "p_mean": 0.001}])
    assert [row["p_holm"] for row in found] == pytest.approx([0.04, 0.09, 0.09, 0.5])
    sooner = [row | {"months": 24.0} for row in rows]
    both = measures.primary([*rows, *sooner], months=(24.0, 96.0))
    assert [row["p_holm"] for row in both[:4]] == pytest.approx([0.08, 0.18, 0.18, 1.0])


def test_every_visit_becomes_a_baseline(benchmark: ModuleType) -> None:
    grade = torch.tensor([[0, 0, 1, 1, 1, 2, 3]])
    one = torch.zeros(1)
    films = benchmark.Films(
        torch.tensor([7]), torch.zeros(1, 7, 8, 8, dtype=torch.uint8), grade, grade.float(), one, one
    )
    knees = benchmark.every_visit(films, range(len(VISIT_MONTHS)))
    assert knees.series_months.tolist() == [0, 12, 24, 36, 48, 60, 72, 84, 96]
    assert knees.grade.tolist() == grade[0].tolist()
    assert knees.grade_series[0].tolist() == [0, 0, 1, 1, 1, -1, 2, -1, 3]
    # from 36 months on: 48, 72 and 96 are 12, 36 and 60 later
    assert knees.grade_series[3].tolist() == [1, 1, -1, 2, -1, 3, -1, -1, -1]
    assert set(knees.subject) == {"P7"}
    assert len(knees) == len(VISIT_MONTHS)
    filmed = benchmark.every_visit(films)
    assert filmed.series_months.tolist() == [0, 12, 24, 36, 48, 72, 96]
    assert filmed.grade.tolist() == [0, 1, 3]
    assert filmed.grade_series[1].tolist() == [1, -1, 2, -1, 3, -1, -1]


def test_whole_run_and_resume(benchmark: ModuleType, tmp_path: Path) -> None:
    gan = GanConfig(
        resolution=32, total_kimg=0.032, batch=8, z_dim=16, w_dim=16, channel_base=256, channel_max=8,
        path_interval=0, snapshot_kimg=0.016,
    )  # fmt: skip
    joint = JointConfig(kimg=0.016, batch=8, codes=16, mapped=16, shift=2)
    plan = benchmark.Plan(
        train=16, val=2, test=6, more=2, resolution=32, grader_epochs=1, gan=gan, joint=joint
    )  # fmt: skip
    result = benchmark.run(tmp_path, plan)
    assert json.loads((tmp_path / "result.json").read_text())["subjects"] == {
        "train": 16, "val": 2, "test": 6, "more": 2
    }  # fmt: skip
    assert {(row["method"], row["form"]) for row in result["primary"]} == {
        (f"{kind}, {name}", form)
        for kind in ("imaged", "graded") for name in ("chosen", "joint") for form in ("rendered", "added")
    }  # fmt: skip
    every = [(row["method"], row["form"], row["months"]) for row in result["every_horizon"]]
    assert len(set(every)) == len(every) == 24
    assert {months for *_, months in every} == {24.0, 48.0, 96.0}
    assert {row["subjects"] for row in result["confirmation"]} == {2}
    methods = {row["method"] for row in result["comparisons"]}
    assert {"imaged, k = 5", "graded, joint, read grade", "own grades", "true change"} <= methods
    assert {row["truth"] for row in result["comparisons"] if row["form"] == "added"} == {"film", "same"}
    true = result["attenuation"].get("true change", {"on_true": 1.0, "calibration": 1.0})
    assert (true["on_true"], true["calibration"]) == (pytest.approx(1, abs=1e-4), pytest.approx(1, abs=1e-4))
    assert "96 months, all" in benchmark.tables(result)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    trained = [stage for stage in benchmark.STAGES if stage != "confirmation"]
    assert benchmark.run(tmp_path, plan, stages=trained) == {}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")} == before
