"""What a header says that its film shows: which part of the body, in which view.

Words are taken without case, accents and punctuation, and parts of the body are known by stems in English, German,
French, Spanish, Italian, Portuguese and Dutch, alone or within a word: SHOULDERJOINT, Hüftgelenk. Who says something
is believed in this order, and what a later one says to the contrary is told in a note:

| part | |
|---|---|
| Body Part Examined, and the codes of the anatomic region | a word that is not known is no knee, and refused |
| the series' and the procedure's descriptions | a word that is not known says nothing |
| the study's description | the same |

| view | |
|---|---|
| View Position, and the codes of the view | AP or PA is right, unless the series is described by other views alone |
| the series' and the procedure's descriptions | a view from the front, if it is among several, is right |

A film of the leg may show the knee, which is looked for in it; the arm is another limb. An intercondylar view (tunnel,
notch, Rosenberg) is one from behind, of a bent knee, and accepted.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from functools import cache

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from progression.dicom.values import every, first, items, plain_letters, told
from progression.errors import ImageError

_SERIES = (
    "SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription",
    "PerformedProcedureStepDescription",
)  # fmt: skip
_STUDY = ("StudyDescription",)
_KNEE, _LEG, _NO_PART = "knee", "leg", "no part"
_OLD_SNOMED = ("SRT", "SNM3", "99SDM")

# patterns; `_` may be a space, after the rest of its word. The first part that is found counts
_PARTS = {
    _KNEE: (
        r"KNEE \bKNIE PATELL GENOU ROTULE RODILLA ROTULA GINOCCHI JOELHO FEMOROTIBIAL TIBIOFEMORAL GONARTH \bHKA\b"
    ),
    "shoulder": (
        r"SHOULD SCHULTER EPAULE HOMBRO \bSPALL[AE] \bOMBRO SCHOUDER CLAVIC SCAPUL SCHLUSSELBEIN ACROMI AKROMI "
        r"GLENOHUM"
    ),
    "elbow": (r"ELBOW ELLE?N?BOGEN \bCOUDES?\b \bCODOS?\b GOMIT COTOVEL ELLEBOOG OLECRAN OLEKRAN"),
    "hand": (
        r"\bHANDS?\b WRIST HANDGELENK HANDWURZEL POIGNET \bMAINS\b \bMAIN\s[DG] MUNECA \bMANOS?\b \bMANI\b "
        r"\bPOLSO\b PUNHO \bMAO\b \bPOLS\b FINGER THUMB DAUMEN \bDOIGT POUCE\b \bDEDOS?\b PULGAR \bDIT[OA]\b "
        r"POLEGAR \bDUIM CARPAL \bCARP[OU] SCAPHOID"
    ),
    "arm": (
        r"\bARMS?\b FOREARM OBERARM UNTERARM \bBRAS\b AVANT_BRAS BRAZO BRACCI \bBRACO BOVENARM ONDERARM HUMER "
        r"\bULNA UPPER_EXT UPPER_LIMB UPR_EXT UP_EXT OBERE_EXT (MEMBRE|MIEMBRO|MEMBRO|ARTO|EXTREMI|ESTREMI)_SUP "
        r"BOVENSTE_EXT"
    ),
    "ankle": (
        r"ANKLE SPRUNGGELENK \b[OU]SG\b CHEVILLE TOBILLO CAVIGLI TORNOZEL \bENKEL KNOCHEL MALLEOL \bTALUS"
    ),
    "foot": (
        r"\bFOOT \bFEET\b FOREFOOT HINDFOOT MIDFOOT \bFUE?SS \bPIEDS?\b \bPIES?\b \bPIED[EI] \bVOET \bTOES?\b "
        r"\bZEHE \bTENEN\b ORTEIL \bHEEL CALCAN \bFERSE HALLUX METATARS TARSAL TARSUS"
    ),
    "hip": (
        r"\bHIPS?\b HIP_JOINT \bHUE?FT HANCHE CADERA \bANC[AH]E?\b QUADRIL \bHEUP PELVI \bBECKEN \bBASSIN\b BACINO "
        r"\bBACIA\b \bBEKKEN ACETABUL SACROIL \bISG\b \bCOXA"
    ),
    "thigh": (r"THIGH \bFEMURS?\b UPPER_LEG OBERSCHENKEL \bCUISSE MUSLO COSCIA BOVENBEEN"),
    "shin": (r"\bTIBIAS?\b \bFIBULA\b SHIN SCHIENBEIN"),
    "whole body": (r"WHOLE_BODY GANZKORPER"),
    "spine": (
        r"SPINE\b SPINAL VERTEBR WIRBEL WERVEL \b[HBL]WS\b RACHIS RACHID COLONN[EA]\b COLUM?NA\b CERVIC LUMB[AO] "
        r"\bSACRUM \bSACRAL COCCY SCOLIO SKOLIO"
    ),
    "chest": (
        r"CHEST THORA TORAX TORACE TORACIC \bLUNG POUMON PULMO POLMON \bBRUST BREAST MAMMO \bRIBS?\b \bRIPPE "
        r"\bCOTES\b COSTILL COSTELA STERNUM STERNAL CARDIAC"
    ),
    "abdomen": (r"ABDOM \bBAUCH \bBUIK UROGRAM"),
    "head": (
        r"SKULL SCHAE?DEL \bCRANE\b CRANIO CRANEO SCHEDEL \bHEAD\b \bKOPF\b \bTETE\b CABEZA \bTESTA\b CABECA HOOFD "
        r"\bNECK\b \bHALS\b \bCOU\b CUELLO \bCOLLO\b PESCOCO MANDIB \bJAW\b KIEFER DENTAL TOOTH TEETH \bZAHN "
        r"\bSINUS FACIAL ORBITA \bNASAL \bNASEN PANORAM"
    ),
    _LEG: (
        r"\bLEGS?\b LONG_LEG LOWER_LEG \bBEINE?\b GANZBEIN UNTERSCHENKEL JAMBE PIERNA \bGAMB[AE]\b PERNA \bBEEN\b "
        r"\bBENEN\b ONDERBEEN LOWER_EXT LOWER_LIMB LO?WR?_EXT UNTERE_EXT "
        r"(MEMBRE|MIEMBRO|MEMBRO|ARTO|ARTI|EXTREMI|ESTREMI)_INF ONDERSTE_EXT"
    ),
    _NO_PART: (
        r"EXTREMI[TD] ESTREMITA \bEXT\b \bLIMBS?\b JOINT GELENK ARTICUL \bBONES?\b KNOCHEN SKELET \bOTHERS?\b "
        r"UNKNOWN DEFAULT UNSPECIFIED \bNA\b \bNONE\b \bMISC\b"
    ),
}


class View(StrEnum):
    """A direction of view."""

    FRONT = "frontal"
    LATERAL = "lateral"
    AXIAL = "axial"
    OBLIQUE = "oblique"


_VIEWS = {
    View.FRONT: (
        r"\bAP\b \bPA\b \bA\sP\b \bP\sA\b \bAPPA\b \bPAAP\b FRONTAL ANTERO_POST POSTERO_ANT \bFACE\b DORSO_VENTRAL "
        r"VON_VORNE ROSENBERG TUNNEL NOTCH \bSCHUSS\b \bFRIK\b"
    ),
    View.LATERAL: (
        r"\bLATERAL(?!I[TZ]) \bLAT\b LATERO_MEDIAL MEDIO_LATERAL LATERO_LATERAL SEITLICH SEITENA SEITAUFN "
        r"\bPROFIL[OS]?\b PERFIL ZIJDELINGS ZIJAANZICHT \bDWARS \bX\s?TABLE CROSS\s?TABLE SAGITTAL"
    ),
    View.AXIAL: (
        r"\bAXIA+LE?\b SKYLINE SUNRISE MERCHANT HUGHSTON LAURIN SETTEGAST KNUTSSON TANGENTI TANGENCIA INFERO_SUP "
        r"SUPERO_INF DEFILE"
    ),
    View.OBLIQUE: (r"OBLIQ OBLICU \bOBL\b SCHRAE?G SCHUIN \b[LR][AP]O\b"),
}
_LETTERS = {  # of View Position alone: in a text, LL may be a leg's length
    View.LATERAL: r"\b[LR]LD?\b \bML\b \bLM\b",
    View.AXIAL: r"\bSI\b \bIS\b \bAX\b",
    View.OBLIQUE: r"\b[LRM]LO\b \bLMO\b",
}
_OF_THE_KNEE = re.compile(  # beside it, "lateral" is a part of the knee and no view of it
    r"COMPART|KOMPART|MENIS|[CK]ONDYL|CONDIL|PLATEAU|PIATTO|LIGAMENT|BAND|FACET|SPALT|SPACE|ARTHR|ARTROS|^OA$|RELEASE|"
    r"RETINAC|^TIBI|^FEM|PAIN|SCHMERZ|WEDGE|BRACE|^SIDE$|^SEITE$|JSN|NARROW|OSTEOPHYT|SUBLUX|LUXAT|TILT|THRUST|UNICOMP|"
    r"INSTAB"
)


_PHRASES = re.compile(
    r"\bC ARM\b|\bDE PIE\b|\b(TIBIA|FEMUR|FIBULA) (?=PLAT|COND|HEAD)|\bHEAD OF\b|\bAXIAL (?=ALIGN|LOAD)"
)
"""What names no part and no view, though its words do: the X-ray machine's arm, "standing" in Spanish."""


