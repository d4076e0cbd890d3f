"""Codes for what DICOM has no code for: a private scheme, told in every object that uses it."""

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept

SCHEME = "99PROGRESSION"


def private(value: str, meaning: str) -> CodedConcept:
    """A concept of the private scheme."""
    return CodedConcept(value=value, scheme_designator=SCHEME, meaning=meaning)


RISE_BY_TWO = private("RISK-KL-RISE-2", "Probability that the Kellgren-Lawrence grade rises by 2 or more")
RISE_BY_ONE = private("RISK-KL-RISE-1", "Probability that the Kellgren-Lawrence grade rises by 1 or more")
BOUNDS_BY_TWO, BOUNDS_BY_ONE = (
    tuple(
        private(f"RISK-KL-{step}-{short}", f"{which} end of the 90 % interval of P(rise by {step} or more)")
        for short, which in (("LOW", "Lower"), ("HIGH", "Upper"))
    )
    for step in (2, 1)
)
HORIZON = private("HORIZON", "Time from the radiograph to which the prediction refers")
TYPICALITY = private("TYPICALITY", "How like the training radiographs the radiograph is, 0 to 1")
GRADE_READ = private("KL-READ", "Kellgren-Lawrence grade that a reader gave the radiograph")
GRADES = tuple(private(f"KL-{grade}", f"Kellgren-Lawrence grade {grade}") for grade in range(5))
OTHER_KNEE = private("OTHER-KNEE", "Whether the other knee had a part in the risks")
PREDICTION = private("PREDICTION", "Prediction of osteoarthritis progression")
PREDICTED_IMAGE = private("PREDICTED-IMAGE", "Synthetic image that predicts a later state")
RADIOGRAPHY = private("KNEE-RADIOGRAPHY", "Radiography of the knee")


def scheme() -> CodingSchemeIdentificationItem:
    """What the private scheme is."""
    return CodingSchemeIdentificationItem(
        designator=SCHEME,
        name="progression: predicted osteoarthritis",
        version="1",
        responsible_organization="progression",
    )
