"""Weighted areas against the plain ones on repeated knees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progression.errors import UsageError
from progression.metrics.auc import auc, average_precision
from progression.metrics.ranked import Ranked, area, precision_area, sensitivity_at, specificity_at

KNEES = st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=40)


@settings(deadline=None)
@given(KNEES)
def test_weights_are_repetitions(knees: list[tuple[bool, int, int]]) -> None:
    y, score, weight = (np.array([knee[i] for knee in knees], dtype=float) for i in range(3))
    rows = np.repeat(np.arange(len(y)), weight.astype(int))
    if not 0 < y.sum() < len(y) or not 0 < y[rows].sum() < len(rows):
        return
    counts = Ranked.of(y, score).counts(weight)
    assert area(*counts) == pytest.approx(auc(y[rows], score[rows]))
    assert precision_area(*counts) == pytest.approx(average_precision(y[rows], score[rows]))


def test_operating_points_by_hand() -> None:
    # falling scores: event, other, event, other, other
    counts = Ranked.of([1, 0, 1, 0, 0], [5, 4, 3, 2, 1]).counts()
    assert sensitivity_at(*counts, specificity=1.0) == pytest.approx(1 / 2)
    assert sensitivity_at(*counts, specificity=0.6) == pytest.approx(1)
    assert specificity_at(*counts, sensitivity=0.8) == pytest.approx(2 / 3)
    tied = Ranked.of([1, 0, 0], [1, 1, 0]).counts()
    assert sensitivity_at(*tied, specificity=0.9) == 0 and specificity_at(*tied, sensitivity=1) == 0.5


def test_weights_must_leave_both_classes() -> None:
    ranked = Ranked.of([1, 0, 0], [3, 2, 1])
    with pytest.raises(UsageError, match="events and others of positive weight"):
        ranked.counts([0, 1, 1])
