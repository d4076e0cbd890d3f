"""Which knee a film shows, from all that its header says; what contradicts is told, never decided.

Image Laterality (0020,0062) and Laterality (0020,0060) state it in code, as may the modifier of the anatomic region;
texts of the image and its series may say it in words. The study's description is not read: studies hold several
films.
"""

import re
from dataclasses import dataclass

from pydicom.dataset import Dataset

from progression.dicom.parse import items, text
from progression.types import Side

_CODED = ("ImageLaterality", "Laterality")
_WORDED = ("BodyPartExamined", "ViewPosition", "SeriesDescription", "ProtocolName")
_LETTERS = {"L": "left", "R": "right", "B": "both"}
_MODIFIERS = {  # SNOMED CT and the older SNOMED RT codes of PS3.16, CID 244
    "7771000": "left", "G-A101": "left", "24028007": "right", "G-A100": "right", "51440002": "both", "G-A102": "both",
}  # fmt: skip
_KNEE = r"(?:knees?|knie|genou|rodilla|ginocchio)"
_WORDS = {  # English, German, French, Spanish and Italian words, or one letter beside the knee
    "left": rf"\b(?:left|lt|links|gauche|izquierda|sinistr[oa])\b|\bl\.? {_KNEE}\b|\b{_KNEE} l\b",
    "right": rf"\b(?:right|rt|rechts|droite?|derecha|destr[oa])\b|\br\.? {_KNEE}\b|\b{_KNEE} r\b",
    "both": r"\b(?:both|bilat|bilateral|beide|beidseits|bds|bilateraux|knees)\b",
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
    found = {keyword: said for keyword in _CODED if (said := _LETTERS.get(text(data, keyword).upper()))}
    for region in items(data, "AnatomicRegionSequence"):
        for modifier in items(region, "AnatomicRegionModifierSequence"):
            if said := _MODIFIERS.get(text(modifier, "CodeValue")):
                found["AnatomicRegionModifierSequence"] = said
    of_one_knee = bool({"left", "right"} & set(found.values()))
    for keyword in _WORDED:
        said = _in_words(text(data, keyword))
        # a series of both knees holds films of one, and such a film's own code says which
        if said and not (said == "both" and of_one_knee):
            found[keyword] = said
    told = set(found.values())
    one = told.pop() if len(told) == 1 else None
    return Laterality(
        side=Side(one) if one in ("left", "right") else None,
        both=one == "both",
        evidence=tuple(f"{keyword} {said}" for keyword, said in found.items()),
        contradictory=len(set(found.values())) > 1,
    )


def _in_words(written: str) -> str | None:
    words = re.sub(r"[\W_]+", " ", written.lower())
    said = [meaning for meaning, pattern in _WORDS.items() if re.search(pattern, words)]
    return "both" if {"left", "right"} <= set(said) else said[0] if said else None
