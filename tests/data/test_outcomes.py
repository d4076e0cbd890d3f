"""Who progressed: cases worked out by hand, and what must hold for every grade series."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progression.data.outcomes import (
    UNREAD,
    Event,
    GradeSeries,
    event_interval,
    grade_series,
    incidence,
    outcomes,
)
from progression.data.visits import check_visits
from progression.errors import UsageError

MONTHS = np.array([0.0, 12, 24, 48, 96])


def series_of(*knees: list[int], months: np.ndarray = MONTHS) -> GradeSeries:
    return GradeSeries(
        subject=np.array([f"s{row}" for row in range(len(knees))]),
        side=np.array(["left"] * len(knees)),
        months=months,
        grade=np.array(knees, dtype=np.int64),
    )


def test_grade_series_keeps_the_order_of_knees_and_sorts_visits() -> None:
    table = check_visits(
        pd.DataFrame(
            {
                "subject": ["B", "A", "B", "B"],
                "side": ["left", "left", "right", "left"],
                "months": [24, 0, 0, 0],
                "grade": [3, None, 1, 2],
            }
        )
    )
    series = grade_series(table)
    assert list(zip(series.subject, series.side, strict=True)) == [
        ("B", "left"),
        ("A", "left"),
        ("B", "right"),
    ]
    assert series.months.tolist() == [0, 24]
    assert series.grade.tolist() == [[2, 3], [UNREAD, UNREAD], [1, UNREAD]]
    assert series.baseline.tolist() == [2, UNREAD, 1]


@pytest.mark.parametrize(
    ("knee", "horizon_months", "fast", "any_", "fast_censored", "any_censored"),
    [
        ([0, 0, 1, 2, 2], 48, True, True, False, False),
        ([0, 0, 1, 2, 2], 24, False, True, False, False),
        ([0, 0, 1, 2, 2], 12, False, False, False, False),
        ([0, 0, -1, -1, -1], 48, False, False, True, True),  # last seen at 12
        ([0, 0, -1, -1, 0], 48, False, False, False, False),  # unread at 48, but later nothing had happened
        ([0, 0, -1, -1, 2], 48, False, False, True, True),  # the rise lies somewhere in (12, 96]
        ([2, 3, 2, 2, 2], 96, False, True, False, False),  # a reading falls, the highest stays
        ([1, 2, -1, -1, -1], 96, False, True, True, False),  # any is known, fast is not
        ([3, 4, 4, 4, 4], 48, None, True, None, False),  # grade 3 cannot be fast
        ([4, 4, 4, 4, 4], 48, None, None, None, None),  # grade 4 cannot rise
        ([0, -1, -1, -1, 3], 48, None, None, None, None),  # no reading in (0, T]
        ([-1, 1, 2, 3, 4], 48, None, None, None, None),  # no baseline grade
    ],
)
def test_labels_by_hand(
    knee: list[int],
    horizon_months: float,
    fast: bool | None,
    any_: bool | None,
    fast_censored: bool | None,
    any_censored: bool | None,
) -> None:
    row = outcomes(series_of(knee), horizon_months).iloc[0]
    found = [row["fast"], row["any"], row["fast_censored"], row["any_censored"]]
    assert [None if value is pd.NA else value for value in found] == [fast, any_, fast_censored, any_censored]
    assert (row["grade"] is pd.NA) == (knee[0] == UNREAD)


def test_event_interval_by_hand() -> None:
    series = series_of([0, 0, -1, 2, 0], [1, 1, 1, 1, -1], [-1, 0, 0, 0, 0])
    free, seen = event_interval(series, Event.FAST)
    np.testing.assert_array_equal(free, [12, 48, np.nan])
    np.testing.assert_array_equal(seen, [48, np.inf, np.nan])


def test_incidence_by_hand() -> None:
    series = series_of(
        [0, 1, 1, 1, 1],  # any at 12
        [0, 0, -1, -1, -1],  # censored after 12
        [0, 0, 0, 1, 1],  # any at 48
        [0, 0, 0, 0, 0],
    )
    found = incidence(series, 48, event=Event.ANY)
    assert (found.knees, found.events, found.censored, found.share) == (4, 2, 1, 0.5)
    assert found.kaplan_meier == pytest.approx(1 - (1 - 1 / 4) * (1 - 1 / 2))


def test_incidence_is_taken_within_baseline_grades() -> None:
    """Ten knees of grade 2 are read to 12 months only, ten of grade 0 to the end and half of these rise."""
    series = series_of(*[[2, 2, -1, -1, -1]] * 10, *[[0, 0, 0, 0, 1]] * 5, *[[0, 0, 0, 0, 0]] * 5)
    found = incidence(series, 96, event=Event.ANY)
    assert (found.share, found.kaplan_meier) == (0.25, pytest.approx(0.25))  # pooled it would be 0.5


@pytest.mark.parametrize("horizon_months", [0, -12, float("nan"), float("inf")])
def test_horizons_that_are_none(horizon_months: float) -> None:
    with pytest.raises(UsageError, match="expected a positive number of months"):
        outcomes(series_of([0, 0, 0, 0, 0]), horizon_months)


def test_nobody_followed() -> None:
    with pytest.raises(UsageError, match="no knee has a baseline grade and a reading by 48 months"):
        incidence(series_of([0, -1, -1, -1, -1]), 48, event=Event.FAST)


def test_a_cohort_without_baseline_visits_has_no_labels() -> None:
    labels = outcomes(series_of([1, 2], months=np.array([12.0, 24.0])), 48)
    assert labels["fast"].isna().all() and labels["any"].isna().all()


KNEES = st.lists(st.lists(st.integers(-1, 4), min_size=5, max_size=5), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(knees=KNEES, horizon_months=st.sampled_from([12, 24, 36, 48, 72, 96]))
def test_invariants(knees: list[list[int]], horizon_months: int) -> None:
    series = series_of(*knees)
    labels = outcomes(series, horizon_months)
    both = labels[labels["fast"].notna()]
    assert both["any"].notna().all()  # the population of fast is part of that of any
    assert (both["any"] >= both["fast"]).all()
    for event in ("fast", "any"):
        assert not (labels[event] & labels[f"{event}_censored"]).any()
    later = outcomes(series, 96)
    for event in ("fast", "any"):
        known = labels[event].notna()
        assert (later.loc[known, event] >= labels.loc[known, event]).all()  # nobody recovers
    order = np.arange(len(knees))[::-1]
    turned = GradeSeries(series.subject[order], series.side[order], series.months, series.grade[order])
    pd.testing.assert_frame_equal(
        outcomes(turned, horizon_months).sort_values("subject", ignore_index=True),
        labels.sort_values("subject", ignore_index=True),
    )


@settings(max_examples=60, deadline=None)
@given(knees=KNEES)
def test_labels_against_the_definition_written_out(knees: list[list[int]]) -> None:
    labels = outcomes(series_of(*knees), 48)
    for knee, fast, any_ in zip(knees, labels["fast"], labels["any"], strict=True):
        later = [grade for grade in knee[1:4] if grade != UNREAD]
        asked = knee[0] != UNREAD and bool(later)
        assert (fast is pd.NA) == (not asked or knee[0] > 2)
        assert (any_ is pd.NA) == (not asked or knee[0] > 3)
        if fast is not pd.NA:
            assert fast == (max(later) - knee[0] >= 2)
        if any_ is not pd.NA:
            assert any_ == (max(later) - knee[0] >= 1)


@settings(max_examples=60, deadline=None)
@given(knees=KNEES)
def test_kaplan_meier_is_the_share_where_nobody_left_and_never_below_it(knees: list[list[int]]) -> None:
    series = series_of(*knees)
    if outcomes(series, 96)["any"].isna().all():
        return
    found = incidence(series, 96, event=Event.ANY)
    assert found.share - 1e-12 <= found.kaplan_meier <= 1
    if found.censored == 0:
        assert found.kaplan_meier == pytest.approx(found.share)
