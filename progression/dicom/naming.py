"""Names for outputs that name no patient: does a file's name hold what its header knows of the person?

Both are compared in small letters of one plain kind: without accents, and with ue, oe, ae, aa for ü, ö, ä, å or without
the e alike (Müller, Mueller, Muller). Names are taken from all their groups, so that a name in Chinese letters is known
by its Latin spelling, too, if the header has it.

| of the patient | is found |
|---|---|
| part of a name, 4 letters or more | anywhere in a word; or a word of 4 letters or more is its beginning |
| part of a name, 2 or 3 letters; of Chinese, Japanese or Korean letters, 1 | as a word of its own |
| two parts, joined | anywhere, whatever stands between them |
| a part with another's initial, joined | as a word of its own |
| date of birth | as 6 or 8 digits in any order, or as three numbers in any order; the month may be a word |
| a number, 6 characters or more | anywhere, whatever stands between its characters; zeros at its beginning may lack |
| a number, 3 to 5 characters | as a word of its own, or as words that make it up together |

A word ends where capital letters begin (LiWu) and where letters meet digits. If in doubt, a name is not kept: that
costs nothing but its sense.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from itertools import permutations, product

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from progression.dicom.person import is_placeholder, is_word_for_nobody
from progression.dicom.values import elements, every, folded, plain_letters

_NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName")
_NUMBERS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID", "MedicalRecordLocator",
            "PatientTelephoneNumbers", "RequestedProcedureID", "ServiceEpisodeID", "InsurancePlanIdentification",
            "PatientBirthDateInAlternativeCalendar")  # fmt: skip
_NAME_PARTS = 3
"""Family, given and middle name; titles, which come after these, name nobody."""
_LONG_NAME, _LONG_NUMBER, _SHORTEST_NUMBER, _MOST_PARTS = 4, 6, 3, 12
_MONTHS = {
    name: number
    for number, names in enumerate(
        ("jan gen ene", "feb fev", "mar mrz", "apr avr abr", "may mai mei mag", "jun giu", "jul lug", "aug aou ago",
         "sep set", "oct okt ott out", "nov", "dec dez dic"), start=1)
    for name in names.split()
}  # fmt: skip
_NEUTRAL_WORDS = """
left right both knee knees film films image images study series visit scan frontal lateral standing base baseline
follow followup patient subject person links rechts gauche droite genou anon test case cases data dicom xray radio
"""
_NEUTRAL = frozenset(_NEUTRAL_WORDS.split())
_NO_ALPHABET = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


@dataclass(frozen=True)
class Known:
    """What a header knows of its patient: parts of names, numbers, dates of birth."""

    names: tuple[str, ...]
    signs: tuple[str, ...]
    numbers: tuple[str, ...]
    births: tuple[date, ...]

    @classmethod
    def of(cls, data: Dataset, *, everybody: bool = False) -> "Known":
        """Gather it from a header; of `everybody` who is named in it, in all its items and by all attributes."""
        parts: dict[str, None] = {}
        signs: dict[str, None] = {}
        numbers: set[str] = set()
        births = []
        for part in _with_items(data):
            named: Iterable[str | BaseTag] = _NAMES
            if everybody:
                named = [element.tag for element in elements(part) if element.VR == "PN"]
            for pieces in (_parts(value) for keyword in named for value in every(part, keyword)):
                if not all(
                    map(is_word_for_nobody, pieces)
                ):  # Null is a family's name, Unknown^Null is nobody's
                    for piece in pieces:
                        (signs if _NO_ALPHABET.search(piece) else parts)[piece] = None
            told = [value for keyword in _NUMBERS for value in every(part, keyword)]
            numbers |= {number for value in told if not is_placeholder(value) for number in _cores(value)}
            births += [birth for value in every(part, "PatientBirthDate") if (birth := _day(value))]
        names = [_plain(piece) for piece in parts if len(piece) > 1]
        most = len(names) if everybody else _MOST_PARTS
        return cls(tuple(names[:most]), tuple(signs), tuple(sorted(numbers)), tuple(births))

    def is_in(self, written: str) -> bool:
        """Whether a text holds any of it; as a rule the name of a file."""
        if any(sign in unicodedata.normalize("NFKC", written) for sign in self.signs):
            return True
        fine = [_plain(word) for word in _words(written)]
        coarse = [_plain(word) for word in re.split(r"[\W_]+", written) if word]
        joined = "".join(fine)
        return (
            any(_is_named(part, fine, coarse) for part in self.names)
            or any(pair in joined for pair in self._joined())
            or not {*fine, *coarse}.isdisjoint(self._with_initials())
            or any(_is_numbered(number, fine, joined) for number in self.numbers)
            or any(_is_born(birth, fine, joined) for birth in self.births)
        )

    def _joined(self) -> Iterator[str]:
        """Two parts as one word; somebody may have one name twice."""
        for one, other in product(self.names, repeat=2):
            if len(one + other) >= _LONG_NAME:
                yield one + other
                yield _plain(one + other)

    def _with_initials(self) -> Iterator[str]:
        """A part with the first letter of another before or after it."""
        for one, other in permutations(self.names, 2):
            yield from (one + other[0], other[0] + one)


def _with_items(data: Dataset) -> Iterator[Dataset]:
    yield data
    for element in elements(data):
        if element.VR == "SQ":
            for item in element.value:
                yield from _with_items(item)


def _parts(written: str) -> list[str]:
    """A name's parts in all its groups, and parts joined that a hyphen or an apostrophe parts."""
    found: list[str] = []
    for group in written.split("="):
        for component in group.split("^")[:_NAME_PARTS]:
            for word in re.split(r"[\s,;.]+", unicodedata.normalize("NFKC", component)):
                pieces = [piece for piece in re.split(r"[\W_]+", word) if piece]
                found += dict.fromkeys([*pieces, "".join(pieces)])
    return [part for part in found if part]


