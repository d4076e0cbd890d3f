"""Small made-up knees and networks."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from progression.evaluate.followup import Followup, followup_of

Grades = list[float | None]


def _followup(*grades: Grades) -> Followup:
    """Knees k0, k1 ... read at 0, 12, 48 and 96 months; two by two they belong to s0, s1 ..."""
    table = pd.DataFrame(grades, columns=["kl_m00", "kl_m12", "kl_m48", "kl_m96"], dtype=float)
    table["name"] = [f"k{i}" for i in range(len(table))]
    table["subject"] = [f"s{i // 2}" for i in range(len(table))]
    return followup_of(table)


@pytest.fixture(scope="session")
def followup() -> Callable[..., Followup]:
    """Function from grade series to a `Followup`."""
    return _followup
