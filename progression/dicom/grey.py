"""Stored values of a DICOM image to the grey that a viewer shows: bright bone in [0, 1].

    stored → Modality LUT or rescale → VOI LUT or window → inversion, once → [0, 1]

(PS3.3, C.11; PS3.4, N.2.) What a step does to a value depends on nothing else, so all steps are done once for every
value that the film holds, and the film is looked up: none can be passed over for the type of its values.

Inversion: MONOCHROME1 says that low values are white. In DX that comes together with
Presentation LUT Shape INVERSE, which says the same again and is not a second inversion.

| symbol | meaning |
|---|---|
| x | value after the modality transformation |
| c, w | window centre and width |
"""

from collections.abc import Iterator
from itertools import zip_longest

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from progression.dicom.lut import Lut
from progression.dicom.values import first, folded, items, number, numbers, term, told, whole
from progression.errors import ImageError
from progression.types import Pixels

Stored = npt.NDArray[np.integer]
_SHAPES = {"IDENTITY": False, "INVERSE": True}
_FUNCTIONS = ("LINEAR", "LINEAREXACT", "SIGMOID")
_ROWS_AT_ONCE = 256


def to_grey(stored: Stored, data: Dataset, label: str) -> Pixels:
    """Grey as displayed.

    Parameters
    ----------
    stored : (H, W) stored values.
    data : the image's header; the first of several windows or LUTs is used.

    Returns
    -------
    (H, W) float32 in [0, 1], bone bright; padding pixels 0

    Raises
    ------
    ImageError
        If a window, a LUT or a rescaling is none.
    """
    padding = _padding(stored, data, label)
    low, high = int(stored.min()), int(stored.max())
    seen = np.zeros(high - low + 1, np.bool_)
    for rows in _slices(stored):
        part = stored[rows] if padding is None or padding.all() else stored[rows][~padding[rows]]
        seen[part.astype(np.int64) - low] = True
    values = _modality(np.arange(low, high + 1), data, label)
    table = _values_of_interest(values, seen, data, label)
    if inverted(data, label):
        table = 1 - table
    shown = np.empty(stored.shape, np.float32)
    for rows in _slices(stored):
        shown[rows] = table[stored[rows].astype(np.int64) - low]
    if padding is not None:
        shown[padding] = 0
    return shown


def inverted(data: Dataset, label: str) -> bool:
    """Whether low values are shown white. MONOCHROME1 and a LUT shape INVERSE are one statement, not two."""
    if term(data, "PhotometricInterpretation", label) == "MONOCHROME1":
        return True
    return _SHAPES.get(term(data, "PresentationLUTShape", label), False)


def display_notes(data: Dataset, label: str) -> list[str]:
    """What to warn of: polarity said in two ways (PS3.3, C.8.11.3.1.2), a choice of windows, odd numbers."""
    found = []
    shape = _SHAPES.get(term(data, "PresentationLUTShape", label))
    if shape is not None and shape != (term(data, "PhotometricInterpretation", label) == "MONOCHROME1"):
        found.append("the header contradicts itself about which values are white")
    luts = len(items(data, "VOILUTSequence"))
    windows = 0 if luts else len(set(_windows(data, label)))
    for count, what in ((luts, "VOI LUTs"), (windows, "windows")):
        if count > 1:
            found.append(f"the header offers {count} {what}: the first is used")
    return found


def _slices(stored: Stored) -> Iterator[slice]:
    """A film's rows in parts, as indices take eight bytes each."""
    return (slice(top, top + _ROWS_AT_ONCE) for top in range(0, len(stored), _ROWS_AT_ONCE))


def _modality(levels: Stored, data: Dataset, label: str) -> npt.NDArray[np.generic]:
    if tables := items(data, "ModalityLUTSequence"):
        return Lut.of(tables[0], label, signed=_signed(data, label))(levels)
    slope, intercept = _rescaling(data, label)
    return levels if (slope, intercept) == (1, 0) else levels * slope + intercept


