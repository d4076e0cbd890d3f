"""Importers, on tables made up in the layouts of the cohorts: no number here is anybody's."""

import zipfile
from pathlib import Path

import pandas as pd
import pytest

from progression.data.importers import import_knees, import_most, import_oai
from progression.data.importers.release import code_number, grade_of, read_release
from progression.data.outcomes import outcomes
from progression.errors import TableError, UsageError

OAI_00 = """ID|SIDE|READPRJ|VERSION|V00XRKL|V00XROSFM
9000001|1: Right|15|3.1|0: 0|0
9000001|2: Left|15|3.1|2: Definite osteophytes|1
9000001|2: Left|37|3.1|3|1
9000002|1|42|3.1|1|.A: Not Expected
9000002|1|37|3.1|2|0
9000002|2|19|3.1|4|0
9000003|1: Right|15|3.1|.M: Missing Form/Incomplete Workbook|.
9000003|1: Right|42|3.1|3: 3|.
9000003|2: Left|15|3.1|.|.
"""
OAI_06 = """id|side|readprj|version|v06xrkl
9000001|2|15|6.1|4
9000002|1|37|6.1|A: Not Expected
9000002|1|42|6.1|2.0
"""
MOST = """MOSTID,V0XRKL,V0XLKL,V1XRKL,V1XLKL,V2XRKL,V2XLKL,V3XRKL,V3XLKL,V5XRKL,V5XLKL
MX90001,0,1.9,0,2,.,2,8,.A,3,3
MX90002,4,9,4,.N,4.0,,8: Replaced,.,.T,.
MX90003,1,1,1.9,1,,,,,,
"""


def rows(table: pd.DataFrame) -> list[tuple[str, str, float, int]]:
    return list(
        table[["subject", "side", "months", "grade"]]
        .astype({"grade": int})
        .itertuples(index=False, name=None)
    )


def oai(folder: Path, **files: str) -> Path:
    for visit, text in files.items():
        (folder / f"kxr_sq_bu{visit[1:]}.txt").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("2", 2), ("2.0", 2), (" 3: Definite ", 3), ("1.9", 1.9), ("0: None", 0),
        ("", None), (".", None), (".A", None), (".M: Missing Form/Incomplete Workbook", None),
        ("A: Not Expected", None), ("V", None), ("NaN", None), ("8", None), ("8.0: Replaced", None),
    ],
)  # fmt: skip
def test_codes(cell: str, number: float | None) -> None:
    assert code_number(cell, missing={"8"}) == number


