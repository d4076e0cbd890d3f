"""Tables as people write them: what is missing, what a column is called, and what is refused."""

import codecs
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progression import cli, tables
from progression.data.visits import check_visits, read_visits, write_visits
from progression.entries import read_table
from progression.errors import TableError
from progression.evaluate.followup import read_followup
from progression.evaluate.readers import read_ratings
from progression.tables import cell_text, is_missing, number
from progression.texts import inert, literal

WORDS = [
    *(
        "",
        " ",
        "NA",
        "N/A",
        "n/a",
        "#N/A",
        "#NA",
        "NaN",
        "nan",
        "-nan",
        "-NaN",
        "<NA>",
        "NaT",
        "null",
        "NULL",
    ),
    *(
        "None",
        "none",
        "nil",
        "n.a.",
        "N.A.",
        "-",
        "--",
        "---",
        "–",
        "—",
        "−",
        ".",
        "..",
        "?",
        "??",
        "*",
        "_",
        "/",
    ),
    *(
        "#NV",
        "#NULL!",
        "#DIV/0!",
        "#VALUE!",
        "#REF!",
        "#NAME?",
        "#NUM!",
        "1.#QNAN",
        "-1.#IND",
        "\\N",
        ".A",
        ".z",
    ),
    *(
        "._",
        "unknown",
        "Unknown",
        "MISSING",
        "not available",
        "(blank)",
        "\u00a0NA\u00a0",
        "\u200bNA",
        "ＮＡ",
    ),
    *("NA_character_", "'NA'", "undefined", "\t"),
]


@pytest.mark.parametrize("word", WORDS)
def test_what_means_missing_is_missing_in_every_spelling(word: str) -> None:
    assert is_missing(word) and is_missing(word.upper()) and is_missing(f" {word}\u00a0")
    assert cell_text(word) == ""


@pytest.mark.parametrize(
    "word", ["0", "NA1", "Nan Li", "N", "nano", "-1", "李", "🦵", "x-", "None2", "A.", "e", "Inf"]
)
def test_what_could_be_somebody_is_not_missing(word: str) -> None:
    assert not is_missing(word) and cell_text(f" {word} ") == word


@pytest.mark.parametrize("value", [None, float("nan"), np.nan, pd.NA, pd.NaT, np.float32("nan")])
def test_missing_values_of_data_frames_are_missing(value: object) -> None:
    assert cell_text(value) == ""


def test_codes_that_went_through_a_data_frame_keep_their_digits() -> None:
    assert [cell_text(value) for value in (9000001.0, np.float64(12), np.int64(2**62 + 1), 1.5)] == [
        "9000001",
        "12",
        str(2**62 + 1),
        "1.5",
    ]


# -- nobody's knees -------------------------------------------------------------------------------------------


def cohort_table(folder: Path, subjects: tuple[str, str]) -> Path:
    path = folder / "table.csv"
    rows = [
        f'{name},{name}.png,{side},"{subject}"'
        for name, side, subject in zip("AB", ("left", "right"), subjects, strict=True)
    ]
    path.write_text("\n".join(["name,image,side,subject", *rows, ""]), encoding="utf-8")
    return path


@given(words=st.tuples(st.sampled_from(WORDS), st.sampled_from(WORDS)))
def test_two_knees_of_missing_subjects_are_never_a_pair(
    tmp_path_factory: pytest.TempPathFactory, words: tuple[str, str]
) -> None:
    for subjects in (words, (words[0], words[0])):
        entries = read_table(cohort_table(tmp_path_factory.mktemp("table"), subjects))
        assert [(entry.other, entry.subject) for entry in entries] == [(None, "")] * 2


def test_two_knees_of_one_subject_are_a_pair_however_its_accents_are_written(tmp_path: Path) -> None:
    first, second = read_table(cohort_table(tmp_path, ("Jos\u00e9", " Jose\u0301 ")))
    assert first.other is not None and second.other is not None


