"""The benchmark of the objective: coverage by hand, linear codes, and a whole run in miniature."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("objective_phantom")


def test_covered_by_hand(benchmark: ModuleType) -> None:
    covered = importlib.import_module("spread_coverage").covered
    steps = torch.tensor([[0.97, 0.03, 0, 0, 0], [0.5, 0.4, 0.1, 0, 0], [0.04, 0.96, 0, 0, 0]]).double()
    held, _ = covered(steps, torch.tensor([0, 2, 0]))
    # no step is the 5th and the 95th percentile; two steps the 95th; no step is below the 5th
    assert held.tolist() == [True, True, False]
    assert covered(steps, torch.tensor([1, 1, 1]))[0].tolist() == [False, True, True]


def test_randomised_ranks_of_a_right_model_hold_nine_in_ten(benchmark: ModuleType) -> None:
    covered = importlib.import_module("spread_coverage").covered
    draws = torch.Generator().manual_seed(0)
    steps = torch.tensor([[0.7, 0.2, 0.1, 0, 0]]).double().expand(20_000, -1)
    made = torch.multinomial(steps, 1, generator=draws)[:, 0]
    held, rank = covered(steps, made)
    assert float(rank.double().mean()) == pytest.approx(0.9, abs=0.01)
    assert bool(held.all())


def test_linear_codes_are_as_near_as_components_can_be(benchmark: ModuleType) -> None:
    codes = importlib.import_module("linear_codes").LinearCodes
    draws = torch.Generator().manual_seed(0)
    x = (torch.randn(60, 4, generator=draws) @ torch.randn(4, 64, generator=draws) / 20).view(60, 1, 8, 8)
    found = codes.fit(x, components=4)
    w = found.encode(x)
    assert float(w.min()) > 0  # where W is not folded
    torch.testing.assert_close(found.render(w), x.clamp(-1, 1), atol=1e-3, rtol=0)


def test_whole_run_and_resume(benchmark: ModuleType, tmp_path: Path) -> None:
    plan = benchmark.Plan(train=24, val=4, test=6, resolution=32, grader_epochs=1, components=8)
    result = benchmark.run(tmp_path, plan)
    assert {(r["bank"], r["against"], r["months"]) for r in result["primary"]} == {
        (kind, other, months)
        for kind in ("imaged", "graded") for other in ("carried", "paper") for months in (24, 48, 72, 96)
    }  # fmt: skip
    assert {row["term"] for row in result["terms"]} == {
        *benchmark.measures.GRID,
        *benchmark.measures.BORROWED,
    }
    assert all(row["p_holm"] >= row["p_mean"] for row in [*result["primary"], *result["terms"]])
    assert {row["way"].split(", ")[1].split()[0] for row in result["earlier"]} == {"one", "pace", "own"}
    assert all(0 <= row["rank"] <= 1 for row in result["coverage"])
    assert json.loads((tmp_path / "result.json").read_text())["chosen"] == result["chosen"]
    assert "| imaged | 96 |" in benchmark.tables(result)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    assert benchmark.run(tmp_path, plan, stages=list(benchmark.STAGES)[:-1]) == {}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")} == before
