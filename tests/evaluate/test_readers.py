"""`progression readers`, from a table of ratings to its report, and from the report to a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from progression.cli import run
from progression.errors import TableError, UsageError
from progression.evaluate.readers import (
    MODELS,
    analyse_readers,
    differences_of,
    pilot_of,
    read_ratings,
    readers_text,
)
from progression.metrics.readers import Pilot, Ratings, cases_needed, obuchowski_rockette, power
from tests.reader_studies import study


def written(folder: Path, table: pd.DataFrame) -> Path:
    table.to_csv(folder / "ratings.csv", index=False)
    return folder / "ratings.csv"


def analysed(folder: Path, table: pd.DataFrame, *options: str) -> dict[str, Any]:
    """The report that the command leaves."""
    assert (
        run(["readers", "analyse", str(written(folder, table)), "--out", str(folder / "out"), *options]) == 0
    )
    report: dict[str, Any] = json.loads((folder / "out" / "result.json").read_text())
    return report


def test_the_command_leaves_report_table_and_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = study(per_subject=2, gain=0.5)
    report = analysed(tmp_path, table, "--threshold", "3")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["figure.png", "result.json", "table.md"]
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.strip() in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "figure.png") as figure:
        assert figure.width > 2 * figure.height

    assert (report["treatments"], report["reference"]) == (["aided", "unaided"], "unaided")
    assert (report["cases"], report["subjects"], report["with_condition"]) == (40, 20, 16)
    for merit, threshold in (("auc", None), ("sensitivity", 3), ("specificity", 3)):
        for name, (readers, cases, words) in MODELS.items():
            expected = obuchowski_rockette(
                table, readers=readers, cases=cases, merit=merit, threshold=threshold
            )
            found, (difference,) = report[merit][name], expected.differences
            assert expected.test is not None
            assert (found["F"], found["p"]) == (expected.test.f, expected.test.p)
            assert found["ddf"] == (None if readers == "fixed" else expected.test.df_denominator)
            assert found["differences"][0]["low"] == difference.low
            assert f"mean, {words}" in text
        assert len(report[merit]["each_reader"]) == 4
    assert report["auc"]["cases"] == 40
    assert report["sensitivity"]["cases"] == 16


def test_operating_points_and_mcnemar(tmp_path: Path) -> None:
    table = study()
    report = analysed(tmp_path, table, "--threshold", "4")
    mine = table[(table["reader"] == "r2") & (table["treatment"] == "unaided")]
    (point,) = [p for p in report["operating_points"] if (p["reader"], p["treatment"]) == ("r2", "unaided")]
    assert point["sensitivity"]["count"] == int(((mine["rating"] >= 4) & (mine["truth"] == 1)).sum())
    assert point["specificity"]["value"] == report["specificity"]["by_reader"]["unaided"]["r2"]
    gain = report["sensitivity"]["by_reader"]["aided"]["r2"] - point["sensitivity"]["value"]
    (test,) = [t for t in report["mcnemar"] if t["reader"] == "r2"]
    assert test["sensitivity"]["only_first"] - test["sensitivity"]["only_second"] == round(16 * gain)
    # people with two knees: McNemar's test would count them as four
    assert analysed(tmp_path, study(per_subject=2), "--threshold", "4")["mcnemar"] is None


def test_the_reference_comes_last(tmp_path: Path) -> None:
    report = analysed(tmp_path, study(), "--reference", "aided")
    assert report["treatments"] == ["unaided", "aided"]
    other = analysed(tmp_path, study())
    name = "random_readers_random_cases"
    (one,), (two,) = (r["auc"][name]["differences"] for r in (report, other))
    assert (one["first"], one["second"]) == ("unaided", "aided")
    assert (one["difference"], one["p"]) == pytest.approx((-two["difference"], two["p"]))
    with pytest.raises(UsageError, match="one of aided, unaided, received blind"):
        read_ratings(written(tmp_path, study()), reference="blind")


def test_two_ratings_have_one_threshold(tmp_path: Path) -> None:
    report = analysed(tmp_path, study(levels=2))
    assert report["threshold"] == 2.0
    mean = (
        np.array(list(report["sensitivity"]["mean"].values())) + list(report["specificity"]["mean"].values())
    ) / 2
    np.testing.assert_allclose(list(report["auc"]["mean"].values()), mean)


def test_one_reader_speaks_for_himself(tmp_path: Path) -> None:
    report = analysed(tmp_path, study(n_readers=1))
    assert "random_readers_random_cases" not in report["auc"]
    assert report["auc"]["variance_components"] is None
    assert "1 reader, 2 treatments (aided, unaided)" in (tmp_path / "out" / "table.md").read_text()
    with pytest.raises(TableError, match="holds no variance components of auc"):
        pilot_of(report)


def test_one_treatment_is_described(tmp_path: Path) -> None:
    report = analysed(tmp_path, study(treatments=("alone",)))
    assert report["auc"]["each_reader"] == []
    assert "p" not in report["auc"]["random_readers_random_cases"]
    assert "difference" not in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize("covariance", ["delong", "bootstrap"])
def test_other_covariances(covariance: str, tmp_path: Path) -> None:
    report = analysed(tmp_path, study(), "--covariance", covariance, "--threshold", "3", "--draws", "100")
    assert report["covariance"] == covariance
    expected = obuchowski_rockette(study(), covariance=covariance, n_draws=100)
    assert expected.errors is not None
    assert report["auc"]["covariances"]["cov2"] == expected.errors.cov2


def test_bars_in_names_do_not_break_the_table() -> None:
    table = study(n_readers=2)
    table["reader"] = table["reader"].map({"r1": "a|b", "r2": "c"})
    text = readers_text(analyse_readers(Ratings.of(table)))
    assert r"| a\|b " in text
    bars = {line.replace(r"\|", "").count("|") for line in text.splitlines() if line.startswith("| reader ")}
    assert bars == {4}


def test_differences_name_whose_they_are() -> None:
    found = differences_of(analyse_readers(Ratings.of(study(n_readers=2))), "auc")
    assert [whose for whose, _ in found] == [
        "reader r1",
        "reader r2",
        "mean, random readers, random cases",
        "mean, fixed readers, random cases",
        "mean, random readers, fixed cases",
    ]


def test_a_plan_from_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = analysed(tmp_path, study(n_cases=80, gain=0.4))
    result = str(tmp_path / "out" / "result.json")
    pilot = Pilot.of(obuchowski_rockette(study(n_cases=80, gain=0.4)))
    assert pilot_of(report) == pilot
    capsys.readouterr()
    assert run(["readers", "plan", result, "--difference", "0.1", "--readers", "6", "--readers", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    needed = [cases_needed(pilot, n_readers=n, difference=0.1) for n in (6, 9)]
    assert [line.split("|")[2].strip() for line in lines[2:]] == [
        str(n) if n else "more than 5000" for n in needed
    ]
    assert run(["readers", "plan", result, "--difference", "0.1", "--readers", "6", "--cases", "100"]) == 0
    expected = float(power(pilot, n_readers=6, n_cases=100, difference=0.1))
    assert f"{expected:.3f}" in capsys.readouterr().out
    for more in ([], ["--cases", "100"]):
        assert run(["readers", "plan", result, "--difference", "5", *more]) == 2
        assert "difference 5: expected a fraction" in capsys.readouterr().err


def test_a_plan_for_sensitivity_counts_the_cases_that_it_is_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = analysed(tmp_path, study(n_cases=80, gain=0.4), "--threshold", "4")
    assert pilot_of(report, "sensitivity").cases == 32
    result = str(tmp_path / "out" / "result.json")
    capsys.readouterr()
    assert run(["readers", "plan", result, "--difference", "0.1", "--merit", "sensitivity"]) == 0
    assert "cases with the condition for a power of 0.8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("reader,treatment,case,truth\n1,a,1,0\n", "lacks the column 'rating'"),
        ("reader,treatment,case,truth,rating\n", "no rows"),
        ("", "not a CSV table (the file is empty)"),
        ("reader,treatment,case,truth,rating\n1,a,1,0,2,9\n", "row 2: expected 5 cells as in the header, got 6"),
        ("reader,treatment,case,truth,rating\n1,a,1,0\n", "row 1 of the ratings has rating ''"),
        ("reader,treatment,case,truth,rating\n1,a,1,0,2\n1,a,2,1,2\n1,b,1,0,2\n", "none by reader 1 of case 2"),
    ],
)  # fmt: skip
def test_bad_tables_are_told_in_a_line(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text(content)
    assert run(["readers", "analyse", str(path), "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert message in told and len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_table_as_spreadsheets_save_it(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_bytes(b"\xef\xbb\xbf" + study().to_csv(index=False).replace("\n", "\r\n").encode())
    np.testing.assert_array_equal(read_ratings(path).rating, Ratings.of(study()).rating)


def test_a_report_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("{", "[]"):
        (tmp_path / "result.json").write_text(content)
        assert run(["readers", "plan", str(tmp_path / "result.json"), "--difference", "0.1"]) == 1
        assert "cannot read the report" in capsys.readouterr().err
