"""De-identification of radiographs by the Basic Application Confidentiality Profile (PS3.15, Annex E).

`basic_profile.csv` is Table E.1-1 of edition 2026d, column "Basic Prof.". Where it leaves a choice, what keeps the
object valid is taken: X/Z is emptied, X/D, Z/D and X/Z/D get a dummy, X/Z/U* keeps its references under new UIDs.

What the table does not list is kept only if it is known, of the type that the standard has for it, and harmless:

| not listed | |
|---|---|
| private, retired and unknown attributes, curves, overlays, file meta information | removed |
| names, dates, times, addresses on the web, entities, free texts, bytes other than pixels and LUTs | removed |
| short texts and codes | kept unless they hold anyone's name, number or date of birth, or a date |
| numbers | kept if they are numbers, and none of the patient's |
| UIDs | kept if the standard has them, else replaced |
| sequences | kept, with what is left of their items |

| on top of that | |
|---|---|
| Patient ID, Patient's Name | a pseudonym, the same for all films of a patient under one key; of a film that does not |
| | say whose it is (`progression.dicom.person`), the same within its study, or for itself alone |
| dates, on request (Retain Longitudinal Temporal | moved into the past, by the same 1 to 3,650 days for all films |
| Information With Modified Dates Option) | of a patient; times are kept; birth dates go, and what is no whole date |
| pixel data | the picture alone: no comments and thumbnails in compressed frames, no bytes after it |
| text burned into pixels | not looked for; a film that does not deny that it has some is refused |

New UIDs and pseudonyms are keyed digests (HMAC-SHA-256): consistent over files and runs with one key, and not to be
traced back without it.
"""

import csv
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

from pydicom import uid
from pydicom.datadict import dictionary_has_tag, dictionary_is_retired, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue

from progression.dicom.characters import settle
from progression.dicom.lut import Lut
from progression.dicom.naming import Known
from progression.dicom.parse import guarded, parse
from progression.dicom.person import person_of
from progression.dicom.pixel_bytes import only_pixels
from progression.dicom.read import ACCEPTED, DX_FOR_PROCESSING
from progression.dicom.study import CHARACTER_SET
from progression.dicom.values import elements, first, folded, not_denied
from progression.dicom.write import file_bytes
from progression.errors import ImageError

EDITION = "2026d"
KEY_BYTES = 32
_LONGEST_SHIFT_DAYS = 3650
_BIRTH = (0x00100030, 0x00100032)
"""Date and time of birth: never kept, moved or not."""
_CALENDARS = (0x00100033, 0x00100034, 0x00100035)
"""Dates of birth and death in another calendar, and which; the table does not list them."""
_REMOVED_KINDS = frozenset(
    {"AE", "DA", "DT", "LT", "OB", "OD", "OF", "OL", "OV", "OW", "PN", "ST", "TM", "UC", "UN", "UR", "UT"}
)
_LUT_DATA = 0x00283006
_PIXEL_DATA = 0x7FE00010
_SHORTEST_SECRET = 6
"""Digits of a number of which one may think that it is a person's."""
_CODE = re.compile(r"[A-Za-z0-9 _.\-]{0,16}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", re.ASCII)
_DATE = re.compile(r"\d{8}", re.ASCII)
_ZONE = re.compile(r"[+-](0\d|1[0-4])[0-5]\d", re.ASCII)
_DATED = re.compile(
    r"(?<!\d)(?:1[89]|20)\d\d[-./ ]?(?:0?[1-9]|1[0-2])[-./ ]?(?:[12]\d|3[01]|0?[1-9])(?!\d)"
    r"|(?<!\d)\d{1,2}[-./ ]\d{1,2}[-./ ](?:\d{4}|\d{2})(?!\d)"
    r"|(?<!\d)\d{4}(?:1[89]|20)\d\d(?!\d)"
    r"|\d\W{0,2}(?:jan|feb|fév|mar|mär|apr|avr|ma[iy]|jun|jui|jul|aug|ao[uû]|sep|o[ck]t|nov|de[cz])[a-zéû]*\W{0,2}\d",
    re.IGNORECASE,
)
_DUMMY: dict[str, object] = {
    "DA": "19000101", "DT": "19000101", "TM": "000000", "AS": "000Y", "PN": "Removed", "UR": "http://removed.invalid",
    "DS": "0", "IS": "0", "US": 0, "UL": 0, "SS": 0, "SL": 0, "FL": 0.0, "FD": 0.0, "SQ": [], "OB": b"\0\0", "UN": b"",
}  # fmt: skip


