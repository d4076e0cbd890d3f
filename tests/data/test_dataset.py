"""Baselines in memory: the same pixels that a prediction sees, and the right grades beside them."""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from progression.data.dataset import load_baselines, load_images
from progression.data.visits import check_visits, read_visits
from progression.errors import ImageError, TableError, UsageError
from progression.image import read_image, to_model
from progression.types import Side


def picture(seed: int) -> Image.Image:
    """A bright band with its own texture on dark: enough contrast, and not symmetric."""
    random = np.random.default_rng(seed)
    values = random.uniform(0, 60, (96, 96))
    values[:, 30:70] += 150
    values[20:40, 30:40] -= 100
    return Image.fromarray(values.astype(np.uint8))


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        picture(ord(name)).save(tmp_path / f"{name}.png")
    picture(3).save(tmp_path / "c.png")
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        archive.write(tmp_path / "c.png", "in/c.png")
    path = tmp_path / "visits.csv"
    path.write_text(
        "subject,side,months,image,grade,split\n"
        "B,right,24,,3,train\n"
        "B,right,0,b.png,2,train\n"
        "A,left,0,films.zip::in/c.png,,val\n"
        "A,left,12,a.png,1,val\n"
        "C,left,0,,1,train\n"
    )
    return path


def test_load_baselines(cohort: Path) -> None:
    knees = load_baselines(read_visits(cohort), resolution=32)
    assert len(knees) == 2  # C has no picture; A's later picture is no baseline
    assert knees.subject.tolist() == ["B", "A"]
    assert knees.side.tolist() == ["right", "left"]
    assert knees.grade.tolist() == [2, -1]
    assert knees.series_months.tolist() == [0, 12, 24]
    assert knees.grade_series.tolist() == [[2, -1, 3], [-1, 1, -1]]
    assert knees.images.shape == (2, 32, 32) and knees.images.dtype == torch.uint8


def test_images_are_the_models_view_to_half_a_step(cohort: Path) -> None:
    knees = load_baselines(read_visits(cohort), resolution=32)
    for row, (name, side) in enumerate([("b.png", Side.RIGHT), ("c.png", Side.LEFT)]):
        seen = to_model(read_image(cohort.parent / name), side=side, resolution=32)[0]
        assert (knees.images[row] / 127.5 - 1 - seen).abs().max() <= 0.5 / 127.5 + 1e-6


def test_left_and_right_of_one_picture_are_mirrored(cohort: Path) -> None:
    both = load_images(["b.png", "b.png"], ["right", "left"], resolution=96, root=cohort.parent)
    assert torch.equal(both[0], both[1].flip(-1))
    assert load_images([], [], resolution=16).shape == (0, 16, 16)


def test_root_and_split(cohort: Path) -> None:
    table = read_visits(cohort)
    only = load_baselines(table, resolution=16, root=cohort.parent, split="val")
    assert only.subject.tolist() == ["A"]
    with pytest.raises(UsageError, match="split 'valid': expected one of train, val, test"):
        load_baselines(table, resolution=16, split="valid")
    with pytest.raises(TableError, match="no row has split 'test'"):
        load_baselines(table, resolution=16, split="test")
    with pytest.raises(TableError, match="no column 'split'"):
        load_baselines(table.drop(columns="split"), resolution=16, split="train")
    with pytest.raises(ImageError, match=r"b.png: .*no such file"):
        load_baselines(table, resolution=16, root=cohort.parent / "elsewhere")


def test_no_pictures() -> None:
    table = check_visits(pd.DataFrame({"subject": ["A"], "side": ["left"], "months": [0], "grade": [1]}))
    with pytest.raises(TableError, match="no row has a picture at month 0"):
        load_baselines(table, resolution=16)


def test_select_takes_rows_of_everything_but_visit_times(cohort: Path) -> None:
    knees = load_baselines(read_visits(cohort), resolution=16)
    for chosen in (knees.select([1]), knees.select(knees.grade == -1)):
        assert chosen.subject.tolist() == ["A"] and chosen.grade_series.tolist() == [[-1, 1, -1]]
        assert torch.equal(chosen.images[0], knees.images[1])
        assert chosen.series_months.tolist() == [0, 12, 24]
    assert knees.select([1, 0]).grade.tolist() == [-1, 2]
