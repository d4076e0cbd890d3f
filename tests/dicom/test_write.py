"""What returns to the study: bytes there and back, whose it is, what it says, and other people's validators."""

import re
import shutil
import subprocess
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from highdicom.sr import srread
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from progression.dicom import example
from progression.dicom.read import read_header
from progression.dicom.study import Study
from progression.errors import OutputError, UsageError
from progression.report.objects import dicom_files
from progression.report.words import asked_with, late
from progression.types import Prediction, Side
from tests.dicom.films import again, check_with_dciodvfy, content, dx, forced, named, save
from tests.fakes import prediction, radiograph

PDF = b"%PDF-1.4 odd"


def objects(film: Dataset, made: Prediction | None = None, **options: str) -> dict[str, Dataset]:
    study = Study.of(content(film), label="film.dcm", **options)
    written = dicom_files(made or prediction(radiograph(side=Side.LEFT), (24, 48)), study, pdf=PDF)
    return {name: again(data) for name, data in written.items()}


@pytest.fixture(scope="module")
def written() -> dict[str, Dataset]:
    return objects(named(dx()))


def test_the_picture_says_what_it_is(written: dict[str, Dataset]) -> None:
    image = written["future_048m.dcm"]
    assert image.SOPClassUID == uid.SecondaryCaptureImageStorage
    assert image.ImageType == ["DERIVED", "SECONDARY"]  # highdicom adds OTHER
    assert image.ConversionType == "SYN"  # highdicom writes DI
    assert (image.SyntheticData, image.BurnedInAnnotation) == ("YES", "YES")
    assert "prediction, 48 months" in image.ImageComments and "SYNTHETIC" in image.SeriesDescription
    assert "48 months later" in image.DerivationDescription
    assert image.DerivationCodeSequence[0].CodingSchemeDesignator == "99PROGRESSION"
    assert image.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99PROGRESSION"
    assert (image.Laterality, image.BodyPartExamined) == ("L", "KNEE")
    assert "PixelSpacing" not in image  # nothing may be measured in it
    assert image.pixel_array.shape == (512, 512)


def test_the_mark_is_burned_in(written: dict[str, Dataset]) -> None:
    """White on black in the lower left, in the picture of either horizon, and not the same text."""
    boxes = [written[f"future_{months}m.dcm"].pixel_array[-30:, :380] for months in ("024", "048")]
    for box in boxes:
        assert box.max() == 255 and np.median(box) == 0
    assert (boxes[0] != boxes[1]).any()


def test_it_joins_the_study_in_new_series(written: dict[str, Dataset]) -> None:
    film = named(dx())
    study = again(content(film))
    fresh = objects(film)
    for item in fresh.values():
        assert item.StudyInstanceUID == film.StudyInstanceUID
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyDate",
                        "AccessionNumber", "StudyID", "ReferringPhysicianName"):  # fmt: skip
            assert item[keyword].value == study[keyword].value
        assert item.SeriesInstanceUID != film.SeriesInstanceUID and item.SOPInstanceUID != film.SOPInstanceUID
        assert "InstitutionName" not in item
    series = {name: item.SeriesInstanceUID for name, item in fresh.items()}
    assert series["future_024m.dcm"] == series["future_048m.dcm"]
    assert len(set(series.values())) == 3
    uids = [item.SOPInstanceUID for each in (fresh, written) for item in each.values()]
    assert len(set(uids)) == len(uids)


def test_it_refers_to_the_film() -> None:
    film = dx()
    made = objects(film)
    for item in (
        made["future_048m.dcm"].SourceImageSequence[0],
        made["report.dcm"].SourceInstanceSequence[0],
    ):
        assert item.ReferencedSOPInstanceUID == film.SOPInstanceUID
        assert item.ReferencedSOPClassUID == film.SOPClassUID
    evidence = made["risk.dcm"].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == film.SOPInstanceUID


def test_no_date_is_acquired_or_to_come(written: dict[str, Dataset]) -> None:
    today = f"{date.today():%Y%m%d}"
    for item in written.values():
        assert not item.get("AcquisitionDate") and not item.get("AcquisitionDateTime")
        dates = [e for e in item.iterall() if e.VR in ("DA", "DT") and e.value]
        assert dates and all(str(element.value)[:8] <= today for element in dates)


