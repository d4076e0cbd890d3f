"""Outlines of femur and tibia that belong to the baseline pictures of a visits table.

| column | meaning |
|---|---|
| `name` | the picture's file name without its suffix |
| `score` | how good the outlines are; optional |
| `x0, y0` … `x73, y73` | points from the lateral to the medial side, in pixels of the picture as stored |
"""

from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from progression.data.dataset import baselines
from progression.data.visits import images_root
from progression.errors import TableError
from progression.image import label_of, read_image, to_model
from progression.types import Side

_POINTS = 74
_COLUMNS = [f"{axis}{point}" for point in range(_POINTS) for axis in "xy"]


@dataclass(frozen=True)
class Outlined:
    """N pictures with outlines, all shown as right knees.

    Attributes
    ----------
    images : (N, R, R) uint8
    points : (N, 74, 2) in shares of the picture's side, x to the right and y down; some lie outside
    """

    images: Tensor
    points: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)


def read_contours(path: str | Path, *, least_score: float | None = None) -> pd.DataFrame:
    """A table of outlines, indexed by name.

    Parameters
    ----------
    least_score : rows below it are left out.

    Raises
    ------
    TableError
        If it cannot be read, lacks a column, names a picture twice, or holds what is no number.
    """
    try:
        table = pd.read_csv(path, dtype={"name": str})
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: cannot be read as a table of outlines ({error})") from error
    needed = ["name", *_COLUMNS, *(["score"] if least_score is not None else [])]
    if missing := [column for column in needed if column not in table]:
        raise TableError(f"{path}: no column {missing[0]!r}; expected name, score and x0, y0 … x73, y73")
    if table["name"].duplicated().any():
        raise TableError(f"{path}: {table['name'][table['name'].duplicated()].iloc[0]} is listed twice")
    numbers = table[needed[1:]].apply(pd.to_numeric, errors="coerce")
    if not np.isfinite(numbers.to_numpy(float)).all():
        raise TableError(f"{path}: points and scores must be numbers")
    table = table.assign(**{column: numbers[column] for column in numbers})
    if least_score is not None:
        table = table[table["score"] >= least_score]
    return table.set_index("name")


def load_outlined(
    visits: pd.DataFrame,
    contours: pd.DataFrame,
    *,
    resolution: int,
    root: str | Path | None = None,
    split: str | None = None,
) -> Outlined:
    """Baseline pictures of a checked visits table that have outlines.

    Raises
    ------
    TableError
        If none has.
    ImageError
        If a picture cannot be read.
    """
    first, folder = baselines(visits, split=split)[0], images_root(visits, root)
    images, points = [], []
    for reference, stated in zip(first["image"], first["side"], strict=True):
        name = PurePath(label_of(str(reference))).stem
        if name not in contours.index:
            continue
        pixels, side = read_image(str(Path(folder) / reference)), Side.parse(stated)
        x = to_model(pixels, side=side, resolution=resolution)
        images.append(((x[0] + 1) * 127.5).round().to(torch.uint8))
        shorter = min(pixels.shape)  # `to_model` takes the central square
        beside = np.array([pixels.shape[1] - shorter, pixels.shape[0] - shorter]) // 2
        of = (contours.loc[name, _COLUMNS].to_numpy(float).reshape(_POINTS, 2) - beside) / shorter
        if side is Side.LEFT:
            of[:, 0] = 1 - of[:, 0]
        points.append(of)
    if not images:
        raise TableError("no picture at month 0 of the visits table has a row in the table of outlines")
    return Outlined(torch.stack(images), np.stack(points).astype(np.float32))
