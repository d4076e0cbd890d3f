"""DICOM films of nobody, for trying and testing: a synthetic knee as a DX, and twice in a bilateral CR film."""

from datetime import date

import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from progression.errors import UsageError
from progression.types import FIELD_MM, Pixels, Side

FILM_MM = (420, 300)
"""Width and height of the bilateral film."""
FADING_MM = 30
CENTRES_MM = {Side.RIGHT: (117, 150), Side.LEFT: (303, 150)}
"""Joint centres in it; the right knee is at the viewer's left."""
SPACING_MM = 0.375
_LETTERS = {Side.LEFT: "L", Side.RIGHT: "R"}


def knee_film(knee: Pixels, *, side: Side, spacing_mm: float = FIELD_MM / 448, bits: int = 12) -> Dataset:
    """One knee as DX For Presentation, bone bright, MONOCHROME2 with a window over all values."""
    side_pixels = round(FIELD_MM / spacing_mm)
    return dx(_resized(knee, side_pixels), side=side, spacing_mm=spacing_mm, bits=bits)


def bilateral_film(right_knee: Pixels, *, bits: int = 12) -> Dataset:
    """A right knee and its mirror image on one film, MONOCHROME1, uncalibrated spacing at the detector."""
    width, height = (round(mm / SPACING_MM) for mm in FILM_MM)
    film = np.zeros((height, width), np.float32)
    knee = _faded(_resized(right_knee, round(FIELD_MM / SPACING_MM)), margin=round(FADING_MM / SPACING_MM))
    size = len(knee)
    for side, (x, y) in CENTRES_MM.items():
        left, top = round(x / SPACING_MM - size / 2), round(y / SPACING_MM - size / 2)
        film[top : top + size, left : left + size] = knee if side is Side.RIGHT else knee[:, ::-1]
    made = cr(film, spacing_mm=SPACING_MM, bits=bits, inverted=True)
    made.BodyPartExamined, made.SeriesDescription = "KNEE", "Both knees, standing, PA"
    return made


def centre_px(side: Side) -> tuple[int, int]:
    """Where a knee's joint centre lies in the bilateral film, pixels."""
    x, y = CENTRES_MM[side]
    return round(x / SPACING_MM), round(y / SPACING_MM)


def dx(
    pixels: Pixels, *, side: Side | None, spacing_mm: float | None, bits: int = 12, inverted: bool = False
) -> Dataset:
    """A Digital X-Ray image For Presentation (PS3.3, A.26) with every attribute that it must have.

    Parameters
    ----------
    pixels : (H, W) in [0, 1], bone bright.
    side : None for Image Laterality B (both).
    spacing_mm : at the detector.
    bits : stored, 8 to 16.
    inverted : store low values for bright (MONOCHROME1 and Presentation LUT Shape INVERSE).
    """
    made = _film(pixels, uid.DigitalXRayImageStorageForPresentation, "DX", bits=bits, inverted=inverted)
    made.ImageType = ["ORIGINAL", "PRIMARY", ""]
    made.PresentationIntentType = "FOR PRESENTATION"
    made.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    made.ImageLaterality = _LETTERS[side] if side else "B"
    made.BodyPartExamined, made.ViewPosition = "KNEE", "PA"
    made.PatientOrientation = ["L", "F"]
    if spacing_mm is not None:
        made.ImagerPixelSpacing = [spacing_mm, spacing_mm]
    made.PixelIntensityRelationship, made.PixelIntensityRelationshipSign = "LOG", -1 if not inverted else 1
    made.RescaleIntercept, made.RescaleSlope, made.RescaleType = 0, 1, "US"
    made.BurnedInAnnotation, made.LossyImageCompression = "NO", "00"
    made.WindowCenter, made.WindowWidth = 2 ** (bits - 1), 2**bits
    made.AcquisitionContextSequence = []
    made.DetectorType, made.PositionerType = "DIRECT", None
    region = _code("49076000", "SCT", "Knee joint")
    region.AnatomicRegionModifierSequence = []
    if side is not None:
        name, number = {Side.LEFT: ("Left", "7771000"), Side.RIGHT: ("Right", "24028007")}[side]
        region.AnatomicRegionModifierSequence = [_code(number, "SCT", name)]
    made.AnatomicRegionSequence = [region]
    return made


def cr(pixels: Pixels, *, spacing_mm: float | None, bits: int = 12, inverted: bool = False) -> Dataset:
    """A Computed Radiography image (PS3.3, A.2); parameters as `dx`. It says nothing of the side."""
    made = _film(pixels, uid.ComputedRadiographyImageStorage, "CR", bits=bits, inverted=inverted)
    made.ImageType = ["ORIGINAL", "PRIMARY"]
    made.BodyPartExamined, made.ViewPosition, made.Laterality = "KNEE", "PA", None
    made.PatientOrientation = ["L", "F"]
    if spacing_mm is not None:
        made.ImagerPixelSpacing = [spacing_mm, spacing_mm]
    return made


def sc(pixels: Pixels, *, bits: int = 8, inverted: bool = False) -> Dataset:
    """A Secondary Capture image (PS3.3, A.8): no side, no spacing."""
    made = _film(pixels, uid.SecondaryCaptureImageStorage, "OT", bits=bits, inverted=inverted)
    made.ImageType, made.ConversionType = ["DERIVED", "SECONDARY"], "DF"
    made.PatientOrientation = made.Laterality = None
    return made


def _film(pixels: Pixels, kind: uid.UID, modality: str, *, bits: int, inverted: bool) -> Dataset:
    if not 8 <= bits <= 16:
        raise UsageError(f"{bits} bits: expected 8 to 16")
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID, made.SOPInstanceUID = kind, uid.generate_uid(None)
    made.StudyInstanceUID, made.SeriesInstanceUID = uid.generate_uid(None), uid.generate_uid(None)
    made.PatientName, made.PatientID = "Phantom^Nobody", "PHANTOM-1"
    made.PatientBirthDate, made.PatientSex, made.PatientAge = "19600401", "O", "066Y"
    made.StudyDate = made.SeriesDate = made.ContentDate = made.AcquisitionDate = date(2026, 5, 4).strftime(
        "%Y%m%d"
    )
    made.StudyTime = made.ContentTime = made.AcquisitionTime = "101500"
    made.StudyID, made.AccessionNumber, made.ReferringPhysicianName = "1", "A-0001", "Nobody^Doctor"
    made.StudyDescription = "Phantom knees"
    made.Modality, made.SeriesNumber, made.InstanceNumber = modality, 1, 1
    made.Manufacturer = "progression"
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME1" if inverted else "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = 8 if bits == 8 else 16, bits, bits - 1
    made.PixelRepresentation = 0
    shown = 1 - pixels if inverted else pixels
    stored = np.round(np.clip(shown, 0, 1) * (2**bits - 1)).astype("<u1" if bits == 8 else "<u2")
    content = stored.tobytes()
    made.PixelData = content + b"\0" * (len(content) % 2)
    made["PixelData"].VR = "OB" if bits == 8 else "OW"
    return made


def _resized(pixels: Pixels, size: int) -> Pixels:
    picture = Image.fromarray(np.asarray(pixels, np.float32))
    return np.clip(np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)), 0, 1)


def _faded(knee: Pixels, *, margin: int) -> Pixels:
    """A knee within a margin in which its edges go on and fade into the film."""
    wide = np.pad(knee, margin, mode="edge")
    steps = np.minimum(np.arange(len(wide)), np.arange(len(wide))[::-1])
    ramp = np.clip(steps / margin, 0, 1).astype(np.float32)
    return wide * np.minimum.outer(ramp, ramp)


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
