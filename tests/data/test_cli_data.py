"""`progression data`, from files to files."""

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from progression.cli.data import app
from progression.data.visits import read_visits
from progression.errors import TableError, UsageError

HEADER = "name,subject,side,split,kl_m00,kl_m24\n"


@pytest.fixture
def knees(tmp_path: Path) -> Path:
    folder = tmp_path / "knees"
    folder.mkdir()
    (folder / "train.csv").write_text(HEADER + "X1L,X1,L,train,1,3\nX1R,X1,R,train,0,0\n")
    return folder


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_import_writes_a_table_and_says_where_its_pictures_are(knees: Path, tmp_path: Path) -> None:
    output = run("import", "knees", knees, "--out", tmp_path / "visits.csv")
    assert "train: 1 subjects, 2 knees, 4 visits, 2 pictures" in output
    assert f"give --images {knees}" in output
    assert len(read_visits(tmp_path / "visits.csv")) == 4
    assert "--images" not in run("import", "knees", knees, "--out", knees / "visits.csv")


def test_import_most(tmp_path: Path) -> None:
    (tmp_path / "MOSTV01235XRAY.txt").write_text("MOSTID,V0XRKL,V0XLKL,V3XRKL\nMX90001,0,7,2\n")
    with pytest.raises(TableError, match="--missing-code 7"):
        run("import", "most", tmp_path, "--out", tmp_path / "visits.csv")
    assert not (tmp_path / "visits.csv").exists()
    output = run("import", "most", tmp_path, "--out", tmp_path / "visits.csv", "--missing-code", "7")
    assert "all: 1 subjects, 1 knees, 2 visits, 0 pictures" in output


def test_import_options_that_do_not_apply(knees: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="are for oai and most"):
        run("import", "knees", knees, "--out", tmp_path / "visits.csv", "--missing-code", "8")


def test_check_prints_the_cohort_in_figures(tmp_path: Path) -> None:
    table = tmp_path / "visits.csv"
    table.write_text(
        "subject,side,months,image,grade\nA,left,0,a.png,1\nA,left,24,,3\nB,left,0,,0\nB,left,12,,0\n"
    )
    with pytest.raises(TableError, match=r"row 2, column 'image': no picture 'a.png'"):
        run("check", table)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    output = run("check", table, "--months", 24)
    assert "in order; 1 pictures are there" in output
    lines = [line.split() for line in output.splitlines()]
    assert ["0", "2", "1", "1", "0", "0", "0"] in lines  # two knees read at month 0: KL 0 and KL 1
    assert ["24", "1", "0", "0", "0", "1", "0"] in lines  # one read at month 24: KL 3 ...
    assert ["24", "1", "0", "1", "0", "0", "0"] in lines  # ... of a knee that was KL 1 at baseline
    assert ["fast", "24", "2", "1", "0.500", "1", "0.500"] in lines  # B left after 12 months


def test_check_says_so_where_nobody_was_followed(tmp_path: Path) -> None:
    table = tmp_path / "visits.csv"
    table.write_text("subject,side,months,grade\nA,left,0,1\n")
    assert "no knee with a baseline grade was read by then" in run("check", table)


def test_split_and_not_twice(tmp_path: Path) -> None:
    table, out = tmp_path / "visits.csv", tmp_path / "split.csv"
    table.write_text("subject,side,months\n" + "".join(f"p{number},left,0\n" for number in range(40)))
    output = run("split", table, "--out", out, "--train", 0.5, "--val", 0.5, "--test", 0)
    assert "test 0" in output
    assert set(read_visits(out)["split"]) == {"train", "val"}
    with pytest.raises(TableError, match="--replace"):
        run("split", out, "--out", table)
    run("split", out, "--out", table, "--replace", "--seed", 1)
    assert read_visits(table)["split"].tolist() != read_visits(out)["split"].tolist()
