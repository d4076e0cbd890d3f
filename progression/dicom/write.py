"""A prediction as DICOM objects of the film's own study: pictures, risks and a report, each in a new series.

These are the only outputs that carry patient data: they join the study by its patient and study modules. Nothing in
them is dated in the future; the day that a picture predicts is only told in words and as a horizon in months.
"""

from datetime import datetime
from io import BytesIO

import numpy as np
import numpy.typing as npt
from highdicom.sc import SCImage
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from progression import __version__
from progression.dicom.codes import PREDICTED_IMAGE, PREDICTION, scheme
from progression.dicom.parse import guarded
from progression.dicom.study import Study
from progression.types import Side

MANUFACTURER = "progression"
IMAGE_SERIES, RISK_SERIES, DOCUMENT_SERIES = 9001, 9002, 9003
"""Series numbers, far above those that a modality gives."""


def synthetic_image(
    study: Study,
    pixels: npt.NDArray[np.uint8],
    *,
    side: Side,
    horizon_months: int,
    number: int,
    series_uid: str,
    description: str,
) -> Dataset:
    """A Secondary Capture of a predicted follow-up.

    Parameters
    ----------
    study : what it joins.
    pixels : (H, W) grey, with the word SYNTHETIC already burned in.
    side, horizon_months : what it shows.
    number : within its series.
    series_uid : of the new series, the same for all horizons.
    description : how it was made, for Derivation Description; at most 1,024 characters.
    """
    image = SCImage(
        pixel_array=pixels,
        photometric_interpretation="MONOCHROME2",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # the film's own follows
        laterality=side.value[0].upper(),
        study_instance_uid=str(study.taken.StudyInstanceUID),
        series_instance_uid=series_uid,
        series_number=IMAGE_SERIES,
        series_description=f"SYNTHETIC prediction, {side} knee",
        sop_instance_uid=study.new_uid(),
        instance_number=number,
        manufacturer=MANUFACTURER,
        manufacturer_model_name="progression",
        software_versions=__version__,
        coding_schemes=[scheme()],
        transfer_syntax_uid=uid.ExplicitVRLittleEndian,
    )
    study.join(image)
    image.PatientOrientation = list(study.orientation)
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.ConversionType = "SYN"
    image.SyntheticData = "YES"
    image.BurnedInAnnotation = "YES"
    image.BodyPartExamined = "KNEE"
    image.ImageComments = (
        f"SYNTHETIC - prediction, {horizon_months} months. Not a radiograph. Not for diagnosis."
    )
    image.DerivationDescription = description
    image.DerivationCodeSequence = [PREDICTED_IMAGE]
    source = study.reference()
    source.PurposeOfReferenceCodeSequence = [_code(codes.DCM.SourceImageForImageProcessingOperation)]
    image.SourceImageSequence = [source]
    return image


def encapsulated_pdf(study: Study, pdf: bytes, *, side: Side, title: str) -> Dataset:
    """A PDF report as an object of the study."""
    document = Dataset()
    document.file_meta = FileMetaDataset()
    document.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    document.SOPClassUID = uid.EncapsulatedPDFStorage
    document.SOPInstanceUID = study.new_uid()
    document.SeriesInstanceUID = study.new_uid()
    document.SeriesNumber, document.InstanceNumber = DOCUMENT_SERIES, 1
    document.SeriesDescription = f"Prediction report, {side} knee"
    document.Modality, document.ConversionType = "DOC", "SYN"
    document.Manufacturer, document.ManufacturerModelName = MANUFACTURER, "progression"
    document.SoftwareVersions = __version__
    document.SyntheticData = "YES"
    now = datetime.now()
    document.ContentDate, document.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    document.InstanceCreationDate, document.InstanceCreationTime = document.ContentDate, document.ContentTime
    document.AcquisitionDateTime = None  # nothing was acquired
    document.BurnedInAnnotation = "NO"
    document.DocumentTitle = title
    document.ConceptNameCodeSequence = [PREDICTION]
    document.CodingSchemeIdentificationSequence = [scheme()]
    document.SourceInstanceSequence = [study.reference()]
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.EncapsulatedDocumentLength = len(pdf)
    document.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    study.join(document)
    return document


def file_bytes(made: Dataset, label: str) -> bytes:
    """An object as a DICOM file's bytes."""
    stream = BytesIO()
    with guarded(label):
        made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = (
        code.value,
        code.scheme_designator,
        code.meaning,
    )
    return item
