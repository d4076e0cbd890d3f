"""Which object a DICOM file holds, told by its UIDs; nothing of its patient."""

import re
from dataclasses import dataclass
from hashlib import sha256

from pydicom import uid

from progression.dicom.parse import guarded, parse
from progression.dicom.read import ACCEPTED
from progression.dicom.values import not_denied, one
from progression.errors import ImageError

_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID")
_LONGEST_UID = 64


@dataclass(frozen=True)
class Identity:
    """UIDs of an object, and whether it says that it is synthetic."""

    sop_class: str
    sop_instance: str
    study: str
    synthetic: bool

    @property
    def is_film(self) -> bool:
        """Whether it is of a kind that can be a radiograph: CR, DX For Presentation, Secondary Capture."""
        return self.sop_class in ACCEPTED


def identify(content: bytes, label: str) -> Identity:
    """Read a file's UIDs.

    Raises
    ------
    ImageError
        If it is damaged, or a UID is missing or none.
    """
    data = parse(content, label)
    with guarded(label):
        values = [one(data, name, label) for name in _UIDS]
        for name, value in zip(_UIDS, values, strict=True):
            if not is_uid(value):
                raise ImageError(f"{label}: its {name} is missing or none; export the object again")
        return Identity(values[0], values[1], values[2], synthetic=not_denied(data, "SyntheticData"))


def is_uid(value: str) -> bool:
    """Whether a text is a UID (PS3.5, 9.1)."""
    return len(value) <= _LONGEST_UID and re.fullmatch(uid.RE_VALID_UID, value) is not None


def short_digest(value: str) -> str:
    """16 hexadecimal digits that stand for a UID in names of files and in messages."""
    return sha256(value.encode()).hexdigest()[:16]