def test_a_missing_name_or_image_or_grade_is_what_it_should_be(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("name,image,side,grade,centre,spacing_mm\na,NA,n/a,-,NaN,.\n")
    (entry,) = read_table(path)
    assert (entry.image, entry.side, entry.grade, entry.centre, entry.spacing_mm) == ("", "", "", "", "")
    path.write_text("name,image,side\na,0.png,L\n\nNA,1.png,R\n")
    with pytest.raises(TableError, match="row 4: the name is missing"):
        read_table(path)


def test_visits_of_a_missing_subject_are_refused() -> None:
    for subject in ("NA", "nan", np.nan, None, "-"):
        table = pd.DataFrame({"subject": ["A", subject], "side": ["L", "R"], "months": [0, 0]})
        with pytest.raises(TableError, match=r"row 3, column 'subject': expected a participant's code"):
            check_visits(table)


def test_a_missing_grade_of_a_visit_is_not_read() -> None:
    table = check_visits(
        pd.DataFrame({"subject": ["A"] * 3, "side": "L", "months": [0, 12, 24], "grade": ["NA", ".", "2,0"]})
    )
    assert table["grade"].fillna(-1).tolist() == [-1, -1, 2]


def ratings(subject: Callable[[int], str]) -> str:
    rows = [
        f"{reader},{treatment},{case},{case % 2},{case + reader},{subject(case)}"
        for reader in (1, 2)
        for treatment in "ab"
        for case in range(40)
    ]
    return "\n".join(["reader,treatment,case,truth,rating,subject", *rows, ""])


def test_cases_of_a_missing_subject_are_not_one_persons(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text(ratings(lambda case: f"p{case}"))
    assert len(np.unique(read_ratings(path).subject)) == 40
    path.write_text(ratings(lambda case: "NA" if case < 20 else f"p{case}"))
    with pytest.raises(TableError, match=r"row 1 of the ratings has no subject: name it, or drop the row"):
        read_ratings(path)


def test_outcomes_of_a_missing_subject_are_each_somebodys_own(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.csv"
    path.write_text("name,subject,KL_M00,kl_m48\na,NA,1,2\nb,NA,1,NA\nc,p,0,1\nd,p,0,1\n")
    knees = read_followup(path)
    assert len(set(knees.subject)) == 3 and knees.subject[2] == knees.subject[3] == "p"
    assert knees.series.grade.tolist() == [[1, 2], [1, -1], [0, 1], [0, 1]]


# -- columns --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "Name,IMAGE, side ,Grade,Subject",
        "\ufeffname,image,Side\u00a0,GRADE,subject",
        '"name","Image","side","grade","Subject"',
    ],
)
def test_columns_are_known_whatever_their_case_and_the_spaces_around_them(
    tmp_path: Path, header: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{header}\na,0.png,L,2,p\nb,1.png,R,3,p\n", encoding="utf-8")
    first, _ = read_table(path)
    assert (first.grade, first.subject, first.other and first.other.name) == ("2", "p", "b")
    path.write_text("name,image,side,Spacing MM\na,0.png,L,0.2\n")
    assert read_table(path)[0].spacing_mm == "0.2"


@pytest.mark.parametrize(
    ("header", "both"),
    [
        ("name,image,side,side", r"column 'side' occurs twice \(columns 3 and 4\)"),
        ("name,image,side,side ", r"columns 'side' and 'side ' are the same \(columns 3 and 4\)"),
        ("name,image,side,Side", "columns 'side' and 'Side' are the same"),
        ("name,image,spacing_mm,side,Spacing mm", "columns 'spacing_mm' and 'Spacing mm' are the same"),
        ("name,image,side,age,AGE", "columns 'age' and 'AGE' are the same"),
    ],
)
def test_two_columns_that_are_one_are_refused_and_both_named(tmp_path: Path, header: str, both: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{header}\n{','.join('x' for _ in header.split(','))}\n")
    with pytest.raises(TableError, match=f"{both}.*remove one"):
        read_table(path)


def test_two_rating_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("reader,treatment,case,truth,rating,Rating\n1,a,1,0,2,3\n")
    with pytest.raises(TableError, match="columns 'rating' and 'Rating' are the same"):
        read_ratings(path)


def test_columns_that_nobody_knows_are_warned_of_once_and_near_misses_asked_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("name,image,side,grad,age,centre_x,patient\na,0.png,L,4,60,7,p\nb,1.png,R,4,60,7,p\n")
    with caplog.at_level(logging.WARNING, "progression"):
        entries = read_table(path)
    (told,) = caplog.messages
    assert told.endswith(
        "columns not used: 'grad' (is it 'grade'?), 'age', 'centre_x' (is it 'centre'?), 'patient' (is it 'subject'?)"
    )
    assert [(entry.grade, entry.other) for entry in entries] == [("", None)] * 2
    path.write_text("name,image,lateralty\na,0.png,L\n")
    with pytest.raises(TableError, match=r"lacks the column 'side' .*is it 'lateralty'\?"):
        read_table(path)


def test_further_columns_of_visits_have_a_use_and_only_near_misses_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "v.csv"
    path.write_text("subject,side,months,clinic,grad\nA,L,0,north,1\n")
    with caplog.at_level(logging.WARNING, "progression"):
        assert read_visits(path)["clinic"].tolist() == ["north"]
    assert caplog.messages == ["v.csv: column not used: 'grad' (is it 'grade'?)"]


def test_the_command_line_tells_them_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("v.csv").write_text("subject,side,months,Grades\nA,L,0,1\n")
    assert cli.run(["data", "check", "v.csv"]) == 0
    assert (
        capsys.readouterr().err == "progression: warning: v.csv: column not used: 'Grades' (is it 'grade'?)\n"
    )


# -- cells and files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_other_delimiters_are_as_good(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "t.csv"
    rows = [["name", "image", "side", "grade"], ["a", "0.png", "L", "2,0"], ["b", "1.png", "R", ""]]
    quoted = [[f'"{cell}"' if delimiter in cell else cell for cell in row] for row in rows]
    path.write_text("\n".join(delimiter.join(row) for row in quoted))
    assert [(entry.name, entry.grade) for entry in read_table(path)] == [("a", "2,0"), ("b", "")]
    if delimiter == ";":
        path.write_text("sep=;\r\nname;image;side\r\na;0.png;L\r\n")
        assert read_table(path)[0].name == "a"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings_that_are_certain_are_read(tmp_path: Path, encoding: str) -> None:
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    path = tmp_path / "t.csv"
    path.write_bytes(mark + "name,image,side\nMüller,0.png,L\n".encode(encoding))
    assert read_table(path)[0].name == "Müller"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,image,side\nM\u00fcller,0.png,L\n".encode("latin-1"), r"row 2 .*not UTF-8: perhaps Latin-1"),
        ("name,image,side\na,0.png,L\n".encode("utf-16-le"), "row 1 holds a NUL"),
        (b"name,image,side\na\0,0.png,L\n", "row 2 holds a NUL"),
        (b"\xff\xfename", "damaged UTF-16|lacks the column"),
        (b"PK\x03\x04rest of a workbook", "a workbook, by the look of it"),
        (b'name,image,side\n"a,0.png,L\n', "quotes that are not closed"),
        (b"name,image,side\na,0.png,L,more\n", r"row 2: expected 3 cells as in the header, got 4"),
        (b"name,image,side\n" + b"a" * 200_000 + b",0.png,L\n", "field larger than field limit"),
        (b"name,image,side," + b",".join(b"c%d" % i for i in range(20_000)), "20,003 columns; expected at most"),
        (b"\n\n", "the file is empty"),
        (b"name,image,side\n,,\n", "has no rows"),
    ],
)  # fmt: skip
def test_files_that_are_no_tables_are_refused_with_a_remedy(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(TableError, match=message) as caught:
        read_table(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_what_is_no_ordinary_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "pipe.csv", Path("/dev/zero")):
        with pytest.raises(TableError, match="not an ordinary file"):
            read_table(path)
    with pytest.raises(TableError, match="cannot read"):
        read_table(tmp_path)
    with pytest.raises(TableError, match=r"cannot read a\\x00b: no file can be called so"):
        read_table("a\0b")


def test_large_tables_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_text("name,image,side\n" + "".join(f"k{i},0.png,L\n" for i in range(99)))
    monkeypatch.setattr(tables, "MAX_CELLS", 200)
    with pytest.raises(TableError, match="more than 200 cells; divide it"):
        read_table(path)
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 1 << 10)
    with pytest.raises(TableError, match="larger than 0 MB; divide the table"):
        read_table(path)


def test_a_parquet_table_that_unpacks_to_a_huge_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    from progression.data import visits

    path = tmp_path / "v.parquet"
    frame = pd.DataFrame({"subject": "A" * 1000, "side": "L", "months": range(5000)})
    frame.to_parquet(path)
    assert path.stat().st_size < 200_000
    monkeypatch.setattr(visits, "MAX_TABLE_BYTES", 1 << 20)
    with pytest.raises(TableError, match="larger than 1 MB"):
        read_visits(path)
    monkeypatch.setattr(visits, "MAX_CELLS", 100)
    with pytest.raises(TableError, match="more than 100 cells"):
        read_visits(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", 2), (" 2.50 ", 2.5), ("2,5", 2.5), ("-0,143", -0.143), ("0,143", 0.143), ("1e3", 1000), (".5", 0.5)],
)  # fmt: skip
def test_plain_numbers(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "nan", "inf", "-inf", "1e999", "1,234", "12,345", "1.234,5", "1 000", "1_0", "２", "٣", "0x10", "1.2.3"],
)  # fmt: skip
def test_texts_that_are_no_plain_finite_number(text: str) -> None:
    with pytest.raises(ValueError, match=r"plain|comma|large"):
        number(text)


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_as_programs_write_them_are_read_back(value: float) -> None:
    assert number(repr(value)) == value


