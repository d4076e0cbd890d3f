"""The table by which risks are judged: one row a knee, one column a visit, named as in the results.

What counts as an event, and which knees are asked, is defined once, in `progression.data.outcomes`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from progression.data.outcomes import UNREAD, Event, GradeSeries, event_interval, outcomes
from progression.entries import parse_grade
from progression.errors import TableError, UsageError
from progression.tables import FIRST_ROW, cell_text, column_key, match_columns, read_table
from progression.texts import printable

_NEEDED = ("name", "subject", "side")
_GRADE_COLUMN = re.compile(r"kl_m(\d+)")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Followup:
    """Grade series of N knees and the names by which results speak of them."""

    name: NDArray[np.str_]
    series: GradeSeries

    def __len__(self) -> int:
        return len(self.name)

    @property
    def subject(self) -> NDArray[np.str_]:
        """(N,) whose knee each is."""
        return self.series.subject

    @property
    def baseline(self) -> NDArray[np.int64]:
        """(N,) grade at month 0, -1 where not read."""
        return self.series.baseline

    def take(self, knees: NDArray[np.int64]) -> Followup:
        """The knees at these places, in this order."""
        s = self.series
        return Followup(
            self.name[knees], GradeSeries(s.subject[knees], s.side[knees], s.months, s.grade[knees])
        )

    def population(self, event: Event) -> NDArray[np.bool_]:
        """Knees (N,) whose grade was read at baseline and can rise so far."""
        return (self.baseline != UNREAD) & (self.baseline <= event.highest_baseline)

    def outcome(self, event: Event, horizon_months: float) -> Floats:
        """1 = seen by the horizon, 0 = not, nan = outside the population or not read in (0, T], (N,)."""
        label = outcomes(self.series, horizon_months)[event.label]
        return label.astype("Float64").to_numpy(dtype=float, na_value=np.nan)

    def event_months(self, event: Event) -> tuple[Floats, Floats]:
        """(last visit read without the rise, first visit with it or infinity), (N,) each."""
        return event_interval(self.series, event)


def read_followup(path: str | Path) -> Followup:
    """Read a table with columns ``name``, ``subject``, ``kl_m00`` and one ``kl_mNN`` a later visit.

    Raises
    ------
    TableError
        The file cannot be read, lacks a column or has one twice, names a knee twice or not at all, or
        holds a grade other than 0 to 4.
    """
    read = read_table(path, known=_NEEDED, required=(), tell="nothing", source=f"the outcomes {path}")
    return followup_of(read.frame(), where=read.source)


def followup_of(table: pd.DataFrame, *, where: str = "the outcomes") -> Followup:
    """`read_followup` for a table in memory; `where` names it in errors."""
    named = match_columns(list(table.columns), known=_NEEDED, required=(), source=where, tell="near")
    table = table.iloc[:, list(named.values())].set_axis(
        [column_key(name) if _GRADE_COLUMN.fullmatch(column_key(name)) else name for name in named], axis=1
    )
    months = {c: int(m[1]) for c in table.columns if (m := _GRADE_COLUMN.fullmatch(str(c)))}
    columns = sorted(months, key=lambda column: months[column])
    missing = [c for c in ("name", "subject", "kl_m00") if c not in table.columns]
    if missing or len(columns) < 2:
        raise TableError(
            f"{where}: expected columns name, subject, kl_m00 and a later visit such as kl_m48, "
            f"received {', '.join(map(str, table.columns))}"
        )
    names = [printable(cell_text(value)) for value in table["name"]]
    rows: dict[str, int] = {}
    for row, name in enumerate(names, start=FIRST_ROW):
        if not name:
            raise TableError(f"{where}: row {row}: the name is missing; give every knee its own")
        if name in rows:
            raise TableError(f"{where}: knee {name} is named twice; keep one row a knee")
        rows[name] = row
    grade = np.empty((len(table), len(columns)), dtype=np.int64)
    for i, column in enumerate(columns):
        for row, value in enumerate(table[column]):
            try:
                read = parse_grade(cell_text(value))
            except UsageError as error:
                raise TableError(
                    f"{where}: row {row + FIRST_ROW}, column {column}: expected a grade 0 to 4 or nothing, "
                    f"received {cell_text(value)!r}"
                ) from error
            grade[row, i] = UNREAD if read is None else read
    side = table["side"] if "side" in table else pd.Series("", index=table.index)
    return Followup(
        np.array(names, dtype=str),
        GradeSeries(
            subject=np.array(
                [_person(value, row) for row, value in enumerate(table["subject"], start=FIRST_ROW)]
            ),
            side=np.array([cell_text(value) for value in side], dtype=str),
            months=np.array([float(months[c]) for c in columns]),
            grade=grade,
        ),
    )


def _person(value: object, row: int) -> str:
    """Whose knee a row is of; where nobody knows it, somebody's of their own."""
    return printable(cell_text(value)) or f"somebody of row {row}"