@pytest.mark.parametrize("cell", ["two", "2;3", "inf", "1_0"])
def test_codes_that_are_none(cell: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        code_number(cell)


@pytest.mark.parametrize(("number", "grade"), [(0, 0), (4, 4), (1.9, 2), (0.9, 1), (3.9, 4), (None, None)])
def test_grades(number: float | None, grade: int | None) -> None:
    assert grade_of(number, "here") == grade


@pytest.mark.parametrize("number", [5, 4.9, 1.5, -1, 8])
def test_grades_that_are_none(number: float) -> None:
    with pytest.raises(TableError, match=r"here: expected a Kellgren-Lawrence grade 0..4 .*--missing-code"):
        grade_of(number, "here")


def test_oai_prefers_project_15_then_37_then_42(tmp_path: Path) -> None:
    table = import_oai(oai(tmp_path, v00=OAI_00, v06=OAI_06))
    assert rows(table) == [
        ("9000001", "left", 0, 2),  # 15 before 37
        ("9000001", "left", 48, 4),
        ("9000001", "right", 0, 0),
        ("9000002", "right", 0, 2),  # 37 before 42
        ("9000002", "right", 48, 2),  # 37 did not read it, 42 did
        ("9000003", "right", 0, 3),  # 15 did not read it, 42 did
    ]  # project 19 reads something else; 9000003's left knee was never read
    assert (table["image"] == "").all()
    assert outcomes(table, 48).set_index(["subject", "side"]).loc[("9000001", "left"), "fast"]


def test_oai_covariates_where_their_files_are(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "Enrollees.txt").write_text(
        "ID|VERSION|P02SEX\n9000001|1|2: Female\n9000002|1|1: Male\n"
    )
    (tmp_path / "more" / "AllClinical00.txt").write_text(
        "ID|V00AGE|P01BMI|NOTE\n9000001|61|27.4|5'4\" tall\n9000002|.|.A: Not Expected|\n"
    )
    table = import_oai(oai(tmp_path, v00=OAI_00)).drop_duplicates("subject").set_index("subject")
    assert table["sex"].to_dict() == {"9000001": "female", "9000002": "male", "9000003": ""}
    assert table.loc["9000001", ["age", "bmi"]].tolist() == [61, 27.4]
    assert table.loc["9000002":, ["age", "bmi"]].isna().all(axis=None)


def test_pictures_cut_by_the_user(tmp_path: Path) -> None:
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "9000001_048L.png").touch()
    pattern = "cut/{subject}_{months:03d}{side_letter}.png"
    table = import_oai(oai(tmp_path, v00=OAI_00, v06=OAI_06), image_pattern=pattern)
    assert table.loc[table["image"] != "", ["months", "image"]].to_numpy().tolist() == [
        [48, "cut/9000001_048L.png"]
    ]
    with pytest.raises(UsageError, match="expected the fields subject, side, side_letter, months"):
        import_oai(tmp_path, image_pattern="{patient}.png")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "|2: Definite osteophytes",
            "|7",
            r"kxr_sq_bu00.txt: row 3, column 'V00XRKL': .*got 7; .*--missing-code 7",
        ),
        (
            "|2: Definite osteophytes",
            "|high",
            r"row 3, column 'V00XRKL': expected a number or a missing code",
        ),
        ("9000001|2: Left|15", "9000001|3|15", r"row 3, column 'SIDE': expected 1 \(right\) or 2 \(left\)"),
        ("9000001|2: Left|15", "|2: Left|15", r"row 3, column 'ID': expected a participant's code"),
        (
            "9000001|2: Left|37",
            "9000001|2: Left|15",
            r"row 4, .*project 15 reads this knee as 3 here, as 2 in row 3",
        ),
        ("READPRJ", "PROJECT", r"column 'READPRJ' is missing; the file begins id, side, project"),
        ("|3.1|0: 0|0", "|3.1|0: 0", r"row 2: expected 6 cells as in the header, got 5"),
    ],
)
def test_oai_faults_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in OAI_00
    with pytest.raises(TableError, match=message):
        import_oai(oai(tmp_path, v00=OAI_00.replace(old, new, 1)))


def test_a_code_that_the_user_explains(tmp_path: Path) -> None:
    folder = oai(tmp_path, v00=OAI_00.replace("|0: 0|", "|7: Replaced|"))
    assert ("9000001", "right") not in {row[:2] for row in rows(import_oai(folder, missing_codes=["7"]))}


def test_oai_without_baseline_or_grades(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"expected kxr_sq_bu00.txt \(baseline readings\), found none"):
        import_oai(oai(tmp_path, v06=OAI_06))
    with pytest.raises(TableError, match="no such folder"):
        import_oai(tmp_path / "none")
    with pytest.raises(TableError, match="hold no grade of projects 15, 37, 42"):
        import_oai(oai(tmp_path, v00="ID|SIDE|READPRJ|V00XRKL\n9000001|1|15|.\n", v06=OAI_06.split("\n")[0]))
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice" / "KXR_SQ_BU00.txt").write_text(OAI_00)
    with pytest.raises(TableError, match=r"found kxr_sq_bu00.txt 2 times"):
        import_oai(tmp_path)