_WORDS_OF_THE_STANDARD = """
MONOCHROME1 MONOCHROME2 RGB YBRFULL YBRFULL422 YBRICT YBRRCT IDENTITY INVERSE LINEAR LINEAREXACT SIGMOID DX CR OT RG L
R B U ORIGINAL DERIVED PRIMARY SECONDARY KNEE LEG EXTREMITY AP PA YES NO FORPRESENTATION FORPROCESSING LIN LOG DISP US
OD HU GEOMETRY FIDUCIAL LEFT RIGHT SCT SRT DCM UCUM 00 01 M F O
"""
_TERMS = frozenset(("", *_WORDS_OF_THE_STANDARD.split()))
"""Which say nothing of a person, whatever that is called."""


def new_key() -> bytes:
    """A key never used before; keep it to give later films of the same people the same pseudonyms."""
    return secrets.token_bytes(KEY_BYTES)


@lru_cache(maxsize=1)
def basic_profile() -> dict[int, str]:
    """Tag to action, as in the table: X, Z, D, U and their combinations."""
    written = (files("progression.dicom") / "basic_profile.csv").read_text(encoding="utf-8")
    return {int(row["tag"], 16): row["action"] for row in csv.DictReader(written.splitlines())}


class Deidentifier:
    """Makes films nobody's.

    Parameters
    ----------
    key : secret of the pseudonyms, UIDs and shifts of dates.
    keep_intervals : move dates instead of removing them, so that times between a patient's films stay.
    """

    def __init__(self, *, key: bytes, keep_intervals: bool = False) -> None:
        self._key = key
        self._keep_intervals = keep_intervals

    def file(self, content: bytes, label: str) -> "Deidentified":
        """A file's new name and content.

        Raises
        ------
        ImageError
            If it is no CR, DX or Secondary Capture image, is damaged, or does not deny that text is burned into its
            pixels.
        """
        data = parse(content, label)
        with guarded(label):
            if data.get("SOPClassUID") not in ACCEPTED and data.get("SOPClassUID") != DX_FOR_PROCESSING:
                raise ImageError(f"{label}: expected a CR, DX or Secondary Capture image to de-identify")
            if not_denied(data, "BurnedInAnnotation"):
                raise ImageError(
                    f"{label}: has text burned into its pixels, which may name the patient; black it out"
                )
            if not uid.UID(first(data, "SOPInstanceUID")).is_valid:
                raise ImageError(f"{label}: its SOPInstanceUID is missing or none; export the film again")
            settle(data)
            person = person_of(data, film=str(data.SOPInstanceUID))
            film = _Film(self, Known.of(data, everybody=True), self._shift(person.key))
            made = film.cleaned(data)
            self._name(made, person.key)
            if "PixelData" in data:
                made.add_new(_PIXEL_DATA, data["PixelData"].VR, only_pixels(data, label))
                made["PixelData"].is_undefined_length = data.file_meta.TransferSyntaxUID.is_encapsulated
            made.file_meta = FileMetaDataset()
            made.file_meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
        return Deidentified(str(made.SOPInstanceUID), file_bytes(made, label), person.is_known)

    def new_uid(self, old: str) -> str:
        """The UID that takes an old one's place, under 2.25 (PS3.5, B.2)."""
        return f"2.25.{int.from_bytes(self._digest('uid', old)[:16])}"

    @property
    def keeps_intervals(self) -> bool:
        """Whether dates are moved rather than removed."""
        return self._keep_intervals

    def _digest(self, purpose: str, value: str) -> bytes:
        return hmac.digest(self._key, f"{purpose}\0{value}".encode(), "sha256")

    def _shift(self, patient: str) -> timedelta:
        return timedelta(days=1 + int.from_bytes(self._digest("days", patient)[:8]) % _LONGEST_SHIFT_DAYS)

    def _name(self, made: Dataset, patient: str) -> None:
        """Pseudonym, and what was done (PS3.15, E.1.1; codes of CID 7050)."""
        made.SpecificCharacterSet = CHARACTER_SET
        made.PatientID = made.PatientName = f"P-{self._digest('patient', patient).hex()[:10].upper()}"
        made.PatientIdentityRemoved = "YES"
        made.DeidentificationMethod = f"PS3.15 {EDITION} Table E.1-1"
        applied = [("113100", "Basic Application Confidentiality Profile")]
        if self._keep_intervals:
            applied.append(("113107", "Retain Longitudinal Temporal Information Modified Dates Option"))
        made.DeidentificationMethodCodeSequence = [_code(*pair) for pair in applied]
        made.LongitudinalTemporalInformationModified = "MODIFIED" if self._keep_intervals else "REMOVED"


class Deidentified(NamedTuple):
    """A film that is nobody's.

    Attributes
    ----------
    uid : its new SOP Instance UID, to call it by
    content : a file's
    of_known_person : whether its pseudonym is that of its patient's other films, too
    """

    uid: str
    content: bytes
    of_known_person: bool