# -- spreadsheets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '=HYPERLINK("x")',
        "+cmd|calc!A0",
        "@SUM(1+1)",
        "-2+3",
        "\tx",
        "\rx",
        " =1",
        '"=1',
        "＝1",
        "'=1",
        "''=1",
    ],
)
def test_what_a_spreadsheet_would_compute_is_made_a_text(text: str) -> None:
    assert inert(text) == "'" + text and literal(inert(text)) == text


@pytest.mark.parametrize("text", ["-5", "+5", "-0.25", "-1e-5", "a=b", "'quoted", "knee-1", "", "2,5"])
def test_numbers_and_ordinary_texts_stay(text: str) -> None:
    assert inert(text) == text == literal(text)


@given(text=st.text(alphabet="'=+-@\t \"a1", max_size=8))
def test_every_text_comes_back_from_a_spreadsheets_cell(text: str) -> None:
    assert literal(inert(text)) == text
    assert inert(text)[:1] not in ("=", "+", "-", "@", "\t") or text == inert(text)


def test_visits_come_back_whatever_their_subjects_are_called(tmp_path: Path) -> None:
    subjects = ["=1+1", "@x", "-7", "'=1", "李"]
    table = check_visits(pd.DataFrame({"subject": subjects, "side": "L", "months": 0, "grade": 1}))
    write_visits(table, tmp_path / "v.csv")
    lines = (tmp_path / "v.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["'=1+1", "'@x", "-7", "''=1", "李"]
    assert read_visits(tmp_path / "v.csv")["subject"].tolist() == subjects