@pytest.mark.parametrize("separator", [",", "\t", "|"])
def test_most_sides_visits_and_half_codes(tmp_path: Path, separator: str) -> None:
    (tmp_path / "MOSTV01235XRAY.txt").write_text(MOST.replace(",", separator))
    assert rows(import_most(tmp_path)) == [
        ("MX90001", "left", 0, 2),  # 1.9
        ("MX90001", "left", 15, 2),
        ("MX90001", "left", 30, 2),
        ("MX90001", "left", 84, 3),
        ("MX90001", "right", 0, 0),
        ("MX90001", "right", 15, 0),
        ("MX90001", "right", 84, 3),  # 60 months: code 8
        ("MX90002", "right", 0, 4),
        ("MX90002", "right", 15, 4),
        ("MX90002", "right", 30, 4),
        ("MX90003", "left", 0, 1),
        ("MX90003", "left", 15, 1),
        ("MX90003", "right", 0, 1),
        ("MX90003", "right", 15, 2),  # 1 -> 1.9 is a rise
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("MX90002,4", "MX90001,4", r"row 3, column 'MOSTID': expected one row a participant"),
        ("MX90001,0", "MX90001,5", r"row 2, column 'V0XRKL': .*got 5; .*--missing-code 5"),
        ("V0XLKL", "V0KL", r"column 'V0XLKL' is missing"),
    ],
)
def test_most_faults_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "mostv01235xray.txt").write_text(MOST.replace(old, new, 1))
    with pytest.raises(TableError, match=message):
        import_most(tmp_path)


def test_most_file_missing_empty_or_without_grades(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"expected MOSTV01235XRAY.txt, found none"):
        import_most(tmp_path)
    path = tmp_path / "MOSTV01235XRAY.txt"
    path.write_text("")
    with pytest.raises(TableError, match="the file is empty"):
        import_most(tmp_path)
    path.write_text("MOSTID,V0XRKL,V0XLKL\nMX90001,.,8\n")
    with pytest.raises(TableError, match="no knee has a grade"):
        import_most(tmp_path)


def test_quotes_belong_to_comma_separated_files_only(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    path.write_text('A,B\n"x, y",2\n')
    assert read_release(path).cells["a"].tolist() == ["x, y"]
    path.write_text("A|B\n5'4\" tall|2\n")
    assert read_release(path).cells["a"].tolist() == ["5'4\" tall"]


def test_knees_one_row_a_visit(tmp_path: Path) -> None:
    header = "name,subject,side,split,kl_m00,kl_m12,kl_m96\n"
    (tmp_path / "train.csv").write_text(header + "X1L,X1,L,train,1,2.0,\nX1R,X1,R,train,0,,3.0\n")
    (tmp_path / "val.csv").write_text(header + "X2L,X2,L,val,4,4,\n")
    table = import_knees(tmp_path)
    assert rows(table) == [
        ("X1", "left", 0, 1), ("X1", "left", 12, 2),
        ("X1", "right", 0, 0), ("X1", "right", 96, 3),
        ("X2", "left", 0, 4), ("X2", "left", 12, 4),
    ]  # fmt: skip
    assert table["image"].tolist() == [
        "train.zip::X1L.webp",
        "",
        "train.zip::X1R.webp",
        "",
        "val.zip::X2L.webp",
        "",
    ]
    assert table["split"].tolist() == ["train"] * 4 + ["val"] * 2
    assert table.attrs["root"] == str(tmp_path)


def test_knees_faults(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"expected train.csv, val.csv or test.csv, found none"):
        import_knees(tmp_path)
    (tmp_path / "train.csv").write_text("name,subject,side,kl_m00\nX1L,X1,L,1\n")
    with pytest.raises(TableError, match=r"train.csv lacks the column 'split'"):
        import_knees(tmp_path)


def test_the_development_knees_have_the_published_counts(shared: Path) -> None:
    table = import_knees(shared / "data" / "knees")
    baselines = table[table["image"] != ""]
    assert baselines.groupby("split").size().to_dict() == {"train": 5778, "val": 826}
    events = {
        split: int(outcomes(part, 96)["fast"].sum()) for split, part in table.groupby("split", sort=False)
    }
    assert events == {"train": 306, "val": 54}
    with zipfile.ZipFile(shared / "data" / "knees" / "val.zip") as archive:
        named = {f"val.zip::{name}" for name in archive.namelist()}
    assert named == set(baselines.loc[baselines["split"] == "val", "image"])
