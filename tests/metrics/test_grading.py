"""Agreement of grades against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from progression.errors import UsageError
from progression.metrics.grading import accuracy, confusion_matrix, quadratic_kappa

GRADES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=60)


def test_by_hand() -> None:
    read, predicted = [0, 0, 1, 1], [0, 1, 1, 1]
    assert accuracy(read, predicted) == 0.75
    assert confusion_matrix(read, predicted)[:2, :2].tolist() == [[1, 1], [0, 2]]
    # observed disagreement 1; expected (2·3 + 2·1) / 4 = 2
    assert quadratic_kappa(read, predicted) == pytest.approx(0.5)


@settings(deadline=None)
@given(GRADES)
def test_agrees_with_scikit_learn(rows: list[tuple[int, int]]) -> None:
    read, predicted = [r[0] for r in rows], [r[1] for r in rows]
    ours = quadratic_kappa(read, predicted)
    assert (confusion_matrix(read, predicted) == sklearn_confusion(read, predicted, labels=range(5))).all()
    if len({*read, *predicted}) == 1:
        assert np.isnan(ours)
    else:
        theirs = cohen_kappa_score(read, predicted, weights="quadratic", labels=range(5))
        assert ours == pytest.approx(theirs, abs=1e-12)
        assert quadratic_kappa(predicted, read) == pytest.approx(ours)


def test_refuses_unread_grades() -> None:
    with pytest.raises(UsageError, match="drop the knees that were not read"):
        accuracy([0, -1], [0, 1])
    with pytest.raises(UsageError, match="one prediction a reading"):
        accuracy([0, 1], [0])
