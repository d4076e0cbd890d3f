"""What happened by a horizon, case by case."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from progression.data.outcomes import Event
from progression.errors import TableError
from progression.evaluate.followup import Followup, followup_of, read_followup

MakeFollowup = Callable[..., Followup]

CASES = {
    "rises by two": ([0, 0, 2, 2], 1, 1),
    "rises by one": ([1, 1, 2, 2], 0, 1),
    "rises after the horizon": ([0, 0, 0, 3], 0, 0),
    "falls back: the highest counts": ([0, 2, 0, 0], 1, 1),
    "not read by the horizon": ([0, None, None, 3], None, None),
    "read once": ([1, 1, None, None], 0, 0),
    "three cannot be fast": ([3, 3, 4, 4], None, 1),
    "four cannot rise": ([4, 4, 4, 4], None, None),
    "baseline not read": ([None, 1, 2, 3], None, None),
}


@pytest.mark.parametrize(("grades", "fast", "any_"), CASES.values(), ids=CASES.keys())
def test_outcome_by_48_months(
    followup: MakeFollowup, grades: list[float | None], fast: int | None, any_: int | None
) -> None:
    knees = followup(grades)
    for end_point, expected in ((Event.FAST, fast), (Event.ANY, any_)):
        value = knees.outcome(end_point, 48)[0]
        assert np.isnan(value) if expected is None else value == expected


def test_times_of_event_and_last_reading_without_it(followup: MakeFollowup) -> None:
    knees = followup([0, 1, None, 2], [1, 1, 1, None], [2, None, None, None])
    assert [m.tolist() for m in knees.event_months(Event.ANY)] == [[0, 48, 0], [12, np.inf, np.inf]]
    assert [m.tolist() for m in knees.event_months(Event.FAST)] == [[12, 48, 0], [96, np.inf, np.inf]]


def test_take_keeps_knees_whole(followup: MakeFollowup) -> None:
    knees = followup([0, 1, None, 2], [1, 1, 1, None]).take(np.array([1]))
    assert (len(knees), knees.name[0], knees.subject[0], knees.baseline[0]) == (1, "k1", "s0", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kl_m48": [5]}, "row 2, column kl_m48: expected a grade 0 to 4 or nothing, received '5'"),
        ({"kl_m48": ["x"]}, "received 'x'"),
        ({"name": None}, "expected columns name, subject, kl_m00"),
    ],
)
def test_refuses_wrong_tables(change: dict[str, list[object] | None], message: str) -> None:
    table = pd.DataFrame({"name": ["a"], "subject": ["s"], "kl_m00": [1], "kl_m48": [2]})
    for column, values in change.items():
        table = table.drop(columns=column) if values is None else table.assign(**{column: values})
    with pytest.raises(TableError, match=message):
        followup_of(table)


def test_refuses_doubled_names_and_missing_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    table = pd.DataFrame({"name": ["a", "a"], "subject": ["s", "s"], "kl_m00": [1, 1], "kl_m48": [2, 2]})
    with pytest.raises(TableError, match="knee a is named twice"):
        followup_of(table)
    with pytest.raises(TableError, match=r"cannot read .*none.csv: No such file"):
        read_followup(tmp_path_factory.mktemp("empty") / "none.csv")


def test_counts_of_the_development_knees(shared: object) -> None:
    from pathlib import Path

    knees = read_followup(Path(str(shared)) / "data" / "knees" / "val.csv")
    assert int(np.nansum(knees.outcome(Event.FAST, 96))) == 54
