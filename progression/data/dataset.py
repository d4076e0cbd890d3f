"""From a visits table to model images in memory: the form that training and banks take.

Pictures go through `image.read_image` and `image.to_model`, as they do when a knee is predicted, and are kept
as bytes: x = images / 127.5 - 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from progression.data.outcomes import GradeSeries, grade_series
from progression.data.visits import SPLITS, images_root
from progression.errors import ImageError, TableError, UsageError
from progression.image import read_image, to_model
from progression.types import Side


@dataclass(frozen=True)
class Knees:
    """N baseline radiographs and what was read on those knees, then and later.

    Attributes
    ----------
    images : (N, R, R) uint8, model images quantised: x = images / 127.5 - 1, all knees as right ones
    subject, side : (N,) str
    grade : (N,) int64, Kellgren-Lawrence grade at baseline, -1 where not read
    grade_series : (N, V) int64, grade at every visit time, -1 where not read
    series_months : (V,) float, ascending
    """

    images: Tensor
    subject: npt.NDArray[np.str_]
    side: npt.NDArray[np.str_]
    grade: npt.NDArray[np.int64]
    grade_series: npt.NDArray[np.int64]
    series_months: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.subject)

    @property
    def other_knee(self) -> npt.NDArray[np.int64]:
        """(N,) row of the same person's other knee, -1 where it is not among these."""
        knees = list(zip(self.subject.tolist(), self.side.tolist(), strict=True))
        place = {knee: row for row, knee in enumerate(knees)}
        other = [place.get((who, Side.parse(side).other.value), -1) for who, side in knees]
        return np.array(other, dtype=np.int64)

    def select(self, rows: npt.ArrayLike) -> "Knees":
        """The knees at `rows` (indices or a boolean mask), in that order; visit times stay."""
        index = np.arange(len(self))[np.asarray(rows)]
        chosen = {
            field.name: getattr(self, field.name)[index]
            for field in fields(self)
            if field.name != "series_months"
        }
        return replace(self, **chosen)


def load_baselines(
    table: pd.DataFrame, *, resolution: int, root: str | Path | None = None, split: str | None = None
) -> Knees:
    """Baseline pictures (month 0) and grade series of a checked visits table, in table order.

    Parameters
    ----------
    table
        As `read_visits` gives it. Knees without a picture at month 0 are left out.
    resolution
        R, pixels a side.
    root
        Folder to which images are relative; None is the folder that the table was read from.
    split
        "train", "val" or "test" to take only that one.

    Raises
    ------
    UsageError
        Unknown split.
    TableError
        The table has no such split, or no picture at month 0 in it.
    ImageError
        A picture cannot be read; the message names its row's knee.
    """
    first, series = baselines(table, split=split)
    return Knees(
        images=load_images(
            first["image"], first["side"], resolution=resolution, root=images_root(table, root)
        ),
        subject=series.subject,
        side=series.side,
        grade=series.baseline,
        grade_series=series.grade,
        series_months=series.months,
    )


def baselines(table: pd.DataFrame, *, split: str | None = None) -> tuple[pd.DataFrame, GradeSeries]:
    """Rows of a checked visits table with a picture at month 0, and the same knees' grade series.

    Raises
    ------
    UsageError
        Unknown split.
    TableError
        The table has no such split, or no picture at month 0 in it.
    """
    if split is not None:
        table = _of_split(table, split)
    first = table[(table["months"] == 0) & (table["image"] != "")]
    if first.empty:
        raise TableError("no row has a picture at month 0; check the columns 'image' and 'months'")
    series = grade_series(table)
    position = {knee: row for row, knee in enumerate(zip(series.subject, series.side, strict=True))}
    rows = np.array([position[knee] for knee in zip(first["subject"], first["side"], strict=True)])
    per_knee = {name: getattr(series, name)[rows] for name in ("subject", "side", "grade")}
    return first, replace(series, **per_knee)


def load_images(
    images: Iterable[str], side: Iterable[str], *, resolution: int, root: str | Path = "."
) -> Tensor:
    """Model images of any visits, quantised.

    Parameters
    ----------
    images
        References as in the table's column, relative to `root`.
    side
        "left" or "right" of each.

    Returns
    -------
    (N, R, R) uint8
        x = images / 127.5 - 1 is `to_model`'s output to half a step, 1/255.

    Raises
    ------
    ImageError
        A picture cannot be read.
    """
    loaded = []
    for reference, knee_side in zip(images, side, strict=True):
        try:
            pixels = read_image(str(Path(root) / reference))
        except ImageError as error:
            raise ImageError(f"{reference}: {error}") from error
        x = to_model(pixels, side=Side.parse(knee_side), resolution=resolution)
        loaded.append(((x[0] + 1) * 127.5).round().to(torch.uint8))
    return torch.stack(loaded) if loaded else torch.zeros(0, resolution, resolution, dtype=torch.uint8)


def _of_split(table: pd.DataFrame, split: str) -> pd.DataFrame:
    if split not in SPLITS:
        raise UsageError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    if "split" not in table:
        raise TableError("the table has no column 'split'; draw one: progression data split TABLE --out NEW")
    chosen = table[table["split"] == split]
    if chosen.empty:
        raise TableError(f"no row has split {split!r}; check the column 'split'")
    return chosen
