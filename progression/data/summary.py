"""A cohort in figures: aggregates only, the ones that its data card quotes."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from progression.data.outcomes import UNREAD, Event, GradeSeries, grade_series, incidence, outcomes
from progression.data.visits import SPLITS
from progression.types import KL_GRADES

DEFAULT_HORIZONS_MONTHS = (24, 48, 96)
MAX_VISIT_TIMES = 24
"""Cohorts with more distinct visit times than this (true dates, not nominal ones) get no table by visit."""


def summarise(table: pd.DataFrame, *, horizons_months: tuple[float, ...] = DEFAULT_HORIZONS_MONTHS) -> str:
    """Counts of a checked visits table as text, one block a split: subjects, grades by visit, events.

    Parameters
    ----------
    horizons_months
        Horizons at which fast and any progression are counted.
    """
    if "split" not in table or not (table["split"] != "").any():
        return _block("all", table, horizons_months)
    names = [name for name in (*SPLITS, "") if (table["split"] == name).any()]
    return "\n\n".join(
        _block(name or "(no split)", table[table["split"] == name], horizons_months) for name in names
    )


def _block(name: str, table: pd.DataFrame, horizons_months: tuple[float, ...]) -> str:
    series = grade_series(table)
    pictures = int((table["image"] != "").sum())
    lines = [
        f"{name}: {table['subject'].nunique()} subjects, {len(series.subject)} knees, {len(table)} visits, "
        f"{pictures} pictures"
    ]
    if len(series.months) <= MAX_VISIT_TIMES:
        baseline = np.repeat(series.baseline[:, None], len(series.months), axis=1)
        lines += _by_visit("grade read", series, series.grade)
        lines += _by_visit("knees read, by their grade at baseline", series, baseline)
    falls = _falls(series)
    lines.append(f"  knees whose grade is read lower than before at least once: {falls}")
    lines.append("  event  months   knees  events  share  censored  Kaplan-Meier")
    for event in Event:
        for months in horizons_months:
            if outcomes(series, months)[event.label].isna().all():
                lines.append(
                    f"  {event.label:5s} {months:7g}  no knee with a baseline grade was read by then"
                )
                continue
            found = incidence(series, months, event=event)
            lines.append(
                f"  {event.label:5s} {months:7g} {found.knees:7d} {found.events:7d}  {found.share:5.3f} "
                f"{found.censored:9d}  {found.kaplan_meier:12.3f}"
            )
    return "\n".join(lines)


def _by_visit(title: str, series: GradeSeries, value: npt.NDArray[np.int64]) -> list[str]:
    """Counts of `value` (N, V), a grade, over the knees read at each visit."""
    lines = [f"  {title}", "  months   read  " + "".join(f"{f'KL {grade}':>7}" for grade in range(KL_GRADES))]
    for column, months in enumerate(series.months):
        read = series.grade[:, column] != UNREAD
        counts = np.bincount(value[read & (value[:, column] != UNREAD), column], minlength=KL_GRADES)
        lines.append(f"  {months:6g} {read.sum():6d}  " + "".join(f"{count:7d}" for count in counts))
    return lines


def _falls(series: GradeSeries) -> int:
    return int(((series.grade != UNREAD) & (series.grade < series.running_maximum)).any(axis=1).sum())
