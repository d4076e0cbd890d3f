"""Stored values of a DICOM image to the grey that a viewer shows: bright bone in [0, 1].

    stored → Modality LUT or rescale → VOI LUT or window → inversion, once → [0, 1]

(PS3.3, C.11; PS3.4, N.2.) Inversion: MONOCHROME1 says that low values are white. In DX that comes together with
Presentation LUT Shape INVERSE, which says the same again and is not a second inversion.

| symbol | meaning |
|---|---|
| x | value after the modality transformation |
| c, w | window centre and width |
"""

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi

from progression.dicom.parse import items, number, text
from progression.errors import ImageError
from progression.types import Pixels

Stored = npt.NDArray[np.integer]
_SHAPES = {"IDENTITY": False, "INVERSE": True}


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
        If a window or a rescaling is none.
    """
    padding = _padding(stored, data)
    values = _modality(stored, data, label)
    shown = _values_of_interest(values, data, padding, label)
    if inverted(data):
        shown = 1 - shown
    if padding is not None:
        shown[padding] = 0
    return shown


def inverted(data: Dataset) -> bool:
    """Whether low values are shown white. MONOCHROME1 and a LUT shape INVERSE are one statement, not two."""
    if text(data, "PhotometricInterpretation") == "MONOCHROME1":
        return True
    return _SHAPES.get(text(data, "PresentationLUTShape"), False)


def polarity_contradicts(data: Dataset) -> bool:
    """Whether Photometric Interpretation and Presentation LUT Shape say different things (PS3.3, C.8.11.3.1.2)."""
    shape = _SHAPES.get(text(data, "PresentationLUTShape"))
    return shape is not None and shape != (text(data, "PhotometricInterpretation") == "MONOCHROME1")


def _modality(stored: Stored, data: Dataset, label: str) -> npt.NDArray[np.generic]:
    if items(data, "ModalityLUTSequence"):
        return apply_modality_lut(stored, data)
    slope, intercept = number(data, "RescaleSlope"), number(data, "RescaleIntercept")
    if slope is None and intercept is None:
        return stored
    if slope == 0:
        raise ImageError(f"{label}: Rescale Slope 0; expected another number; export the film again")
    return stored.astype(np.float32) * np.float32(1 if slope is None else slope) + np.float32(intercept or 0)


def _values_of_interest(
    x: npt.NDArray[np.generic], data: Dataset, padding: npt.NDArray[np.bool_] | None, label: str
) -> Pixels:
    """By the VOI LUT, else the window, else from the least to the largest value; (H, W) float32 in [0, 1]."""
    luts = items(data, "VOILUTSequence")
    if luts and np.issubdtype(x.dtype, np.integer):
        bits = int(luts[0].LUTDescriptor[2])
        if not 8 <= bits <= 16:
            raise ImageError(f"{label}: a VOI LUT of {bits} bits; expected 8 to 16; export the film again")
        return np.clip(apply_voi(x, data).astype(np.float32) / np.float32(2**bits - 1), 0, 1)
    centre, width = number(data, "WindowCenter"), number(data, "WindowWidth")
    if centre is not None and width is not None:
        return window(x, centre, width, function=text(data, "VOILUTFunction") or "LINEAR", label=label)
    shown = x if padding is None or padding.all() else x[~padding]
    low, high = float(shown.min()), float(shown.max())
    return np.clip((x.astype(np.float32) - low) / np.float32(max(high - low, 1e-6)), 0, 1)


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
    least = 1.0 if function == "LINEAR" else np.finfo(np.float32).tiny
    if width < least:
        raise ImageError(f"{label}: a window {width:g} wide; expected 1 or more; export the film again")
    values = x.astype(np.float32)
    c, w = np.float32(centre), np.float32(width)
    if function == "SIGMOID":
        return (1 / (1 + np.exp(np.clip(-4 * (values - c) / w, -80, 80)))).astype(np.float32)
    if function == "LINEAR_EXACT":
        return np.clip((values - c) / w + np.float32(0.5), 0, 1)
    if function != "LINEAR":
        raise ImageError(f"{label}: an unknown VOI LUT Function; expected LINEAR, LINEAR_EXACT or SIGMOID")
    c = c - np.float32(0.5)
    if w == 1:
        return (values > c).astype(np.float32)
    return np.clip((values - c) / (w - 1) + np.float32(0.5), 0, 1)


def _padding(stored: Stored, data: Dataset) -> npt.NDArray[np.bool_] | None:
    """Where stored values are padding, outside the collimated field: not part of the picture."""
    first = number(data, "PixelPaddingValue")
    if first is None:
        return None
    last = number(data, "PixelPaddingRangeLimit")
    low, high = sorted((first, first if last is None else last))
    found = (stored >= low) & (stored <= high)
    return found if found.any() else None
