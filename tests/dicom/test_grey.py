import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing

from progression.dicom import example
from progression.dicom.grey import inverted, to_grey, window
from progression.dicom.read import read_film
from progression.errors import ImageError
from progression.types import Side
from tests.dicom.films import RAMP, content, dx, forced


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


def lut(
    entries: np.ndarray, *, first: int = 0, bits: int = 16, kind: str = "US", count: int | None = None
) -> Dataset:
    """An item with a look-up table."""
    item = Dataset()
    total = len(entries) if count is None else count
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [0 if total == 65536 else total, first, bits])
    packed = entries.astype("<u2").tobytes()
    item.add_new("LUTData", kind, packed if kind == "OW" else entries.astype(int).tolist())
    return item


CURVE = ((np.arange(4096) / 4095) ** 3 * 65535).round().astype(int)


@pytest.mark.parametrize(
    "identity", [{}, {"RescaleSlope": "1"}, {"RescaleSlope": "1", "RescaleIntercept": "0"}]
)
@pytest.mark.parametrize("kind", ["US", "OW"])
def test_a_rescaling_that_changes_nothing_changes_nothing(identity: dict[str, str], kind: str) -> None:
    """Bit for bit, through a VOI LUT and through a window."""
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    table = to_grey(stored, header(VOILUTSequence=[lut(CURVE, kind=kind)], BitsStored=12, **identity), "x")
    np.testing.assert_array_equal(table.ravel(), (CURVE / np.float32(65535)).astype(np.float32))
    plain, same = (header(WindowCenter=900, WindowWidth=700, **more) for more in ({}, identity))
    np.testing.assert_array_equal(to_grey(stored, plain, "x"), to_grey(stored, same, "x"))


@settings(max_examples=40)
@given(
    slope=st.sampled_from(["1", "2", "0.5", "-1", "-0.25", "1.7"]),
    intercept=st.sampled_from(["0", "-1024", "17.5", "300"]),
    signed=st.booleans(),
    first=st.integers(-1500, 1500),
    count=st.integers(2, 3000),
    bits=st.integers(10, 16),  # its indices of 8 bits go round
    seed=st.integers(0, 99),
)
def test_a_table_after_a_rescaling_is_pydicoms(
    slope: str, intercept: str, signed: bool, first: int, count: int, bits: int, seed: int
) -> None:
    """Where pydicom wants whole numbers, it gets the rescaled ones rounded."""
    drawn = np.random.default_rng(seed)
    stored = drawn.integers(-2048 if signed else 0, 2048, (8, 9)).astype(np.int16 if signed else np.uint16)
    item = lut(drawn.integers(0, 2**bits, count), first=first, bits=bits)
    data = header(
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        BitsStored=12,
        PixelRepresentation=int(signed),
        VOILUTSequence=[item],
    )
    rescaled = np.rint(apply_modality_lut(stored, data)).astype(np.int32)
    expected = apply_voi(rescaled, data) / np.float32(2**bits - 1)
    if first < 0 and rescaled.min() >= 0 and not signed:
        return  # what the header's types make of such a table differs
    np.testing.assert_allclose(to_grey(stored, data, "x"), expected, atol=1e-6)


