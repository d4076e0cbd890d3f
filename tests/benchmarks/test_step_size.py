"""The benchmark of how much of the expected change a rendering shows."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from progression.predict import load_predictor
from tests.models import write_model

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_nothing_moved_shows_nothing_and_knees_do_not_depend_on_each_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    measure = importlib.import_module("step_size").measure
    predictor = load_predictor(write_model(tmp_path / "model"), device="cpu", engine="torch")
    side = predictor.resolution
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, side, side), generator=draws, dtype=torch.uint8)
    asked, rises = measure(predictor, images, images, months=96, scales=[0.0, 1.0])
    assert asked.shape == (4,) and bool(((asked > 0) & (asked < 4)).all())
    assert rises.shape == (2, 2, 4) and not rises[:, 0].any() and bool(rises[0, 1].any())
    alone, shown = measure(predictor, images[2:3], images[2:3], months=96, scales=[0.0, 1.0])
    torch.testing.assert_close(alone, asked[2:3])
    torch.testing.assert_close(shown, rises[:, :, 2:3], rtol=1e-4, atol=1e-5)
