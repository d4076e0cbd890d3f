from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.datadict import DicomDictionary, dictionary_has_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.tag import Tag

from progression.dicom.deidentify import Deidentifier, basic_profile
from progression.dicom.parse import guarded
from progression.dicom.read import read_film
from progression.errors import ImageError
from tests.dicom.films import SECRETS, again, check_with_dciodvfy, content, dx, forced, named, save

KEY = b"k" * 32


def cleaned(film: Dataset, **options: object) -> Dataset:
    name, data, _ = Deidentifier(**{"key": KEY} | options).file(content(film), "film")
    assert name == again(data).SOPInstanceUID
    return again(data)


def richly_named() -> Dataset:
    """A patient in every kind of place."""
    film = named(dx())
    film.SeriesDescription, film.ImageComments, film.StationName = "Annegret", "Geheimnis", "Hospital"
    film.OperatorsName, film.PatientComments, film.DeviceSerialNumber = "Doktor^Ein", "Annegret", "PID-77123"
    item = Dataset()
    item.CodeMeaning, item.PatientID, item.OtherPatientNames = "kept", "PID-77123", "Geheimnis^Annegret"
    film.AcquisitionContextSequence, film.RequestAttributesSequence = [item], [item]
    film.private_block(0x0011, "VENDOR", create=True).add_new(1, "LO", "Geheimnis")
    film.add_new(0x60000022, "LO", "Annegret")
    film.add_new(0x60004000, "LT", "Geheimnis")
    film.file_meta.SourceApplicationEntityTitle = "Hospital"
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = film.SOPClassUID, "1.2.3.4"
    film.SourceImageSequence = [source]
    return film


def test_the_table_is_the_standards() -> None:
    """Rows that can be looked up in PS3.15, Table E.1-1."""
    table = basic_profile()
    looked_up = {
        0x00080018: "U", 0x00080020: "Z", 0x00080050: "Z", 0x00080080: "X/Z/D", 0x00080081: "X", 0x00080090: "Z",
        0x0008103E: "X", 0x00081070: "X/Z/D", 0x00100010: "Z", 0x00100020: "Z/D", 0x00100030: "Z", 0x00100040: "Z",
        0x00101010: "X", 0x00104000: "X", 0x0020000D: "U", 0x0020000E: "U", 0x00204000: "X", 0x00400275: "X",
    }  # fmt: skip
    assert {tag: table.get(tag) for tag in looked_up} == looked_up
    assert len(table) > 600 and set(table.values()) <= {
        "X",
        "Z",
        "D",
        "U",
        "X/Z",
        "X/D",
        "Z/D",
        "X/Z/D",
        "X/Z/U*",
    }


@pytest.mark.parametrize("keep", [False, True])
def test_nothing_that_names_the_patient_is_left(keep: bool) -> None:
    film = richly_named()
    assert all(secret.encode() in content(film) for secret in SECRETS)
    _, data, _ = Deidentifier(key=KEY, keep_intervals=keep).file(content(film), "film")
    assert [secret for secret in SECRETS if secret.encode() in data] == []
    for value in (film.SOPInstanceUID, film.StudyInstanceUID, film.SeriesInstanceUID):
        assert str(value).encode() not in data
    made = again(data)
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == Deidentifier(key=KEY).new_uid("1.2.3.4")
    assert not [e.tag for e in made.iterall() if e.tag.is_private or e.tag.group >> 8 == 0x60]


def test_what_is_done_is_said() -> None:
    plain, kept = cleaned(named(dx())), cleaned(named(dx()), keep_intervals=True)
    assert plain.PatientIdentityRemoved == "YES"
    assert [item.CodeValue for item in plain.DeidentificationMethodCodeSequence] == ["113100"]
    assert [item.CodeValue for item in kept.DeidentificationMethodCodeSequence] == ["113100", "113107"]
    told = (plain.LongitudinalTemporalInformationModified, kept.LongitudinalTemporalInformationModified)
    assert told == ("REMOVED", "MODIFIED")


def test_pixels_and_what_the_reader_needs_are_kept() -> None:
    film = named(dx(inverted=True))
    before, after = read_film(content(film), "x"), read_film(content(cleaned(film)), "x")
    assert (before.values == after.values).all()
    assert (before.header.laterality.side, before.header.spacing) == (
        after.header.laterality.side,
        after.header.spacing,
    )


