import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progression.errors import UsageError
from progression.types import Radiograph, Request, Side, check_grade, check_horizon_months
from tests.fakes import knee


@pytest.mark.parametrize("text", ["left", "LEFT", "L", " l ", Side.LEFT])
def test_side_is_read(text: str) -> None:
    assert Side.parse(text) is Side.LEFT


@pytest.mark.parametrize("text", ["", "up", "lef", None, 1, "left knee"])
def test_side_is_not_guessed(text: object) -> None:
    with pytest.raises(UsageError, match="--side left"):
        Side.parse(text)


def test_a_radiographs_side_may_be_text() -> None:
    assert Radiograph(knee(), "left", "a").side is Side.LEFT  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown side 'up'"):
        Radiograph(knee(), "up", "a")  # type: ignore[arg-type]


@given(months=st.integers(1, 96))
def test_horizons_in_range(months: int) -> None:
    for value in (months, float(months), np.int64(months), np.float32(months)):
        assert check_horizon_months(value) == months


@pytest.mark.parametrize("value", [0, -1, 97, 10**30, 1.5, math.nan, math.inf, True, "48", None])
def test_horizons_out_of_range(value: object) -> None:
    with pytest.raises(UsageError, match="whole months from 1 to 96"):
        check_horizon_months(value)


@pytest.mark.parametrize("value", [-1, 5, 2.0, True, "2", None])
def test_grades_out_of_range(value: object) -> None:
    with pytest.raises(UsageError, match="from 0 to 4"):
        check_grade(value)


def test_request_sorts_its_horizons() -> None:
    assert Request(horizon_months=(96, 24, 96)).horizon_months == (24, 96)


@pytest.mark.parametrize("months", [48, 48.0, np.int64(48), [48], np.array([48, 48])])
def test_request_takes_one_horizon(months: object) -> None:
    assert Request(horizon_months=months).horizon_months == (48,)  # type: ignore[arg-type]


def test_request_tells_its_number_of_steps() -> None:
    assert Request().steps == 0
    assert [Request(refine_steps=steps).steps for steps in (0, 5, 10_000)] == [0, 5, 10_000]
    assert Request(inversion="projection").steps == 1000


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"horizon_months": ()}, "no horizon"),
        ({"horizon_months": None}, "horizon None"),
        ({"horizon_months": "48"}, "whole months from 1 to 96"),
        ({"refine_steps": -1}, "refine steps -1"),
        ({"refine_steps": 10_001}, "from 0 to 10,000"),
        ({"refine_steps": 2.5}, "whole number"),
        ({"refine_steps": 20, "inversion": "projection"}, "its own 1,000 steps"),
        ({"inversion": "magic"}, "encoder or projection"),
        ({"method": "magic"}, "paper or joint"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_requests_that_are_refused(arguments: dict, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Request(**arguments)
