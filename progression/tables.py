"""Tables that people write: CSV text to columns of texts. Every table of this package is read here.

| said by the table | taken as |
|---|---|
| nothing, NA, N/A, NaN, null, None, ".", "-", "?", #N/A, unknown … (`is_missing`) | missing: nobody knows |
| `Side`, ` SIDE`, `spacing MM` | columns `side`, `spacing_mm`; two that are equal so are refused, both named |
| `;` or a tab between cells | as well as commas |
| 2,5 | 2.5; but 1,234 could be a thousand, and is refused (`number`) |

What is odd but harmless, columns that nobody knows, is told to the log `progression`, which the command line shows.
The standard library is enough for reading.
"""

from __future__ import annotations

import csv
import logging
import math
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from progression.errors import TableError
from progression.files import open_regular
from progression.texts import inert, literal, printable

if TYPE_CHECKING:
    import pandas as pd

MAX_TABLE_BYTES = 64 << 20
MAX_CELLS = 8_000_000
MAX_ROWS, MAX_COLUMNS = 1 << 20, 1 << 14
"""As many as a spreadsheet has."""
FIRST_ROW = 2
"""Rows are counted as a spreadsheet shows them: the header is row 1."""
_DELIMITERS = ",;\t|"
_SHOWN = 8
"""Columns that a message lists."""
_SHOWN_CHARACTERS = 40
_LONGEST_HEADER = 1 << 20
"""Characters of it that are looked at for what divides cells."""
_NEAR = 0.75
"""From which likeness on an unknown column is asked about."""
Tell = Literal["unknown", "near", "nothing"]
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_LOG = logging.getLogger("progression")
_SPACES = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
_BLANK = _SPACES + "\u00ad\u180e\u200b\u200c\u200d\u2060\ufeff"
_MISSING = frozenset(
    word.strip()
    for line in (
        # Python, pandas, NumPy, R, databases, JavaScript
        "na, n/a, n.a, n.a., n. a., #na, #n/a, #n/a n/a, <na>, nan, nat, none, null, nil, undefined, \\n",
        "(na), <nan>, (none), <none>, (null), <null>, na_character_, na_integer_, na_real_",
        "1.#ind, 1.#qnan, -1.#ind, -1.#qnan, +nan, -nan",
        # spreadsheets' errors, in several languages
        "#nv, #n/d, #nd, #null!, #value!, #ref!, #div/0!, #num!, #name?, #wert!, #bezug!, #zahl!, #valeur!",
        "#nul!, #nom?, #nombre!, #valor!, #getting_data, #spill!, #calc!, #н/д",
        # statistics packages' further codes, beside the point alone
        ", ".join(f".{chr(code)}" for code in range(ord("a"), ord("z") + 1)),
        # in words
        "missing, unknown, unk, unk., not known, not available, not applicable, not recorded, not stated, n/k, n/d",
        "n.d., not read, not done, unspecified, no data, blank, (blank), empty, (empty), anonymous, anonymised",
        "anonymized, k.a., k. a., keine angabe",
    )
    for word in line.split(",")
)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_OR_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
_OTHER_WORDS = {
    "laterality": "side",
    "lat": "side",
    "body_side": "side",
    "knee_side": "side",
    "kl": "grade",
    "kl_grade": "grade",
    "kellgren_lawrence": "grade",
    "patient": "subject",
    "patient_id": "subject",
    "person": "subject",
    "subject_id": "subject",
    "participant": "subject",
    "file": "image",
    "filename": "image",
    "path": "image",
    "center": "centre",
    "centre_x": "centre",
    "centre_y": "centre",
    "spacing": "spacing_mm",
    "pixel_spacing": "spacing_mm",
    "month": "months",
    "score": "rating",
    "observer": "reader",
}
"""What else known columns are often called; asked about, never taken for them."""


def is_missing(text: str) -> bool:
    """Whether a cell says that nobody knows: nothing, a word for it in any case, or no letter and no digit at all."""
    if text.isascii() and text.isalnum():  # nearly all cells
        return text.casefold() in _MISSING
    folded = unicodedata.normalize("NFKC", text).strip(_BLANK).casefold()
    quoted = len(folded) > 1 and folded[0] == folded[-1] and folded[0] in "'\"`"
    folded = folded[1:-1].strip(_BLANK) if quoted else folded
    return folded in _MISSING or all(_says_nothing(character) for character in folded)


