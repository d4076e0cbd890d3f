"""Does a de-identified film hold anything of its patient, wherever a careless hand wrote it?

    python benchmarks/privacy.py --patients 40 --seed 0

For each random patient: the name, in two spellings, the number, the date of birth and a unique mark are written into
films, in every attribute of pydicom's dictionary and in unknown and private ones, at the top and in items, with the
attribute's own type and with every other that holds text or bytes; in file meta information, the preamble, and behind
the pixels. A leak is a secret in the bytes of the de-identified film, in UTF-8, Latin-1 or UTF-16; of the mark, which
nobody could know for a secret, in types of free text and bytes only. Also tells how many names of files that hold a
secret are kept, and how many neutral ones are not. Returns 1 for a leak or a kept name.
"""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from progression.dicom.deidentify import Deidentifier
from progression.dicom.example import dx
from progression.dicom.parse import guarded
from progression.dicom.study import neutral_name_of
from progression.dicom.write import file_bytes
from progression.errors import ImageError
from progression.types import Side

FAMILIES = (
    "Müller",
    "Sørensen",
    "Nguyễn",
    "Geheimnis",
    "Łukaszewicz",
    "O'Brien",
    "Wiśniewska",
    "Yılmaz",
    "Weiß",
    "García",
)
GIVEN = (
    "Jörg",
    "Åse",
    "Annegret",
    "Zoë",
    "Bartłomiej",
    "Siobhán",
    "Iñigo",
    "Çağla",
    "Xiaodong",
    "Matthäus",
    "Renée",
)
NEUTRAL = [
    "knee_left", "OAI_9000798_v00_left", "study12/film3", "visit1", "film", "both-left", "IMG0001", "00000001", "BL_R",
    "v00", "KL3_right", "scan_2026-05-04", "knee-1a2b3c4d", "baseline/left", "follow_up_24m", "patient_7",
]  # fmt: skip
TEXT_KINDS = ("LO", "SH", "LT", "ST", "UT", "UC", "PN", "CS", "AE", "UR", "OB", "UN")
FREE = ("LT", "ST", "UT", "UC", "PN", "AE", "UR", "OB", "UN", "OW", "DA", "DT", "TM", "DS", "IS")
NEEDED = frozenset({
    "SOPClassUID", "SOPInstanceUID", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "SamplesPerPixel", "PhotometricInterpretation", "PixelData", "NumberOfFrames", "BurnedInAnnotation", "PatientID",
    "PatientName", "PatientBirthDate", "SpecificCharacterSet", "IssuerOfPatientID", "FloatPixelData",
    "DoubleFloatPixelData", "PixelDataProviderURL", "AnatomicRegionSequence", "AnatomicRegionModifierSequence",
})  # fmt: skip
"""Without which the film is refused, or nothing is known of the patient."""


@dataclass(frozen=True)
class Patient:
    """A person, and all that must not be found of it."""

    family: str
    given: str
    number: str
    birth: str
    mark: str

    @classmethod
    def drawn(cls, draw: random.Random) -> "Patient":
        """A random person."""
        birth = f"{draw.randint(1920, 1999)}{draw.randint(1, 12):02}{draw.randint(1, 28):02}"
        return cls(
            draw.choice(FAMILIES), draw.choice(GIVEN), f"{draw.randint(10**6, 10**7 - 1):09}", birth,
            f"Q{draw.randint(10**8, 10**9)}Z",
        )  # fmt: skip

    def secrets(self, *, free: bool) -> list[str]:
        """What is written and looked for."""
        known = [self.family, self.given, self.number.lstrip("0"), self.birth]
        return [*known, self.mark] if free else known