@settings(max_examples=40)
@given(
    slope=st.sampled_from(["1", "-1", "0.1", "3.25"]),
    intercept=st.integers(-2000, 2000),
    centre=st.integers(-900, 900),
    width=st.integers(2, 3000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_a_window_after_a_rescaling_is_pydicoms(
    slope: str, intercept: int, centre: int, width: int, function: str
) -> None:
    stored = np.arange(-2048, 2048, 31, dtype=np.int16)[None]
    data = header(RescaleSlope=slope, RescaleIntercept=intercept, WindowCenter=centre, WindowWidth=width,
                  VOILUTFunction=function, BitsStored=12, PixelRepresentation=1)  # fmt: skip
    with np.errstate(over="ignore"):
        output = apply_windowing(apply_modality_lut(stored, data), data)
    least, span = (
        -2048 * float(slope) + intercept,
        4095 * float(slope),
    )  # pydicom's output spans what may be stored
    np.testing.assert_allclose(to_grey(stored, data, "x"), (output - least) / span, atol=1e-4)


def test_a_modality_lut_comes_before_the_window_and_before_the_voi_lut() -> None:
    stored = np.array([[5, 6, 7, 8, 99]], np.uint16)
    modality = lut(np.array([30, 20, 10]), first=6)  # 6 to 30, 7 to 20, 8 to 10; the ends go on
    windowed = header(
        ModalityLUTSequence=[modality], WindowCenter="20", WindowWidth="20", VOILUTFunction="LINEAR_EXACT"
    )
    np.testing.assert_allclose(to_grey(stored, windowed, "x"), [[1, 1, 0.5, 0, 0]])
    table = header(ModalityLUTSequence=[modality], VOILUTSequence=[lut(np.arange(31) * 4, bits=8)])
    np.testing.assert_allclose(
        to_grey(stored, table, "x"), np.array([[120, 120, 80, 40, 40]]) / 255, atol=1e-6
    )
    bare = header(ModalityLUTSequence=[modality])
    np.testing.assert_allclose(to_grey(stored, bare, "x"), [[1, 1, 0.5, 0, 0]])


def test_tables_in_odd_clothes() -> None:
    stored = np.array([[0, 1, 2, 3]], np.uint16)
    shown = np.array([[10, 20, 30, 30]]) / 255
    packed = lut(np.array([10 | 20 << 8, 30]), bits=8, count=3)  # two to a word
    spare = lut(np.array([10, 20, 30, 77]), bits=8, count=3)
    for item in (lut(np.array([10, 20, 30]), bits=8), packed, spare):
        np.testing.assert_allclose(to_grey(stored, header(VOILUTSequence=[item]), "x"), shown, atol=1e-6)
    whole = lut(np.arange(65536), kind="OW")  # 65,536 entries are written as none
    ends = np.array([[0, 65535]], np.uint16)
    np.testing.assert_array_equal(to_grey(ends, header(VOILUTSequence=[whole]), "x"), [[0, 1]])
    below = lut(np.array([0, 100, 255]), first=65535, bits=8)  # -1, as an unsigned writer has it
    rescaled = header(RescaleIntercept="-1", RescaleSlope="1", BitsStored=12, VOILUTSequence=[below])
    np.testing.assert_allclose(
        to_grey(stored, rescaled, "x"), np.array([[0, 100, 255, 255]]) / 255, atol=1e-6
    )


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (lut(np.arange(4), bits=7), "a LUT of 7 bits; expected 8 to 16"),
        (lut(np.arange(4), bits=8, count=9), "a LUT of 4 values; expected 9"),
        (lut(np.array([0, 256]), bits=8), "values beyond its 8 bits"),
        (Dataset(), "a LUT Descriptor of 0 values; expected 3"),
    ],
)
def test_tables_that_are_none(item: Dataset, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        to_grey(np.zeros((2, 2), np.uint16), header(VOILUTSequence=[item]), "x")


def test_of_several_windows_and_tables_the_first_is_used_and_that_is_told() -> None:
    made = dx()
    made.WindowCenter, made.WindowWidth = ["1000", "3000"], ["500", "500"]
    found = read_film(content(made), "x")
    assert found.header.notes == ("the header offers 2 windows: the first is used",)
    made.WindowCenter, made.WindowWidth = "1000", "500"
    np.testing.assert_array_equal(found.values, read_film(content(made), "x").values)
    made.VOILUTSequence = [lut(CURVE), lut(CURVE[::-1])]
    assert read_film(content(made), "x").header.notes == ("the header offers 2 VOI LUTs: the first is used",)


@pytest.mark.parametrize("function", ["sigmoid", "Sigmoid ", "SIGMOID"])
def test_terms_are_known_in_any_case(function: str) -> None:
    stored = np.arange(100, dtype=np.uint16)[None]
    data = header(WindowCenter="50", WindowWidth="20", VOILUTFunction="SIGMOID")
    same = forced(header(WindowCenter="50", WindowWidth="20"), VOILUTFunction=function)
    np.testing.assert_array_equal(to_grey(stored, data, "x"), to_grey(stored, same, "x"))
    exact = [header(WindowCenter="50", WindowWidth="20") for _ in range(2)]
    for one, name in zip(exact, ("LINEAR_EXACT", "linear-exact"), strict=True):
        forced(one, VOILUTFunction=name)
    np.testing.assert_array_equal(*(to_grey(stored, one, "x") for one in exact))
    small = {"PhotometricInterpretation": "monochrome1", "PresentationLUTShape": "inverse"}
    written = [
        dx(inverted=True),
        forced(dx(inverted=True), **small, PresentationIntentType="for presentation"),
    ]
    np.testing.assert_array_equal(*(read_film(content(one), "x").values for one in written))


def test_padding_is_the_same_bytes_whichever_type_they_are_called() -> None:
    stored = np.array([[-2000, 0, 100]], np.int16)
    np.testing.assert_allclose(to_grey(stored, forced(header(), PixelPaddingValue=63536), "x"), [[0, 0, 1]])
    unsigned = np.array([[63536, 0, 100]], np.uint16)
    made = header()
    made.add_new("PixelPaddingValue", "SS", -2000)
    np.testing.assert_allclose(to_grey(unsigned, made, "x"), [[0, 0, 1]])


def test_a_slope_of_zero_is_refused() -> None:
    with pytest.raises(ImageError, match="Rescale Slope 0"):
        to_grey(np.zeros((2, 2), np.uint16), header(RescaleSlope=0), "x")
