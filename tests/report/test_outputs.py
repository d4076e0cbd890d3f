import json
from dataclasses import replace
from pathlib import Path

import pytest

from progression.errors import OutputError
from progression.report import outputs
from progression.report.outputs import COLUMNS, as_json, row, write_prediction
from tests.fakes import prediction, radiograph

FILES = ["figure.png", "future.gif", "future_024m.png", "future_096m.png", "prediction.json", "report.html"]


def test_columns_are_the_promised_ones() -> None:
    assert ",".join(COLUMNS) == (
        "name,side,grade_read,horizon_months,risk_fast,risk_any,kl_now_0,kl_now_1,kl_now_2,kl_now_3,kl_now_4,"
        "kl_future_0,kl_future_1,kl_future_2,kl_future_3,kl_future_4,risk_fast_product,risk_any_product,"
        "risk_fast_low,risk_fast_high,risk_any_low,risk_any_high,kl_read_0,kl_read_1,kl_read_2,kl_read_3,kl_read_4,"
        "kl_set,other_knee,typicality,warnings"
    )


def test_json_says_everything_and_no_path() -> None:
    made = prediction(radiograph("knee"), (24, 48))
    content = as_json(made)
    excess = {"risk_fast_excess": 0.0, "risk_any_excess": 0.0}
    assert content["horizons"] == [row(made, horizon) | excess for horizon in made.horizons]
    assert [entry["horizon_months"] for entry in content["horizons"]] == [24, 48]
    assert content["neighbour_distances"] == [0.5, 0.6]
    assert content["seed"] == 0 and set(content["weights"]) == {"generator"}
    assert content["arguments"] == {"model": "mine", "horizon_months": [24, 48]}
    assert "/home" not in json.dumps(content)


def test_windows_paths_are_cut_too() -> None:
    made = replace(prediction(radiograph()), provenance={"model": "C:\\Users\\somebody\\mine"})
    assert as_json(made)["model"] == "mine"


def test_folder_holds_the_promised_files_and_replaces_an_older_prediction(tmp_path: Path) -> None:
    (tmp_path / "out" / "knee").mkdir(parents=True)
    (tmp_path / "out" / "knee" / "future_012m.png").touch()
    folder = write_prediction(tmp_path / "out" / "knee", prediction(radiograph("knee"), (24, 96)))
    assert sorted(entry.name for entry in folder.iterdir()) == FILES
    assert json.loads((folder / "prediction.json").read_text())["name"] == "knee"


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "knee").mkdir()
    (tmp_path / "knee" / "thesis.tex").touch()
    with pytest.raises(OutputError, match=r"holds other files \(thesis\.tex\)"):
        write_prediction(tmp_path / "knee", prediction(radiograph("knee")))
    assert [entry.name for entry in (tmp_path / "knee").iterdir()] == ["thesis.tex"]


def test_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "save_gif", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_prediction(tmp_path / "out" / "knee", prediction(radiograph("knee")))
    assert list(tmp_path.iterdir()) == []
