"""Whose film it is, as far as its header tells; two people are never one for want of a number.

| the header has | two films are one person's if they share |
|---|---|
| a Patient ID | it and its issuer |
| none, or a word for none (UNKNOWN, TEST, 0000) | name and date of birth, both of them told |
| less | nothing outside the study; or if that is not told either, nothing outside the film |
"""

from dataclasses import dataclass

from pydicom.dataset import Dataset

from progression.dicom.values import every, first, folded

_WORDS_FOR_NOBODY = """
0 00 X UNKNOWN UNK UNBEKANNT INCONNU DESCONOCIDO SCONOSCIUTO DESCONHECIDO ONBEKEND NA NONE NULL NIL NAN NO NOID
NOPATIENTID NOTAVAILABLE NOTAPPLICABLE NONAME NONAMEPROVIDED MISSING EMPTY BLANK UNDEFINED UNSPECIFIED UNASSIGNED
UNIDENTIFIED ANON ANONYM ANONYMOUS ANONYMISED ANONYMIZED ANONYME ANONIMO ANONYMOUSPATIENT DEIDENTIFIED REMOVED
REDACTED DELETED TEST TESTPATIENT TESTTEST PATIENT DEFAULT DUMMY DEMO EXAMPLE SAMPLE PHANTOM TEMP TEMPORARY TBD TODO
NEW OTHER XX EMERGENCY NOTFALL URGENCE TRAUMA JOHNDOE JANEDOE DOEJOHN DOEJANE MUSTERMANN ID PATIENTID 12345 123456
1234567 12345678 19000101 00010101
"""
_NOBODY = frozenset(("", *_WORDS_FOR_NOBODY.split()))


@dataclass(frozen=True)
class Person:
    """Whose film it is.

    Attributes
    ----------
    key : the same for all films of a person, different for another; it holds what identifies, so is never to be written
    reach : how far the key holds: "everywhere", "study" or "film"
    """

    key: str
    reach: str

    @property
    def is_known(self) -> bool:
        """Whether films of other studies can be told to be of the same person."""
        return self.reach == "everywhere"


def person_of(data: Dataset, *, film: str) -> Person:
    """Whose film this is; inside `guarded`. `film` stands for the film itself, where nothing else is told of it."""
    number, issuer = first(data, "PatientID"), first(data, "IssuerOfPatientID")
    if not is_placeholder(number):
        return Person(f"{number}\0{issuer}" if issuer else number, "everywhere")
    name = "=".join(folded(value) for value in every(data, "PatientName"))
    birth = folded(first(data, "PatientBirthDate"))
    told = "\0".join(("", number, issuer, name, birth))
    if not is_placeholder(name) and not is_placeholder(birth):
        return Person(told, "everywhere")
    if study := first(data, "StudyInstanceUID"):
        return Person(f"{told}\0{study}", "study")
    return Person(f"{told}\0\0{film}", "film")


def is_placeholder(written: str) -> bool:
    """Whether a number or a name is none: empty, one character three times or more, or a word for none."""
    core = folded(written)
    again_and_again = len(core) > 2 and len(set(core)) == 1
    return again_and_again or is_word_for_nobody(core)


def is_word_for_nobody(written: str) -> bool:
    """Whether a text is empty or a word such as UNKNOWN."""
    return folded(written) in _NOBODY