@dataclass(frozen=True)
class _Film:
    """One film's way: who is named in it, and by how much its dates are moved."""

    by: Deidentifier
    known: Known
    shift: timedelta

    def cleaned(self, data: Dataset) -> Dataset:
        """What is left of a header or an item."""
        made = Dataset()
        for element in elements(data):
            if (kept := self._element(element)) is not None:
                made.add(kept)
        if "LUTData" in data and "LUTDescriptor" in made:
            little = data.original_encoding[1] is not False
            entries = Lut.of(
                data, "its look-up table", signed=False
            ).entries  # as many as it has, and no more
            made.add_new(_LUT_DATA, "OW", entries.astype("<u2" if little else ">u2").tobytes())
        return made

    def _element(self, element: DataElement) -> DataElement | None:
        """What becomes of one element; None if it is removed."""
        tag, vr = element.tag, element.VR
        known = not tag.is_private and dictionary_has_tag(tag) and tag.group not in (0, 2, 4)
        if (
            not known
            or tag.element == 0
            or vr not in dictionary_VR(tag).split(" or ")
            or int(tag) == _PIXEL_DATA
        ):
            return None
        action = basic_profile().get(int(tag))
        if action is None:
            action = "X" if dictionary_is_retired(tag) or int(tag) in _CALENDARS else self._unlisted(element)
        if self.by.keeps_intervals and vr in ("DA", "DT", "TM") and int(tag) not in _BIRTH:
            return DataElement(tag, vr, _moved(element, self.shift))
        if action == "K" or (action == "X/Z/U*" and vr == "SQ"):
            return (
                DataElement(tag, vr, [self.cleaned(item) for item in element.value])
                if vr == "SQ"
                else element
            )
        if action == "X":
            return None
        if action in ("Z", "X/Z"):
            return DataElement(tag, vr, [] if vr == "SQ" else None)
        if action == "U" and vr == "UI":
            return DataElement(tag, vr, [self.by.new_uid(value) for value in _values(element) if value])
        return DataElement(tag, vr, _DUMMY.get(vr, "REMOVED"))

    def _unlisted(self, element: DataElement) -> str:
        """The action for an attribute that the table leaves alone."""
        vr, values = element.VR, _values(element)
        if vr == "SQ":
            return "K"
        if vr in _REMOVED_KINDS:
            return "X"
        if vr == "UI":
            return "K" if all(value in uid.UID_dictionary for value in values) else "U"
        if vr in ("DS", "IS"):
            return "K" if all(map(self._is_harmless_number, values)) else "Z"
        if vr in ("CS", "LO", "SH"):
            return "K" if all(self._is_harmless_text(value, code=vr == "CS") for value in values) else "D"
        return "K" if all(self._is_harmless_number(value, any_kind=True) for value in values) else "X"

    def _is_harmless_number(self, value: str, *, any_kind: bool = False) -> bool:
        digits = re.sub(r"\D", "", value).lstrip("0")
        own = len(digits) >= _SHORTEST_SECRET and (self.known.is_in(digits) or bool(_DATED.search(digits)))
        return not own and (any_kind or not value or (len(value) <= 16 and bool(_NUMBER.fullmatch(value))))

    def _is_harmless_text(self, value: str, *, code: bool) -> bool:
        if folded(value) in _TERMS:
            return True
        return not (self.known.is_in(value) or _DATED.search(value)) and (
            not code or bool(_CODE.fullmatch(value))
        )


def _values(element: DataElement) -> list[str]:
    """An element's values as texts."""
    value = element.value
    if value is None or isinstance(value, bytes) or element.VR == "SQ":
        return []
    return [str(one).strip() for one in (value if isinstance(value, MultiValue | list | tuple) else [value])]


def _moved(element: DataElement, shift: timedelta) -> object:
    """Dates moved into the past, times as they are; none of several if one is no whole date or time.

    A date that is written in another way would stay, or tell by how much the others were moved.
    """
    values = _values(element)
    if element.VR == "TM":
        return element.value if all(_TIME.fullmatch(value) for value in values) else None
    moved = [_moved_date(value, shift, timed=element.VR == "DT") for value in values]
    return moved if all(moved) else None


def _moved_date(written: str, shift: timedelta, *, timed: bool) -> str | None:
    """A DA or DT value, its first eight digits moved; None for what is none."""
    day, rest = written[:8], written[8:]
    zone = rest[-5:] if _ZONE.fullmatch(rest[-5:]) else ""
    time = rest.removesuffix(zone)
    if not _DATE.fullmatch(day) or (rest and not timed) or (time and not _TIME.fullmatch(time)):
        return None
    try:
        moved = date(int(day[:4]), int(day[4:6]), int(day[6:])) - shift
    except (ValueError, OverflowError):
        return None
    return f"{moved:%Y%m%d}".rjust(8, "0") + rest


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item