def _says_nothing(character: str) -> bool:
    """Spaces, controls, punctuation and marks such as - + = ~; not letters, digits, nor pictures."""
    return unicodedata.category(character)[0] in "ZCP" or unicodedata.category(character) in ("Sm", "Sk")


def cell_text(value: object) -> str:
    """A cell as text, from a file or a data frame: "" if it is missing; 9000001.0, a code read as a number, "9000001".

    Spaces around it go.
    """
    if isinstance(value, str):
        text = value.strip(_BLANK)
        return "" if is_missing(text) else text if text.isascii() else unicodedata.normalize("NFC", text)
    if type(value).__name__.startswith("float") and float(value).is_integer():  # type: ignore[arg-type]
        return str(int(value))  # type: ignore[call-overload]
    return cell_text(str(value))  # also None, <NA>, NaT, nan


def path_text(value: object) -> str:
    """As `cell_text`, for names of files: these stay byte for byte."""
    if not isinstance(value, str):
        return cell_text(value)
    text = value.strip(_SPACES)
    return "" if is_missing(text) else text


def number(text: str) -> float:
    """A finite number as people and programs write it in plain digits, with a point or a decimal comma.

    Raises
    ------
    ValueError
        For anything else, and for 1,234, which may be either 1.234 or 1234.
    """
    stripped = text.strip(_BLANK)
    if _DECIMAL_COMMA.fullmatch(stripped):
        if _OR_THOUSANDS.fullmatch(stripped):
            raise ValueError("a comma that may divide thousands or decimals; write a point")
        stripped = stripped.replace(",", ".")
    if not _NUMBER.fullmatch(stripped):
        raise ValueError("not a plain number")
    found = float(stripped)
    if not math.isfinite(found):
        raise ValueError("too large a number")
    return found


def column_key(name: object) -> str:
    """What makes a column's name: not its case, spaces around it, or whether spaces or underscores divide it."""
    folded = unicodedata.normalize("NFKC", str(name)).strip(_BLANK).casefold()
    return re.sub(r"[\s_\-.\u200b-\u200d\u2060\ufeff]+", "_", folded).strip("_")


def match_columns(
    header: Sequence[object],
    *,
    known: Collection[str],
    required: Collection[str],
    source: str,
    tell: Tell = "unknown",
) -> dict[str, int]:
    """Where each column is: known ones by their own names, all others by the names that the table gives them.

    Parameters
    ----------
    header
        Names as they stand in the table. A column without a name is left out.
    known, required
        Names in this package's spelling; `required` are among the known ones.
    source
        What messages call the table.
    tell
        Which further columns are told to the log: unknown ones; "near" known ones only, where others have a use; or
        none.

    Raises
    ------
    TableError
        If a required column is missing, or two are equal by `column_key`.
    """
    if len(header) > MAX_COLUMNS:
        raise TableError(f"{source} has {len(header):,} columns; expected at most {MAX_COLUMNS:,}")
    of_key: dict[str, int] = {}
    for position, name in enumerate(header):
        key = column_key(name)
        if not key:
            continue
        if key in of_key:
            first = str(header[of_key[key]])
            told = (
                f"column {_short(name)} occurs twice"
                if first == str(name)
                else f"columns {_short(first)} and {_short(name)} are the same"
            )
            raise TableError(f"{source}: {told} (columns {of_key[key] + 1} and {position + 1}); remove one")
        of_key[key] = position
    mine = {column_key(name): name for name in known}
    unknown = {key: position for key, position in of_key.items() if key not in mine}
    asked = {key: hint for key in unknown if (hint := _meant(key, mine, set(of_key)))}
    for column in required:
        if column_key(column) not in of_key:
            have = ", ".join(_short(name)[1:-1] for name in header[:_SHOWN]) + " …" * (len(header) > _SHOWN)
            near = [header[unknown[key]] for key, hint in asked.items() if hint == column]
            meant = f"; is it {_short(near[0])}?" if near else ""
            raise TableError(f"{source} lacks the column {column!r} (it has: {have}); name it so{meant}")
    odd = [
        _short(header[position]) + (f" (is it {asked[key]!r}?)" if key in asked else "")
        for key, position in unknown.items()
        if tell == "unknown" or (tell == "near" and key in asked)
    ]
    if odd:
        more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
        _LOG.warning(
            "%s: column%s not used: %s%s", source, "s" * (len(odd) > 1), ", ".join(odd[:_SHOWN]), more
        )
    return {mine.get(key, str(header[position])): position for key, position in of_key.items()}


