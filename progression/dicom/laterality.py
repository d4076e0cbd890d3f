"""Which knee a film shows, from all that its header says; what contradicts is told, never decided.

Image Laterality (0020,0062) and Laterality (0020,0060) state it in code, as may the modifier of the anatomic region;
texts of the image and its series may say it in words. The study's description is not read: studies hold several
films.
"""

import re
from dataclasses import dataclass

from pydicom.dataset import Dataset

from progression.dicom.values import every, first, folded, items, plain_letters, told
from progression.types import Side

_CODED = ("ImageLaterality", "Laterality")
_WORDED = ("BodyPartExamined", "ViewPosition", "SeriesDescription", "ProtocolName",
           "AcquisitionDeviceProcessingDescription", "PerformedProcedureStepDescription")  # fmt: skip
_LETTERS = {"L": "left", "R": "right", "B": "both"}
_UNPAIRED = ("", "U", "UNPAIRED")
_MODIFIERS = {  # SNOMED CT and the older SNOMED RT codes of PS3.16, CID 244
    "7771000": "left", "G-A101": "left", "24028007": "right", "G-A100": "right", "51440002": "both", "G-A102": "both",
}  # fmt: skip
_KNEE = r"(?:knees?|knie|genou|rodilla|ginocchio|joelho)"
_WORDS = {  # in seven languages, without accents; or one or two letters beside the knee
    "left": r"\b(?:left|lt|lft|linke?[rsn]?|gauche|izq|izquierd[oa]|sinistr[oa]|esq|esquerd[oa])\b"
    rf"|\b(?:l|li) {_KNEE}\b|\b{_KNEE} (?:l|li|g|izq)\b|\bginocchio (?:sx|sin)\b",
    "right": r"\b(?:right|rt|rgt|rechte?[rsn]?|droite?|derech[oa]|destr[oa]|direit[oa])\b"
    rf"|\b(?:r|re) {_KNEE}\b|\b{_KNEE} (?:r|re|d|der)\b|\bginocchio dx\b",
    "both": r"\b(?:both|bilat|bilateral(?:e|es|en|er|is)?|bilateraux|beide[rns]?|beidseits|beidseitig|bds|knees|"
    r"ambos|ambas|entramb[ie]|genoux|rodillas|ginocchia|joelhos|knieen)\b|\bl r\b|\br l\b",
}


@dataclass(frozen=True)
class Laterality:
    """What a header says.

    Attributes
    ----------
    side : the knee, where all that says anything says the same
    both : whether the film shows both knees
    evidence : attribute and what it says, for messages: ("ImageLaterality left", ...); no text of the file's own
    contradictory : whether what says anything does not say the same
    """

    side: Side | None
    both: bool
    evidence: tuple[str, ...]
    contradictory: bool

    def __str__(self) -> str:
        return ", ".join(self.evidence) or "nothing"


def laterality(data: Dataset) -> Laterality:
    """Read all that a header says about the side."""
    found: dict[str, str] = {}
    for keyword in _CODED:
        if said := {meaning for value in every(data, keyword) if (meaning := _in_code(value))}:
            found[keyword] = _joined(said)
    modifiers = {
        meaning
        for region in items(data, "AnatomicRegionSequence")
        for modifier in items(region, "AnatomicRegionModifierSequence")
        if (meaning := _MODIFIERS.get(first(modifier, "CodeValue")))
    }
    if modifiers:
        found["AnatomicRegionModifierSequence"] = _joined(modifiers)
    of_one_knee = bool({"left", "right"} & set(found.values()))
    for keyword in _WORDED:
        worded = _in_words(" / ".join(every(data, keyword)))
        # a series of both knees holds films of one, and such a film's own code says which
        if worded and not (worded == "both" and of_one_knee):
            found[keyword] = worded
    told_sides = set(found.values())
    one = min(told_sides) if len(told_sides) == 1 else None
    return Laterality(
        side=Side(one) if one in ("left", "right") else None,
        both=one == "both",
        evidence=tuple(f"{keyword} {said}" for keyword, said in found.items()),
        contradictory=len(told_sides) > 1 or any(" and " in said for said in told_sides),
    )


def side_notes(data: Dataset) -> list[str]:
    """A line for each code of a side that is none which is known."""
    return [
        f"its {told(keyword)} is no side that is known, and passed over"
        for keyword in _CODED
        if any(folded(value) not in _UNPAIRED and not _in_code(value) for value in every(data, keyword))
    ]


def _joined(said: set[str]) -> str:
    """Several values where one is meant are a contradiction: both knees have a code of their own."""
    return " and ".join(sorted(said))


def _in_code(value: str) -> str | None:
    """A code's side, however it is spelt: L, left, Links, or the number that SNOMED has for it."""
    return _LETTERS.get(folded(value)) or _MODIFIERS.get(value) or _in_words(value)


def _in_words(written: str) -> str | None:
    words = " ".join(re.sub(r"[\W_]+", " ", plain_letters(written).lower()).split())
    said = [meaning for meaning, pattern in _WORDS.items() if re.search(pattern, words)]
    return "both" if {"left", "right"} <= set(said) else said[0] if said else None
