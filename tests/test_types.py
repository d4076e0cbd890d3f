import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progression.errors import ImageError, UsageError
from progression.types import EarlierFilm, Radiograph, Request, Side, check_grade, check_horizon_months
from tests.fakes import knee, prediction, radiograph


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


def test_a_text_is_no_list_of_horizons() -> None:
    with pytest.raises(UsageError, match="horizon '48': expected whole months"):
        Request(horizon_months="48")  # type: ignore[arg-type]


def spoilt(value: float) -> np.ndarray:
    pixels = knee()
    pixels[7, 7] = value
    return pixels


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (spoilt(math.nan), "a: NaN or infinite values"),
        (spoilt(-math.inf), "a: NaN or infinite values"),
        (spoilt(1.01), r"a: floats from .* to 1.01; rescale them to \[0, 1\]"),
        (255 * knee(), r"rescale them to \[0, 1\]"),
        (
            np.stack([knee()] * 3, axis=2),
            r"an array \(96, 96, 3\) of float32; expected pixels \(height, width\)",
        ),
        ((255 * knee()).astype(np.uint8), "of uint8; expected .* progression.image.read_image"),
        (np.zeros((0, 0)), r"an array \(0, 0\)"),
        (knee().tolist(), "a list; expected"),
        (None, "a NoneType; expected"),
    ],
)
def test_pixels_that_are_none(pixels: np.ndarray, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        Radiograph(pixels, Side.LEFT, "a")
    with pytest.raises(ImageError, match=reason.replace("a: ", "earlier film: ")):
        EarlierFilm(pixels, 12)


def test_pixels_are_kept_as_float32() -> None:
    pixels = knee()
    assert Radiograph(pixels, Side.LEFT, "a").pixels is pixels
    assert Radiograph(pixels.astype(np.float64), Side.LEFT, "a").pixels.dtype == np.float32


def test_what_holds_pictures_is_compared_by_identity_and_shown_without_them() -> None:
    one, same = (prediction(radiograph()) for _ in range(2))
    pairs = [(one, same), (one.horizons[0], same.horizons[0]), (radiograph(), radiograph())]
    for a, b in pairs:
        assert a == a and a != b and len({a, b, a}) == 2
        assert "array" not in repr(a) and len(repr(a)) < 1000


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