@cache
def _pattern(patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(pattern.replace("_", "[A-Z]* ?") for pattern in patterns.split()))


def words(written: str) -> str:
    """A text in capital letters without accents, its words parted by one space; camels' humps part words, too."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain_letters(written))
    return _PHRASES.sub("", " ".join(re.sub(r"[\W\d_]+", " ", plain.upper()).split()))


def part_in(written: str) -> str:
    """The part of the body that a text names: the knee, if it is among several; empty for none."""
    said = words(written)
    return next((part for part, stems in _PARTS.items() if _pattern(stems).search(said)), "")


def views_in(written: str, *, position: bool = False) -> set[View]:
    """The views that a text names. `position`: it is a View Position, of which letters are enough."""
    said = words(written)
    if not position:
        said = _without_sides_of_the_knee(said)
    letters = _LETTERS if position else {}
    return {
        view for view, stems in _VIEWS.items() if _pattern(f"{stems} {letters.get(view, '')}").search(said)
    }


def _without_sides_of_the_knee(said: str) -> str:
    """Words without "lateral" where that is the outer side: "lateral compartment", "ménisque latéral"."""
    found = said.split()
    beside = zip(["", *found], found, [*found[1:], ""], strict=False)
    return " ".join(
        word
        for before, word, after in beside
        if not (word.startswith("LAT") and (_OF_THE_KNEE.search(before) or _OF_THE_KNEE.search(after)))
    )


def subject_notes(data: Dataset, label: str) -> list[str]:
    """What to warn of about part and view, for a film that is not refused.

    Raises
    ------
    ImageError
        If the header says that it shows another part of the body, or another view than one from the front.
    """
    return [*_part_notes(data, label), *_view_notes(data, label)]


def _part_notes(data: Dataset, label: str) -> list[str]:
    stated = [part_in(value) for value in every(data, "BodyPartExamined") if value]
    if "" in stated:
        raise ImageError(
            f"{label}: its Body Part Examined is not a knee, by no word that is known; if that is wrong, correct it or "
            "export a PNG"
        )
    stated += [part_in(meaning) for meaning in _meanings(data, "AnatomicRegionSequence", "cid4009")]
    believed, where = set(stated) - {"", _NO_PART}, told("BodyPartExamined")
    notes = []
    for level in (_SERIES, _STUDY):
        parts = {part_in(value) for _, value in _texts(data, level)} - {"", _NO_PART}
        if parts & {_KNEE, _LEG}:
            parts = {_KNEE}
        if not believed:
            believed, where = parts, "description"
        elif parts - {_KNEE, _LEG}:
            notes.append(f"the header contradicts itself: a description names another part ({min(parts)})")
    if other := sorted(believed - {_KNEE, _LEG}):
        raise ImageError(
            f"{label}: its {where} is not a knee ({other[0]}); if that is wrong, correct it or export a PNG"
        )
    return notes


def _view_notes(data: Dataset, label: str) -> list[str]:
    stated: set[View] = set()
    for meaning in (*every(data, "ViewPosition"), *_meanings(data, "ViewCodeSequence", "cid4010")):
        stated |= views_in(meaning, position=True)
    described = [
        {view for _, value in _texts(data, level) for view in views_in(value)} for level in (_SERIES, _STUDY)
    ]
    series = described[0]
    where, believed = told("ViewPosition"), stated - {View.FRONT}
    if not stated:
        where, said = "description", next((views for views in described if views), set())
        believed = set() if View.FRONT in said else said
    if believed:
        raise ImageError(
            f"{label}: its {where} is {min(believed)}; expected PA or AP; if wrong, correct it or export a PNG"
        )
    if stated and series and View.FRONT not in series:
        raise ImageError(
            f"{label}: contradicts itself about its view: {told('ViewPosition')} is frontal, a description says "
            f"{min(series)}; expected PA or AP; correct it or export a PNG"
        )
    if not stated and len(series) > 1:
        return ["a description names several views: check that the film is the frontal one"]
    return []


def _texts(data: Dataset, keywords: Iterable[str]) -> list[tuple[str, str]]:
    return [(keyword, value) for keyword in keywords for value in every(data, keyword) if value]


def _meanings(data: Dataset, keyword: str, known: str) -> list[str]:
    """What coded items and their modifiers mean: as the standard's context group has it, else as they say."""
    found = []
    for item in items(data, keyword):
        scheme = first(item, "CodingSchemeDesignator")
        code = Code(first(item, "CodeValue"), "SRT" if scheme in _OLD_SNOMED else scheme, "")
        meant = (one.meaning for one in _context_group(known) if one == code)
        found.append(next(meant, first(item, "CodeMeaning")))
        for modifier in items(item, "ViewModifierCodeSequence"):
            found.append(first(modifier, "CodeMeaning"))
    return [meaning for meaning in found if meaning]


@cache
def _context_group(name: str) -> list[Code]:
    group = getattr(codes, name)
    return [getattr(group, keyword) for keyword in group.dir()]
