"""Size of a pixel in the plane of the knee, mm, from the several tags that may hold it.

| first that is there | what it is |
|---|---|
| Pixel Spacing (0028,0030), calibrated | in the patient, by geometry or a fiducial (0028,0A02); or different from |
| | Imager Pixel Spacing, which can only be so if it was calibrated (PS3.3, 10.7.1.3) |
| Imager Pixel Spacing (0018,1164) | at the detector; over the magnification, where that is known |
| Pixel Spacing, not calibrated | at the detector, as above |
| Nominal Scanned Pixel Spacing (0018,2010) | of a digitised film |

Magnification: Estimated Radiographic Magnification Factor (0018,1114), or distance source-detector (0018,1110) over
distance source-patient (0018,1111).
"""

from dataclasses import dataclass

from pydicom.dataset import Dataset

from progression.dicom.values import number, numbers, term, told
from progression.errors import ImageError

SQUARE = 0.01
"""Largest share by which rows and columns may differ."""
_PLAUSIBLE_MM = (0.01, 2.0)
_PLAUSIBLE_MAGNIFICATION = (1.0, 2.0)


@dataclass(frozen=True)
class Spacing:
    """Millimetres a pixel, the tag that says so, and what it was divided by (1 where unknown)."""

    mm: float
    source: str
    magnification: float = 1.0


def pixel_spacing(data: Dataset, label: str) -> Spacing | None:
    """Spacing in the plane of the knee, or None where the file has none that is plausible.

    Raises
    ------
    ImageError
        If pixels are not square, or a number is none.
    """
    _check_aspect(data, label)
    stated = _square(data, "PixelSpacing", label)
    imager = _square(data, "ImagerPixelSpacing", label)
    if stated is not None:
        calibrated = term(data, "PixelSpacingCalibrationType", label) in ("GEOMETRY", "FIDUCIAL")
        if calibrated or (imager is not None and abs(stated - imager) > SQUARE * imager):
            return Spacing(stated, "PixelSpacing, calibrated")
    for mm, source in ((imager, "ImagerPixelSpacing"), (stated, "PixelSpacing")):
        if mm is not None:
            factor = _magnification(data, label)
            return Spacing(mm / factor, source, factor)
    scanned = _square(data, "NominalScannedPixelSpacing", label)
    return None if scanned is None else Spacing(scanned, "NominalScannedPixelSpacing")


def _magnification(data: Dataset, label: str) -> float:
    factor = number(data, "EstimatedRadiographicMagnificationFactor", label)
    detector = number(data, "DistanceSourceToDetector", label)
    patient = number(data, "DistanceSourceToPatient", label)
    if factor is None and detector and patient:
        factor = detector / patient
    low, high = _PLAUSIBLE_MAGNIFICATION
    return factor if factor is not None and low <= factor <= high else 1.0


def _square(data: Dataset, keyword: str, label: str) -> float | None:
    """The spacing of a tag with one value for rows and one for columns, if it has a plausible one."""
    pair = _pair(data, keyword, label)
    if pair is None:
        return None
    row, column = pair
    low, high = _PLAUSIBLE_MM
    if not (low <= row <= high and low <= column <= high):
        return None
    if abs(row - column) > SQUARE * max(row, column):
        raise ImageError(
            f"{label}: pixels of {row:g} x {column:g} mm; expected square ones; resample the film"
        )
    return (row + column) / 2


def _check_aspect(data: Dataset, label: str) -> None:
    pair = _pair(data, "PixelAspectRatio", label)
    if pair is not None and abs(pair[0] - pair[1]) > SQUARE * max(abs(pair[0]), abs(pair[1])):
        raise ImageError(
            f"{label}: pixels of aspect {pair[0]:g} to {pair[1]:g}; expected square ones; resample the film"
        )


def _pair(data: Dataset, keyword: str, label: str) -> tuple[float, float] | None:
    """An attribute's two numbers; None where it is absent."""
    found = numbers(data, keyword, label)
    if not found:
        return None
    if len(found) != 2 or None in found:
        have = sum(value is not None for value in found)
        raise ImageError(f"{label}: {told(keyword)} has {have} values; expected 2; correct the header")
    row, column = found
    assert row is not None and column is not None
    return row, column
