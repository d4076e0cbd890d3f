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
from progression.errors import TableError
from progression.types import KL_GRADES

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
        The file cannot be read, lacks a column, names a knee twice, or holds a grade other than 0 to 4.
    """
    try:
        table = pd.read_csv(path, dtype={"name": str, "subject": str})
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise TableError(f"cannot read the outcomes {path}: {reason}; expected a CSV file") from error
    return followup_of(table, where=str(path))


def followup_of(table: pd.DataFrame, *, where: str = "the outcomes") -> Followup:
    """`read_followup` for a table in memory; `where` names it in errors."""
    months = {c: int(m[1]) for c in table.columns if (m := _GRADE_COLUMN.fullmatch(str(c)))}
    columns = sorted(months, key=lambda column: months[column])
    missing = [c for c in ("name", "subject", "kl_m00") if c not in table.columns]
    if missing or len(columns) < 2:
        raise TableError(
            f"{where}: expected columns name, subject, kl_m00 and a later visit such as kl_m48, "
            f"received {', '.join(map(str, table.columns))}"
        )
    repeated = table["name"][table["name"].duplicated()]
    if len(repeated):
        raise TableError(f"{where}: knee {repeated.iloc[0]} is named twice; keep one row a knee")
    grade = np.empty((len(table), len(columns)), dtype=np.int64)
    for i, column in enumerate(columns):
        values = pd.to_numeric(table[column], errors="coerce")
        wrong = (values.isna() & table[column].notna()) | ~(values.isna() | values.isin(range(KL_GRADES)))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise TableError(
                f"{where}: row {row + 2}, column {column}: expected a grade 0 to 4 or nothing, "
                f"received {str(table[column].iloc[row])!r}"
            )
        grade[:, i] = values.fillna(UNREAD).to_numpy(dtype=np.int64)
    side = table["side"] if "side" in table else pd.Series("", index=table.index)
    return Followup(
        table["name"].to_numpy(dtype=str),
        GradeSeries(
            subject=table["subject"].to_numpy(dtype=str),
            side=side.to_numpy(dtype=str),
            months=np.array([float(months[c]) for c in columns]),
            grade=grade,
        ),
    )
