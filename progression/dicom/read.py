"""A DICOM file to a film: grey as displayed, spacing, side, and what its header warns of.

CR, DX (For Presentation) and Secondary Capture, one frame. What cannot be a knee's radiograph is refused by name.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import FileDataset

from progression.dicom.characters import settle
from progression.dicom.decode import NATIVE, stored_values
from progression.dicom.grey import display_notes, to_grey
from progression.dicom.laterality import Laterality, laterality, side_notes
from progression.dicom.parse import guarded, parse
from progression.dicom.spacing import Spacing, pixel_spacing
from progression.dicom.study import TAKEN
from progression.dicom.subject import subject_notes
from progression.dicom.values import DECIMAL_COMMA, first, folded, needed, not_denied, term, whole, with_comma
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
_INTERPRETATIONS = {  # one spelling each, which the decoders know
    folded(name): name
    for name in (
        "MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"
    )
}  # fmt: skip
_GREY = ("MONOCHROME1", "MONOCHROME2")
_OTHER_MODALITIES = ("CT", "MR", "US", "NM", "PT", "ES", "XC", "ECG", "SR", "DOC")
"""Of which a Secondary Capture is no radiograph: pages, tables of doses, slices."""
_DECIMALS = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "PixelSpacing", "ImagerPixelSpacing",
             "NominalScannedPixelSpacing", "EstimatedRadiographicMagnificationFactor", "DistanceSourceToDetector",
             "DistanceSourceToPatient")  # fmt: skip


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
        data.PhotometricInterpretation = _INTERPRETATIONS[term(data, "PhotometricInterpretation", label)]
        check_bits(data, label)
        stored = stored_values(data, label)
        return Film(stored if stored.ndim == 3 else to_grey(stored, data, label), header)


def read_header(content: bytes, label: str) -> Header:
    """What a film's header says, without unpacking its pixels; raises as `read_film`."""
    data = parse(content, label)
    with guarded(label):
        return header_of(data, label)


def header_of(data: FileDataset, label: str) -> Header:
    """`read_header` of a data set; inside `guarded`."""
    characters = settle(data, TAKEN)
    _check_kind(data, label)
    notes = [*subject_notes(data, label), *_notes(data, label), *([characters] if characters else [])]
    return Header(
        laterality=laterality(data),
        spacing=pixel_spacing(data, label),
        rows=needed(data, "Rows", label),
        columns=needed(data, "Columns", label),
        notes=tuple(notes),
        mirrored=first(data, "PatientOrientation").strip("['").upper().startswith("R"),
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
    if not_denied(data, "SyntheticData"):
        raise NotARadiographError(f"{label}: synthetic; nothing is predicted from a prediction")
    if kind == uid.SecondaryCaptureImageStorage and term(data, "Modality", label) in _OTHER_MODALITIES:
        raise NotARadiographError(f"{label}: Secondary Capture of another modality; expected a radiograph")
    frames = whole(data, "NumberOfFrames", label) or 1
    if kind in _MULTI_FRAME or frames != 1:
        raise ImageError(
            f"{label}: {frames} frames; expected one radiograph; export the one frame that shows the knee"
        )
    if kind == DX_FOR_PROCESSING or term(data, "PresentationIntentType", label) == "FORPROCESSING":
        raise ImageError(f"{label}: For Processing: raw detector values; expected the image For Presentation")
    if kind not in ACCEPTED:
        raise ImageError(f"{label}: no known kind of image; expected CR, DX or Secondary Capture")
    interpretation = _INTERPRETATIONS.get(term(data, "PhotometricInterpretation", label))
    if interpretation is None:
        raise ImageError(f"{label}: not grey; expected MONOCHROME1 or MONOCHROME2; export the film again")
    samples = whole(data, "SamplesPerPixel", label) or 1
    if (samples == 1) != (interpretation in _GREY):
        raise ImageError(
            f"{label}: {samples} samples a pixel with {interpretation}, which contradict each other; correct the header"
        )


def check_bits(data: FileDataset, label: str) -> None:
    """ImageError unless the stored bits lie where the header says, in the only place that the standard has for them."""
    allocated, stored, high = (needed(data, key, label) for key in ("BitsAllocated", "BitsStored", "HighBit"))
    if 1 <= stored <= allocated and high != stored - 1:
        raise ImageError(
            f"{label}: High Bit {high} with {stored} bits stored; expected {stored - 1}; export the film again"
        )
    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax not in NATIVE or allocated not in (8, 16) or stored >= allocated or "PixelData" not in data:
        return
    kind = f"{'<' if uid.UID(syntax).is_little_endian else '>'}u{allocated // 8}"
    words = np.frombuffer(data.PixelData, kind, count=len(data.PixelData) * 8 // allocated)
    signed = whole(data, "PixelRepresentation", label) == 1
    # unused bits are zero, or the sign's
    beyond = (
        (words.view(words.dtype.str.replace("u", "i")) + 2 ** (stored - 1)).view(kind) if signed else words
    )
    if int(words.max(initial=0)) >> stored and int(beyond.max(initial=0)) >> stored:
        raise ImageError(
            f"{label}: values wider than the {stored} bits that it says are stored; export the film again"
        )


def _notes(data: FileDataset, label: str) -> list[str]:
    found = [*display_notes(data, label), *side_notes(data)]
    if first(data, "LossyImageCompression") not in ("", "00", "0"):
        found.append("the film was compressed with loss")
    if not_denied(data, "BurnedInAnnotation"):
        found.append("the film has text burned into its pixels, which may name the patient")
    if with_comma(data, _DECIMALS):
        found.append(DECIMAL_COMMA)
    return found
