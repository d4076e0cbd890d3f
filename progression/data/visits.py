"""The visits table: one row a visit of one knee. Every cohort enters the package in this form.

| column | type once read | meaning |
|---|---|---|
| `subject` | str | whose knee; never shared between splits |
| `side` | "left" or "right" | a *knee* is (subject, side) |
| `months` | float, >= 0 | time since that subject's baseline, which is 0 |
| `image` | str, "" for none | path, or `archive.zip::member`, relative to the table's folder or to a root |
| `grade` | Int64, 0..4 or <NA> | Kellgren-Lawrence grade as read |
| `split` | "train", "val", "test" or "" | optional |
| `age`, `bmi` | float or NaN | optional; years, kg/m² |
| `sex` | "female", "male" or "" | optional |

Other columns are kept as they are. Rows are counted as a spreadsheet shows them: the header is row 1. Columns and
cells are read as `progression.tables` says: what means "missing" is missing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from progression.decoding.sources import members_of
from progression.errors import ImageError, TableError, UsageError, import_extra
from progression.files import atomic_write
from progression.tables import (
    FIRST_ROW,
    MAX_CELLS,
    MAX_TABLE_BYTES,
    cell_text,
    csv_text,
    match_columns,
    number,
    path_text,
    read_bytes,
    read_table,
)
from progression.texts import printable
from progression.types import KL_GRADES, Side

REQUIRED = ("subject", "side", "months")
COLUMNS = (*REQUIRED, "image", "grade", "split", "age", "sex", "bmi")
SPLITS = ("train", "val", "test")
_PARQUET = (".parquet", ".pq")
_BATCH_ROWS = 1024


def read_visits(path: str | Path) -> pd.DataFrame:
    """Read and check a visits table.

    Parameters
    ----------
    path
        `.csv` (UTF-8, comma separated, with a header) or `.parquet`/`.pq` (needs the extra `parquet`).

    Returns
    -------
    DataFrame
        As `check_visits` returns it, in the file's row order; `attrs["root"]` is the table's folder, to
        which its images are relative.

    Raises
    ------
    TableError
        Unreadable file, or a fault named by row and column.
    DependencyError
        Parquet without pyarrow.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        raw = read_table(
            path, known=COLUMNS, required=REQUIRED, strict=True, tell="nothing", source=path.name
        ).frame()
    elif path.suffix.lower() in _PARQUET:
        raw = _read_parquet(path)
    else:
        raise TableError(f"{path.name}: expected a .csv or .parquet table, got {path.suffix or 'no'} suffix")
    table = check_visits(raw, source=path.name)
    table.attrs["root"] = str(path.parent)
    return table