def main() -> int:
    """Plant, de-identify, look."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patients", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    told: Counter[str] = Counter()
    leaks: Counter[str] = Counter()
    for _ in range(arguments.patients):
        patient = Patient.drawn(draw)
        for keep in (False, True):
            by = Deidentifier(key=draw.randbytes(32), keep_intervals=keep)
            with guarded("plan"):
                planned = list(planted(patient, draw))
            for elements in planned:
                told["attributes"] += len(elements)
                told["films"] += 1
                film = made(patient, elements)
                try:
                    content = by.file(film, "film").content
                except ImageError as error:
                    told[f"refused: {error}"] += 1
                    continue
                if found := leaked(content, patient):
                    leaks.update(culprits(by, patient, elements))
                    told["films with leaks"] += 1
                    leaks.update(found)
        name_figures(patient, told)
    for what, count in sorted(told.items()):
        print(f"{what}: {count}")
    print(f"leaks: {sum(leaks.values())} {dict(leaks.most_common(20))}")
    return int(bool(leaks) or told["names of a patient that are kept"] > 0)


def planted(patient: Patient, draw: random.Random) -> Iterator[list[DataElement]]:
    """Attributes with secrets in them, some hundred a film."""
    found: list[DataElement] = []
    for number, (kinds, _, _, _, keyword) in DicomDictionary.items():
        tag = Tag(number)
        if keyword in NEEDED or tag.group in (0, 2, 0xFFFE) or tag.element == 0 or kinds == "NONE":
            continue
        own = [kind for kind in kinds.split(" or ") if kind in (*TEXT_KINDS, *FREE)]
        for kind in dict.fromkeys(
            (*own, draw.choice(TEXT_KINDS[:-1]))
        ):  # of UN the reader makes what is its own
            found.append(DataElement(tag, kind, value_of(patient, kind, draw, free=kind in FREE)))
    for group in (0x0009, 0x0011, 0x0019, 0x3333, 0x5000, 0x6000, 0x0010, 0x0008, 0x3332):
        for element in range(0x1000 if group % 2 == 0 else 0x10, 0x1FFF, 0x333):
            kind = draw.choice(TEXT_KINDS)
            found.append(DataElement(Tag(group, element), kind, value_of(patient, kind, draw, free=True)))
    draw.shuffle(found)
    for at in range(0, len(found), 500):
        yield found[at : at + 500]


def value_of(patient: Patient, kind: str, draw: random.Random, *, free: bool) -> object:
    """A secret in the clothes of a type."""
    secrets = patient.secrets(free=free)
    if kind in ("OB", "UN", "OW"):
        return draw.choice(secrets).encode() * 2
    if kind in ("DS", "IS"):
        return draw.choice((patient.number, patient.birth))
    if kind in ("DA", "DT", "TM"):
        return draw.choice(
            (patient.birth, f"{patient.birth}-{patient.birth}", f"0{patient.birth}", patient.mark)
        )
    if kind == "PN":
        return f"{patient.family}^{patient.given}"
    if kind == "CS":
        return draw.choice((patient.number, patient.birth, patient.number.lstrip("0")))
    if kind in ("AE", "UR"):
        return draw.choice((patient.number, patient.birth, patient.mark))
    birth = patient.birth
    forms = (
        patient.number,
        f"{patient.given} {patient.family}",
        f"{birth[:4]}-{birth[4:6]}-{birth[6:]}",
        f"x {birth}",
    )
    return draw.choice((*forms, *secrets))


def made(patient: Patient, elements: list[DataElement]) -> bytes:
    """A film with these attributes at the top, in items, and in items of unknown sequences."""
    film = dx(np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1)), side=Side.LEFT, spacing_mm=1)
    film.PatientName, film.PatientID, film.PatientBirthDate = (
        f"{patient.family}^{patient.given}",
        patient.number,
        patient.birth,
    )
    with guarded("film"):
        nested, deeper = Dataset(), Dataset()
        for element in elements:
            for part in (film, nested, deeper):
                if part is not film or element.tag not in film:
                    part.add(element)
        nested.AnatomicRegionModifierSequence = [deeper]
        film.AnatomicRegionSequence = [nested]
        film.add_new(0x00081998, "SQ", [nested])
        film.PixelData = film.PixelData + f"{patient.family}{patient.mark}".encode()
        film["PixelData"].VR = "OW"
        film.file_meta.SourceApplicationEntityTitle = patient.mark
        film.file_meta.PrivateInformationCreatorUID = "1.2.3"
        film.file_meta.PrivateInformation = patient.mark.encode()
        film.preamble = patient.mark.encode().ljust(128, b"\0")
    return file_bytes(film, "film") + patient.mark.encode()


def leaked(content: bytes, patient: Patient) -> list[str]:
    """Kinds of secrets in bytes."""
    found = []
    for name in ("family", "given", "number", "birth", "mark"):
        secret = getattr(patient, name).lstrip("0")
        for spelt in {secret, secret.upper()}:
            if any(spelt.encode(code, "ignore") in content for code in ("utf-8", "latin-1", "utf-16-le")):
                found.append(name)
                break
    return found


def culprits(by: Deidentifier, patient: Patient, elements: list[DataElement]) -> list[str]:
    """Attributes that leak alone."""
    return [
        f"{element.tag} {element.VR}"
        for element in elements
        if leaked(by.file(made(patient, [element]), "film").content, patient)
    ]


def name_figures(patient: Patient, told: Counter[str]) -> None:
    """How names of files fare."""
    film = made(patient, [])
    family, given, number, birth = patient.family, patient.given, patient.number, patient.birth
    plain = family.translate(str.maketrans({"ü": "ue", "ø": "oe", "ß": "ss", "ä": "ae", "ö": "oe"}))
    year, month, day = birth[:4], birth[4:6], birth[6:]
    short = number.lstrip("0")
    of_patient = [
        family, f"{given}_{family}", f"{family}{given}", f"{given[0]}{family}", plain, f"knee_{plain.lower()}_left",
        number, short, f"{number[:5]}-{number[5:]}", f"x{short}y", birth, f"{day}{month}{year}",
        f"{year}-{month}-{day}", f"{day}.{month}.{year[2:]}", f"{month}{day}{year[2:]}", f"left/{family.upper()}/1",
    ]  # fmt: skip
    for names, kept_is in (
        (of_patient, "names of a patient that are kept"),
        (NEUTRAL, "neutral names that are kept"),
    ):
        told[kept_is.replace("that are kept", "tried")] += len(names)
        told[kept_is] += sum(neutral_name_of(film, name, "film") == name for name in names)


if __name__ == "__main__":
    sys.exit(main())
