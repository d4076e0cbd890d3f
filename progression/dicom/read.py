"""A DICOM file to a film: grey as displayed, spacing, side, and what its header warns of.

CR, DX (For Presentation) and Secondary Capture, one frame. What cannot be a knee's radiograph is refused by name.
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import FileDataset

from progression.dicom.decode import stored_values
from progression.dicom.grey import polarity_contradicts, to_grey
from progression.dicom.laterality import Laterality, laterality
from progression.dicom.parse import guarded, parse, text
from progression.dicom.spacing import Spacing, pixel_spacing
from progression.errors import ImageError, NotARadiographError

DX_FOR_PROCESSING = uid.DigitalXRayImageStorageForProcessing
ACCEPTED = {
    uid.ComputedRadiographyImageStorage: "CR",
    uid.DigitalXRayImageStorageForPresentation: "DX",
    uid.SecondaryCaptureImageStorage: "SC",
}
_MULTI_FRAME = frozenset(
    {
        uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
        uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
    }
)
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_KNEE = re.compile(r"KNEE|KNIE|PATELL|GENOU|RODILLA|GINOCCHIO|EXTREMITY|LEG\b|JOINT")
_OTHER_MODALITIES = ("CT", "MR", "US", "NM", "PT", "ES", "XC", "ECG", "SR", "DOC")
"""Of which a Secondary Capture is no radiograph: pages, tables of doses, slices."""
_LATERAL_VIEWS = ("LL", "RL", "LLD", "RLD", "LLO", "RLO", "LATERAL", "LAT", "ML", "LM")


@dataclass(frozen=True, eq=False)
class Film:
    """One radiograph as a viewer shows it.

    Attributes
    ----------
    values : (H, W) float32 in [0, 1] with bright bone; or (H, W, 3) unsigned integers, of a colour capture
    header : what its header says
    """

    values: npt.NDArray[np.generic]
    header: "Header"


@dataclass(frozen=True)
class Header:
    """What a header says: sides, spacing in the plane of the knee (None if absent), lines to warn of.

    `mirrored` if rows run to the patient's right (Patient Orientation), against the convention.
    """

    laterality: Laterality
    spacing: Spacing | None
    rows: int
    columns: int
    notes: tuple[str, ...]
    mirrored: bool = False


def read_film(content: bytes, label: str) -> Film:
    """Read one radiograph from a DICOM file's bytes; the last one is kept, and unpacked once.

    Raises
    ------
    NotARadiographError
        For another kind of object, and for what is synthetic.
    ImageError
        For several frames, an image For Processing, another part of the body, a lateral view, a palette, over 40
        megapixels, and for whatever is damaged.
    DependencyError
        If its pixels are compressed in a way that needs the extra `dicom`.
    """
    film = _unpacked(content, label)
    return replace(film, values=film.values.copy())


@lru_cache(maxsize=1)  # a film is read to find its knees, and again to cut each of them
def _unpacked(content: bytes, label: str) -> Film:
    data = parse(content, label)
    with guarded(label):
        header = header_of(data, label)
        stored = stored_values(data, label)
        return Film(stored if stored.ndim == 3 else to_grey(stored, data, label), header)


def read_header(content: bytes, label: str) -> Header:
    """What a film's header says, without unpacking its pixels; raises as `read_film`."""
    data = parse(content, label)
    with guarded(label):
        return header_of(data, label)


def header_of(data: FileDataset, label: str) -> Header:
    """`read_header` of a data set; inside `guarded`."""
    _check_kind(data, label)
    return Header(
        laterality=laterality(data),
        spacing=pixel_spacing(data, label),
        rows=int(data.Rows),
        columns=int(data.Columns),
        notes=_notes(data),
        mirrored=text(data, "PatientOrientation").strip("['").upper().startswith("R"),
    )


def _check_kind(data: FileDataset, label: str) -> None:
    """ImageError unless this is a single-frame radiograph for presentation, of a knee if it says of what."""
    kind = data.get("SOPClassUID")
    if (
        isinstance(kind, uid.UID)
        and kind.is_valid
        and kind not in {*ACCEPTED, *_MULTI_FRAME, DX_FOR_PROCESSING}
    ):
        known = kind.name if kind.name != kind else "no known kind of image"
        raise NotARadiographError(f"{label}: {known}; expected CR, DX or Secondary Capture")
    if text(data, "SyntheticData") == "YES":
        raise NotARadiographError(f"{label}: synthetic; nothing is predicted from a prediction")
    if kind == uid.SecondaryCaptureImageStorage and text(data, "Modality") in _OTHER_MODALITIES:
        raise NotARadiographError(f"{label}: Secondary Capture of another modality; expected a radiograph")
    frames = int(text(data, "NumberOfFrames") or 1)
    if kind in _MULTI_FRAME or frames != 1:
        raise ImageError(
            f"{label}: {frames} frames; expected one radiograph; export the one frame that shows the knee"
        )
    if kind == DX_FOR_PROCESSING or text(data, "PresentationIntentType") == "FOR PROCESSING":
        raise ImageError(f"{label}: For Processing: raw detector values; expected the image For Presentation")
    if kind not in ACCEPTED:
        raise ImageError(f"{label}: no known kind of image; expected CR, DX or Secondary Capture")
    interpretation = text(data, "PhotometricInterpretation")
    if not (interpretation in ("MONOCHROME1", "MONOCHROME2") or interpretation in _COLOUR):
        raise ImageError(f"{label}: not grey; expected MONOCHROME1 or MONOCHROME2; export the film again")
    part = text(data, "BodyPartExamined").upper()
    if part and not _KNEE.search(part):
        raise ImageError(
            f"{label}: its Body Part Examined is not a knee; if that is wrong, correct it or export a PNG"
        )
    if text(data, "ViewPosition").upper() in _LATERAL_VIEWS:
        raise ImageError(f"{label}: its View Position is lateral; expected PA or AP; if wrong, correct it")


def _notes(data: FileDataset) -> tuple[str, ...]:
    found = []
    if text(data, "LossyImageCompression") == "01":
        found.append("the film was compressed with loss")
    if text(data, "BurnedInAnnotation") == "YES":
        found.append("the film has text burned into its pixels, which may name the patient")
    if polarity_contradicts(data):
        found.append("the header contradicts itself about which values are white")
    return tuple(found)