def _meant(key: str, mine: dict[str, str], there: Collection[str]) -> str:
    """The known column, absent so far, that an unknown one was perhaps to be; else empty."""
    absent = {known: name for known, name in mine.items() if known not in there}
    words = absent | {word: name for word, name in _OTHER_WORDS.items() if column_key(name) in absent}
    near = get_close_matches(key[:_SHOWN_CHARACTERS], words, n=1, cutoff=_NEAR)
    return words[near[0]] if near else ""


def _short(name: object) -> str:
    text = printable(name)
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…")


@dataclass(frozen=True)
class Table:
    """A table's cells as they stand in the file, but for what `progression.texts.inert` put before them.

    Attributes
    ----------
    source : what messages call it
    header : the columns' names as they stand in the file
    columns : position of each column, see `match_columns`
    rows : cells, as many in each row as in the header
    numbers : of the rows, as a spreadsheet counts them
    """

    source: str
    header: tuple[str, ...]
    columns: dict[str, int]
    rows: list[list[str]]
    numbers: list[int]

    def texts(self, column: str) -> list[str]:
        """Cells as `cell_text` reads them, and printable; all empty where there is no such column."""
        return [printable(cell_text(cell)) for cell in self._cells(column)]

    def paths(self, column: str) -> list[str]:
        """Cells as `path_text` reads them."""
        return [path_text(cell) for cell in self._cells(column)]

    def _cells(self, column: str) -> Iterator[str]:
        position = self.columns.get(column)
        return ("" if position is None else row[position] for row in self.rows)

    def frame(self) -> pd.DataFrame:
        """All columns under their names (`columns`), cells as they stand in the file."""
        import pandas as pd

        return pd.DataFrame(
            {
                name: pd.Series([row[at] for row in self.rows], dtype=object)
                for name, at in self.columns.items()
            }
        )


def read_table(
    path: str | Path,
    *,
    known: Collection[str],
    required: Collection[str],
    strict: bool = False,
    tell: Tell = "unknown",
    source: str | None = None,
) -> Table:
    """Read a CSV table.

    Parameters
    ----------
    path
        A file of UTF-8 text, or UTF-16 with its mark; cells divided by commas, semicolons, tabs or bars.
    known, required, tell
        As `match_columns` takes them.
    strict
        Refuse rows that are shorter than the header, and empty ones between others; else the cells that are not there
        are empty, and such rows are passed over.
    source
        What messages call it; by default its path.

    Raises
    ------
    TableError
        If it cannot be read, is larger than the limits of this module, is no CSV table, or has wrong columns.
    """
    source = printable(path) if source is None else source
    text = decoded(read_bytes(path), source)
    delimiter = _delimiter(text, {column_key(name) for name in known})
    return table_of(text, delimiter, source, known=known, required=required, strict=strict, tell=tell)


def table_of(
    text: str,
    delimiter: str,
    source: str,
    *,
    known: Collection[str],
    required: Collection[str],
    strict: bool,
    tell: Tell,
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL,
) -> Table:
    """`read_table` of a text whose delimiter is known; with `csv.QUOTE_NONE` quotes are ordinary characters."""
    records = _records(text, delimiter, source, quoting)
    header = next((cells for _, cells in records if any(cells)), [])
    if not header:
        raise TableError(f"{source} is not a CSV table (the file is empty); save it as comma-separated UTF-8")
    columns = match_columns(header, known=known, required=required, source=source, tell=tell)
    rows, numbers, width, gap = list[list[str]](), list[int](), len(header), 0
    for at, cells in records:
        if not any(cells) or not any(map(str.strip, cells)):
            gap = gap or at
            continue
        if strict and gap:
            raise TableError(f"{source}: row {gap} is empty, and others follow; remove it")
        if len(cells) != width and (any(map(str.strip, cells[width:])) or (strict and len(cells) < width)):
            raise TableError(
                f"{source} is not a CSV table (row {at}: expected {width} cells as in the header, got {len(cells)}); "
                "look for a missing or unquoted comma"
            )
        rows.append([*map(literal, cells[:width]), *[""] * (width - len(cells))])
        numbers.append(at)
        if len(rows) * width > MAX_CELLS:
            raise TableError(f"{source} has more than {MAX_CELLS:,} cells; divide it")
    return Table(source, tuple(header), columns, rows, numbers)