def write_visits(table: pd.DataFrame, path: str | Path) -> None:
    """Check a visits table and write it whole (`.csv`, or `.parquet` with the extra `parquet`).

    Raises
    ------
    TableError
        The table is at fault, named by row and column.
    UsageError
        The suffix is neither.
    OutputError
        The file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix != ".csv" and suffix not in _PARQUET:
        raise UsageError(f"{path.name}: expected an output named .csv or .parquet")
    if suffix in _PARQUET:
        import_extra("pyarrow", feature="a Parquet table", extra="parquet", otherwise=", or use .csv")
    table = check_visits(table, source=path.name)
    with atomic_write(path) as temporary:
        if suffix == ".csv":
            temporary.write_text(csv_text(table, float_format="%.10g"), encoding="utf-8")
        else:
            table.to_parquet(temporary, index=False)


def check_visits(table: pd.DataFrame, *, source: str = "visits table") -> pd.DataFrame:
    """Bring a visits table to the types of the module docstring, or refuse it.

    Parameters
    ----------
    table
        Columns `subject`, `side`, `months` and any of the others; text or numbers.
    source
        What to call the table in an error.

    Returns
    -------
    DataFrame
        A new table, same rows and order, index 0..n-1; `image` and `grade` are added where absent.

    Raises
    ------
    TableError
        Naming row and column of the first fault: no rows, missing or repeated column, empty subject, unknown
        side, negative or unreadable months, grade outside 0..4, unknown split or sex, impossible age or BMI,
        one visit twice, one picture for two visits, a subject in two splits.
    """
    columns_of = match_columns(
        list(table.columns), known=COLUMNS, required=REQUIRED, source=source, tell="near"
    )
    attrs, table = table.attrs, table.iloc[:, list(columns_of.values())].set_axis(list(columns_of), axis=1)
    check = _Checker(table, source)
    columns: dict[str, Any] = {
        "subject": check.text("subject", "a participant's code", allow_empty=False),
        "side": check.choice("side", "left or right", _side),
        "months": check.number("months", "months since baseline, 0 or more", 0, np.inf, allow_empty=False),
        "image": [path_text(value) for value in table["image"]] if "image" in table else [""] * len(table),
        "grade": check.grade() if "grade" in table else pd.array([pd.NA] * len(table), dtype="Int64"),
    }
    if "split" in table:
        columns["split"] = check.choice("split", "train, val, test or empty", _split)
    if "age" in table:
        columns["age"] = check.number("age", "years, above 0 to 120", 0, 120, exclusive=True)
    if "sex" in table:
        columns["sex"] = check.choice("sex", "female, male or empty", _sex)
    if "bmi" in table:
        columns["bmi"] = check.number("bmi", "kg/m², above 0 to 150", 0, 150, exclusive=True)
    for name in table.columns:
        columns.setdefault(name, table[name].to_numpy())
    checked = pd.DataFrame(columns)
    checked.attrs.update(attrs)
    check.unique(checked, ["subject", "side", "months"], column="months", what="this visit")
    pictured = checked[checked["image"] != ""]
    check.unique(pictured, ["image", "side"], column="image", what="this picture and side")
    check.one_value(pictured, "image", "subject")
    if "split" in checked:
        check.one_value(checked, "subject", "split")
    return checked


def check_images(table: pd.DataFrame, *, root: str | Path | None = None) -> int:
    """Check that every picture named in a visits table exists (it is not decoded).

    Parameters
    ----------
    table
        A checked visits table.
    root
        Folder to which images are relative; None is the folder of the file that the table was read from.

    Returns
    -------
    int
        How many pictures there are.

    Raises
    ------
    TableError
        Naming the row of the first picture or archive that is missing.
    """
    folder = images_root(table, root)
    members: dict[Path, frozenset[str]] = {}
    found = 0
    for position, reference in enumerate(table["image"]):
        if not reference:
            continue
        archive, separator, member = reference.rpartition("::")
        path = folder / (archive if separator else reference)
        member = member if separator else ""
        if member and path not in members:
            members[path] = _archive_members(path, _where("visits table", position, "image"))
        if member not in members[path] if member else not path.is_file():
            raise TableError(
                f"{_where('visits table', position, 'image')}: no picture {reference!r} in {folder}; "
                "give the folder that images are relative to (--images)"
            )
        found += 1
    return found


def images_root(table: pd.DataFrame, root: str | Path | None = None) -> Path:
    """The folder that a table's images are relative to: `root`, else the table's own folder, else "."."""
    return Path(root if root is not None else table.attrs.get("root", "."))


class _Checker:
    """Parses columns; each method returns the parsed column or raises for its first bad cell."""

    def __init__(self, table: pd.DataFrame, source: str) -> None:
        self.table, self.source = table, source
        if table.empty:
            raise TableError(f"{source}: expected at least one visit below the header, got none")

    def text(self, column: str, expected: str, *, allow_empty: bool = True) -> list[str]:
        cells = [printable(cell_text(value)) for value in self.table[column]]
        if not allow_empty:
            self._refuse(column, expected, np.array([not cell for cell in cells]))
        return cells

    def choice(self, column: str, expected: str, parse: Callable[[str], str | None]) -> list[str]:
        known: dict[str, str | None] = {}
        parsed = [known.setdefault(cell, parse(cell)) for cell in self.text(column, expected)]
        self._refuse(column, expected, np.array([value is None for value in parsed]))
        return [str(value) for value in parsed]

    def number(
        self,
        column: str,
        expected: str,
        low: float,
        high: float,
        *,
        exclusive: bool = False,
        allow_empty: bool = True,
    ) -> np.ndarray:
        cells = self.text(column, expected, allow_empty=allow_empty)
        empty = np.array([not cell for cell in cells])
        known = {cell: _number(cell) for cell in set(cells)}
        values = np.array([known[cell] for cell in cells], dtype=np.float64)
        inside = ((values > low) if exclusive else (values >= low)) & (values <= high) & np.isfinite(values)
        self._refuse(column, expected, ~empty & ~inside)
        return values

    def grade(self) -> Any:
        expected = f"a Kellgren-Lawrence grade 0..{KL_GRADES - 1} or empty"
        values = self.number("grade", expected, 0, KL_GRADES - 1)
        self._refuse("grade", expected, ~np.isnan(values) & (values != np.floor(values)))
        return pd.array(pd.Series(values).astype("Int64"))

    def unique(self, table: pd.DataFrame, key: list[str], *, column: str, what: str) -> None:
        """No two rows share `key`."""
        repeated = table.duplicated(key).to_numpy()
        if repeated.any():
            row = table.index[int(repeated.argmax())]
            same = (table[key] == table.loc[row, key]).all(axis=1)
            described = ", ".join(f"{name} {table.loc[row, name]}" for name in key)
            raise TableError(
                f"{_where(self.source, row, column)}: {what} is in row {same.idxmax() + FIRST_ROW} already "
                f"({described}); keep one"
            )

    def one_value(self, table: pd.DataFrame, key: str, column: str) -> None:
        """Rows that share `key` share `column`."""
        first = table.groupby(key, sort=False)[column].transform("first")
        wrong = table.index[(table[column] != first).to_numpy()]
        if len(wrong):
            row = wrong[0]
            other = table.index[(table[key] == table.loc[row, key]).to_numpy()][0]
            raise TableError(
                f"{_where(self.source, row, column)}: {key} {table.loc[row, key]!r} has "
                f"{table.loc[row, column]!r} here but {table.loc[other, column]!r} in row "
                f"{other + FIRST_ROW}; give it one {column}"
            )

    def _refuse(self, column: str, expected: str, bad: np.ndarray) -> None:
        if bad.any():
            position = int(np.flatnonzero(bad)[0])
            got = cell_text(self.table[column].iloc[position]) or "nothing"
            more = f" (and {int(bad.sum()) - 1} more rows)" if bad.sum() > 1 else ""
            raise TableError(
                f"{_where(self.source, position, column)}: expected {expected}, got {got!r}{more}"
            )


def _where(source: str, position: int, column: str) -> str:
    return f"{source}: row {position + FIRST_ROW}, column '{column}'"


def _number(cell: str) -> float:
    """A cell's number, nan for what is none."""
    try:
        return number(cell)
    except ValueError:
        return np.nan


