"""Single-knee baseline radiographs with later grades, as `train.csv` + `train.zip` (likewise val, test).

Layout, known: a wide table `name, subject, side, split, kl_m00, kl_m12, ...` with one row a knee, grades
empty where not read, side L or R; and an archive of `NAME.webp` beside it: month 0, left knees not
mirrored.
"""

import re
from pathlib import Path

import pandas as pd

from progression.data.visits import SPLITS, check_visits
from progression.errors import TableError
from progression.tables import read_table

_COLUMNS = ("name", "subject", "side", "split", "kl_m00")
_GRADE_COLUMN = re.compile(r"kl_m(\d+)")


def import_knees(folder: str | Path) -> pd.DataFrame:
    """Visits table of all splits that are in `folder`.

    One row for every baseline (with its picture, `train.zip::NAME.webp`) and for every later visit that was
    read. `attrs["root"]` is `folder`.

    Raises
    ------
    TableError
        No table there, or a fault in it.
    """
    folder = Path(folder)
    sources = [folder / f"{split}.csv" for split in SPLITS if (folder / f"{split}.csv").is_file()]
    if not sources:
        raise TableError(f"{folder}: expected train.csv, val.csv or test.csv, found none; check the path")
    table = check_visits(pd.concat([_long(path) for path in sources], ignore_index=True), source=str(folder))
    table.attrs["root"] = str(folder)
    return table


def _long(path: Path) -> pd.DataFrame:
    read = read_table(path, known=_COLUMNS, required=_COLUMNS, strict=True, tell="near", source=path.name)
    wide = read.frame()
    for column in _COLUMNS:
        wide[column] = read.texts(column)
    visits = [match for match in map(_GRADE_COLUMN.fullmatch, wide.columns) if match]
    long = pd.concat(
        [
            pd.DataFrame(
                {
                    "subject": wide["subject"],
                    "side": wide["side"],
                    "months": int(visit[1]),
                    "image": f"{path.stem}.zip::" + wide["name"] + ".webp" if int(visit[1]) == 0 else "",
                    "grade": read.texts(visit[0]),
                    "split": wide["split"],
                }
            )
            for visit in visits
        ]
    )
    read = (long["grade"] != "") | (long["image"] != "")
    return long[read].sort_index(kind="stable")
