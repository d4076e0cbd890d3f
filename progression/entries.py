"""The knees that are asked for: as rows of a table, not yet read."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from progression.errors import TableError, UsageError
from progression.localise.places import Located
from progression.types import KL_GRADES, Side

_BAD_CSV = (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError)
_NEEDED = ("name", "image", "side")


@dataclass(frozen=True, slots=True)
class Entry:
    """One knee to be predicted: as asked for, not yet read.

    Attributes
    ----------
    name : for outputs
    image : path, or `archive.zip::member`
    side : text, parsed when the knee's turn comes; empty if the image says it
    grade : baseline KL grade as text, empty if no reader gave one
    subject : whose knee it is, where the bank may hold knees of the same people; those are passed over
    centre : "x,y", "x,y,SIDE" or "x,y,SIDE,TILT" of the joint in a film, pixels and degrees (`progression.film.Place`);
        empty if the image shows one knee
    spacing_mm : size of the film's pixels as text, if the image does not say it
    other : the person's other knee of the same day
    previous : earlier films of the knee: path, months before, KL grade or None
    found : what its film was found to show, this knee first (`progression.knees`); empty if nobody has looked yet
    """

    name: str
    image: str
    side: str
    grade: str = ""
    subject: str = ""
    centre: str = ""
    spacing_mm: str = ""
    other: "Entry | None" = None
    previous: tuple[tuple[str, float, int | None], ...] = ()
    found: tuple[Located, ...] = ()


def name_of_side(name: str, side: Side) -> str:
    """What one knee of a film that shows both is called."""
    return f"{name}-{side}"


def read_table(path: str | Path, *, images: str | Path | None = None) -> list[Entry]:
    """Read a cohort table.

    Parameters
    ----------
    path
        CSV with the columns name, image, side and optionally grade, subject, centre and spacing_mm; others are
        ignored. A row is a knee, or without a side a film, which may show both. Where a subject has one row a side,
        each knee's prediction uses the other one too.
    images
        Folder to which the image paths are relative; the table's own folder by default.

    Raises
    ------
    TableError
        If it cannot be read, a column is missing, it has no rows, or a name is empty, there twice, or what a knee of
        another row's film would be called. What is wrong with one knee's image, side or grade shows when its turn
        comes.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            table = pd.read_csv(
                path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
            ).fillna("")
    except OSError as error:
        raise TableError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    except (*_BAD_CSV, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise TableError(f"{path} is not a CSV table ({reason}); save it as comma-separated UTF-8") from error
    table.columns = table.columns.str.strip()
    missing = [column for column in _NEEDED if column not in table.columns]
    if missing:
        have = ", ".join(table.columns)
        raise TableError(f"{path} lacks the column {missing[0]!r} (it has: {have}); name it so")
    if table.empty:
        raise TableError(f"{path} has no rows; expected one a knee")
    names = table["name"].str.strip()
    for number, name in enumerate(names, start=1):
        if not name:
            raise TableError(f"{path} row {number}: empty name; give every knee its own")
    twice = names[names.duplicated()]
    if len(twice):
        raise TableError(
            f"{path} row {twice.index[0] + 1}: name {twice.iloc[0]!r} is there twice; give every knee its own"
        )
    root = Path(images) if images is not None else path.parent
    optional = ("grade", "subject", "centre", "spacing_mm")
    for column in optional:
        if column not in table.columns:
            table[column] = ""
    columns = (table[column].str.strip() for column in ("image", "side", *optional))
    entries = [
        Entry(name, str(root / image) if image else "", *rest)
        for name, image, *rest in zip(names, *columns, strict=True)
    ]
    row_of = {name: number for number, name in enumerate(names, start=1)}
    for entry in entries:
        for clash in (name_of_side(entry.name, side) for side in Side if not (entry.side or entry.centre)):
            if clash in row_of:
                raise TableError(
                    f"{path} row {row_of[clash]}: name {clash!r} is what a knee of row {row_of[entry.name]} is called "
                    "if its film shows both; rename it, or give that row its side"
                )
    return paired(entries, [entry.subject for entry in entries], [entry.side for entry in entries])


def paired(entries: Sequence[Entry], people: Sequence[str], sides: Sequence[str]) -> list[Entry]:
    """Each with the other knee of its person, where that has one entry a side; several visits are left alone.

    Parameters
    ----------
    entries
        Knees.
    people
        Whose each is; knees of an empty one are nobody's, and alone.
    sides
        Which knee each is, as far as a table or a header says it.
    """
    of_person: dict[str, list[int]] = {}
    for number, person in enumerate(people):
        of_person.setdefault(person, []).append(number)
    found = list(entries)
    for person, numbers in of_person.items():
        if person and len(numbers) == 2 and _opposite(*(sides[number] for number in numbers)):
            for number, other in (numbers, numbers[::-1]):
                found[number] = replace(entries[number], other=entries[other])
    return found


def _opposite(side: str, other: str) -> bool:
    try:
        return Side.parse(side).other is Side.parse(other)
    except UsageError:
        return False  # told when the knee's turn comes


def parse_previous(text: str) -> tuple[str, float, int | None]:
    """An earlier film, "old.png:24" or with its KL grade "old.png:24:1": path, months before, grade.

    Raises
    ------
    UsageError
        For anything else.
    """
    found = re.fullmatch(r"(.+?):(\d+(?:\.\d+)?)(?::([0-4]))?", text)
    if found is None or not float(found[2]) > 0:
        raise UsageError(
            f"earlier film {text!r}: expected PICTURE:MONTHS or PICTURE:MONTHS:GRADE, months before this one "
            "(--previous old.png:24:1)"
        )
    return found[1], float(found[2]), None if found[3] is None else int(found[3])


def parse_grade(text: str) -> int | None:
    """A baseline KL grade from a table's cell: empty is None; "2" and "2.0" are 2.

    Raises
    ------
    UsageError
        For anything but 0 to 4.
    """
    if not text.strip():
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not number.is_integer() or not 0 <= number < KL_GRADES:
        raise UsageError(f"grade {text!r}: expected a Kellgren-Lawrence grade from 0 to 4, or nothing")
    return int(number)
