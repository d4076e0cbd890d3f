"""Who progressed, from grade series.

| symbol | meaning |
|---|---|
| k_0 | grade read at baseline (month 0) |
| k*_t | highest grade read in [0, t]; readings fall now and then, disease does not |
| T | horizon in months |
| fast | k*_T - k_0 >= 2, asked of knees with k_0 <= 2 |
| any | k*_T - k_0 >= 1, asked of knees with k_0 <= 3 |

Only knees with at least one reading in (0, T] are asked. A knee that was last seen without the rise before T
counts as no rise, and is flagged as censored: its true label is not known. Grades are read at visits, so a
rise happens somewhere in the interval (last visit without it, first visit with it].
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt
import pandas as pd

from progression.errors import UsageError

UNREAD = -1


class Event(Enum):
    """A rise of the grade that is asked about: its name and least rise."""

    FAST = ("fast", 2)
    ANY = ("any", 1)

    def __init__(self, label: str, rise: int) -> None:
        self.label, self.rise = label, rise

    @property
    def highest_baseline(self) -> int:
        """Largest baseline grade that can still rise so far (4 is the last grade)."""
        return 4 - self.rise


@dataclass(frozen=True)
class GradeSeries:
    """The grades of N knees at the V visit times of their cohort.

    Attributes
    ----------
    subject, side : (N,) str
    months : (V,) float, ascending
    grade : (N, V) int64, -1 where not read
    """

    subject: npt.NDArray[np.str_]
    side: npt.NDArray[np.str_]
    months: npt.NDArray[np.float64]
    grade: npt.NDArray[np.int64]

    @property
    def baseline(self) -> npt.NDArray[np.int64]:
        """(N,) grade at month 0, -1 where not read."""
        at_zero = np.flatnonzero(self.months == 0)
        if len(at_zero) == 0:
            return np.full(len(self.grade), UNREAD, dtype=np.int64)
        return self.grade[:, at_zero[0]]

    @property
    def running_maximum(self) -> npt.NDArray[np.int64]:
        """(N, V) k*_t: highest grade read up to each visit, -1 before the first reading."""
        return np.maximum.accumulate(self.grade, axis=1)


def grade_series(table: pd.DataFrame) -> GradeSeries:
    """One row a knee, one column a visit time; knees in order of first appearance in a visits table."""
    knees = pd.MultiIndex.from_frame(table[["subject", "side"]].astype(object))
    knee, unique = pd.factorize(knees)
    months, column = np.unique(table["months"].to_numpy(np.float64), return_inverse=True)
    grade = np.full((len(unique), len(months)), UNREAD, dtype=np.int64)
    grade[knee, column] = table["grade"].fillna(UNREAD).to_numpy(np.int64)
    return GradeSeries(
        subject=np.array([subject for subject, _ in unique], dtype=np.str_),
        side=np.array([side for _, side in unique], dtype=np.str_),
        months=months,
        grade=grade,
    )


def event_interval(
    series: GradeSeries, event: Event
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """When the grade rose, as an interval in months: (free, seen], the form survival models take.

    Returns
    -------
    free : (N,)
        Last visit read without the rise; NaN where the baseline was not read.
    seen : (N,)
        First visit read with the rise; inf where none was, NaN where the baseline was not read.
    """
    known = series.baseline != UNREAD
    risen = series.running_maximum >= (series.baseline + event.rise)[:, None]
    still_free = (series.grade != UNREAD) & ~risen
    free = np.where(still_free, series.months, -np.inf).max(axis=1)
    seen = np.where(risen, series.months, np.inf).min(axis=1)
    return np.where(known, free, np.nan), np.where(known, seen, np.nan)


def outcomes(table: pd.DataFrame | GradeSeries, horizon_months: float) -> pd.DataFrame:
    """Labels "fast" and "any" of every knee at one horizon, by the rules of the module docstring.

    Parameters
    ----------
    table
        A checked visits table, or its `grade_series`.
    horizon_months
        T > 0. A visit counts if its months are <= T: nominal visit times are meant, so give 48 for visits
        recorded as 48 and not 47.9.

    Returns
    -------
    DataFrame
        One row a knee, in the order of `grade_series`: `subject`, `side`, `grade` (Int64, at baseline), and
        for each event `fast`, `any` (boolean; <NA> outside its population) and `fast_censored`,
        `any_censored` (boolean: no rise was seen, and no reading at T or later says that there was none).

    Raises
    ------
    UsageError
        Horizon not a positive finite number.
    """
    if not 0 < horizon_months < np.inf:
        raise UsageError(f"horizon {horizon_months!r}: expected a positive number of months")
    series = table if isinstance(table, GradeSeries) else grade_series(table)
    baseline = series.baseline
    within = (series.months > 0) & (series.months <= horizon_months)
    followed = (series.grade[:, within] != UNREAD).any(axis=1)
    result = pd.DataFrame(
        {"subject": series.subject, "side": series.side, "grade": pd.array(baseline, dtype="Int64")}
    )
    result.loc[baseline == UNREAD, "grade"] = pd.NA
    for event in Event:
        asked = followed & (baseline != UNREAD) & (baseline <= event.highest_baseline)
        free, seen = event_interval(series, event)
        label = seen <= horizon_months
        result[event.label] = _boolean(label, asked)
        result[f"{event.label}_censored"] = _boolean(~label & (free < horizon_months), asked)
    return result


@dataclass(frozen=True)
class Incidence:
    """How many knees progressed by a horizon.

    Attributes
    ----------
    knees : in the population
    events : of them, with the rise seen by T
    censored : of them, last seen without the rise before T
    share : events / knees; counts the censored as no rise, so it is a lower bound
    kaplan_meier : 1 - prod(1 - d/n) over visit times, within each baseline grade and then averaged over the
        knees; right if, among knees of one grade, being read on does not depend on the outcome
    """

    knees: int
    events: int
    censored: int
    share: float
    kaplan_meier: float


def incidence(table: pd.DataFrame | GradeSeries, horizon_months: float, *, event: Event) -> Incidence:
    """Cumulative incidence by T: plain, and by Kaplan-Meier within baseline grades.

    Stratified because studies choose by baseline grade whom they read on: the OAI's late readings are
    nearly all of knees that began at grade 0 or 1.

    Raises
    ------
    UsageError
        Horizon not positive, or no knee of the population was read in (0, T].
    """
    series = table if isinstance(table, GradeSeries) else grade_series(table)
    labels = outcomes(series, horizon_months)
    asked = labels[event.label].notna().to_numpy()
    if not asked.any():
        raise UsageError(f"no knee has a baseline grade and a reading by {horizon_months:g} months")
    free, seen = event_interval(series, event)
    left = np.where(seen <= horizon_months, seen, free)
    expected = 0.0
    for grade in range(event.highest_baseline + 1):
        stratum = asked & (series.baseline == grade)
        surviving = 1.0
        for month in np.unique(seen[stratum & (seen <= horizon_months)]):
            surviving *= 1 - (stratum & (seen == month)).sum() / (stratum & (left >= month)).sum()
        expected += stratum.sum() * (1 - surviving)
    events = int(labels[event.label].sum())
    return Incidence(
        knees=int(asked.sum()),
        events=events,
        censored=int(labels[f"{event.label}_censored"].sum()),
        share=events / int(asked.sum()),
        kaplan_meier=float(expected / asked.sum()),
    )


def _boolean(value: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> pd.arrays.BooleanArray:
    return pd.arrays.BooleanArray(value, ~known)
