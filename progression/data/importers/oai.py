"""Osteoarthritis Initiative (OAI): central semi-quantitative readings as registered users hold them.

What is known of the layout
    `kxr_sq_bu00.txt`, 01, 03, 05, 06, 08, 10: one file a visit, at 0, 12, 24, 36, 48, 72, 96 months nominal.
    Pipe-separated, one row a reading: participant (`ID` or `id`), `SIDE` (1 right, 2 left), reading project
    (`READPRJ` or `readprj`: 15, 37 and 42 hold Kellgren-Lawrence grades), and `V00XRKL` ... `V10XRKL`.
    Values are bare ("2") or labelled ("2: Left"); missing is empty, ".", ".A" ... ".Z" or a letter, labelled
    or not (".M: Missing Form/Incomplete Workbook").
What is assumed
    Of several readings of one visit, project 15 is preferred, then 37, then 42; other projects are left out.
    Visits lie at their nominal months; the true dates of films scatter around them by weeks.
    Covariates are the participant's at baseline, where `enrollees.txt` (`P02SEX`: 1 male, 2 female) and
    `allclinical00.txt` (`V00AGE`, `P01BMI`) lie in the same folder.
    A replaced knee has no grade: it leaves the series as if it had not been read.
Written without the release at hand, against its public documentation and tables made up in its layout.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from progression.data.importers.release import (
    ReleaseTable,
    code_of,
    find_file,
    grade_of,
    name_image,
    read_release,
)
from progression.data.visits import check_visits
from progression.errors import TableError

VISIT_MONTHS: Mapping[str, int] = MappingProxyType(
    {"00": 0, "01": 12, "03": 24, "05": 36, "06": 48, "08": 72, "10": 96}
)
PROJECTS = ("15", "37", "42")
_SIDES = MappingProxyType({"1": "right", "2": "left"})


def import_oai(
    folder: str | Path, *, image_pattern: str | None = None, missing_codes: Collection[str] = ()
) -> pd.DataFrame:
    """Visits table of the OAI's central readings.

    Parameters
    ----------
    folder
        Holds the `kxr_sq_bu??.txt` files, itself or in a sub-folder; visits without a file are left out.
    image_pattern
        Where single-knee pictures lie, if they were cut from the films; see `release.name_image`. Relative to
        `folder`. Only visits with a reading are listed, whether or not they have a picture.
    missing_codes
        Further codes that mean "not read".

    Raises
    ------
    TableError
        No baseline file, a missing column, an unknown code (named by row and column), or one project reading
        one visit twice with different grades.
    """
    folder = Path(folder)
    rows: list[dict[str, object]] = []
    for visit, months in VISIT_MONTHS.items():
        path = find_file(folder, f"kxr_sq_bu{visit}.txt")
        if path is None and visit == "00":
            raise TableError(f"{folder}: expected kxr_sq_bu00.txt (baseline readings), found none")
        if path is not None:
            for (subject, side), grade in _readings(read_release(path), visit, missing_codes).items():
                image = name_image(image_pattern, folder, subject=subject, side=side, months=months)
                rows.append(
                    {"subject": subject, "side": side, "months": months, "image": image, "grade": grade}
                )
    if not rows:
        raise TableError(f"{folder}: the kxr_sq_bu files hold no grade of projects {', '.join(PROJECTS)}")
    table = pd.DataFrame(rows)
    for column, values in _covariates(folder).items():
        table[column] = [values.get(subject) for subject in table["subject"]]
    table = check_visits(
        table.sort_values(["subject", "side", "months"], kind="stable"), source="OAI readings"
    )
    table.attrs["root"] = str(folder)
    return table


def _readings(release: ReleaseTable, visit: str, missing: Collection[str]) -> dict[tuple[str, str], int]:
    """Grade of each knee at one visit, from the preferred project that read it."""
    column = f"v{visit}xrkl"
    release.require("id", "side", "readprj", column)
    chosen: dict[tuple[str, str], tuple[int, int, int]] = {}
    cells = zip(
        release.participants(),
        release.cells["side"],
        release.cells["readprj"],
        release.numbers(column, missing=missing),
        strict=True,
    )
    for position, (subject, side_cell, project_cell, number) in enumerate(cells):
        side, project = _SIDES.get(code_of(side_cell)), code_of(project_cell)
        if side is None:
            raise TableError(
                f"{release.where(position, 'side')}: expected 1 (right) or 2 (left), got {side_cell!r}"
            )
        grade = grade_of(number, release.where(position, column))
        if grade is None or project not in PROJECTS:
            continue
        rank, knee = PROJECTS.index(project), (subject, side)
        best = chosen.get(knee)
        if best is not None and best[0] == rank and best[1] != grade:
            raise TableError(
                f"{release.where(position, column)}: project {project} reads this knee as {grade} here, as "
                f"{best[1]} in row {best[2] + 2}; remove one of the rows"
            )
        if best is None or rank < best[0]:
            chosen[knee] = (rank, grade, position)
    return {knee: grade for knee, (_, grade, _) in chosen.items()}


def _covariates(folder: Path) -> dict[str, dict[str, object]]:
    """Age, sex and BMI at baseline by participant, as far as their files are there."""
    sources = {
        "enrollees.txt": {"sex": "p02sex"},
        "allclinical00.txt": {"age": "v00age", "bmi": "p01bmi"},
    }
    found: dict[str, dict[str, object]] = {}
    for name, columns in sources.items():
        path = find_file(folder, name)
        if path is None:
            continue
        release = read_release(path)
        release.require("id", *columns.values())
        subjects = release.participants()
        for target, column in columns.items():
            values: list[object] = list(release.numbers(column))
            if target == "sex":
                values = [{1: "male", 2: "female"}.get(value) for value in values]  # type: ignore[call-overload]
            found[target] = dict(zip(subjects, values, strict=True))
    return found
