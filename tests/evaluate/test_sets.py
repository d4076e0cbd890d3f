"""Coverage of grade sets by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from progression.data.outcomes import GradeSeries
from progression.evaluate.followup import Followup
from progression.evaluate.sets import evaluate_sets


def test_coverage_by_hand() -> None:
    grade = np.array([[1, -1, 2, 1], [1, 1, -1, -1], [0, -1, -1, 3], [2, 2, 2, 2]])
    names = np.array(["a", "b", "c", "d"])
    people = np.array(["p", "p", "q", "r"])
    series = GradeSeries(
        people, np.array(["left", "right", "left", "left"]), np.array([0.0, 12, 48, 96]), grade
    )
    results = pd.DataFrame(
        {
            "name": ["a", "b", "c", "d", "e"] * 2,
            "horizon_months": [48] * 5 + [96] * 5,
            "kl_set": ["1 2", "2", "0", "2", "1", "1 2", "1", "0 1", None, "1"],
        }
    )
    rows = {
        (row["horizon_months"], row["baseline"]): row
        for row in evaluate_sets(results, Followup(names, series))
    }
    by_48, by_96 = rows[48.0, None], rows[96.0, None]
    assert (by_48["n"], by_48["coverage"]) == (3, pytest.approx(2 / 3))  # c was not read by then; b became 1
    assert by_48["mean_size"] == pytest.approx(4 / 3)
    assert (by_96["n"], by_96["coverage"]) == (
        3,
        pytest.approx(2 / 3),
    )  # c became 3; d has no set
    assert rows[48.0, 1]["n"] == 2 and rows[48.0, 2]["coverage"] == 1
    low, high = by_48["coverage_people"]
    assert 0 <= low < by_48["coverage"] < high <= 1