def test_dates_go_or_move_together() -> None:
    first, second = named(dx()), named(dx())
    first.StudyDate, second.StudyDate = "20200229", "20240229"
    second.AcquisitionDateTime = "20240301101500.5+0100"
    assert not cleaned(first).StudyDate and not cleaned(first).get("AcquisitionDate")
    moved = [cleaned(film, keep_intervals=True) for film in (first, second)]
    days = [datetime.strptime(film.StudyDate, "%Y%m%d") for film in moved]
    assert (days[1] - days[0]).days == 1461
    assert 1 <= (datetime(2020, 2, 29) - days[0]).days <= 3650
    assert (
        datetime.strptime(moved[1].AcquisitionDateTime[:8], "%Y%m%d").toordinal() == days[1].toordinal() + 1
    )
    assert moved[1].AcquisitionDateTime[8:] == "101500.5+0100"
    assert not moved[0].PatientBirthDate  # a birth is no visit


def test_one_key_one_patient_another_key_another() -> None:
    first, second, other = named(dx()), named(dx()), named(dx())
    second.StudyInstanceUID = first.StudyInstanceUID
    other.PatientID = "PID-2"
    a, b, c, d = cleaned(first), cleaned(second), cleaned(other), cleaned(first, key=b"x" * 32)
    assert a.PatientID == b.PatientID != c.PatientID
    assert a.StudyInstanceUID == b.StudyInstanceUID != d.StudyInstanceUID
    assert a.SOPInstanceUID != b.SOPInstanceUID and a.PatientID != d.PatientID
    assert uid.UID(a.SOPInstanceUID).is_valid


def item(**values: object) -> Dataset:
    return forced(Dataset(), **values)


def test_what_the_standard_does_not_know_goes_wherever_it_is() -> None:
    film, within = named(dx()), Dataset()
    for part in (film, within):
        part.add_new(0x00101999, "LO", "Geheimnis")  # no attribute of the standard's
        part.add_new(0x33320010, "LT", "Annegret")
        part.add_new(0x00081111, "LO", "Geheimnis")  # a sequence, called a text
        part.add_new(0x00104000, "UN", b"Geheimnis")
        part.add_new(0x00080000, "UL", 77123)  # a group's length
        part.add_new(0x00081190, "UR", "https://hospital.invalid/PID-77123")
        part.add_new(0x00080041, "LO", "Geheimnis")  # retired
        part.add_new(0x00280003, "LO", "kept")  # none of the standard's either
        forced(
            part,
            PatientBirthDateInAlternativeCalendar="1335/10/03",
            ICCProfile=b"Geheimnis",
            CodingSchemeName="Doktor",
            PatientDeathDateInAlternativeCalendar="1400/01/01",
            PatientAlternativeCalendar="PERSIAN",
        )
    within.add_new(0x00081999, "SQ", [item(PatientName="Geheimnis^Annegret")])
    film.AnatomicRegionSequence = [within]
    film.OriginalAttributesSequence = [item(ModifyingSystem="Hospital")]
    film.add_new(0xFFFCFFFC, "OB", b"Geheimnis ")
    data = Deidentifier(key=KEY).file(content(film) + b"Geheimnis", "film").content
    assert [secret for secret in (*SECRETS, "1335", "PERSIAN", "77123") if secret.encode() in data] == []
    made = again(data)
    assert not [e.tag for e in made.iterall() if not dictionary_has_tag(e.tag) or e.tag.element == 0]
    assert made.AnatomicRegionSequence[0].dir() == []


def test_what_is_kept_is_looked_into() -> None:
    """Short texts and numbers that the table leaves alone hold nobody's name or number, and no date."""
    film = named(dx())
    texts = {
        "Manufacturer": "for Annegret",
        "ManufacturerModelName": "done 4.5.2026",
        "RescaleType": "20260504",
        "DetectorMode": "GEHEIMNIS",
        "FilterMaterial": "lower case_%",
        "AcquisitionDeviceProcessingCode": "77123",
    }
    forced(film, **texts, InstanceNumber="19561224", XRayTubeCurrent="500", CodingSchemeUID="1.2.77123.1")
    film.add(RawDataElement(Tag("ExposureTime"), "IS", 8, b"Annegret", 0, False, True))
    made = cleaned(film)
    assert {made[keyword].value for keyword in texts if keyword in made} <= {"REMOVED", ""}
    assert not made.InstanceNumber and not made.ExposureTime and made.XRayTubeCurrent == 500
    assert made.PhotometricInterpretation == "MONOCHROME2" and made.Modality == "DX"
    plain = forced(
        dx(), PatientName="Left^Knee", Manufacturer="Acme Ltd"
    )  # a word of the standard's is nobody's
    assert (cleaned(plain).BodyPartExamined, cleaned(plain).ImageLaterality) == ("KNEE", "L")
    assert cleaned(plain).Manufacturer == "Acme Ltd"


