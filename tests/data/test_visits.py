"""The visits table: what is accepted, and that each refusal names row and column."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from progression.data.visits import check_images, check_visits, read_visits, write_visits
from progression.errors import DependencyError, TableError, UsageError

GOOD = """subject,side,months,image,grade,split,age,sex,bmi,clinic
A,left,0,a.png,1,train,61,F,27.5,north
A,left,12,,2.0,train,62,F,,north
A,R,0,b.png,,train,61,F,27.5,south
B,Left,0,c.zip::k.png,4,val,55,male,31,north
"""


def write(folder: Path, text: str, name: str = "visits.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_table_gets_its_types(tmp_path: Path) -> None:
    table = read_visits(write(tmp_path, GOOD))
    assert table["side"].tolist() == ["left", "left", "right", "left"]
    assert table["months"].tolist() == [0.0, 12.0, 0.0, 0.0]
    assert table["image"].tolist() == ["a.png", "", "b.png", "c.zip::k.png"]
    assert table["grade"].dtype == "Int64"
    assert table["grade"].fillna(-1).tolist() == [1, 2, -1, 4]
    assert table["sex"].tolist() == ["female", "female", "female", "male"]
    assert table["bmi"].isna().tolist() == [False, True, False, False]
    assert table["clinic"].tolist() == ["north", "north", "south", "north"]
    assert table.attrs["root"] == str(tmp_path)


def test_image_and_grade_are_optional(tmp_path: Path) -> None:
    table = read_visits(write(tmp_path, "\ufeffsubject,side,months\n007,l,0\n\n"))
    assert table.loc[0, ["subject", "side", "image"]].tolist() == ["007", "left", ""]
    assert table["grade"].isna().all()


def test_numbers_are_accepted_for_text() -> None:
    table = check_visits(
        pd.DataFrame({"subject": [9000001.0], "side": ["L"], "months": [0], "grade": [np.nan]})
    )
    assert table["subject"].tolist() == ["9000001"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("A,left,12", ",left,12", r"row 3, column 'subject': expected a participant's code, got 'nothing'"),
        ("A,left,12", "A,both,12", r"row 3, column 'side': expected left or right, got 'both'"),
        ("A,left,12", "A,left,-3", r"row 3, column 'months': expected months since baseline.*got '-3'"),
        ("A,left,12", 'A,left,"1,250"', r"row 3, column 'months': .*got '1,250'"),
        ("A,left,12", "A,left,inf", r"row 3, column 'months': .*got 'inf'"),
        ("A,left,12", "A,left,", r"row 3, column 'months': .*got 'nothing'"),
        ("A,left,12", "A,left,0.0", r"row 3, column 'months': this visit is in row 2 already .*keep one"),
        (",2.0,", ",5,", r"row 3, column 'grade': expected a Kellgren-Lawrence grade 0..4 or empty, got '5'"),
        (",2.0,", ",1.5,", r"row 3, column 'grade': .*got '1.5'"),
        (",2.0,", ",two,", r"row 3, column 'grade': .*got 'two'"),
        ("A,left,12,,", "A,left,12,a.png,", r"row 3, column 'image': this picture and side is in row 2"),
        ("c.zip::k.png", "b.png", r"row 5, column 'image': this picture|row 5, column 'subject'.*'b.png'"),
        (",2.0,train", ",2.0,val", r"row 3, column 'split': subject 'A' has 'val' here but 'train' in row 2"),
        (",2.0,train", ",2.0,", r"row 3, column 'split': subject 'A' has '' here but 'train' in row 2"),
        (
            ",2.0,train",
            ",2.0,valid",
            r"row 3, column 'split': expected train, val, test or empty, got 'valid'",
        ),
        (",62,F", ",620,F", r"row 3, column 'age': expected years"),
        (",62,F", ",62,1", r"row 3, column 'sex': expected female, male or empty, got '1'"),
        (",31,north", ",0,north", r"row 5, column 'bmi': expected kg/m²"),
        (
            "subject,side",
            "patient,side",
            r"visits.csv lacks the column 'subject' \(it has: patient, side.*is it 'patient'\?",
        ),
        ("bmi,clinic", "bmi,bmi", r"column 'bmi' occurs twice"),
        ("A,left,12,,2.0", "A,left,12,2.0", r"row 3: expected 10 cells as in the header, got 9"),
    ],
)
def test_faults_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(TableError, match=message) as caught:
        read_visits(write(tmp_path, GOOD.replace(old, new, 1)))
    assert "\n" not in str(caught.value)


def test_further_bad_rows_are_counted(tmp_path: Path) -> None:
    text = "subject,side,months\nA,x,0\nB,y,0\nC,z,0\n"
    with pytest.raises(TableError, match=r"row 2, column 'side': .*got 'x' \(and 2 more rows\)"):
        read_visits(write(tmp_path, text))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"subject,side,months\n", "expected at least one visit"),
        (b"subject:side:months\nA:left:0\n", r"lacks the column 'subject' \(it has: subject:side:months\)"),
        (b"subject,side,months\n\xff\xfe,left,0\n", "not a CSV table in UTF-8 .row 2 holds bytes"),
        (b'subject,side,months\n"A,left,0\n', "not a CSV table .*quotes that are not closed"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "visits.csv"
    path.write_bytes(content)
    with pytest.raises(TableError, match=message):
        read_visits(path)


def test_missing_file_and_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot read"):
        read_visits(tmp_path / "none.csv")
    with pytest.raises(TableError, match=r"expected a .csv or .parquet table, got .xlsx suffix"):
        read_visits(tmp_path / "visits.xlsx")
    with pytest.raises(UsageError, match=r"expected an output named .csv or .parquet"):
        write_visits(read_visits(write(tmp_path, GOOD)), tmp_path / "visits.txt")


def test_one_picture_of_both_knees_of_a_subject_is_fine_of_two_subjects_is_not(tmp_path: Path) -> None:
    header = "subject,side,months,image\n"
    assert len(read_visits(write(tmp_path, header + "A,left,0,film.png\nA,right,0,film.png\n"))) == 2
    with pytest.raises(TableError, match=r"row 3, column 'subject': image 'film.png' has 'B' here but 'A'"):
        read_visits(write(tmp_path, header + "A,left,0,film.png\nB,right,0,film.png\n"))


@pytest.mark.parametrize("name", ["copy.csv", "copy.parquet"])
def test_writing_and_reading_give_the_table_back(tmp_path: Path, name: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    table = read_visits(write(tmp_path, GOOD))
    write_visits(table, tmp_path / name)
    pd.testing.assert_frame_equal(read_visits(tmp_path / name), table)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["visits.csv", name])


def test_whole_months_are_written_plainly(tmp_path: Path) -> None:
    write_visits(read_visits(write(tmp_path, GOOD)), tmp_path / "copy.csv")
    assert (tmp_path / "copy.csv").read_text().splitlines()[2].startswith("A,left,12,,2,train,62,")


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = read_visits(write(tmp_path, GOOD))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DependencyError, match=r"progression-imaging\[parquet\]"):
        read_visits(tmp_path / "visits.parquet")
    with pytest.raises(DependencyError, match=r"progression-imaging\[parquet\]"):
        write_visits(table, tmp_path / "copy.pq")


def test_damaged_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(TableError, match="damaged or not a Parquet table"):
        read_visits(write(tmp_path, "not parquet", "visits.parquet"))


def test_check_images_finds_files_and_members(tmp_path: Path) -> None:
    table = read_visits(write(tmp_path, GOOD))
    with pytest.raises(TableError, match=r"row 2, column 'image': no picture 'a.png'"):
        check_images(table)
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    with pytest.raises(TableError, match=r"row 5, column 'image': cannot open archive .*c.zip"):
        check_images(table)
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("other.png", b"")
    with pytest.raises(TableError, match=r"row 5, column 'image': no picture 'c.zip::k.png'"):
        check_images(table)
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("k.png", b"")
    assert check_images(table) == 3
    assert check_images(table, root=tmp_path) == 3
    with pytest.raises(TableError, match="--images"):
        check_images(table, root=tmp_path / "elsewhere")
