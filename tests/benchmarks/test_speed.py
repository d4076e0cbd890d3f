"""The speed benchmarks run, and the forms that they compare agree (they refuse to time forms that do not)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.models import write_model

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts can be imported; threads are as before afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def output(
    script: str, arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> str:
    monkeypatch.setattr(sys, "argv", [script, *arguments.split()])
    importlib.import_module(script).main()
    return capsys.readouterr().out


def test_kernels(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    printed = output("kernels", "--quick", monkeypatch, capsys)
    for title in ("forward, 32², batch 1", "forward, 32², batch 8", "gradient to w", "training step"):
        assert title in printed
    assert printed.count("eager, channels last ") == 4


def test_latency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    folder = write_model(tmp_path / "tiny")
    arguments = f"--model {folder} --knees 2 --threads 1 --engines torch --repetitions 1"
    printed = output("latency", arguments, monkeypatch, capsys)
    assert "predict, batch of 2" in printed and "projection / predict: torch" in printed


def test_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    model = f"--model {write_model(tmp_path / 'tiny')} --work {tmp_path}"
    searched = f"search --rows 300 --index-all --probes 2 --queries 64 {model}"
    printed = output("speed", searched, monkeypatch, capsys)
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| 300 |")]
    assert [row[1].split(",")[0] for row in rows] == ["NumPy", "exact", "index", "index"]
    assert rows[1][5] == "1.0000 as NumPy"
    assert all(float(row[5]) > 0.5 for row in rows[2:])
    printed = output("speed", f"cohort --knees 3 --engines torch {model}", monkeypatch, capsys)
    assert "| torch, float32 | 3 |" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
