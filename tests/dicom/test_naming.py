"""Nothing that is written is called by its patient, however a file's name spells that; neutral names are kept."""

import shutil
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from progression import cli
from progression.dicom.person import is_word_for_nobody
from progression.film import neutral_name
from progression.localise.find import Finder
from progression.types import Radiograph
from tests.dicom.films import content, dx, forced, save
from tests.fakes import FakePredictor, prediction

NEUTRAL = ["knee_left", "OAI_9000798_v00_left", "study12/film3", "visit1", "film_2", "both-left", "IMG0001", "00000001",
           "KL3_right", "scan_2026-05-04", "knee-1a2b3c4d", "baseline/left", "linear", "Handbook"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("films")


def kept(folder: Path, film: Dataset, name: str) -> bool:
    other = neutral_name(save(folder / "film.dcm", film), name)
    assert other == name or (other.startswith("knee-") and len(other) == 13)
    return other == name


def of(name: str, **values: object) -> Dataset:
    return forced(
        dx(), **{"PatientName": name, "PatientID": "0012345", "PatientBirthDate": "19510203"} | values
    )


@pytest.mark.parametrize(
    ("patient", "names"),
    [
        ("Li^Wu", "LiWu_left WuLi liwu2 li_wu wu-left Li knie_li"),
        ("Müller^Jörg", "Mueller_Joerg muller MÜLLER MullerJ JOERG_knee Jorg1 muell jmueller"),
        ("Mueller^Joerg", "Müller jörg_left Muller"),
        ("Nguyễn^Văn An", "Nguyen_An NGUYEN van_an VanAn nguyenvanan an_left"),
        ("Sørensen^Åse", "Soerensen sorensen Aase ase_1"),
        ("Weiß^Łukasz", "weiss WEISS_l lukasz Łukasz"),
        ("O'Brien^Mary-Ann", "obrien OBrien brien_1 maryann MARY ann_left"),
        ("Doe^John", "doe_j DoeJohn johndoe john jdoe DOEJ film3/Doe"),
        ("Wang^XiaoDong=王^小东", "王小东_left xiaodong Xiao_Dong 小东 王 wangXD"),
        ("Ivanov^Ivan=Иванов^Иван", "ivanov Иванов ИВАНОВ_1"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "山田太郎 yamadatarou やまだ_1"),
    ],
)
def test_names_in_many_spellings_are_found(folder: Path, patient: str, names: str) -> None:
    film = of(patient)
    assert [name for name in names.split() if kept(folder, film, name)] == []
    assert [name for name in NEUTRAL if not kept(folder, film, name)] == []


def test_numbers_and_dates_of_birth_in_many_spellings_are_found(folder: Path) -> None:
    film = of("Doe^John", AccessionNumber="A-778899", OtherPatientIDs=["ZID-998877", "44-55-66"], StudyID="1")
    spelt = ["12345", "0012345", "12-345", "x12345y", "000012345_l", "A778899", "778899", "zid998877", "445566",
             "1951-02-03", "knee_03021951", "3.2.51", "02/03/1951", "3Feb1951", "1951 feb 3", "510203",
             "l030251r"]  # fmt: skip
    assert [name for name in spelt if kept(folder, film, name)] == []
    others = ["912345", "1951", "2026-02-03", "feb", "998", "film1", "4455"]
    assert [name for name in others if not kept(folder, film, name)] == []


def test_what_names_nobody_is_no_name(folder: Path) -> None:
    assert not kept(folder, of("Null^Jo"), "null_1") and not kept(folder, of("Li^Li"), "LILI")
    film = of("ANONYMOUS", PatientID="UNKNOWN", PatientBirthDate="")
    assert kept(folder, film, "anonymous_left") and kept(folder, film, "unknown-2")


def test_of_a_file_that_cannot_be_read_nobody_knows_what_its_name_tells(tmp_path: Path) -> None:
    whole = content(of("Doe^John"))
    for damaged in (whole[:132] + b"\xff" * 300, whole[:300], whole[: whole.index(b"Doe^John")]):
        (tmp_path / "john.dcm").write_bytes(damaged)
        assert neutral_name(tmp_path / "john.dcm", "john") != "john"


LETTERS = "abcdefghijklmnoprstuvzäöüßøåéñçłđ"
PARTS = st.text(LETTERS, min_size=2, max_size=9).map(str.capitalize)
SPELLINGS = (
    "{0}_{1}", "{1}{0}", "{0}", "x_{1}_left", "{0}-{1}-2", "{number}", "knee{number}", "{born:%Y-%m-%d}",
    "{born:%d%m%Y}", "{born:%d.%m.%y}", "{born:%m%d%Y}l", "L/{0}/{1}", "{born:%d%b%Y}", "{short}",
)  # fmt: skip


@settings(max_examples=60)
@given(
    family=PARTS,
    given_name=PARTS,
    number=st.integers(1000, 10**8).map(lambda drawn: f"{drawn:09}"),
    born=st.dates(date(1920, 1, 1), date(2010, 12, 31)),
    spelling=st.sampled_from(SPELLINGS),
    change=st.sampled_from([str, str.upper, str.lower, lambda name: name.translate(GERMAN)]),
)
def test_no_spelling_of_a_random_patient_is_kept(
    folder: Path, family: str, given_name: str, number: str, born: date, spelling: str, change: object
) -> None:
    assume(not (is_word_for_nobody(family) and is_word_for_nobody(given_name)))
    film = of(f"{family}^{given_name}", PatientID=number, PatientBirthDate=f"{born:%Y%m%d}")
    name = spelling.format(family, given_name, number=number, short=number.lstrip("0"), born=born)
    assert callable(change)
    assert not kept(folder, film, change(name))


GERMAN = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "ß": "ss", "é": "e"})


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for what predicts and explains, in a folder of its own."""
    fake = FakePredictor()
    module = SimpleNamespace(load_predictor=lambda model, *, device, engine, bank: fake)
    monkeypatch.setitem(sys.modules, "progression.predict", module)
    monkeypatch.setattr(Finder, "load", lambda files: None)

    def explain(predictor: object, radiograph: Radiograph, **options: object) -> object:
        return SimpleNamespace(prediction=prediction(radiograph))

    def write(folder: Path, explanation: SimpleNamespace) -> Path:
        folder.mkdir(parents=True)
        (folder / "explanation.json").write_text(str(explanation.prediction))
        return folder

    monkeypatch.setitem(sys.modules, "progression.explain", SimpleNamespace(explain=explain))
    report = SimpleNamespace(write_explanation=write, check_explanation_replaceable=lambda folder: None)
    monkeypatch.setitem(sys.modules, "progression.report.explanation", report)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("patient", "name", "fault"),
    [
        ("Geheimnis^Annegret", "GeheimnisA", {}),
        ("Müller^Jörg", "Mueller_Joerg", {"ViewPosition": "LL"}),
        ("Li^Wu", "LiWu", {"NumberOfFrames": 2}),
        ("Geheimnis^Annegret", "0012345-annegret", {"ImageLaterality": "B"}),
        ("Nguyen^An", "an_3.2.1951", {"BodyPartExamined": "ELBOW"}),
    ],
)
def test_no_output_of_any_command_names_the_patient(
    commands: Path, capfd: pytest.CaptureFixture[str], patient: str, name: str, fault: dict[str, object]
) -> None:
    """In no byte of any file but the objects of the study, in no file's name, and on no stream; failing or not."""
    film = of(patient, **fault)
    if fault:
        del film["AnatomicRegionSequence"]
    Path("in").mkdir()
    film = save(Path("in", f"{name}.dcm"), film)
    shutil.copy(film, Path("in", f"2nd_{name}"))
    for command in (
        ["predict", str(film), f"in/2nd_{name}"],
        ["predict", str(film), "--side", "right", "--centre", "1,1"],
        ["explain", str(film)],
        ["explain", str(film), "--side", "right", "--previous", f"in/2nd_{name}:12"],
        ["cohort", "in", "--out", "results.csv"],
    ):
        cli.run(command)
    told = capfd.readouterr()
    texts = {"stdout": told.out.encode(), "stderr": told.err.encode()}
    for path in Path().rglob("*"):
        if path.parts[0] != "in":
            texts[f"name of {path}"] = str(path).encode()
            texts |= {str(path): path.read_bytes()} if path.is_file() and path.suffix != ".dcm" else {}
    secrets = {*patient.split("^"), name, "12345", "19510203", "1951-02-03"}
    for place, text in texts.items():
        found = [secret for secret in secrets if len(secret) > 2 and secret.lower().encode() in text.lower()]
        assert found == [], (place, text[:300])
    assert bool(fault) or {path.name for path in Path().iterdir()} >= {
        "progression-out",
        "progression-explained",
    }
