"""Spacing and side, from headers."""

import numpy as np
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from progression.dicom.laterality import laterality
from progression.dicom.read import Header, read_film, read_header
from progression.dicom.spacing import pixel_spacing
from progression.errors import ImageError
from progression.types import Side
from tests.dicom.films import again, content, dx, forced

MAGNIFICATION = "EstimatedRadiographicMagnificationFactor"
IMAGER = "ImagerPixelSpacing"


def header(values: dict[str, object]) -> Dataset:
    return forced(Dataset(), **values)


@pytest.mark.parametrize(
    ("values", "mm", "source"),
    [
        ({IMAGER: [0.15, 0.15]}, 0.15, IMAGER),
        ({IMAGER: [0.15, 0.15], MAGNIFICATION: 1.2}, 0.125, IMAGER),
        ({IMAGER: [0.15, 0.15], "DistanceSourceToDetector": 1800, "DistanceSourceToPatient": 1500}, 0.125,
         IMAGER),
        ({IMAGER: [0.15, 0.15], MAGNIFICATION: 9}, 0.15, IMAGER),
        ({IMAGER: [0.15, 0.15], "PixelSpacing": [0.15, 0.15]}, 0.15, IMAGER),
        ({IMAGER: [0.15, 0.15], "PixelSpacing": [0.13, 0.13]}, 0.13, "PixelSpacing, calibrated"),
        ({"PixelSpacing": [0.13, 0.13], "PixelSpacingCalibrationType": "FIDUCIAL",
          MAGNIFICATION: 1.2}, 0.13, "PixelSpacing, calibrated"),
        ({"PixelSpacing": [0.12, 0.12], MAGNIFICATION: 1.2}, 0.1, "PixelSpacing"),
        ({"NominalScannedPixelSpacing": [0.17, 0.17]}, 0.17, "NominalScannedPixelSpacing"),
        ({IMAGER: [0, 0], "NominalScannedPixelSpacing": [0.2, 0.2]}, 0.2, "NominalScannedPixelSpacing"),
        ({"PixelSpacing": [25, 25]}, None, None),
        ({}, None, None),
    ],
)  # fmt: skip
def test_spacing(values: dict[str, object], mm: float | None, source: str | None) -> None:
    found = pixel_spacing(header(values), "x")
    if mm is None:
        assert found is None
    else:
        assert found is not None and found.mm == pytest.approx(mm) and found.source == source


@pytest.mark.parametrize("values", [{"PixelSpacing": [0.1, 0.2]}, {"PixelAspectRatio": [1, 2]}])
def test_pixels_that_are_not_square_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ImageError, match="expected square"):
        pixel_spacing(header(values), "x")


@pytest.mark.parametrize(
    ("values", "side", "both", "contradictory"),
    [
        ({"ImageLaterality": "L"}, "left", False, False),
        ({"Laterality": "R"}, "right", False, False),
        ({"ImageLaterality": "B"}, None, True, False),
        ({"ImageLaterality": "U"}, None, False, False),
        ({"ImageLaterality": "L", "Laterality": "R"}, None, False, True),
        ({"ImageLaterality": "L", "SeriesDescription": "RT KNEE AP"}, None, False, True),
        ({"ImageLaterality": "L", "SeriesDescription": "Knees bilateral standing"}, "left", False, False),
        ({"ImageLaterality": "B", "SeriesDescription": "left knee"}, None, False, True),
        ({"BodyPartExamined": "KNEE_LEFT"}, "left", False, False),
        ({"BodyPartExamined": "LKNEE"}, None, False, False),
        ({"SeriesDescription": "L Knee"}, "left", False, False),
        ({"SeriesDescription": "Knie rechts a.p."}, "right", False, False),
        ({"ProtocolName": "Genou gauche"}, "left", False, False),
        ({"SeriesDescription": "R and L", "ProtocolName": "Both knees"}, None, True, False),
        ({"SeriesDescription": "left and right knee"}, None, True, False),
        ({"SeriesDescription": "left knee", "ProtocolName": "bilateral"}, None, False, True),
        ({"SeriesDescription": "upright"}, None, False, False),
        ({"StudyDescription": "left knee"}, None, False, False),
        ({"ImageLaterality": "LEFT"}, "left", False, False),
        ({"ImageLaterality": "links"}, "left", False, False),
        ({"ImageLaterality": "l "}, "left", False, False),
        ({"Laterality": "Derecha"}, "right", False, False),
        ({"ImageLaterality": "24028007"}, "right", False, False),
        ({"ImageLaterality": "bilateral"}, None, True, False),
        ({"ImageLaterality": "LEFT", "Laterality": "R"}, None, False, True),
        ({"ImageLaterality": ["L", "R"]}, None, False, True),
        ({"ImageLaterality": ["R", "L"], "SeriesDescription": "Knee AP"}, None, False, True),
        ({"ImageLaterality": ["L", "L"]}, "left", False, False),
        ({"SeriesDescription": "Genoux bilatéral de face"}, None, True, False),
        ({"SeriesDescription": "Joelho esquerdo"}, "left", False, False),
        ({"SeriesDescription": "linkes Knie"}, "left", False, False),
        ({"SeriesDescription": "Ginocchio dx"}, "right", False, False),
        ({"SeriesDescription": "DX Knee AP"}, None, False, False),
        ({}, None, False, False),
    ],
)
def test_side(values: dict[str, object], side: str | None, both: bool, contradictory: bool) -> None:
    found = laterality(header(values))
    assert (found.side, found.both, found.contradictory) == (side and Side(side), both, contradictory)


