"""Outlines go with their pictures, on the side and in the square that models see."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from progression.data.contours import load_outlined, read_contours
from progression.data.visits import read_visits
from progression.errors import TableError
from tests.outlines import drawn, outline

COLUMNS = [f"{axis}{point}" for point in range(74) for axis in "xy"]


def written(folder: Path, **changes: object) -> Path:
    """Right and left pictures of one knee and its mirror, of which the right one is wider than high."""
    grey = (drawn(outline()) * 255).astype(np.uint8)
    wide = np.zeros((112, 132), np.uint8)
    wide[:, 10:122] = grey
    Image.fromarray(wide).save(folder / "AR.png")
    Image.fromarray(grey[:, ::-1].copy()).save(folder / "AL.png")
    rows = [{"subject": "A", "side": side, "months": 0, "image": f"A{side[0].upper()}.png", "grade": 1}
            for side in ("right", "left")]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "visits.csv", index=False)
    right = outline() * 112 + [10, 0]
    left = outline() * 112 * [-1, 1] + [112, 0]
    table = pd.DataFrame([right.reshape(-1), left.reshape(-1)], columns=COLUMNS)
    table = table.assign(name=["AR", "AL"], score=[2.0, 1.0])
    table.assign(**changes).to_csv(folder / "contours.csv", index=False)
    return folder / "contours.csv"


def test_both_sides_become_right_knees_of_the_central_square(tmp_path: Path) -> None:
    contours = read_contours(written(tmp_path))
    knees = load_outlined(read_visits(tmp_path / "visits.csv"), contours, resolution=112)
    assert len(knees) == 2 and knees.images.shape == (2, 112, 112)
    for points in knees.points:
        assert points == pytest.approx(outline(), abs=1e-4)
    assert (knees.images[0].float() - knees.images[1].float()).abs().mean() < 2


def test_outlines_of_a_low_score_and_pictures_without_are_left_out(tmp_path: Path) -> None:
    contours = read_contours(written(tmp_path), least_score=1.4)
    assert len(load_outlined(read_visits(tmp_path / "visits.csv"), contours, resolution=64)) == 1
    other = read_contours(written(tmp_path, name=["BR", "BL"]))
    with pytest.raises(TableError, match="no picture at month 0 of the visits table has a row"):
        load_outlined(read_visits(tmp_path / "visits.csv"), other, resolution=64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ["AR", "AR"]}, "AR is listed twice"),
        ({"x3": ["1", "far"]}, "must be numbers"),
        ({"y73": [1.0, np.inf]}, "must be numbers"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(TableError, match=message):
        read_contours(written(tmp_path, **changes))


def test_a_missing_column_or_file_is_named(tmp_path: Path) -> None:
    path = written(tmp_path)
    pd.read_csv(path).drop(columns="y7").to_csv(path, index=False)
    with pytest.raises(TableError, match="no column 'y7'"):
        read_contours(path)
    with pytest.raises(TableError, match="cannot be read as a table of outlines"):
        read_contours(tmp_path / "none.csv")
