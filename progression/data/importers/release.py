"""What the OAI and MOST releases have in common: delimited text, coded values, SAS missing codes, films."""

import csv
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from progression.errors import TableError, UsageError
from progression.tables import FIRST_ROW, cell_text, is_missing, number, read_bytes, table_of

_LETTER = re.compile(r"[A-Za-z]")
"""A bare letter (A: Not Expected) means missing, too."""


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

    def where(self, position: int, column: str) -> str:
        return f"{self.name}: row {position + FIRST_ROW}, column '{column.upper()}'"

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
        values = [re.sub(r"\.0+$", "", cell_text(cell)) for cell in self.cells[column]]
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
    if is_missing(code) or _LETTER.fullmatch(code) or code in missing:
        return None
    found = number(code)
    return None if f"{found:g}" in missing else found


def grade_of(read: float | None, where: str) -> int | None:
    """A Kellgren-Lawrence grade from a release's number.

    0..4 stand for themselves. k.9 (MOST's 1.9) is grade k+1 without all of its features, by MOST's
    documentation a definite osteophyte without narrowing; Kellgren and Lawrence call that k+1, so it is k+1.

    Raises
    ------
    TableError
        Anything else; the remedy is to name it as a missing code.
    """
    if read is None:
        return None
    tenths = round(read * 10)
    grade, rest = divmod(tenths, 10)
    if abs(read * 10 - tenths) < 1e-6 and rest in (0, 9) and 0 <= tenths <= 40:
        return grade + (rest == 9)
    raise TableError(
        f"{where}: expected a Kellgren-Lawrence grade 0..4 (or k.9), got {read:g}; "
        f"if it means not read, say so (--missing-code {read:g})"
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
    text = read_bytes(path).decode("utf-8-sig", errors="replace").replace("\0", "")
    first = text.partition("\n")[0]
    if not first.strip():
        raise TableError(f"{path.name}: the file is empty; download it again")
    separator = max("|\t,", key=first.count)
    table = table_of(
        text,
        separator,
        path.name,
        known=(),
        required=(),
        strict=True,
        tell="nothing",
        # only comma-separated files quote their cells; elsewhere a quote is a character of somebody's comment
        quoting=csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE,
    )
    cells = table.frame().map(str.strip)
    return ReleaseTable(
        name=path.name, cells=cells.set_axis([name.lower() for name in cells.columns], axis=1)
    )


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
