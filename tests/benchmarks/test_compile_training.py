"""The compile benchmark calls every network as training does."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_every_loss_has_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = importlib.import_module("compile_training")
    device = torch.device("cpu")
    for loss in benchmark.losses(16, 4, device, lambda f: f).values():
        assert benchmark.seconds(loss, device) > 0