def test_the_risks_are_measurements(written: dict[str, Dataset]) -> None:
    made = prediction(radiograph(side=Side.LEFT), (24, 48))
    report = srread(_stream(written["risk.dcm"]))
    groups = report.content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["left knee, 24 months", "left knee, 48 months"]
    assert len({group.tracking_uid for group in groups}) == 2
    for group, horizon in zip(groups, made.horizons, strict=True):
        told = {item.name.value: (item.value, item.unit.value) for item in group.get_measurements()}
        assert told["HORIZON"] == (horizon.horizon_months, "mo")
        assert told["RISK-KL-RISE-2"] == (pytest.approx(horizon.risk_fast, abs=1e-6), "1")
        assert told["RISK-KL-RISE-1"] == (pytest.approx(horizon.risk_any, abs=1e-6), "1")
        for step, interval in ((2, horizon.risk_fast_interval), (1, horizon.risk_any_interval)):
            ends = [told[f"RISK-KL-{step}-{end}"][0] for end in ("LOW", "HIGH")]
            assert ends == pytest.approx(interval, abs=1e-6)
        site = group.finding_sites[0]
        assert (site.topographical_modifier or site.laterality).meaning == "Left"
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")


def test_the_risks_are_not_told_without_their_warnings() -> None:
    """What they were asked with, and that a warned of picture must not be relied on, in each group."""
    warning = "accepted although it is upside down: do not rely on this"
    made = prediction(radiograph(side=Side.LEFT), (24, 96))
    told = {"grade_read": 2, "other_grade_read": 3}
    made = replace(made, warnings=(warning,), other_knee=True, provenance={**made.provenance, **told})
    groups = srread(_stream(objects(dx(), made)["risk.dcm"])).content.get_image_measurement_groups()
    assert len(groups) == 2
    for group in groups:
        found = {one.name.value: one.value for one in group.get_qualitative_evaluations()}
        assert found["KL-READ"].value == "KL-2" and found["OTHER-KNEE"].meaning == "Yes"
        comments = [item.TextValue for item in group[0].ContentSequence if item.name == codes.DCM.Comment]
        assert comments == [asked_with(made), f"Warning: {warning}", *late(made)] and len(comments) == 3


def test_a_grade_that_nobody_read_is_not_told(written: dict[str, Dataset]) -> None:
    for group in srread(_stream(written["risk.dcm"])).content.get_image_measurement_groups():
        found = {one.name.value: one.value.meaning for one in group.get_qualitative_evaluations()}
        assert found == {"OTHER-KNEE": "No"}


def test_a_risk_without_an_interval_has_no_bounds() -> None:
    made = prediction(radiograph(side=Side.LEFT), (24,))
    unsure = replace(made.horizons[0], risk_fast_interval=None, risk_any_interval=None)
    item = objects(dx(), replace(made, horizons=(unsure,)))["risk.dcm"]
    (group,) = srread(_stream(item)).content.get_image_measurement_groups()
    names = [one.name.value for one in group.get_measurements()]
    assert names == ["HORIZON", "RISK-KL-RISE-2", "RISK-KL-RISE-1", "TYPICALITY"]


