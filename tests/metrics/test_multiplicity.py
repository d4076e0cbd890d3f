"""Holm's correction by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progression.errors import UsageError
from progression.metrics.multiplicity import holm


def test_by_hand() -> None:
    # sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1, never falling
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_order_and_bounds(p: list[float]) -> None:
    adjusted = holm(p)
    assert (adjusted >= np.array(p)).all() and adjusted.max() <= 1
    # the smallest is Bonferroni's, and a larger p never ends below a smaller one
    assert adjusted.min() == pytest.approx(min(1, len(p) * min(p)))
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


def test_refuses_what_is_no_p() -> None:
    with pytest.raises(UsageError, match="p values from 0 to 1"):
        holm([0.5, 1.2])