@pytest.mark.parametrize(
    "value",
    ["20260504-20260506", "260504", "2026.05.04", "20260504-0600-", "2026-05-04", "20261304", "20260504 1015",
     "20260504-2026", "unknown", "19561224-"],
)  # fmt: skip
def test_a_date_that_is_none_is_emptied_and_gives_no_shift_away(value: str) -> None:
    film = forced(
        named(dx()), SeriesDate=value, AcquisitionDateTime=value, StudyTime=value, ContentTime="101500.25"
    )
    data = Deidentifier(key=KEY, keep_intervals=True).file(content(film), "film").content
    made = again(data)
    assert not made.get("SeriesDate") and not made.get("AcquisitionDateTime") and not made.StudyTime
    assert value.encode() not in data and made.ContentTime == "101500.25"


def test_a_time_with_its_zone_moves() -> None:
    for written, rest in (
        ("20260504", ""),
        ("202605041015", "1015"),
        ("20260504101500.5-0500", "101500.5-0500"),
    ):
        made = cleaned(forced(named(dx()), AcquisitionDateTime=written), keep_intervals=True)
        assert made.AcquisitionDateTime[8:] == rest and made.AcquisitionDateTime[:8] < "20260504"


def test_nothing_stays_around_the_pixels() -> None:
    film = named(dx())
    picture = film.PixelData
    film.PixelData = picture + b"Geheimnis "
    film.preamble = b"Geheimnis".ljust(128, b"\0")
    film.file_meta.PrivateInformationCreatorUID, film.file_meta.PrivateInformation = "1.2.3", b"Annegret"
    film.VOILUTSequence = [item(LUTDescriptor=[4, 0, 8])]
    film.VOILUTSequence[0].add_new("LUTData", "OW", b"\1\0\2\0\3\0\4\0Geheimnis ")
    film.add_new("LUTData", "OW", b"Geheimnis ")
    data = Deidentifier(key=KEY).file(content(film), "film").content
    assert [secret for secret in SECRETS if secret.encode() in data] == []
    made = again(data)
    assert made.PixelData == picture and made.VOILUTSequence[0].LUTData == b"\1\0\2\0\3\0\4\0"
    assert made.preamble == bytes(128)


def test_bytes_behind_the_pixels_go_even_if_they_are_no_element() -> None:
    _, data, _ = Deidentifier(key=KEY).file(content(dx()) + b"GEHEIMNIS" * 3, "film")
    assert b"GEHEIMNIS" not in data
    assert read_film(data, "film").values.any()


@pytest.mark.parametrize(
    "syntax", [uid.JPEGLSLossless, uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGBaseline8Bit]
)
def test_nothing_stays_within_compressed_pixels(syntax: uid.UID) -> None:
    """Comments and applications' segments go, bytes after the end too, and the picture is the same."""
    film = again(content(named(dx(bits=8))))
    if syntax == uid.JPEGBaseline8Bit:
        stream = BytesIO()
        Image.fromarray(film.pixel_array).save(stream, "JPEG", comment=b"Geheimnis", exif=b"Exif\0\0Annegret")
        frame = stream.getvalue()
        film.file_meta.TransferSyntaxUID = syntax
    else:
        if syntax == uid.JPEG2000Lossless:
            pytest.importorskip("openjpeg", reason="needs the extra dicom")
        film.compress(syntax, generate_instance_uid=False)
        frame = next(generate_frames(film.PixelData, number_of_frames=1))
        comment = (
            b"\xff\x64\x00\x0d\x00\x01Geheimnis"
            if syntax == uid.JPEG2000Lossless
            else b"\xff\xfe\x00\x0bGeheimnis"
        )
        at = 2 if syntax == uid.JPEGLSLossless else frame.find(b"\xff\x52")
        frame = frame if syntax == uid.RLELossless else frame[:at] + comment + frame[at:] + b"Annegret"
    film.PixelData = encapsulate([frame])
    film["PixelData"].VR = "OB"
    film["PixelData"].is_undefined_length = True
    data = Deidentifier(key=KEY).file(content(film), "film").content
    assert [secret for secret in SECRETS if secret.encode() in data] == []
    np.testing.assert_array_equal(read_film(data, "x").values, read_film(content(film), "x").values)


def person(**values: object) -> str:
    """The pseudonym of somebody's film."""
    film = forced(dx(), **{"PatientID": "", "PatientName": "", "PatientBirthDate": ""} | values)
    return str(cleaned(film).PatientID)


NOBODY = ["", "UNKNOWN", "unknown", "N/A", "0", "0000", "XXXX", "anonymous", "TEST", "-", "None"]


