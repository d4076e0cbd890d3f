"""The benchmarks of the localiser: figures by hand, and the whole of them on the shipped synthetic knee."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from progression.data.films import MadeFilm, Shown
from progression.data.phantom import sample_knee
from progression.localise.find import Spot
from progression.types import FIELD_MM, Side
from progression.weights import load_model

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("localise")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The shipped synthetic knee, as both knees of two people."""
    for i in range(4):
        shutil.copy(load_model("default").folder / "example.png", tmp_path / f"{i}.png")
    rows = [
        {"subject": f"P{i // 2}", "side": ("right", "left")[i % 2], "months": 0, "image": f"{i}.png", "grade": 1,
         "split": "val"}
        for i in range(4)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "visits.csv", index=False)
    return tmp_path / "visits.csv"


RIGHT, LEFT = Shown((100.0, 100.0), 90.0, 2.0, Side.RIGHT), Shown((300.0, 100.0), 90.0, 0.0, Side.LEFT)


def test_errors_are_of_the_nearest_knee_in_its_sides(script: ModuleType) -> None:
    film = MadeFilm(np.zeros((200, 400), np.float32), (RIGHT, LEFT), "knees")
    found = (Spot(103.0, 104.0, 45.0 * 2, 5.0, 0.9), Spot(200.0, 100.0, 90.0, 0.0, 0.9))
    first, missed = script.nearest(film, found)
    assert first == pytest.approx((5 / 90, 0.0, 3.0))
    assert np.isnan(missed).all()


def test_the_whole_of_it(
    script: ModuleType, table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = "--films 3 --negatives 4 --elsewhere 1 --phantoms 1 --risks 2"
    monkeypatch.setattr(sys, "argv", ["localise", str(table), *sizes.split()])
    script.main()
    printed = capsys.readouterr().out
    for line in (
        "composites",
        "askew",
        "implant",
        "lateral",
        "metal: total",
        "drawn elsewhere: metal",
        "phantoms",
    ):
        assert f"\n{line}" in f"\n{printed}", line
    assert "plain films, rise by 2 or more" in printed


def test_the_field_of_view_of_phantoms_is_found(script: ModuleType) -> None:
    """Their mean plateau is 74 mm wide, and is measured where it begins to narrow."""
    field = importlib.import_module("field_of_view")
    share = np.median([field.tibial_share(sample_knee(i).image(0, resolution=128)) for i in range(12)])
    assert field.PLATEAU_MM / share == pytest.approx(FIELD_MM, rel=0.06)