def _rescaling(data: Dataset, label: str) -> tuple[float, float]:
    slope, intercept = number(data, "RescaleSlope", label), number(data, "RescaleIntercept", label)
    if slope == 0:
        raise ImageError(f"{label}: Rescale Slope 0; expected another number; export the film again")
    return 1.0 if slope is None else slope, intercept or 0.0


def _signed(data: Dataset, label: str) -> bool:
    return whole(data, "PixelRepresentation", label) == 1


def _may_be_negative(data: Dataset, label: str) -> bool:
    """Whether some value that could be stored is negative after the modality transformation."""
    if items(data, "ModalityLUTSequence"):
        return False
    signed, bits = _signed(data, label), whole(data, "BitsStored", label) or 16
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope, intercept = _rescaling(data, label)
    return min(end * slope + intercept for end in ends) < 0


def _values_of_interest(
    x: npt.NDArray[np.generic], seen: npt.NDArray[np.bool_], data: Dataset, label: str
) -> Pixels:
    """By the VOI LUT, else the window, else from the least to the largest value that is seen; float32 in [0, 1]."""
    if tables := items(data, "VOILUTSequence"):
        lut = Lut.of(tables[0], label, signed=_may_be_negative(data, label))
        return lut(x).astype(np.float32) / np.float32(2**lut.bits - 1)
    if windows := _windows(data, label):
        return window(x, *windows[0], function=first(data, "VOILUTFunction") or "LINEAR", label=label)
    low, high = float(x[seen].min()), float(x[seen].max())
    return np.clip((x.astype(np.float32) - low) / np.float32(max(high - low, 1e-6)), 0, 1)


def _windows(data: Dataset, label: str) -> list[tuple[float, float]]:
    """Centre and width of each window; one alone is none, and what it was to show is not known."""
    centres, widths = (numbers(data, keyword, label) for keyword in ("WindowCenter", "WindowWidth"))
    found = []
    for centre, width in zip_longest(centres, widths):
        if centre is None and width is None:
            continue
        if centre is None or width is None:
            missing = "WindowCenter" if centre is None else "WindowWidth"
            raise ImageError(
                f"{label}: a window without {told(missing)}; expected both; export the film again"
            )
        found.append((centre, width))
    return found


def window(
    x: npt.NDArray[np.generic],
    centre: float,
    width: float,
    *,
    function: str = "LINEAR",
    label: str = "window",
) -> Pixels:
    """A window's output in [0, 1] (PS3.3, C.11.2.1.2 and C.11.2.1.3).

    Raises
    ------
    ImageError
        For an unknown function, or a width under 1 (LINEAR) or not above 0.
    """
    name = folded(function)
    if name not in _FUNCTIONS:
        raise ImageError(f"{label}: an unknown VOI LUT Function; expected LINEAR, LINEAR_EXACT or SIGMOID")
    least = 1.0 if name == "LINEAR" else np.finfo(np.float32).tiny
    if width < least:
        raise ImageError(f"{label}: a window {width:g} wide; expected 1 or more; export the film again")
    values = x.astype(np.float32)
    c, w = np.float32(centre), np.float32(width)
    if name == "SIGMOID":
        return (1 / (1 + np.exp(np.clip(-4 * (values - c) / w, -80, 80)))).astype(np.float32)
    if name == "LINEAREXACT":
        return np.clip((values - c) / w + np.float32(0.5), 0, 1)
    c = c - np.float32(0.5)
    if w == 1:
        return (values > c).astype(np.float32)
    return np.clip((values - c) / (w - 1) + np.float32(0.5), 0, 1)


def _padding(stored: Stored, data: Dataset, label: str) -> npt.NDArray[np.bool_] | None:
    """Where stored values are padding, outside the collimated field: not part of the picture."""
    ends = [whole(data, keyword, label) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None:
        return None
    low, high = sorted(_as_stored(ends[0] if end is None else end, stored) for end in ends)
    found = (stored >= low) & (stored <= high)
    return found if found.any() else None


def _as_stored(value: int, stored: Stored) -> int:
    """A value in the type of the stored ones: the same bytes, whichever type their writer called them."""
    span = 1 << 16
    if stored.dtype.kind == "i":
        return value - span if value >= span // 2 else value
    return value + span if value < 0 else value
