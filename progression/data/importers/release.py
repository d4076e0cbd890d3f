"""What the OAI and MOST releases have in common: delimited text, coded values, SAS missing codes, films."""

import csv
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Literal

import pandas as pd

from progression.errors import TableError, UsageError

_MISSING = re.compile(r"|\.[A-Za-z_]?|[A-Za-z]|NA|NaN|nan")
"""Empty; the SAS codes . and .A to .Z; a bare letter (A: Not Expected); what R and pandas write."""
_FIRST_ROW = 2


@dataclass(frozen=True)
class ReleaseTable:
    """One file of a release: text cells, columns in lower case, rows counted as in the file (header is 1)."""

    name: str
    cells: pd.DataFrame

    def require(self, *columns: str) -> None:
        for column in columns:
            if column not in self.cells:
                found = ", ".join(self.cells.columns[:8])
                raise TableError(
                    f"{self.name}: column '{column.upper()}' is missing; the file begins {found}"
                )
            if list(self.cells.columns).count(column) > 1:
                raise TableError(f"{self.name}: column '{column.upper()}' occurs twice; remove one")

    def where(self, position: int, column: str) -> str:
        return f"{self.name}: row {position + _FIRST_ROW}, column '{column.upper()}'"

    def numbers(self, column: str, *, missing: Collection[str] = ()) -> list[float | None]:
        """A column as numbers, None where missing; see `code_number`."""
        values: list[float | None] = []
        for position, cell in enumerate(self.cells[column]):
            try:
                values.append(code_number(cell, missing=missing))
            except ValueError as error:
                raise TableError(
                    f"{self.where(position, column)}: expected a number or a missing code, got {cell!r}; "
                    f"if it means not read, say so (--missing-code {code_of(cell)})"
                ) from error
        return values

    def participants(self, column: str = "id") -> list[str]:
        """Participant numbers as text; a number that went through a spreadsheet (9000001.0) loses its .0."""
        values = [re.sub(r"\.0+$", "", cell) for cell in self.cells[column]]
        for position, value in enumerate(values):
            if not value:
                raise TableError(
                    f"{self.where(position, column)}: expected a participant's code, got nothing"
                )
        return values


def code_of(cell: str) -> str:
    """The code of a cell: "2: Definite" -> "2", ".M: Missing Form/Incomplete Workbook" -> ".M"."""
    return cell.split(":", 1)[0].strip()


def code_number(cell: str, *, missing: Collection[str] = ()) -> float | None:
    """A cell's number, or None for a missing code.

    Parameters
    ----------
    cell
        "2", "2.0", "2: Definite", "", ".", ".M: Missing Form/Incomplete Workbook", "A: Not Expected" ...
    missing
        Further codes that mean not read, compared as text and as numbers ("8" is also "8.0: ...").

    Raises
    ------
    ValueError
        Neither a number nor a missing code.
    """
    code = code_of(cell)
    if _MISSING.fullmatch(code) or code in missing:
        return None
    number = float(code)
    if not math.isfinite(number):
        raise ValueError(code)
    return None if f"{number:g}" in missing else number


def grade_of(number: float | None, where: str) -> int | None:
    """A Kellgren-Lawrence grade from a release's number.

    0..4 stand for themselves. k.9 (MOST's 1.9) is grade k+1 without all of its features, by MOST's
    documentation a definite osteophyte without narrowing; Kellgren and Lawrence call that k+1, so it is k+1.

    Raises
    ------
    TableError
        Anything else; the remedy is to name it as a missing code.
    """
    if number is None:
        return None
    tenths = round(number * 10)
    grade, rest = divmod(tenths, 10)
    if abs(number * 10 - tenths) < 1e-6 and rest in (0, 9) and 0 <= tenths <= 40:
        return grade + (rest == 9)
    raise TableError(
        f"{where}: expected a Kellgren-Lawrence grade 0..4 (or k.9), got {number:g}; "
        f"if it means not read, say so (--missing-code {number:g})"
    )


def find_file(folder: str | Path, name: str) -> Path | None:
    """The file of that name (in any case) in a folder or below it; None if there is none.

    Raises
    ------
    TableError
        No such folder, or several such files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TableError(f"{folder}: no such folder; give the one that holds the release's text files")
    found = sorted(path for path in folder.rglob("*") if path.name.lower() == name.lower() and path.is_file())
    if len(found) > 1:
        raise TableError(f"{folder}: found {name} {len(found)} times ({found[0]}, {found[1]}); keep one")
    return found[0] if found else None


def read_release(path: Path) -> ReleaseTable:
    """Read a release's text file; the separator (| or tab or comma) is the one most frequent in its header.

    Raises
    ------
    TableError
        Unreadable, empty, or a row whose cells do not match the header.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    first = text.partition("\n")[0]
    if not first.strip():
        raise TableError(f"{path.name}: the file is empty; download it again")
    separator = max("|\t,", key=first.count)
    # Only comma-separated files quote their cells; elsewhere a quote is a character of somebody's comment.
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE
    reader = csv.reader(StringIO(text, newline=""), delimiter=separator, quoting=quoting)
    rows = [[cell.strip() for cell in row] for row in reader if row]
    header = [name.lower() for name in rows[0]]
    for number, row in enumerate(rows[1:], start=_FIRST_ROW):
        if len(row) != len(header):
            raise TableError(
                f"{path.name}: row {number}: expected {len(header)} cells as in the header, got {len(row)}"
            )
    return ReleaseTable(name=path.name, cells=pd.DataFrame(rows[1:], columns=header, dtype=object))


def name_image(pattern: str | None, root: Path, *, subject: str, side: str, months: float) -> str:
    """The picture of a visit, if the user has cut the films: `pattern` filled in, "" where no such file is.

    `pattern` is relative to `root`, e.g. `knees/{subject}_{months:03d}_{side}.png`, with `side` left or right
    and `side_letter` L or R.

    Raises
    ------
    UsageError
        The pattern has other fields or does not parse.
    """
    if pattern is None:
        return ""
    try:
        name = pattern.format(subject=subject, side=side, side_letter=side[0].upper(), months=int(months))
    except (KeyError, IndexError, ValueError) as error:
        raise UsageError(
            f"image pattern {pattern!r}: expected the fields subject, side, side_letter, months "
            "(--image-pattern 'knees/{subject}_{months:03d}_{side}.png')"
        ) from error
    return name if (root / name).is_file() else ""
