"""The benchmark of risk: nothing looks where it must not, and the whole of it runs, on made-up knees."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from progression.data.dataset import Knees
from progression.data.outcomes import Event
from progression.errors import UsageError
from progression.risk.grader import Grader, Grading
from progression.risk.model import RiskModel
from progression.risk.multistate import Penalty
from progression.train.grader import cross_fitting
from progression.train.risk import RiskConfig
from progression.weights import load_model, save_part
from tests.models import write_model

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MONTHS = np.array([0.0, 12, 24, 48, 96])


@pytest.fixture(scope="module")
def scripts() -> Any:
    """risk_methods, risk_sources and risk_oai, as a script finds them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield SimpleNamespace(
            **{name: importlib.import_module(name) for name in ("risk_methods", "risk_sources", "risk_oai")}
        )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


def grades(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 5) grades that rise now and then, from grades 0 to 3."""
    steps = rng.choice([0, 1, 2], p=[0.7, 0.15, 0.15], size=(n, len(MONTHS)))
    steps[:, 0] = rng.integers(0, 4, size=n)
    return np.minimum(steps.cumsum(axis=1), 4).astype(np.int64)


def sample(sources: ModuleType, n: int, seed: int, *, name: str) -> Any:
    rng = np.random.default_rng(seed)
    noise = torch.Generator().manual_seed(seed)
    series = grades(n, rng)
    knees = Knees(
        torch.zeros(n, 0, 0, dtype=torch.uint8),
        np.array([f"{name}{i // 2}" for i in range(n)]),
        np.array([("left", "right")[i % 2] for i in range(n)]),
        series[:, 0],
        series,
        MONTHS,
    )
    grading = Grading(
        torch.randn(n, 5, generator=noise).softmax(dim=1),
        torch.randn(n, 3, 5, generator=noise).softmax(dim=2),
        torch.rand(n, 4, generator=noise),
    )
    features, code = torch.randn(n, 6, generator=noise), torch.randn(n, 24, generator=noise)
    followups = {how: torch.randn(n, 4, 5, generator=noise).softmax(dim=2) for how in sources.FOLLOWUPS}
    return sources.Sample(knees, grading, features, code, followups, knees.other_knee)


@pytest.fixture(scope="module")
def task(scripts: Any, model: Path) -> Any:
    files = load_model(model)
    risks = (RiskModel.from_tensors(files.tensors(p), files.config(p)) for p in scripts.risk_sources.RISKS)
    return scripts.risk_sources.Task(
        sample(scripts.risk_sources, 120, 0, name="a"), sample(scripts.risk_sources, 30, 1, name="b"), *risks
    )


@pytest.fixture(scope="module")
def predicted(scripts: Any, task: Any) -> list[Any]:
    return [method.predict(task) for method in scripts.risk_methods.METHODS]


def test_every_method_gives_risks(scripts: Any, predicted: list[Any]) -> None:
    for method, risks in zip(scripts.risk_methods.METHODS, predicted, strict=True):
        assert set(risks) == set(Event), method
        for values in risks.values():
            assert values.shape == (30, len(scripts.risk_sources.HORIZONS)), method
            assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1 + 1e-9, method


def test_outcomes_of_the_asked_are_not_looked_at(scripts: Any, task: Any, predicted: list[Any]) -> None:
    series = task.asked.knees.grade_series.copy()
    series[:, 1:] = 4 - series[:, 1:]
    changed = replace(task, asked=replace(task.asked, knees=replace(task.asked.knees, grade_series=series)))
    for method, before in zip(scripts.risk_methods.METHODS, predicted, strict=True):
        after = method.predict(changed)
        for event in Event:
            np.testing.assert_array_equal(after[event], before[event], err_msg=method.name)


def test_image_only_is_image_only(scripts: Any, task: Any, predicted: list[Any]) -> None:
    methods = scripts.risk_methods
    knees = replace(task.asked.knees, grade=(task.asked.knees.grade + 1) % 4)
    changed = replace(task, asked=replace(task.asked, knees=knees))
    for method, before in zip(methods.METHODS, predicted, strict=True):
        same = all(np.array_equal(method.predict(changed)[event], before[event]) for event in Event)
        assert same == (method.setting in (methods.IMAGE, methods.BOTH)), method


def test_one_method_a_setting_is_ours(scripts: Any) -> None:
    methods = scripts.risk_methods
    names = [(method.setting, method.name) for method in methods.METHODS]
    assert len(set(names)) == len(names) and {setting for setting, _ in names} == set(methods.SETTINGS)
    for setting in (methods.IMAGE, methods.READ):
        assert sum(method.ours for method in methods.METHODS if method.setting == setting) == 1


def with_series(scripts: Any, series: list[list[int]], **changes: Any) -> Any:
    made = sample(scripts.risk_sources, len(series), 0, name="c")
    grade = np.array(series)
    return replace(made, knees=replace(made.knees, grade_series=grade, grade=grade[:, 0]), **changes)


def test_rates_of_grades_by_hand(scripts: Any, task: Any) -> None:
    methods = scripts.risk_methods
    # grade 0: one of three rises; grade 1: one of one; overall two of four
    fitted = with_series(scripts, [[0, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 2, 2, 2, 2]])
    asked = with_series(scripts, [[0, -1, -1, -1, -1], [1, -1, -1, -1, -1], [1, -1, -1, -1, -1]])
    small = replace(task, fitted=fitted, asked=asked)
    own = methods.rate_of_read_grade(small, Event.ANY, 96)
    np.testing.assert_allclose(own, [1.5 / 4, 1.5 / 2, 1.5 / 2])
    # pairs (own, other) of the fitted: (0, 0) twice, (0, 1), (1, 0); the third asked has no other knee
    both = methods.rate_of_both_grades(small, Event.ANY, 96)
    np.testing.assert_allclose(both, [(0 + 10 * own[0]) / 11, (1 + 10 * own[1]) / 11, own[2]])


def test_neighbours_by_hand(scripts: Any, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = scripts.risk_methods
    monkeypatch.setattr(methods, "COUNTS", (2,))
    fitted = with_series(
        scripts,
        [[0, 1, 1, 1, 1], [2, 2, 2, 2, 2], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]],
        code=torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.2], [-1.0, 0.0]]),
    )
    asked = with_series(scripts, [[0, -1, -1, -1, -1]], code=torch.tensor([[3.0, 0.0]]))
    small = replace(task, fitted=fitted, asked=asked)
    near = partial(methods.neighbours, small, Event.ANY, 96, key=methods.by_code)
    # the two nearest are the first and the second; among grade 0 the first and the third
    np.testing.assert_allclose(near(read=False), [(1 + 0.5) / 3])
    np.testing.assert_allclose(near(read=True), [(2 + 0.5) / 3])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    rows = []
    for i, series in enumerate(grades(90, rng)):
        coarse = rng.integers(0, 255, size=(6, 6), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        whose = {"subject": f"person{i // 2}", "side": ("left", "right")[i % 2]}
        for month, grade in zip(MONTHS.astype(int), series, strict=True):
            rows.append(
                {**whose, "months": month, "image": f"{i}.png" if month == 0 else "", "grade": grade,
                 "split": "train" if i < 60 else "val"}
            )  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "visits.csv", index=False)
    return folder / "visits.csv"


def test_whole_benchmark(
    scripts: Any,
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_model(tmp_path / "tiny")
    files = load_model(folder)
    grader = Grader.from_tensors(files.tensors("grader"), files.config("grader"))
    people = np.unique(pd.read_csv(cohort).query("split == 'train'")["subject"])
    fitting = {"cross_fitting": cross_fitting(people, seed=0)}
    save_part(folder, "grader", grader.state_dict(), files.config("grader") | fitting, dtype="float32")
    sources = scripts.risk_sources
    monkeypatch.setattr(sources, "FOLDS", 2)
    monkeypatch.setattr(sources, "RiskConfig", partial(RiskConfig, penalties=(Penalty(30.0, 90.0),)))
    pooled = SimpleNamespace(features=lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 3).flatten(1))
    monkeypatch.setattr(sources, "imagenet_features", lambda: pooled)
    work, out = tmp_path / "work", tmp_path / "out"
    arguments = [
        str(cohort),
        "--model",
        str(folder),
        "--work",
        str(work),
        "--out",
        str(out),
        "--engine",
        "torch",
    ]
    monkeypatch.setattr(sys, "argv", ["risk_oai.py", *arguments, "--draws", "20"])
    scripts.risk_oai.main()
    assert "making risks-" in capsys.readouterr().out
    report = json.loads((out / "risk.json").read_text())
    methods = scripts.risk_methods.METHODS
    ends = {(row["cohort"], row["end_point"], row["months"]) for row in report["rows"]}
    assert len(report["rows"]) == len(methods) * len(ends) and ("train", "fast", 96) in ends
    for row in report["rows"]:
        ours = any(m.ours and (m.name, m.setting) == (row["method"], row["setting"]) for m in methods)
        assert ("minus" in row) == (not ours)
        assert row["knees"] <= (60 if row["cohort"] == "train" else 30) and 0 <= row["auc"] <= 1
    within = [row for row in report["rows"] if "within" in row]
    assert {(row["end_point"], row["months"]) for row in within} <= {("fast", 96), ("any", 48), ("fast", 48)}
    alone = [row for row in within if row["method"] == "read grade: its event rate"]
    assert alone and all(row["within"] == 0.5 for row in alone)  # knees of one grade have one rate
    assert (out / "risk_within_grade.md").read_text().count("risk model (shipped)") == 2
    table = (out / "risk_table.md").read_text()
    assert table.count("risk model (shipped)") == 2 * len(ends) and "person" not in table
    for name in ("roc", "reliability", "decision"):
        assert (out / f"risk_{name}.png").is_file()
    # all is found again
    again = scripts.risk_oai.Predictions(
        sources.Sources(cohort, None, str(folder), work, engine="torch"), ["val"]
    )
    assert {again.of(method, "val")[Event.ANY].shape for method in methods} == {(30, 4)}
    assert "making" not in capsys.readouterr().out


def test_the_work_folder_may_not_lie_in_the_project(scripts: Any) -> None:
    with pytest.raises(UsageError, match="choose a folder outside"):
        scripts.risk_sources.check_outside(BENCHMARKS / "work")