@pytest.mark.parametrize("number", NOBODY)
def test_two_people_are_never_one_for_want_of_a_number(number: str) -> None:
    one, other = {"PatientName": "Li^Wu", "PatientBirthDate": "19500102"}, {"PatientName": "Roe^Jo"}
    assert person(PatientID=number, **one) != person(PatientID=number, **other)
    assert person(PatientID=number, **one) == person(PatientID=number, **one | {"PatientName": "LI^WU"})
    assert person(PatientID=number, **one) != person(
        PatientID=number, **one | {"PatientBirthDate": "19510102"}
    )
    assert person(PatientID=number, **other) != person(PatientID=number, **other)  # another study of some Jo
    assert person(PatientID=number) != person(PatientID=number)
    assert person(PatientID=number, StudyInstanceUID="1.2") == person(
        PatientID=number, StudyInstanceUID="1.2"
    )
    bare = [person(PatientID=number, StudyInstanceUID="") for _ in range(2)]
    assert bare[0] != bare[1]
    made = Deidentifier(key=KEY).file(
        content(forced(dx(), PatientID=number, PatientName="", PatientBirthDate="")), "x"
    )
    assert not made.of_known_person and Deidentifier(key=KEY).file(content(dx()), "x").of_known_person


def test_one_number_of_two_issuers_is_two_people() -> None:
    assert person(PatientID="77", IssuerOfPatientID="A") != person(PatientID="77", IssuerOfPatientID="B")
    assert person(PatientID="77", IssuerOfPatientID="A") == person(PatientID="77", IssuerOfPatientID="A")


@pytest.mark.parametrize("value", ["Yes", "yes ", "Y", "TRUE", "1", "UNKNOWN"])
def test_what_does_not_deny_burned_in_text_is_refused(value: str) -> None:
    with pytest.raises(ImageError, match="burned into its pixels"):
        cleaned(forced(dx(), BurnedInAnnotation=value))


SECRET_WORDS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=6, max_size=12).map(lambda word: f"q{word}z")
ATTRIBUTES = sorted(
    (tag, kinds) for tag, (kinds, _, _, _, name) in DicomDictionary.items()
    if tag >> 16 not in (0, 2, 0xFFFE) and tag & 0xFFFF and name not in
    ("PatientID", "PatientName", "SOPInstanceUID", "SOPClassUID", "BurnedInAnnotation", "SpecificCharacterSet")
)  # fmt: skip


@settings(max_examples=25)
@given(st.lists(st.sampled_from(ATTRIBUTES), min_size=1, max_size=60, unique=True), SECRET_WORDS, SECRET_WORDS,
       st.booleans(), st.booleans())  # fmt: skip
def test_a_name_is_found_in_whatever_attribute_it_was_written(
    attributes: list[tuple[int, str]], family: str, given_name: str, keep: bool, nested: bool
) -> None:
    """The whole dictionary is tried by benchmarks/privacy.py."""
    film, within = forced(dx(), PatientName=f"{family}^{given_name}"), Dataset()
    texts = ("LO", "SH", "CS", "LT", "ST", "UT", "UC", "PN", "AE", "UR", "DA", "DT", "TM", "AS", "OB", "UN")
    with guarded("test"):
        for tag, kinds in attributes:
            if (kind := kinds.split(" or ")[0]) in texts:
                secret: str | bytes = given_name[:16] if kind == "CS" else f"of {family} {given_name}"
                part = within if nested or tag in film else film
                part.add_new(tag, kind, secret.encode() if kind in ("OB", "UN") else secret)  # type: ignore[union-attr]
    with guarded("test"):
        film.AnatomicRegionSequence = [within]
        whole = content(film)
    data = Deidentifier(key=KEY, keep_intervals=keep).file(whole, "film").content
    assert [secret for secret in (family, given_name) if secret.encode() in data] == []


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("BurnedInAnnotation", "YES", "burned into its pixels"),
        ("SOPClassUID", uid.CTImageStorage, "expected a CR, DX or Secondary"),
        ("SOPInstanceUID", "../../x", "SOPInstanceUID is missing or none"),
    ],
)
def test_refused(keyword: str, value: str, reason: str) -> None:
    film = forced(dx(), **{keyword: value})
    with pytest.raises(ImageError, match=reason):
        cleaned(film)


@pytest.mark.parametrize("keep", [False, True])
def test_dciodvfy_finds_no_error(tmp_path: Path, *, keep: bool) -> None:
    check_with_dciodvfy(save(tmp_path / "film.dcm", cleaned(named(dx()), keep_intervals=keep)))