def _side(text: str) -> str | None:
    try:
        return Side.parse(text).value
    except UsageError:
        return None


def _split(text: str) -> str | None:
    return text if text in (*SPLITS, "") else None


def _sex(text: str) -> str | None:
    return {"f": "female", "female": "female", "m": "male", "male": "male", "": ""}.get(text.lower())


def _read_parquet(path: Path) -> pd.DataFrame:
    """A Parquet table, piece by piece, as a small file may hold a huge one."""
    import_extra("pyarrow", feature="a Parquet table", extra="parquet", otherwise=", or use .csv")
    import pyarrow
    from pyarrow import parquet

    content = read_bytes(path)
    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(content))
        if file.metadata.num_rows * file.metadata.num_columns > MAX_CELLS:
            raise TableError(f"{path.name} has more than {MAX_CELLS:,} cells; divide it")
        pieces, size = [], 0
        for piece in file.iter_batches(batch_size=_BATCH_ROWS):
            size += piece.nbytes
            if size > MAX_TABLE_BYTES:
                raise TableError(f"{path.name} is larger than {MAX_TABLE_BYTES >> 20} MB; divide the table")
            pieces.append(piece)
        table = pyarrow.Table.from_batches(pieces, schema=file.schema_arrow)
        frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, pyarrow.ArrowException) as error:
        raise TableError(
            f"{path.name}: damaged or not a Parquet table ({type(error).__name__}); write it again, or use CSV"
        ) from error
    return frame


def _archive_members(path: Path, where: str) -> frozenset[str]:
    try:
        return frozenset(members_of(path))
    except ImageError as error:
        raise TableError(f"{where}: cannot open archive {path}; check --images, or copy it again") from error
