from datetime import datetime
from pathlib import Path

import pytest
from pydicom import uid
from pydicom.dataset import Dataset

from progression.dicom.deidentify import Deidentifier, basic_profile
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
