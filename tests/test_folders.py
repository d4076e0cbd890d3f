import sys
import zipfile
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from progression import cli
from progression.cohort import predict_entries, run_cohort
from progression.dicom.parse import guarded
from progression.entries import Entry
from progression.errors import ImageError, NotARadiographError, UsageError
from progression.folders import find_films, holds_films
from progression.report.mark import save_synthetic_png
from progression.types import Prediction, Request, Side
from tests.dicom.films import SECRETS, content, dx, forced, named, save
from tests.fakes import FakePredictor, knee, save_knee


def film(side: Side | None, *, study: str = "1.2.3", patient: str = "PID-77123") -> Dataset:
    made = named(dx(side))
    made.StudyInstanceUID, made.PatientID = study, patient
    made.SOPInstanceUID = uid.generate_uid()
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two knees of a study, one of them without a suffix; a picture; and what is no film."""
    root = tmp_path / "films"
    (root / "b").mkdir(parents=True)
    (root / ".hidden").mkdir()
    (root / "out" / "knee").mkdir(parents=True)
    save(root / "b" / "IM0002", film(Side.RIGHT))
    save(root / "a.dcm", film(Side.LEFT))
    save(root / ".hidden" / "x.dcm", film(Side.LEFT))
    save_knee(root / "c.PNG", side=Side.LEFT)
    save_knee(root / "out" / "knee" / "figure.png")
    (root / "out" / "knee" / "prediction.json").write_text("{}")
    (root / "notes.txt").write_text("not a film")
    (root / "table.csv").write_text("name,image,side\n")
    return root


def test_films_are_found_by_content_in_the_order_of_their_paths(folder: Path) -> None:
    seen: list[int] = []
    entries = find_films([folder], progress=seen.append).entries
    assert [entry.name for entry in entries] == ["a", "c", "b/IM0002"]
    assert [entry.side for entry in entries] == ["", "", ""]  # a film says it when its turn comes
    assert seen == [1, 2, 3]
    assert {entry.subject for entry in entries} == {""}


def test_two_knees_of_a_study_see_each_other(folder: Path) -> None:
    predictor = FakePredictor()
    outcomes = list(predict_entries(predictor, find_films([folder]).entries, request=Request(), render=False))
    assert all(isinstance(outcome.result, Prediction) for outcome in outcomes)
    assert predictor.calls[0]["other_sides"] == [Side.RIGHT, None, Side.LEFT]
    assert predictor.calls[0]["subjects"] == [None] * 3


@pytest.mark.parametrize(
    "second",
    [
        film(Side.RIGHT, study="1.2.4"),  # another day
        film(Side.RIGHT, patient="PID-2"),  # another person
        film(Side.LEFT),  # one side
        forced(film(Side.RIGHT), ViewPosition="LATERAL"),  # not to be predicted
    ],
)
def test_films_that_are_no_pair(tmp_path: Path, second: Dataset) -> None:
    save(tmp_path / "1", film(Side.LEFT))
    save(tmp_path / "2", second)
    assert [entry.other for entry in find_films([tmp_path]).entries] == [None, None]


def test_without_a_patient_nobody_is_the_same(tmp_path: Path) -> None:
    for number, side in enumerate(Side):
        save(tmp_path / str(number), film(side, patient=""))
    assert [entry.other for entry in find_films([tmp_path]).entries] == [None, None]


@pytest.mark.parametrize("word", ["UNKNOWN", "n/a", "0000", "Anonymous", "-"])
def test_a_word_for_nobody_makes_no_pair_of_two_people(tmp_path: Path, word: str) -> None:
    """One study, as a careless archive has it; who has name and date of birth is known by them."""
    for number, (side, name) in enumerate(zip(Side, ("Roe^Jo", "Li^Wu"), strict=True)):
        save(tmp_path / str(number), forced(film(side, patient=word), PatientName=name))
    assert [entry.other for entry in find_films([tmp_path]).entries] == [None, None]
    for number, side in enumerate(Side):
        save(tmp_path / str(number), forced(film(side, patient=word), PatientName="Roe^Jo"))
    assert all(entry.other for entry in find_films([tmp_path]).entries)
    for number, side in enumerate(Side):
        save(tmp_path / str(number), forced(film(side, patient=word), PatientName="", PatientBirthDate=""))
    assert [entry.other for entry in find_films([tmp_path]).entries] == [None, None]


def test_no_output_names_a_patient(tmp_path: Path) -> None:
    films = tmp_path / "films" / "Geheimnis"
    films.mkdir(parents=True)
    save(films / "PID-77123_L.dcm", film(Side.LEFT))
    save(films / "PID-77123_R.dcm", film(Side.RIGHT))
    save(films / "PID-77123_both", forced(film(None), ImageLaterality="B"))
    out = tmp_path / "r.csv"
    failed = run_cohort(
        FakePredictor(), find_films([tmp_path / "films"]).entries, out, request=Request()
    ).failed
    table = out.read_text()
    assert [secret for secret in SECRETS if secret in table or secret in str(failed[0].result)] == []
    assert "shows both knees" in table and len(failed) == 1
    assert pd.read_csv(out)["name"].str.fullmatch(r"knee-[0-9a-f]{8}").all()


def test_names_that_come_again_get_a_number(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a-2.png"):
        save_knee(tmp_path / name)
    assert [entry.name for entry in find_films([tmp_path]).entries] == ["a-2", "a", "a-3"]
    other = tmp_path / "other"
    other.mkdir()
    save_knee(other / "a.png")
    assert [entry.name for entry in find_films([other, tmp_path / "a.png"]).entries] == ["other/a", "a/a"]


def dicomdir(path: Path, *files: list[str] | str) -> Path:
    made = Dataset()
    records = [forced(Dataset(), DirectoryRecordType="IMAGE", ReferencedFileID=parts) for parts in files]
    patient = Dataset()
    patient.DirectoryRecordType, patient.PatientID = "PATIENT", "PID-77123"
    made.DirectoryRecordSequence = [patient, *records]
    made.SOPClassUID, made.SOPInstanceUID = uid.MediaStorageDirectoryStorage, "1.2.3"
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    with guarded("DICOMDIR"):
        pydicom.dcmwrite(path, made, enforce_file_format=True)
    return path


def test_a_dicomdir_lists_films_in_its_order(folder: Path) -> None:
    listing = dicomdir(folder / "DICOMDIR", ["b", "IM0002"], "GONE", "a.dcm")
    assert holds_films(listing)
    entries = find_films([listing]).entries
    assert [entry.name for entry in entries] == ["b/IM0002", "GONE", "a"]
    first, gone, last = predict_entries(FakePredictor(), entries, request=Request(), render=False)
    assert "no such file" in str(gone.result)
    assert isinstance(first.result, Prediction) and isinstance(last.result, Prediction)
    assert [entry.name for entry in find_films([folder]).entries] == [
        "a",
        "c",
        "b/IM0002",
    ]  # itself it is no film


@pytest.mark.parametrize("parts", [["..", "x"], ["/etc/x"], [""], ["C:", "x"]])
def test_a_dicomdir_does_not_lead_elsewhere(tmp_path: Path, parts: list[str]) -> None:
    with pytest.raises(ImageError, match=r"outside its folder|damaged"):
        find_films([dicomdir(tmp_path / "DICOMDIR", parts)])


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="no film in"):
        find_films([tmp_path])


def test_damaged_files_fail_in_their_rows(tmp_path: Path) -> None:
    (tmp_path / "cut.dcm").write_bytes(content(film(Side.LEFT))[:400])
    (tmp_path / "no.dcm").write_bytes(b"x" * 400)
    (tmp_path / "no.png").write_bytes(b"x" * 400)
    save_knee(tmp_path / "unsided.png")
    outcomes = list(
        predict_entries(FakePredictor(), find_films([tmp_path]).entries, request=Request(), render=False)
    )
    reasons = [str(outcome.result) for outcome in outcomes]
    first, *names = [outcome.entry.name for outcome in outcomes]
    assert names == ["no", "no-2", "unsided"] and first.startswith("knee-")  # whose it is was cut off
    assert "lacks the DICM mark" in reasons[1] and "not a picture" in reasons[2]
    assert "does not say which knee" in reasons[3]


def test_on_the_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "progression.predict", type("M", (), {"load_predictor": _fake}))
    out = str(folder.parent / "r.csv")
    save_knee(folder / "unsided.png")
    assert cli.run(["cohort", str(folder), "--out", out]) == 1
    told = capsys.readouterr()
    assert "3 of 4 knees predicted" in told.out and "error: unsided does not say which knee" in told.err
    assert pd.read_csv(out)["name"].tolist() == ["a", "c", "unsided", "b/IM0002"]
    for wrong, reason in (
        (["--images", "x"], "leave it out"),
        ([str(folder / "table.csv")], "one table alone"),
        (["--ray", "auto", "--workers", "2"], "one or the other"),
    ):
        assert cli.run(["cohort", str(folder), *wrong, "--out", out]) == 2
        assert reason in capsys.readouterr().err


def _fake(*_: object, **__: object) -> FakePredictor:
    return FakePredictor()


# -- what is no film -----------------------------------------------------------------------------------------


def another_kind(kind: uid.UID, **values: object) -> Dataset:
    return forced(film(Side.LEFT), SOPClassUID=kind, **values)


@pytest.fixture
def mixed(folder: Path) -> Path:
    """The folder with what a study may hold besides films, our own results among it."""
    save(folder / "ct", another_kind(uid.CTImageStorage))
    save(folder / "ct2", another_kind(uid.EnhancedCTImageStorage, NumberOfFrames=9))
    save(folder / "mr", another_kind(uid.MRImageStorage))
    save(folder / "pdf", another_kind(uid.EncapsulatedPDFStorage))
    save(folder / "sr", another_kind(uid.ComprehensiveSRStorage))
    save(folder / "state", another_kind(uid.GrayscaleSoftcopyPresentationStateStorage))
    save(folder / "dose", another_kind(uid.SecondaryCaptureImageStorage, Modality="CT"))
    save(folder / "PID-77123_future.dcm", forced(film(Side.LEFT), SyntheticData="YES"))
    save_synthetic_png(folder / "future_048m.png", knee(), side=Side.LEFT)
    return folder


REASONS = [
    "synthetic",
    "in a folder of results",
    "synthetic",
    "CT Image Storage",
    "Enhanced CT Image Storage",
    "MR Image Storage",
    "Encapsulated PDF Storage",
    "Comprehensive SR Storage",
    "Grayscale Softcopy Presentation State Storage",
    "Secondary Capture of another modality",
]


def test_other_objects_and_our_own_results_are_skipped_with_a_reason(mixed: Path) -> None:
    found = find_films([mixed])
    assert [entry.name for entry in found.entries] == ["a", "c", "b/IM0002"]
    assert sorted(one.reason for one in found.skipped) == sorted(REASONS)
    assert found.entries[0].other is not None  # what is skipped is no film of the study
    assert not [one.name for one in found.skipped if "77123" in one.name]
    with pytest.raises(UsageError, match=r"no film in .*ct \(1 file skipped: 1 CT Image Storage\)"):
        find_films([mixed / "ct"])


def test_skipped_files_are_listed_and_no_failures(
    mixed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "progression.predict", type("M", (), {"load_predictor": _fake}))
    out = mixed.parent / "r.csv"
    assert cli.run(["cohort", str(mixed), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "3 of 3 knees predicted" in told and "10 files skipped: " in told and "1 MR Image Storage" in told
    skipped = pd.read_csv(mixed.parent / "r.skipped.csv")
    assert sorted(skipped["reason"]) == sorted(REASONS) and list(skipped.columns) == ["name", "reason"]
    assert not [secret for secret in SECRETS if secret in (mixed.parent / "r.skipped.csv").read_text()]


def test_a_dicomdir_skips_what_it_does_not_call_an_image(mixed: Path) -> None:
    listing = dicomdir(mixed / "DICOMDIR", "ct", "a.dcm")
    made = pydicom.dcmread(listing)
    record = forced(Dataset(), DirectoryRecordType="SR DOCUMENT", ReferencedFileID="GONE")
    made.DirectoryRecordSequence = [*made.DirectoryRecordSequence, record]
    pydicom.dcmwrite(listing, made)
    found = find_films([listing])
    assert [entry.name for entry in found.entries] == ["a"]
    assert [(one.name, one.reason) for one in found.skipped] == [
        ("ct", "CT Image Storage"),
        ("GONE", "no image by its DICOMDIR"),
    ]


@pytest.mark.parametrize("name", ["PID-77123_future.dcm", "future_048m.png", "archive.zip::future_048m.png"])
def test_our_own_results_are_no_input_even_where_they_are_named(mixed: Path, name: str) -> None:
    with zipfile.ZipFile(mixed / "archive.zip", "w") as archive:
        archive.write(mixed / "future_048m.png", "future_048m.png")
    entries = [Entry("a", str(mixed / name), "left", other=Entry("b", str(mixed / name), "right"))]
    (outcome,) = predict_entries(FakePredictor(), entries, request=Request(), render=False)
    assert isinstance(outcome.result, NotARadiographError)
    assert "nothing is predicted from a prediction" in str(outcome.result)
