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
from pydicom.multival import MultiValue

from progression.dicom.parse import number, text
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
        If pixels are not square.
    """
    _check_aspect(data, label)
    stated = _square(data, "PixelSpacing", label)
    imager = _square(data, "ImagerPixelSpacing", label)
    if stated is not None:
        calibrated = text(data, "PixelSpacingCalibrationType") in ("GEOMETRY", "FIDUCIAL")
        if calibrated or (imager is not None and abs(stated - imager) > SQUARE * imager):
            return Spacing(stated, "PixelSpacing, calibrated")
    for mm, source in ((imager, "ImagerPixelSpacing"), (stated, "PixelSpacing")):
        if mm is not None:
            factor = _magnification(data)
            return Spacing(mm / factor, source, factor)
    scanned = _square(data, "NominalScannedPixelSpacing", label)
    return None if scanned is None else Spacing(scanned, "NominalScannedPixelSpacing")


def _magnification(data: Dataset) -> float:
    factor = number(data, "EstimatedRadiographicMagnificationFactor")
    detector, patient = number(data, "DistanceSourceToDetector"), number(data, "DistanceSourceToPatient")
    if factor is None and detector and patient:
        factor = detector / patient
    low, high = _PLAUSIBLE_MAGNIFICATION
    return factor if factor is not None and low <= factor <= high else 1.0


def _square(data: Dataset, keyword: str, label: str) -> float | None:
    """The spacing of a tag with one value for rows and one for columns, if it has a plausible one."""
    value = data.get(keyword)
    if not isinstance(value, MultiValue | list) or len(value) != 2:
        return None
    row, column = (float(one) for one in value)
    low, high = _PLAUSIBLE_MM
    if not (low <= row <= high and low <= column <= high):
        return None
    if abs(row - column) > SQUARE * max(row, column):
        raise ImageError(
            f"{label}: pixels of {row:g} x {column:g} mm; expected square ones; resample the film"
        )
    return (row + column) / 2


def _check_aspect(data: Dataset, label: str) -> None:
    value = data.get("PixelAspectRatio")
    if isinstance(value, MultiValue | list) and len(value) == 2:
        vertical, horizontal = (float(one) for one in value)
        if abs(vertical - horizontal) > SQUARE * max(abs(vertical), abs(horizontal)):
            raise ImageError(
                f"{label}: pixels of aspect {vertical:g} to {horizontal:g}; expected square ones; resample the film"
            )
