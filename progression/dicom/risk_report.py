"""Risks as a Comprehensive SR after TID 1500: one group of measurements a horizon."""

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from progression import __version__
from progression.dicom.codes import (
    BOUNDS_BY_ONE,
    BOUNDS_BY_TWO,
    GRADE_READ,
    GRADES,
    HORIZON,
    OTHER_KNEE,
    PREDICTION,
    RADIOGRAPHY,
    RISE_BY_ONE,
    RISE_BY_TWO,
    TYPICALITY,
    scheme,
)
from progression.dicom.study import Study
from progression.dicom.write import MANUFACTURER, RISK_SERIES
from progression.types import HorizonPrediction, Prediction, Side

UNITY = CodedConcept(value="1", scheme_designator="UCUM", meaning="no units")
MONTHS = CodedConcept(value="mo", scheme_designator="UCUM", meaning="month")
_LATERALITY = {Side.LEFT: codes.SCT.Left, Side.RIGHT: codes.SCT.Right}


def risk_report(
    study: Study,
    prediction: Prediction,
    *,
    parameters: tuple[str, ...] = (),
    comments: tuple[str, ...] = (),
) -> Dataset:
    """The risks of a prediction, and what they were asked with.

    Parameters
    ----------
    study : what it joins.
    prediction : its horizons' risks and the typicality are told; its pictures are not.
    parameters : of the algorithm, one text each.
    comments : to every horizon's risks, such as warnings, one text each.

    Returns
    -------
    A Comprehensive SR, complete, not verified: nobody has read it.
    """
    observer = ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=study.new_uid(),
            name="progression",
            manufacturer_name=MANUFACTURER,
            model_name=f"progression {__version__}",
        ),
    )
    report = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=RADIOGRAPHY,
        title=codes.DCM.ImagingMeasurementReport,
        imaging_measurements=[
            _group(study, prediction, horizon, parameters, comments) for horizon in prediction.horizons
        ],
    )
    made = ComprehensiveSR(
        evidence=[study.evidence()],
        content=report,
        series_instance_uid=study.new_uid(),
        series_number=RISK_SERIES,
        series_description=f"Predicted risk, {prediction.side} knee",
        sop_instance_uid=study.new_uid(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name="progression",
        software_versions=__version__,
        is_complete=True,
        coding_schemes=[scheme()],
        specific_character_set="ISO_IR 192",
    )
    study.join(made)
    return made


def _group(
    study: Study,
    prediction: Prediction,
    horizon: HorizonPrediction,
    parameters: tuple[str, ...],
    comments: tuple[str, ...],
) -> MeasurementsAndQualitativeEvaluations:
    months = horizon.horizon_months
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=study.new_uid(), identifier=f"{prediction.side} knee, {months} months"
        ),
        finding_type=PREDICTION,
        finding_sites=[
            FindingSite(anatomic_location=codes.SCT.KneeJoint, laterality=_LATERALITY[prediction.side])
        ],
        algorithm_id=AlgorithmIdentification(
            name="progression", version=__version__, parameters=list(parameters) or None
        ),
        source_images=[SourceImageForMeasurementGroup(*study.film[:2])],
        measurements=[
            Measurement(name=HORIZON, value=months, unit=MONTHS),
            *_risk(RISE_BY_TWO, horizon.risk_fast, BOUNDS_BY_TWO, horizon.risk_fast_interval),
            *_risk(RISE_BY_ONE, horizon.risk_any, BOUNDS_BY_ONE, horizon.risk_any_interval),
            Measurement(name=TYPICALITY, value=round(prediction.typicality, 6), unit=UNITY),
        ],
        qualitative_evaluations=_asked_with(prediction),
    )
    # in each group, so that nobody takes the risks without them
    group[0].ContentSequence.extend(
        TextContentItem(name=codes.DCM.Comment, value=text, relationship_type=RelationshipTypeValues.CONTAINS)
        for text in comments
    )
    return group


def _asked_with(prediction: Prediction) -> list[QualitativeEvaluation]:
    """The grade that a reader gave, if one did, and whether the other knee had a part."""
    read = prediction.provenance.get("grade_read")
    seen = codes.SCT.Yes if prediction.other_knee else codes.SCT.No
    told = [] if read is None else [QualitativeEvaluation(name=GRADE_READ, value=GRADES[read])]
    return [*told, QualitativeEvaluation(name=OTHER_KNEE, value=seen)]


def _risk(
    name: CodedConcept, risk: float, bounds: tuple[CodedConcept, ...], interval: tuple[float, float] | None
) -> list[Measurement]:
    """A risk, and the bounds of its interval where it has one."""
    told = [(name, risk), *zip(bounds, interval or (), strict=interval is not None)]
    return [Measurement(name=concept, value=round(value, 6), unit=UNITY) for concept, value in told]
