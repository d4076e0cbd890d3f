"""The reader-study benchmark on made-up points and ratings."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import ttest_rel

from progression.errors import TableError
from tests.reader_studies import study

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("readers")


@pytest.fixture
def points(tmp_path: Path) -> Path:
    table = pd.DataFrame(
        {"reader": ["1", "2", "3"], "fpr_unaided": [0.4, 0.2, 0.3], "tpr_unaided": [0.5, 0.3, 0.4],
         "fpr_aided": [0.1, 0.1, 0.3], "tpr_aided": [0.5, 0.5, 0.6]}
    )  # fmt: skip
    table.to_csv(tmp_path / "points.csv", index=False)
    return tmp_path / "points.csv"


def test_points_are_a_paired_t_test_over_readers(benchmark: ModuleType, points: Path) -> None:
    names, false, true = benchmark.read_points(points)
    assert names == ["1", "2", "3"]
    np.testing.assert_allclose(false, [[0.1, 0.1, 0.3], [0.4, 0.2, 0.3]])
    expected = ttest_rel([0.5, 0.5, 0.6], [0.5, 0.3, 0.4])
    (line,) = [
        line for line in benchmark.points_text(names, false, true).splitlines() if "sensitivity" in line
    ]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    low, high = expected.confidence_interval()
    assert cells[3] == f"0.133 [{low:.3f}, {high:.3f}]"
    assert cells[4:] == [f"{expected.statistic:.2f}", "2", f"{expected.pvalue:.4f}"]


def test_a_whole_run(
    benchmark: ModuleType, points: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["readers.py", "--points", str(points), "--out", str(out)])
    benchmark.main()
    assert "from conjectures" in capsys.readouterr().out
    with Image.open(out / "points.png") as picture:
        assert picture.width == picture.height
    study(gain=0.5).to_csv(tmp_path / "ratings.csv", index=False)
    monkeypatch.setattr(
        sys, "argv", ["readers.py", str(tmp_path / "ratings.csv"), "--threshold", "3", "--out", str(out)]
    )
    benchmark.main()
    told = capsys.readouterr().out
    assert "with ratings.csv as the pilot" in told and "## Specificity" in told
    assert {p.name for p in out.iterdir()} == {
        "points.md", "points.png", "readers.json", "readers.md", "readers.png",
    }  # fmt: skip


def test_refuses_other_tables(benchmark: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("reader,fpr_unaided\n1,0.5\n")
    with pytest.raises(TableError, match="expected columns reader"):
        benchmark.read_points(tmp_path / "points.csv")
    (tmp_path / "points.csv").write_text(
        "reader,fpr_aided,fpr_unaided,tpr_aided,tpr_unaided\n1,50,0.1,0.2,0.3\n"
    )
    with pytest.raises(TableError, match="rates from 0 to 1"):
        benchmark.read_points(tmp_path / "points.csv")
