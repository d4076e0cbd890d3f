"""Spacing and side, from headers."""

import pytest
from pydicom.dataset import Dataset

from progression.dicom.laterality import laterality
from progression.dicom.spacing import pixel_spacing
from progression.errors import ImageError
from progression.types import Side
from tests.dicom.films import again, content, dx

MAGNIFICATION = "EstimatedRadiographicMagnificationFactor"
IMAGER = "ImagerPixelSpacing"


def header(values: dict[str, object]) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


@pytest.mark.parametrize(
    ("values", "mm", "source"),
    [
        ({IMAGER: [0.15, 0.15]}, 0.15, IMAGER),
        ({IMAGER: [0.15, 0.15], MAGNIFICATION: 1.2}, 0.125, IMAGER),
        ({IMAGER: [0.15, 0.15], "DistanceSourceToDetector": 1800, "DistanceSourceToPatient": 1500}, 0.125,
         IMAGER),
        ({IMAGER: [0.15, 0.15], MAGNIFICATION: 9}, 0.15, IMAGER),
        ({IMAGER: [0.15, 0.15], "PixelSpacing": [0.15, 0.15]}, 0.15, IMAGER),
        ({IMAGER: [0.15, 0.15], "PixelSpacing": [0.13, 0.13]}, 0.13, "PixelSpacing, calibrated"),
        ({"PixelSpacing": [0.13, 0.13], "PixelSpacingCalibrationType": "FIDUCIAL",
          MAGNIFICATION: 1.2}, 0.13, "PixelSpacing, calibrated"),
        ({"PixelSpacing": [0.12, 0.12], MAGNIFICATION: 1.2}, 0.1, "PixelSpacing"),
        ({"NominalScannedPixelSpacing": [0.17, 0.17]}, 0.17, "NominalScannedPixelSpacing"),
        ({IMAGER: [0, 0], "NominalScannedPixelSpacing": [0.2, 0.2]}, 0.2, "NominalScannedPixelSpacing"),
        ({"PixelSpacing": [25, 25]}, None, None),
        ({}, None, None),
    ],
)  # fmt: skip
def test_spacing(values: dict[str, object], mm: float | None, source: str | None) -> None:
    found = pixel_spacing(header(values), "x")
    if mm is None:
        assert found is None
    else:
        assert found is not None and found.mm == pytest.approx(mm) and found.source == source


@pytest.mark.parametrize("values", [{"PixelSpacing": [0.1, 0.2]}, {"PixelAspectRatio": [1, 2]}])
def test_pixels_that_are_not_square_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ImageError, match="expected square"):
        pixel_spacing(header(values), "x")


@pytest.mark.parametrize(
    ("values", "side", "both", "contradictory"),
    [
        ({"ImageLaterality": "L"}, "left", False, False),
        ({"Laterality": "R"}, "right", False, False),
        ({"ImageLaterality": "B"}, None, True, False),
        ({"ImageLaterality": "U"}, None, False, False),
        ({"ImageLaterality": "L", "Laterality": "R"}, None, False, True),
        ({"ImageLaterality": "L", "SeriesDescription": "RT KNEE AP"}, None, False, True),
        ({"ImageLaterality": "L", "SeriesDescription": "Knees bilateral standing"}, "left", False, False),
        ({"ImageLaterality": "B", "SeriesDescription": "left knee"}, None, False, True),
        ({"BodyPartExamined": "KNEE_LEFT"}, "left", False, False),
        ({"BodyPartExamined": "LKNEE"}, None, False, False),
        ({"SeriesDescription": "L Knee"}, "left", False, False),
        ({"SeriesDescription": "Knie rechts a.p."}, "right", False, False),
        ({"ProtocolName": "Genou gauche"}, "left", False, False),
        ({"SeriesDescription": "R and L", "ProtocolName": "Both knees"}, None, True, False),
        ({"SeriesDescription": "left and right knee"}, None, True, False),
        ({"SeriesDescription": "left knee", "ProtocolName": "bilateral"}, None, False, True),
        ({"SeriesDescription": "upright"}, None, False, False),
        ({"StudyDescription": "left knee"}, None, False, False),
        ({}, None, False, False),
    ],
)
def test_side(values: dict[str, object], side: str | None, both: bool, contradictory: bool) -> None:
    found = laterality(header(values))
    assert (found.side, found.both, found.contradictory) == (side and Side(side), both, contradictory)


def test_the_regions_modifier_counts() -> None:
    made = again(content(dx(Side.RIGHT)))
    assert laterality(made).evidence == ("ImageLaterality right", "AnatomicRegionModifierSequence right")
    made.ImageLaterality = "L"
    assert laterality(made).contradictory


def test_evidence_quotes_nothing_of_the_file() -> None:
    found = laterality(header({"SeriesDescription": "left knee of Annegret Geheimnis"}))
    assert str(found) == "SeriesDescription left"