def test_the_document_comes_back_whole(written: dict[str, Dataset]) -> None:
    document = written["report.dcm"]
    assert document.EncapsulatedDocument[: document.EncapsulatedDocumentLength] == PDF + b"\0" * (
        len(PDF) % 2
    )
    assert document.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert document.AcquisitionDateTime is None or document.AcquisitionDateTime == ""


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 144", "Люкceмбypг"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 192", "Σωκράτης^Α"),
    ],
)
def test_names_in_any_letters_arrive(character_set: str | list[str], name: str) -> None:
    film = dx()
    film.SpecificCharacterSet, film.PatientName = character_set, name
    for item in objects(film).values():
        assert str(item.PatientName) == name and item.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.parametrize(
    ("stated", "written", "read"),
    [
        (None, "iso8859-1", "Latin-1"),
        (None, "utf-8", "UTF-8"),
        ("ISO_IR 192", "iso8859-1", "Latin-1"),
        ("ISO_IR 100", "utf-8", "UTF-8"),
        ("UNKNOWN", "iso8859-1", "Latin-1"),
        ("ISO_IR 100", "iso8859-1", None),
        ("ISO_IR 192", "utf-8", None),
    ],
)
def test_names_arrive_from_headers_that_lie_about_their_letters(
    stated: str | None, written: str, read: str | None
) -> None:
    """With a warning in all that is predicted from the film, in items as at the top."""
    name, film = "Müller^Jörg".encode(written), dx()
    film.PatientName = mark = "N" * (len(name) + len(name) % 2)
    film.OtherPatientIDsSequence = [Dataset()]
    film.OtherPatientIDsSequence[0].PatientID = mark
    forced(film, SpecificCharacterSet=stated)
    lying = content(film).replace(mark.encode(), name.ljust(len(mark)))
    study = Study.of(lying, label="x")
    for made in (
        again(data) for data in dicom_files(prediction(radiograph(), (24,)), study, pdf=PDF).values()
    ):
        assert made.PatientName == "Müller^Jörg"
        assert made.OtherPatientIDsSequence[0].PatientID == "Müller^Jörg"
    notes = read_header(lying, "x").notes
    assert len(notes) == (read is not None) and all(f"were read as {read}: check" in note for note in notes)


def test_values_that_are_none_are_carried_as_they_are() -> None:
    made = objects(forced(dx(), StudyDate="2017..", PatientBirthDate="unknown", PatientSex="X"))
    assert {(item.StudyDate, item.PatientBirthDate, item.PatientSex) for item in made.values()} == {
        ("2017..", "unknown", "X")
    }


def test_uids_have_the_root_that_is_asked_for() -> None:
    for item in objects(dx(), uid_root="1.2.40.0.34.7").values():
        assert item.SOPInstanceUID.startswith("1.2.40.0.34.7.") and item.SeriesInstanceUID.startswith(
            "1.2.40.0.34.7."
        )
        assert uid.UID(item.SOPInstanceUID).is_valid


@pytest.mark.parametrize("root", ["", "1.", "3.4", "1.2.03", "1.2/../x", "1." + "2" * 60])
def test_roots_that_are_none(root: str) -> None:
    with pytest.raises(UsageError, match="UID root"):
        Study.of(content(dx()), label="x", uid_root=root)


@pytest.mark.parametrize("value", ["", "../../etc/passwd", "1.2.a", "1." + "3" * 70])
def test_a_film_of_no_study_is_told(value: str) -> None:
    film = forced(dx(), StudyInstanceUID=value)
    with pytest.raises(OutputError, match="StudyInstanceUID is missing or none"):
        Study.of(content(film), label="x")


def _stream(made: Dataset) -> "Path":
    from io import BytesIO

    return BytesIO(content(made))  # type: ignore[return-value]


@pytest.mark.parametrize("film", [dx(), example.cr(radiograph().pixels, spacing_mm=None)], ids=["DX", "CR"])
def test_dciodvfy_finds_no_error(film: Dataset, tmp_path: Path) -> None:
    made = prediction(radiograph(side=Side.LEFT), (24, 96))
    read = replace(made, other_knee=True, provenance={**made.provenance, "grade_read": 2})
    items = {"film.dcm": film, **objects(film, read)}
    check_with_dciodvfy(*(save(tmp_path / name, item) for name, item in items.items()))


def test_dcmtk_reads_them(written: dict[str, Dataset], tmp_path: Path) -> None:
    if shutil.which("dcmdump") is None:
        pytest.skip("needs dcmdump and dsrdump (Debian package dcmtk)")
    for name, item in written.items():
        (tmp_path / name).write_bytes(content(item))
        done = subprocess.run(
            ["dcmdump", "-q", "-E", tmp_path / name], capture_output=True, text=True, check=True
        )
        assert re.search(r"\(0010,0020\) LO \[PID-77123\]", done.stdout)
    told = subprocess.run(
        ["dsrdump", tmp_path / "risk.dcm"], capture_output=True, text=True, check=True
    ).stdout
    assert 'CODE:(,,"Finding Site")=(49076000,SCT,"Knee joint")' in told and '(1,UCUM,"no units")' in told


def test_a_horizon_without_picture_has_risks_only() -> None:
    made = prediction(radiograph(), (48,), render=False)
    assert set(objects(dx(), replace(made, name="x"))) == {"risk.dcm", "report.dcm"}
