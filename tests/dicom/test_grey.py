import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing

from progression.dicom import example
from progression.dicom.grey import inverted, to_grey, window
from progression.dicom.read import read_film
from progression.errors import ImageError
from progression.types import Side
from tests.dicom.films import RAMP, content, dx


def header(**values: object) -> Dataset:
    made = Dataset()
    made.PhotometricInterpretation = "MONOCHROME2"
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


@pytest.mark.parametrize(
    ("function", "centre", "width", "x", "y"),
    [
        ("LINEAR", 2048, 4096, [0, 2047.5, 4095], [0, 0.5, 1]),  # PS3.3, C.11.2.1.2.1, note 4
        ("LINEAR", 2048, 1, [2047, 2048], [0, 1]),
        ("LINEAR", 0, 100, [-100, -50, 49, 100], [0, 0, 1, 1]),
        ("LINEAR_EXACT", 2048, 4096, [0, 2048, 4096], [0, 0.5, 1]),
        ("LINEAR_EXACT", 0, 0.5, [-1, 0, 1], [0, 0.5, 1]),
        ("SIGMOID", 0, 4, [-1, 0, 1], [1 / (1 + np.e), 0.5, 1 / (1 + 1 / np.e)]),
    ],
)
def test_windows_of_the_standard(
    function: str, centre: float, width: float, x: list[float], y: list[float]
) -> None:
    np.testing.assert_allclose(window(np.array(x), centre, width, function=function), y, atol=1e-6)


@given(st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]), st.integers(0, 4000), st.integers(2, 4000))
def test_windows_are_pydicoms(function: str, centre: int, width: int) -> None:
    x = np.arange(0, 4096, 37, dtype=np.uint16)
    data = header(
        WindowCenter=centre, WindowWidth=width, VOILUTFunction=function, BitsStored=12, PixelRepresentation=0
    )
    with np.errstate(over="ignore"):
        expected = apply_windowing(x, data) / 4095
    np.testing.assert_allclose(window(x, centre, width, function=function), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "function", "reason"),
    [
        (0, "LINEAR", "0 wide"),
        (0.5, "LINEAR", "0.5 wide"),
        (-3, "SIGMOID", "-3 wide"),
        (9, "CUBIC", "unknown"),
    ],
)
def test_windows_that_are_none(width: float, function: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        window(np.arange(3), 1, width, function=function)


def test_the_order_is_modality_then_window_then_inversion() -> None:
    stored = np.array([[0, 10, 20, 30, 40]], np.uint16)
    data = header(
        RescaleSlope=2, RescaleIntercept=-20, WindowCenter=20.5, WindowWidth=41
    )  # [0, 40] to [0, 1]
    np.testing.assert_allclose(to_grey(stored, data, "x"), [[0, 0, 0.5, 1, 1]])
    data.PhotometricInterpretation = "MONOCHROME1"
    np.testing.assert_allclose(to_grey(stored, data, "x"), [[1, 1, 0.5, 0, 0]])


def test_inversion_is_said_twice_and_done_once() -> None:
    """DX says MONOCHROME1 and INVERSE; the film looks as the one that stores bright bone high."""
    plain, other = (read_film(content(dx(inverted=flag)), "x").values for flag in (False, True))
    np.testing.assert_allclose(plain, other, atol=1.5 / 4095)
    assert plain[48, 48] > plain[5, 90]


@pytest.mark.parametrize(
    ("interpretation", "shape", "turned", "contradicts"),
    [
        ("MONOCHROME2", None, False, False), ("MONOCHROME1", None, True, False),
        ("MONOCHROME2", "IDENTITY", False, False), ("MONOCHROME1", "INVERSE", True, False),
        ("MONOCHROME2", "INVERSE", True, True), ("MONOCHROME1", "IDENTITY", True, True),
    ],
)  # fmt: skip
def test_polarity(interpretation: str, shape: str | None, turned: bool, contradicts: bool) -> None:
    made = dx()
    made.PhotometricInterpretation, made.PresentationLUTShape = interpretation, shape
    assert inverted(made, "x") is turned
    told = read_film(content(made), "x").header.notes
    assert ("the header contradicts itself about which values are white" in told) is contradicts


@pytest.mark.parametrize("bits", range(8, 17))
def test_every_depth_gives_the_same_grey(bits: int) -> None:
    found = read_film(content(example.dx(RAMP, side=Side.LEFT, spacing_mm=1, bits=bits)), "x").values
    np.testing.assert_allclose(found, RAMP, atol=1.5 / (2**bits - 1))


def test_a_lut_for_values_of_interest() -> None:
    made = example.sc(RAMP)
    del made["PatientOrientation"]
    item = Dataset()
    item.LUTDescriptor = [256, 0, 8]
    item.LUTData = list(np.arange(255, -1, -1))
    item["LUTData"].VR = "US"
    item["LUTDescriptor"].VR = "US"
    made.VOILUTSequence = [item]
    made.WindowCenter, made.WindowWidth = 10, 20  # the LUT goes before a window
    np.testing.assert_allclose(read_film(content(made), "x").values, 1 - RAMP, atol=1 / 255)


def test_without_window_the_values_span_the_grey() -> None:
    made = example.cr(0.25 + 0.5 * RAMP, spacing_mm=None)
    found = read_film(content(made), "x").values
    assert found.min() == 0 and found.max() == 1
    np.testing.assert_allclose(found, RAMP, atol=1e-3)


def test_padding_is_black_and_no_part_of_the_range() -> None:
    stored = np.array([[0, 0, 100, 200, 300]], np.uint16)
    np.testing.assert_allclose(to_grey(stored, header(PixelPaddingValue=0), "x"), [[0, 0, 0, 0.5, 1]])
    turned = header(PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(to_grey(stored, turned, "x"), [[0, 0, 1, 0.5, 0]])
    limit = header(PixelPaddingValue=300, PixelPaddingRangeLimit=200)
    np.testing.assert_allclose(to_grey(stored, limit, "x"), [[0, 0, 1, 0, 0]])


def test_a_slope_of_zero_is_refused() -> None:
    with pytest.raises(ImageError, match="Rescale Slope 0"):
        to_grey(np.zeros((2, 2), np.uint16), header(RescaleSlope=0), "x")
