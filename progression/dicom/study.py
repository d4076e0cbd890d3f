"""What an object that returns to a film's study takes over from it: patient, study, and the film as its source."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.valuerep import PersonName

from progression.dicom.characters import settle
from progression.dicom.naming import Known
from progression.dicom.parse import guarded, parse
from progression.dicom.values import first
from progression.errors import ImageError, OutputError, UsageError

CHARACTER_SET = "ISO_IR 192"
"""UTF-8, whatever the source is in: every name can be written in it."""
_REQUIRED = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
             "ReferringPhysicianName", "StudyID", "AccessionNumber")  # fmt: skip
"""Type 2 attributes of the Patient and General Study modules: present, maybe empty (PS3.3, C.7.1.1 and C.7.2.1)."""
TAKEN = (
    *_REQUIRED,
    # Patient (C.7.1.1)
    "IssuerOfPatientID", "TypeOfPatientID", "OtherPatientIDsSequence", "PatientBirthTime", "OtherPatientNames",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    # Clinical Trial Subject and Study (C.7.1.3, C.7.2.3)
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID",
    # General Study (C.7.2.1), Patient Study (C.7.2.2)
    "StudyInstanceUID", "StudyDescription", "IssuerOfAccessionNumberSequence", "PatientAge", "PatientSize",
    "PatientWeight", "LongitudinalTemporalInformationModified",
)  # fmt: skip
_AFTER_THE_PATIENT = 0x00110000
"""Of a header that ends before this tag, the patient may be what was lost."""
_ROOT = re.compile(r"[012](\.(0|[1-9]\d*))+")
_LONGEST_ROOT = 40


@dataclass(frozen=True)
class Study:
    """A film's study, for objects that join it.

    Attributes
    ----------
    taken : patient and study attributes, in UTF-8
    film : SOP Class, SOP Instance and Series Instance UID of the film, the source of whatever is derived from it
    orientation : Patient Orientation of the film's rows and columns; empty if it does not say
    uids : those of the new objects, one after the other (`uid_stream`)
    """

    taken: Dataset
    film: tuple[str, str, str]
    orientation: tuple[str, ...]
    uids: Iterator[str] = field(default_factory=lambda: uid_stream(), compare=False, repr=False)

    @classmethod
    def of(
        cls, content: bytes, *, label: str, uid_root: str | None = None, uid_seed: str | None = None
    ) -> "Study":
        """Read a film's study from its file's bytes; root and seed are those of `uid_stream`.

        Raises
        ------
        ImageError
            If it is damaged.
        OutputError
            If it lacks the UIDs by which an object could refer to it.
        UsageError
            If `uid_root` is none.
        """
        check_root(uid_root)
        data = parse(content, label)
        with guarded(label):
            settle(data, TAKEN)
            names = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
            uids = [uid.UID(str(data.get(name) or "")) for name in names]
            for name, value in zip(names, uids, strict=True):
                if not value.is_valid:
                    raise OutputError(
                        f"{label}: its {name} is missing or none; expected one, to return to its study"
                    )
            taken = copied(data, TAKEN)
            for name in _REQUIRED:
                if name not in taken:
                    setattr(taken, name, None)
            orientation = data.get("PatientOrientation")
            known = orientation if isinstance(orientation, MultiValue) and len(orientation) == 2 else ()
            codes = tuple(str(one) for one in known)
            if not all(re.fullmatch(r"[ALRPHF]{1,3}", code) for code in codes):
                codes = ()
            return cls(
                taken, (str(uids[0]), str(uids[1]), str(uids[2])), codes, uid_stream(uid_root, uid_seed)
            )

    def new_uid(self) -> str:
        """The next of `uids`."""
        return next(self.uids)

    def join(self, made: Dataset) -> None:
        """Give a new object this study's patient and study attributes."""
        made.SpecificCharacterSet = CHARACTER_SET
        made.update(self.taken)

    def evidence(self) -> Dataset:
        """The film as other objects refer to it: its UIDs. Patient and study come by `join`, which takes any value."""
        film = Dataset()
        for name in _REQUIRED:
            setattr(film, name, None)
        film.StudyInstanceUID = self.taken.StudyInstanceUID
        film.SOPClassUID, film.SOPInstanceUID, film.SeriesInstanceUID = self.film
        return film

    def reference(self) -> Dataset:
        """An item that refers to the film (PS3.3, 10.3)."""
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = self.film[:2]
        return item


def neutral_name_of(content: bytes, name: str, label: str) -> str:
    """`name` unless it holds what identifies the patient; else knee- and a digest of the image's UID.

    Of a file that cannot be read it is not known what does, and its name is not kept either.
    """
    try:
        data = parse(content, label)
        with guarded(label):
            return neutral(data, name, film=content)
    except ImageError:
        return made_up(content)


def neutral(data: Dataset, name: str, *, film: bytes) -> str:
    """`neutral_name_of` of a data set; `film` makes up for a UID that is missing. Inside `guarded`."""
    settle(data, TAKEN)
    is_whole = len(data[_AFTER_THE_PATIENT:]) > 0
    if is_whole and not Known.of(data).is_in(name):
        return name
    return made_up(first(data, "SOPInstanceUID").encode() or film)


def made_up(film: bytes) -> str:
    """A name from the bytes that stand for a film."""
    return f"knee-{sha256(film).hexdigest()[:8]}"


def uid_stream(root: str | None = None, seed: str | None = None) -> Iterator[str]:
    """UIDs under a root (None: 2.25, PS3.5 B.2): never used before, or, with a seed, the same ones at every run."""
    for number in count():
        if root is not None:
            sources = None if seed is None else [seed, str(number)]
            yield str(uid.generate_uid(f"{root}.", entropy_srcs=sources))
        elif seed is not None:
            yield f"2.25.{int.from_bytes(sha256(f'{seed}/{number}'.encode()).digest()[:16])}"
        else:
            yield str(uid.generate_uid(None))


def check_root(root: str | None) -> None:
    """UsageError unless this can be the root of UIDs (PS3.5, 9.1), with room for a number under it."""
    if root is not None and not (_ROOT.fullmatch(root) and len(root) <= _LONGEST_ROOT):
        raise UsageError(
            f"UID root {root!r}: expected numbers with dots, up to {_LONGEST_ROOT} characters (1.2.40.0.34)"
        )


def copied(data: Dataset, keywords: Iterable[str]) -> Dataset:
    """A copy of some attributes as text and numbers, free of the character set in which they were written."""
    made = Dataset()
    for keyword in keywords:
        if keyword in data:
            setattr(made, keyword, _plain(data[keyword].value))
    return made


def _plain(value: object) -> object:
    if isinstance(value, Sequence):
        return Sequence([copied(item, [e.keyword for e in item if e.keyword]) for item in value])
    if isinstance(value, MultiValue):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, str | PersonName) else value