def _plain(word: str) -> str:
    """Small letters of one kind: without accents, and without the e that stands for one."""
    letters = plain_letters(word).lower()
    short = re.sub(r"(?<=[aou])e|(?<=a)a", "", letters)
    return short if len(short) > 1 else letters


def _words(written: str) -> list[str]:
    """Words of letters or digits; a capital letter after a small one begins another."""
    parted = re.sub(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])", " ", written)
    parted = "".join(
        f" {letter}" if letter.isupper() and before.islower() else letter
        for before, letter in zip(" " + parted, parted, strict=False)
    )
    return [word for word in re.split(r"[\W_]+", parted) if word]


def _cores(written: str) -> Iterator[str]:
    """A number without what parts it and without zeros at its beginning; and its longer runs of digits."""
    whole = folded(written).lower()
    for text in (whole, *re.findall(r"\d{4,}", written)):
        if len(core := text.lstrip("0")) >= _SHORTEST_NUMBER:
            yield core


def _day(written: str) -> date | None:
    try:
        return datetime.strptime(re.sub(r"\D", "", written)[:8], "%Y%m%d").date()
    except ValueError:
        return None


def _is_named(part: str, fine: list[str], coarse: list[str]) -> bool:
    words = {*fine, *coarse}
    if len(part) < _LONG_NAME:
        return part in words
    return any(
        part in word or (len(word) >= _LONG_NAME and word not in _NEUTRAL and part.startswith(word))
        for word in words
    )


def _is_numbered(number: str, fine: list[str], joined: str) -> bool:
    if len(number) >= _LONG_NUMBER:
        return number in joined
    runs = (
        "".join(fine[at:end]) for at in range(len(fine)) for end in range(at + 1, min(at + 5, len(fine) + 1))
    )
    return any(run.lstrip("0") == number for run in runs)


def _is_born(birth: date, fine: list[str], joined: str) -> bool:
    """In digits, or in three words that are numbers or a month's name."""
    long = {f"{birth:{order}}" for order in ("%Y%m%d", "%Y%d%m", "%d%m%Y", "%m%d%Y")}
    short = {f"{birth:{order}}" for order in ("%y%m%d", "%y%d%m", "%d%m%y", "%m%d%y")}
    if any(digits in joined for digits in long) or short & set(fine):
        return True
    numbers = [int(word) if word.isascii() and word.isdigit() else _MONTHS.get(word[:3], -1) for word in fine]
    told = [sorted((year, birth.month, birth.day)) for year in (birth.year, birth.year % 100)]
    return any(sorted(numbers[at : at + 3]) in told for at in range(len(numbers) - 2))
