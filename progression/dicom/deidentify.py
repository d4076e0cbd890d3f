"""De-identification of radiographs by the Basic Application Confidentiality Profile (PS3.15, Annex E).

`basic_profile.csv` is Table E.1-1 of edition 2026d, column "Basic Prof.". Where it leaves a choice, what keeps the
object valid is taken: X/Z is emptied, X/D, Z/D and X/Z/D get a dummy, X/Z/U* keeps its references under new UIDs.

| on top of the table | |
|---|---|
| private attributes, curves, overlays, unknown attributes | removed |
| dates and names that the table does not list | treated as if it did: removed |
| Patient ID, Patient's Name | a pseudonym, the same for all films of a patient under one key |
| dates, on request (Retain Longitudinal Temporal | moved into the past, by the same 1 to 3,650 days for all films |
| Information With Modified Dates Option) | of a patient; times are kept; the date of birth goes |
| text burned into pixels | not looked for; a film that says it has some is refused |

New UIDs and pseudonyms are keyed digests (HMAC-SHA-256): consistent over files and runs with one key, and not to be
traced back without it.
"""

import csv
import hmac
import secrets
from datetime import date, timedelta
from functools import lru_cache
from importlib.resources import files

from pydicom import uid
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset

from progression.dicom.parse import guarded, parse
from progression.dicom.read import ACCEPTED, DX_FOR_PROCESSING
from progression.dicom.values import first, not_denied
from progression.dicom.write import file_bytes
from progression.errors import ImageError

EDITION = "2026d"
KEY_BYTES = 32
_LONGEST_SHIFT_DAYS = 3650
_CHANGED = ("DA", "DT", "PN")
_BIRTH = (0x00100030, 0x00100032)
"""Date and time of birth: never kept, moved or not."""
_DUMMY: dict[str, object] = {
    "DA": "19000101", "DT": "19000101", "TM": "000000", "AS": "000Y", "PN": "Removed", "UR": "http://removed.invalid",
    "DS": "0", "IS": "0", "US": 0, "UL": 0, "SS": 0, "SL": 0, "FL": 0.0, "FD": 0.0, "SQ": [], "OB": b"\0\0", "UN": b"",
}  # fmt: skip


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

    def file(self, content: bytes, label: str) -> tuple[str, bytes]:
        """A file's new SOP Instance UID, to call it by, and its content.

        Raises
        ------
        ImageError
            If it is no CR, DX or Secondary Capture image, is damaged, or says that text is burned into its pixels.
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
            syntax = data.file_meta.TransferSyntaxUID
            patient = first(data, "PatientID") or first(data, "StudyInstanceUID")
            made = self._cleaned(data, self._shift(patient))
            self._name(made, patient)
            made.file_meta = FileMetaDataset()
            made.file_meta.TransferSyntaxUID = syntax
        return str(made.SOPInstanceUID), file_bytes(made, label)

    def new_uid(self, old: str) -> str:
        """The UID that takes an old one's place, under 2.25 (PS3.5, B.2)."""
        return f"2.25.{int.from_bytes(self._digest('uid', old)[:16])}"

    def _digest(self, purpose: str, value: str) -> bytes:
        return hmac.digest(self._key, f"{purpose}\0{value}".encode(), "sha256")

    def _shift(self, patient: str) -> timedelta:
        return timedelta(days=1 + int.from_bytes(self._digest("days", patient)[:8]) % _LONGEST_SHIFT_DAYS)

    def _name(self, made: Dataset, patient: str) -> None:
        """Pseudonym, and what was done (PS3.15, E.1.1; codes of CID 7050)."""
        made.PatientID = made.PatientName = f"P-{self._digest('patient', patient).hex()[:10].upper()}"
        made.PatientIdentityRemoved = "YES"
        made.DeidentificationMethod = f"PS3.15 {EDITION} Table E.1-1"
        applied = [("113100", "Basic Application Confidentiality Profile")]
        if self._keep_intervals:
            applied.append(("113107", "Retain Longitudinal Temporal Information Modified Dates Option"))
        made.DeidentificationMethodCodeSequence = [_code(*pair) for pair in applied]
        made.LongitudinalTemporalInformationModified = "MODIFIED" if self._keep_intervals else "REMOVED"

    def _cleaned(self, data: Dataset, shift: timedelta) -> Dataset:
        made = Dataset()
        for element in data:
            if (kept := self._element(element, shift)) is not None:
                made.add(kept)
        return made

    def _element(self, element: DataElement, shift: timedelta) -> DataElement | None:
        """What becomes of one element; None if it is removed."""
        tag, vr = element.tag, element.VR
        repeating = tag.group & 0xFF00 in (0x5000, 0x6000)  # curves and overlays
        if tag.is_private or repeating or vr == "UN" or tag.group == 2:
            return None
        action = basic_profile().get(int(tag)) or ("X" if vr in _CHANGED else "K")
        if self._keep_intervals and vr in ("DA", "DT", "TM") and action != "K" and int(tag) not in _BIRTH:
            return DataElement(tag, vr, _moved(element, shift))
        if action == "K":
            if vr == "SQ":
                return DataElement(tag, vr, [self._cleaned(item, shift) for item in element.value])
            return element
        if action == "X":
            return None
        if action in ("Z", "X/Z"):
            return DataElement(tag, vr, [] if vr == "SQ" else None)
        if action == "U" and vr == "UI":
            values = [element.value] if isinstance(element.value, str) else list(element.value or [])
            return DataElement(tag, vr, [self.new_uid(str(value)) for value in values if value])
        if action == "X/Z/U*" and vr == "SQ":
            return DataElement(tag, vr, [self._cleaned(item, shift) for item in element.value])
        return DataElement(tag, vr, _DUMMY.get(vr, "REMOVED"))


def _moved(element: DataElement, shift: timedelta) -> object:
    """Dates moved into the past, times as they are; what is no whole date is emptied."""
    if element.VR == "TM":
        return element.value
    values = [element.value] if isinstance(element.value, str) else list(element.value or [])
    moved = [_moved_date(str(value), shift) for value in values]
    return moved if all(moved) else None


def _moved_date(written: str, shift: timedelta) -> str | None:
    """A DA or DT value, its first eight digits moved."""
    try:
        day = date(int(written[:4]), int(written[4:6]), int(written[6:8]))
        return f"{day - shift:%Y%m%d}".rjust(8, "0") + written[8:]
    except (ValueError, OverflowError):
        return None


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item
