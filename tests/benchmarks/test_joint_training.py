"""The throughput benchmark times real steps and counts their operations."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from progression.train import joint
from tests.models import write_model
from tests.train.miniature import JOINT

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_a_row_of_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = importlib.import_module("joint_training")
    monkeypatch.setitem(joint.PRESETS, "gpu", JOINT)
    model = write_model(tmp_path / "model", risk=False)
    monkeypatch.setattr(
        "sys.argv", ["joint_training.py", "--model", str(model), "--device", "cpu", "--steps", "2"]
    )
    benchmark.main()
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[2].strip("|").split("|")]
    assert cells[:3] == ["CPU", "torch.float32", "8"]
    rate, per_picture, used, peak = (float(cell) for cell in cells[3:7])
    assert rate > 0 and per_picture > 0 and peak > used
    assert float(cells[7].rstrip("%")) == pytest.approx(100 * used / peak, rel=0.5, abs=0.2)