def test_the_regions_modifier_counts() -> None:
    made = again(content(dx(Side.RIGHT)))
    assert laterality(made).evidence == ("ImageLaterality right", "AnatomicRegionModifierSequence right")
    made.ImageLaterality = "L"
    assert laterality(made).contradictory


def test_evidence_quotes_nothing_of_the_file() -> None:
    found = laterality(header({"SeriesDescription": "left knee of Annegret Geheimnis"}))
    assert str(found) == "SeriesDescription left"


def said(**values: object) -> Header:
    """A film's header that says this, and nothing else of part, view and side."""
    made = again(content(dx()))
    for keyword in ("BodyPartExamined", "ViewPosition", "AnatomicRegionSequence", "StudyDescription"):
        del made[keyword]
    return read_header(content(forced(made, **values)), "film.dcm")


def coded(value: str, scheme: str, meaning: str = "?") -> list[Dataset]:
    return [header({"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning})]


def test_a_side_that_is_none_is_told() -> None:
    assert said(ImageLaterality="X7").notes == (
        "its Image Laterality is no side that is known, and passed over",
    )
    assert said(ImageLaterality="U").notes == ()


KNEES = ["KNEE", "knee", "Knee Joint", "KNIE", "Kniegelenk", "GENOU", "RODILLA", "GINOCCHIO", "JOELHO", "PATELLA",
         "LOWER EXTREMITY", "LWR EXTREMITY", "LEG", "LOWER LEG", "Long leg", "Hip-Knee-Ankle", "untere Extremität",
         "membre inférieur", "EXTREMITY", "JOINT", "UNKNOWN"]  # fmt: skip
OTHERS = {"ELBOW JOINT": "elbow", "HIP JOINT": "hip", "SHOULDERJOINT": "shoulder", "UPPER EXTREMITY": "arm",
          "Upper Limb": "arm", "HÜFTE": "hip", "Huefte": "hip", "Codo": "elbow", "ÉPAULE": "shoulder",
          "Handgelenk": "hand", "WRIST": "hand", "L-SPINE": "spine", "CSPINE": "spine", "FOOT": "foot",
          "ankle": "ankle", "PELVIS": "hip", "CHEST": "chest", "SKULL": "head", "UPPER LEG": "thigh", "FEMUR": "thigh",
          "TIBIA": "shin", "WHOLE BODY": "whole body",
          "Cotovelo": "elbow", "Spalla": "shoulder", "tobillo": "ankle", "obere Extremität": "arm"}  # fmt: skip


@pytest.mark.parametrize("part", KNEES)
def test_films_of_knees_and_legs_are_read(part: str) -> None:
    assert said(BodyPartExamined=part).notes == () == said(SeriesDescription=part).notes


@pytest.mark.parametrize("part", OTHERS)
def test_another_part_of_the_body_is_refused_by_name_wherever_it_is_named(part: str) -> None:
    for keyword in ("BodyPartExamined", "SeriesDescription", "ProtocolName", "StudyDescription"):
        with pytest.raises(ImageError, match=rf"is not a knee \({OTHERS[part]}\); if that is wrong"):
            said(**{keyword: part})


def test_a_part_by_no_known_word_is_refused_and_a_description_may_say_anything() -> None:
    with pytest.raises(ImageError, match="Body Part Examined is not a knee, by no word that is known"):
        said(BodyPartExamined="LOKIEC")
    assert said(SeriesDescription="Routine 2, Abteilung C-arm").notes == ()


def test_the_part_is_believed_before_the_descriptions_and_the_study_last() -> None:
    contrary = "the header contradicts itself: a description names another part (elbow)"
    assert said(BodyPartExamined="KNEE", SeriesDescription="Elbow").notes == (contrary,)
    assert said(SeriesDescription="Knee", StudyDescription="Elbow").notes == (contrary,)
    assert said(SeriesDescription="Hip and knee", StudyDescription="Pelvis, both knees").notes == ()
    with pytest.raises(ImageError, match=r"is not a knee \(elbow\)"):
        said(BodyPartExamined="EXTREMITY", SeriesDescription="Elbow", StudyDescription="Knee")
    with pytest.raises(ImageError, match=r"Body Part Examined is not a knee \(hip\)"):
        said(BodyPartExamined=["KNEE", "HIP"])


@pytest.mark.parametrize(
    ("value", "scheme", "part"),
    [("72696002", "SCT", ""), ("T-D9200", "SRT", ""), ("24136001", "SCT", "hip"), ("T-15710", "SRT", "hip"),
     ("T-15430", "SNM3", "elbow"), ("local", "99X", "")],
)  # fmt: skip
def test_the_anatomic_region_counts_in_old_and_new_codes(value: str, scheme: str, part: str) -> None:
    region = coded(value, scheme)
    if not part:
        assert said(AnatomicRegionSequence=region).notes == ()
        return
    for body in ("", "KNEE"):
        with pytest.raises(ImageError, match=rf"is not a knee \({part}\)"):
            said(AnatomicRegionSequence=region, BodyPartExamined=body)
    with pytest.raises(ImageError, match=r"is not a knee \(shoulder\)"):
        said(AnatomicRegionSequence=coded("local", "99X", "Schulter"))


FRONTAL = [
    "AP",
    "PA",
    "pa",
    "A.P.",
    "Antero-Posterior",
    "POSTEROANTERIOR",
    "frontal",
    "Rosenberg",
    "PA TUNNEL",
    "NOTCH",
]
SIDEWAYS = {"LL": "lateral", "RLD": "lateral", "LAT": "lateral", "Lateral": "lateral", "LATERO-MEDIAL": "lateral",
            "MEDIOLATERAL": "lateral", "ML": "lateral", "X-TABLE": "lateral", "SKYLINE": "axial", "AXIAL": "axial",
            "Sunrise": "axial", "MERCHANT": "axial", "Hughston": "axial", "TANGENTIAL": "axial", "LLO": "oblique",
            "OBLIQUE": "oblique", "AP OBLIQUE": "oblique", "seitlich": "lateral", "profil": "lateral"}  # fmt: skip


@pytest.mark.parametrize("view", FRONTAL)
def test_views_from_the_front_are_read(view: str) -> None:
    assert said(ViewPosition=view, SeriesDescription="Knee").notes == ()
    assert said(SeriesDescription=f"Knee {view}").notes == ()


@pytest.mark.parametrize("view", SIDEWAYS)
def test_other_views_are_refused_by_name(view: str) -> None:
    with pytest.raises(ImageError, match=f"View Position is {SIDEWAYS[view]}; expected PA or AP"):
        said(ViewPosition=view)


@pytest.mark.parametrize(
    "words",
    ["Knee lateral", "Knie seitlich links", "genou profil", "RODILLA PERFIL", "Patella skyline", "KneeLateral",
     "knee LAT 2", "Knee, oblique", "patella tangential"],
)  # fmt: skip
def test_other_views_are_refused_where_a_description_names_them(words: str) -> None:
    with pytest.raises(ImageError, match=r"its description is (lateral|axial|oblique); expected PA or AP"):
        said(SeriesDescription=words)
    with pytest.raises(
        ImageError, match=r"contradicts itself about its view: View Position is frontal, .* PA or AP"
    ):
        said(SeriesDescription=words, ViewPosition="AP")


@pytest.mark.parametrize(
    "words",
    ["lateral compartment OA", "compartiment latéral", "Knees bilateral", "contralateral knee", "lateral meniscus",
     "laterality unknown", "Unilateral knee", "axial alignment"],
)  # fmt: skip
def test_the_lateral_side_of_a_knee_is_no_lateral_view(words: str) -> None:
    assert said(SeriesDescription=words).notes == ()


def test_among_several_views_the_frontal_one_may_be_meant() -> None:
    told = "a description names several views: check that the film is the frontal one"
    assert said(SeriesDescription="Knee AP and lateral").notes == (told,)
    assert said(SeriesDescription="Knee AP and lateral", ViewPosition="AP").notes == ()
    assert said(StudyDescription="Knee AP and lateral").notes == ()
    with pytest.raises(ImageError, match="View Position is lateral"):
        said(ViewPosition=["AP", "LL"])


@pytest.mark.parametrize(
    ("value", "scheme", "view"),
    [("399348003", "SCT", ""), ("R-10214", "SRT", ""), ("399067008", "SCT", "lateral"), ("R-10236", "SRT", "lateral"),
     ("399061009", "SCT", "axial"), ("399312000", "SCT", "oblique")],
)  # fmt: skip
def test_the_views_code_counts(value: str, scheme: str, view: str) -> None:
    if view:
        with pytest.raises(ImageError, match=f"is {view}; expected PA or AP"):
            said(ViewCodeSequence=coded(value, scheme))
    else:
        assert said(ViewCodeSequence=coded(value, scheme)).notes == ()


@pytest.mark.parametrize(
    "keyword", ["Rows", "Modality", "PhotometricInterpretation", "BitsStored", "RescaleSlope"]
)
def test_several_values_where_one_is_meant_are_refused(keyword: str) -> None:
    values = {"Modality": ["DX", "CT"], "PhotometricInterpretation": ["MONOCHROME1", "MONOCHROME2"],
              "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}  # fmt: skip
    wanted = {keyword: values.get(keyword, [96, 12])}
    if keyword == "Modality":
        wanted["SOPClassUID"] = values["SOPClassUID"]  # of which it says what was captured
    with pytest.raises(ImageError, match="has 2 values; expected one; correct the header"):
        read_film(content(forced(dx(), **wanted)), "x")
    same = forced(dx(), PhotometricInterpretation=["MONOCHROME2", "MONOCHROME2"])
    assert read_header(content(same), "x").rows == 96


@pytest.mark.parametrize(
    ("keyword", "written", "fault"),
    [
        ("WindowCenter", "abc", "Window Center is no number"),
        ("WindowCenter", "2,048", "Window Center has a comma that may part thousands or decimals"),
        ("WindowWidth", "nan", "Window Width is no number"),
        ("WindowWidth", "", "a window without Window Width"),
        ("WindowCenter", "", "a window without Window Center"),
        ("RescaleSlope", "inf", "Rescale Slope is no number"),
        ("RescaleIntercept", "1_0", "Rescale Intercept is no number"),
        ("RescaleIntercept", "1e999", "Rescale Intercept is no number"),
        ("ImagerPixelSpacing", "0.2", "Imager Pixel Spacing has 1 values; expected 2"),
        ("ImagerPixelSpacing", r"0.2\0.2\0.2", "Imager Pixel Spacing has 3 values; expected 2"),
        ("ImagerPixelSpacing", "0.2 mm", "Imager Pixel Spacing is no number"),
        ("DistanceSourceToPatient", "?", "Distance Source to Patient is no number"),
        ("NumberOfFrames", "1.5", "Number of Frames is no whole number"),
    ],
)  # fmt: skip
def test_numbers_that_are_none_are_refused_by_their_attribute(keyword: str, written: str, fault: str) -> None:
    with pytest.raises(ImageError, match=fault):
        read_film(content(written_as(keyword, written)), "x")


def written_as(keyword: str, text: str) -> Dataset:
    """A film with a number as somebody wrote it."""
    made = again(content(dx()))
    made.add(RawDataElement(Tag(keyword), "DS", len(text), text.encode(), 0, False, True))
    return made


@pytest.mark.parametrize(
    "text", ["2048.5", " 2048.5 ", "+2048.5", "2.0485E3", "2048,5", "2048,50", "+2048,5 "]
)
def test_one_number_in_many_spellings_is_one_picture(text: str) -> None:
    film, plain = written_as("WindowCenter", text), written_as("WindowCenter", "2048.5")
    found = read_film(content(film), "x")
    np.testing.assert_array_equal(found.values, read_film(content(plain), "x").values)
    assert any("decimal comma" in note for note in found.header.notes) is ("," in text)


def test_spacing_with_decimal_commas() -> None:
    found = read_header(content(written_as("ImagerPixelSpacing", r"0,2009\0,2009")), "x")
    assert found.spacing is not None and found.spacing.mm == 0.2009
    assert found.notes == (
        "the header writes numbers with a decimal comma, which the standard does not know: read as such",
    )
