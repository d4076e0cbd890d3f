"""The benchmark of the bones: errors by hand, and the whole of it on drawings."""

from __future__ import annotations

import importlib
import math
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from progression.bones.find import BoneFinder, Bones
from progression.bones.network import BoneNet
from progression.bones.shape import Frame, ShapeModel
from tests.outlines import drawn, outline

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("bones")


def bones(points: np.ndarray, x: float, y: float) -> Bones:
    return Bones(points, np.ones(74), np.ones(74, bool), Frame(x, y, 80, 0), 0.9, 0.9, 0.5)


def test_an_outline_shifted_by_a_fortieth_of_its_plateau_is_wrong_by_that(script: ModuleType) -> None:
    true = outline() * 200
    width = math.hypot(*(true[63] - true[47]))
    moved = np.add(true, [0.0, width / 40])
    assert script.outline_error(moved, true, 200) == pytest.approx(1 / 40)


def test_points_that_slide_along_a_bone_are_on_its_line(script: ModuleType) -> None:
    true = outline() * 200
    slid = true.copy()
    slid[1:36] += 0.3 * (true[2:37] - true[1:36])
    slid[38:73] += 0.3 * (true[39:74] - true[38:73])
    assert script.outline_error(slid, true, 200) > 0.005
    assert script.line_error(slid, true, 200) == pytest.approx(0, abs=1e-9)
    width = math.hypot(*(true[63] - true[47]))
    assert 0 < script.line_error(np.add(true, [0, width / 40]), true, 200) < 1 / 40


def test_a_knee_is_found_within_a_fourth_of_its_width(script: ModuleType) -> None:
    one, other = bones(outline(), 100, 100), bones(outline(), 300, 100)
    assert script.nearest((one, other), 295, 110, 80) is other
    assert script.nearest((one, other), 200, 100, 80) is None
    assert script.nearest((), 200, 100, 80) is None


def test_the_whole_of_it(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = [f"{axis}{point}" for point in range(74) for axis in "xy"]
    with zipfile.ZipFile(tmp_path / "val.zip", "w") as archive:
        Image.fromarray((drawn(outline()) * 255).astype(np.uint8)).save(tmp_path / "AR.webp")
        archive.write(tmp_path / "AR.webp", "AR.webp")
    grades = {"name": "AR", "subject": "A", "side": "R", "split": "val", "kl_m00": 1, "kl_m48": 1}
    pd.DataFrame([grades]).to_csv(tmp_path / "val.csv", index=False)
    table = pd.DataFrame([112 * outline().reshape(-1)], columns=columns)
    table.assign(name="AR", score=2.0).to_csv(tmp_path / "contours.csv", index=False)
    films = tmp_path / "films"
    (films / "images").mkdir(parents=True)
    for name in ("one.png", "none.png"):
        Image.fromarray((drawn(outline()) * 255).astype(np.uint8)).save(films / "images" / name)
    pd.DataFrame({"file": ["one.png", "none.png", "lost.png"], "kind": ["single", "chest", "chest"]}).to_csv(
        films / "files.csv", index=False
    )
    knee = {"file": "one.png", "side": "right", "x": 56, "y": 52, "plateau_left_x": 10, "plateau_right_x": 100,
            "tilt_deg": 0.0, "implant": "none", "view": "ap", "usable": "yes"}  # fmt: skip
    pd.DataFrame([knee]).to_csv(films / "knees.csv", index=False)
    torch.manual_seed(0)
    shapes = ShapeModel.fit(np.stack([outline(seed) for seed in range(50)]))
    finder = BoneFinder(BoneNet(widths=(4, 8, 8, 8, 8), pyramid=8).eval(), shapes)
    finder.save(tmp_path / "m", training={})
    options = f"--model {tmp_path / 'm'} --films {films} --pictures {tmp_path / 'found'}"
    monkeypatch.setattr(sys, "argv", ["bones", str(tmp_path), *options.split()])
    script.main()
    said = capsys.readouterr().out
    for name in [*script.PROCESSINGS, "single", "chest", "seconds a film"]:
        assert name in said
    assert (tmp_path / "found" / "one.png").is_file()
