"""Do the sets of grades of ``progression cohort`` hold the grade that was read, nine times in ten?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from progression.data.outcomes import UNREAD
from progression.evaluate.followup import Followup
from progression.metrics.proportions import proportion

SETS = "kl_set"
"""Column of the results: grades with spaces between them."""


def evaluate_sets(results: pd.DataFrame, outcomes: Followup) -> list[dict[str, Any]]:
    """Coverage by the highest grade read in (0, T], among knees read then, of all and by baseline grade.

    Parameters
    ----------
    results
        Columns name, horizon_months and `SETS`; rows without a set are left out.
    outcomes
        Grades of the same knees, found by name.

    Returns
    -------
    list of dict
        One a horizon and group: ``horizon_months``, ``baseline`` (None for all), ``n``, ``coverage``,
        ``coverage_people`` (its interval, people as the sample) and ``mean_size`` in grades.
    """
    place = {name: i for i, name in enumerate(outcomes.name)}
    known = results[results["name"].isin(place) & results[SETS].notna()]
    months, highest = outcomes.series.months, outcomes.series.running_maximum
    rows = []
    for horizon, part in known.groupby("horizon_months"):
        knees = np.array([place[name] for name in part["name"]])
        within = (months > 0) & (months <= float(str(horizon)))
        read = (outcomes.series.grade[knees][:, within] != UNREAD).any(axis=1) & (
            outcomes.baseline[knees] != UNREAD
        )
        became = highest[knees][:, months <= float(str(horizon))].max(axis=1)
        sets = [set(map(int, str(text).split())) for text in part[SETS]]
        right = np.array([grade in one for grade, one in zip(became, sets, strict=True)])
        size = np.array([len(one) for one in sets], dtype=np.float64)
        for baseline in (None, *np.unique(outcomes.baseline[knees][read]).tolist()):
            group = read if baseline is None else read & (outcomes.baseline[knees] == baseline)
            found = proportion(right[group], subject=outcomes.subject[knees][group])
            rows.append(
                {
                    "horizon_months": float(str(horizon)),
                    "baseline": baseline,
                    "n": int(group.sum()),
                    "coverage": found.value,
                    "coverage_people": (found.low, found.high),
                    "mean_size": float(size[group].mean()),
                }
            )
    return rows