def read_bytes(path: str | Path) -> bytes:
    """The content of an ordinary file of at most `MAX_TABLE_BYTES`.

    Raises
    ------
    TableError
        If it cannot be read, is larger, or is no ordinary file, such as a folder or a pipe.
    """
    try:
        with open_regular(path) as stream:
            content = stream.read(MAX_TABLE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise TableError(f"cannot read {printable(path)}: {reason}; check the path") from error
    except ValueError as error:  # a path with a NUL in it
        raise TableError(
            f"cannot read {printable(path)}: no file can be called so; check the path"
        ) from error
    if len(content) > MAX_TABLE_BYTES:
        raise TableError(f"{printable(path)} is larger than {MAX_TABLE_BYTES >> 20} MB; divide the table")
    return content


def decoded(content: bytes, source: str) -> str:
    """Bytes as text.

    Raises
    ------
    TableError
        If they are not UTF-8, nor UTF-16 with its mark.
    """
    remedy = "save it as comma-separated UTF-8"
    if content.startswith(b"PK\x03\x04"):
        raise TableError(f"{source} is not a CSV table (a workbook, by the look of it); {remedy}")
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        legacy = (
            "damaged UTF-16"
            if wide
            else f"row {row} holds bytes that are not UTF-8: perhaps Latin-1 or Windows-1252"
        )
        raise TableError(f"{source} is not a CSV table in UTF-8 ({legacy}); {remedy}") from error
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        raise TableError(f"{source} is not a CSV table (row {row} holds a NUL); {remedy}")
    return text


def _delimiter(text: str, known: Collection[str]) -> str:
    """What divides cells: of the usual characters the one by which the header has most known columns."""
    found = _LINE.search(text)
    first = "" if found is None else found[0][:_LONGEST_HEADER].strip(_BLANK)
    if re.fullmatch(r"sep=.", first):  # as spreadsheets note it
        return first[-1]

    def hits(delimiter: str) -> int:
        try:
            header = next(csv.reader(StringIO(first), delimiter=delimiter), [])
        except csv.Error:
            return 0
        return sum(column_key(name) in known for name in header[: MAX_COLUMNS + 1])

    return max(_DELIMITERS, key=hits)


def _records(
    text: str, delimiter: str, source: str, quoting: Literal[0, 3]
) -> Iterator[tuple[int, list[str]]]:
    """Rows with their numbers, the spreadsheet's note about the delimiter left out."""
    if text.count(delimiter) > MAX_CELLS:  # one row could hold them all
        raise TableError(f"{source} has more than {MAX_CELLS:,} cells; divide it")
    if max(text.count("\n"), text.count("\r")) > MAX_ROWS:
        raise TableError(f"{source} has more than {MAX_ROWS:,} lines; divide it")
    lines = (found[0] for found in _LINE.finditer(text))
    try:
        reader = csv.reader(lines, delimiter=delimiter, strict=True, quoting=quoting)
        for number_, cells in enumerate(reader, start=1):
            if number_ == 1 and "".join(cells).strip(_BLANK) in ("sep=", f"sep={delimiter}"):
                continue
            yield number_, cells
    except csv.Error as error:
        reason = " ".join(str(error).split())
        raise TableError(
            f"{source} is not a CSV table ({reason}: look for quotes that are not closed); "
            "save it as comma-separated UTF-8"
        ) from error


def csv_text(frame: pd.DataFrame, *, header: bool = True, float_format: str | None = None) -> str:
    """A data frame as CSV, its texts as no spreadsheet computes them (`progression.texts.inert`); numbers stay."""

    import pandas as pd

    def cell(value: object) -> object:
        return inert(printable(value)) if isinstance(value, str) else value

    safe = frame.copy()
    for position, kind in enumerate(frame.dtypes):
        if kind.kind not in "iufb":
            cells = [cell(value) for value in frame.iloc[:, position]]
            safe.isetitem(
                position, pd.Series(cells, index=frame.index, dtype=object)
            )  # whole numbers stay so
    safe.columns = pd.Index([cell(name) for name in frame.columns])
    text: str = safe.to_csv(index=False, header=header, lineterminator="\n", float_format=float_format)
    return text
