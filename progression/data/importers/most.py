"""Multicenter Osteoarthritis Study (MOST): film readings as registered users hold them.

What is known of the layout
    `MOSTV01235XRAY.txt`: one row a participant (`MOSTID`), Kellgren-Lawrence grade of each knee at each visit
    in `V0XRKL` (right) and `V0XLKL` (left), likewise V1, V2, V3, V5; at 0, 15, 30, 60, 84 months nominal.
    Grades are 0..4; 8 and 9, empty, ".", ".A" ... ".Z" mean not read. 1.9 is a documented half-code: a
    definite osteophyte without joint-space narrowing, which Kellgren and Lawrence call grade 2.
What is assumed
    1.9 is therefore read as 2 (and any k.9 as k+1), so 1.9 -> 2 is no rise and 1 -> 1.9 is one.
    The separator is tab, comma or |, whichever the header uses. Visit 4 is not in this file.
    Visits lie at their nominal months.
    A replaced knee has no grade: it leaves the series as if it had not been read.
Written without the release at hand, against its public documentation and tables made up in its layout.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from progression.data.importers.release import find_file, grade_of, name_image, read_release
from progression.data.visits import check_visits
from progression.errors import TableError

FILE_NAME = "MOSTV01235XRAY.txt"
VISIT_MONTHS: Mapping[int, int] = MappingProxyType({0: 0, 1: 15, 2: 30, 3: 60, 5: 84})
MISSING_CODES = frozenset({"8", "9"})
_SIDES = MappingProxyType({"r": "right", "l": "left"})


def import_most(
    folder: str | Path, *, image_pattern: str | None = None, missing_codes: Collection[str] = ()
) -> pd.DataFrame:
    """Visits table of MOST's film readings.

    Parameters
    ----------
    folder
        Holds `MOSTV01235XRAY.txt`, itself or in a sub-folder.
    image_pattern
        Where single-knee pictures lie, if they were cut from the films; see `release.name_image`. Relative to
        `folder`. Only visits with a reading are listed, whether or not they have a picture.
    missing_codes
        Further codes that mean "not read".

    Raises
    ------
    TableError
        No such file, no baseline columns, a participant twice, or an unknown code (named by row and column).
    """
    folder = Path(folder)
    path = find_file(folder, FILE_NAME)
    if path is None:
        raise TableError(f"{folder}: expected {FILE_NAME}, found none")
    release = read_release(path)
    release.require("mostid", "v0xrkl", "v0xlkl")
    subjects = release.participants("mostid")
    repeated = pd.Series(subjects, dtype=object).duplicated().to_numpy()
    if repeated.any():
        where = release.where(int(repeated.argmax()), "mostid")
        raise TableError(f"{where}: expected one row a participant, got this one again; keep one")
    rows: list[dict[str, object]] = []
    for visit, months in VISIT_MONTHS.items():
        for letter, side in _SIDES.items():
            column = f"v{visit}x{letter}kl"
            if column not in release.cells:
                continue
            numbers = release.numbers(column, missing=MISSING_CODES | frozenset(missing_codes))
            for position, (subject, number) in enumerate(zip(subjects, numbers, strict=True)):
                grade = grade_of(number, release.where(position, column))
                if grade is not None:
                    image = name_image(image_pattern, folder, subject=subject, side=side, months=months)
                    rows.append(
                        {"subject": subject, "side": side, "months": months, "image": image, "grade": grade}
                    )
    if not rows:
        raise TableError(f"{path.name}: no knee has a grade; check the file")
    table = pd.DataFrame(rows).sort_values(["subject", "side", "months"], kind="stable")
    table = check_visits(table, source="MOST readings")
    table.attrs["root"] = str(folder)
    return table
