"""The knees that are asked for: as rows of a table, not yet read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from progression import tables
from progression.errors import TableError, UsageError
from progression.localise.places import Located
from progression.tables import cell_text, number
from progression.types import KL_GRADES, Side

MAX_MONTHS_BEFORE = 1200
"""Of an earlier film: longer than anybody's knee is filmed."""
_NEEDED = ("name", "image", "side")
_COLUMNS = (*_NEEDED, "grade", "subject", "centre", "spacing_mm")


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
        not used, which is told to the log. A row is a knee, or without a side a film, which may show both. Where a
        subject has one row a side, each knee's prediction uses the other one too; what means "missing"
        (`progression.tables.is_missing`) is nobody's name, and such knees are alone.
    images
        Folder to which the image paths are relative; the table's own folder by default.

    Raises
    ------
    TableError
        If it cannot be read, a column is missing or there twice, it has no rows, or a name is missing, there twice, or
        what a knee of another row's film would be called. What is wrong with one knee's image, side, grade or place
        shows when its turn comes.
    """
    path = Path(path)
    table = tables.read_table(path, known=_COLUMNS, required=_NEEDED)
    source = table.source
    if not table.rows:
        raise TableError(f"{source} has no rows; expected one a knee")
    names = table.texts("name")
    row_of: dict[str, int] = {}
    for row, name in zip(table.numbers, names, strict=True):
        if not name:
            raise TableError(f"{source} row {row}: the name is missing; give every knee its own")
        if name in row_of:
            raise TableError(f"{source} row {row}: name {name!r} is there twice; give every knee its own")
        row_of[name] = row
    root = Path(images) if images is not None else path.parent
    columns = (table.texts(column) for column in ("side", "grade", "subject", "centre", "spacing_mm"))
    entries = [
        Entry(name, str(root / image) if image else "", *rest)
        for name, image, *rest in zip(names, table.paths("image"), *columns, strict=True)
    ]
    for entry in entries:
        for clash in (name_of_side(entry.name, side) for side in Side if not (entry.side or entry.centre)):
            if clash in row_of:
                raise TableError(
                    f"{source} row {row_of[clash]}: name {clash!r} is what a knee of row {row_of[entry.name]} is "
                    "called if its film shows both; rename it, or give that row its side"
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
    for position, person in enumerate(people):
        of_person.setdefault(person, []).append(position)
    found = list(entries)
    for person, both in of_person.items():
        if person and len(both) == 2 and _opposite(*(sides[position] for position in both)):
            for position, other in (both, both[::-1]):
                found[position] = replace(entries[position], other=entries[other])
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
    found = re.fullmatch(r"(.+?):(\d+(?:\.\d+)?)(?::([0-4]))?", text, re.ASCII | re.DOTALL)
    if found is None or not 0 < float(found[2]) <= MAX_MONTHS_BEFORE:
        raise UsageError(
            f"earlier film {text!r}: expected PICTURE:MONTHS or PICTURE:MONTHS:GRADE, months before this one, at most "
            f"{MAX_MONTHS_BEFORE:,} (--previous old.png:24:1)"
        )
    return found[1], float(found[2]), None if found[3] is None else int(found[3])


def parse_grade(text: str) -> int | None:
    """A baseline KL grade from a table's cell: a missing one is None; "2", "2.0" and "2,0" are 2.

    Raises
    ------
    UsageError
        For anything but 0 to 4.
    """
    cell = cell_text(text)
    if not cell:
        return None
    try:
        grade = number(cell)
    except ValueError:
        grade = -1.0
    if not grade.is_integer() or not 0 <= grade < KL_GRADES:
        raise UsageError(f"grade {text!r}: expected a Kellgren-Lawrence grade from 0 to 4, or nothing")
    return int(grade)
