"""An explanation adds up to the prediction that it explains, and its files say what is synthetic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from progression.cli import run
from progression.errors import UsageError
from progression.explain import explain, saliency_maps, transition_terms, what_if
from progression.image import to_model
from progression.predict import NEIGHBOURS, Predictor, load_predictor
from progression.report.explanation import (
    Explanation,
    explanation_figure,
    explanation_json,
    explanation_text,
)
from progression.risk.covariates import COVARIATES, covariates, standardise
from progression.risk.grader import Grading
from progression.risk.multistate import TRANSITIONS
from progression.risk.saliency import expected_grade
from progression.types import Radiograph, Side

from .fakes import knee, save_knee
from .models import RESOLUTION, write_model

MONTHS = (24, 60)
KNEE = Radiograph(knee(), Side.LEFT, "anna")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return load_predictor(folder, device="cpu", engine="torch")


@pytest.fixture(scope="module")
def explained(predictor: Predictor) -> Explanation:
    return explain(predictor, KNEE, horizon_months=MONTHS, grade=1, samples=2)


def _grading(predictor: Predictor) -> Grading:
    x = to_model(KNEE.pixels, side=KNEE.side, resolution=predictor.grader.input_resolution)
    return predictor.engine.grade(x[None])


def test_log_rates_add_up_to_the_models(predictor: Predictor) -> None:
    assert predictor.risk is not None
    risk, grading = predictor.risk.alone, _grading(predictor)
    assert risk is not None
    x = standardise(covariates(grading), risk.mean, risk.scale)
    for start in range(5):
        q = risk.multistate.generators(x[:, start])
        found = transition_terms(risk, grading, start=start, until_months=48)
        assert [(one.start, one.end) for one in found] == [pair for pair in TRANSITIONS if pair[0] == start]
        for one in found:
            assert np.exp(one.log_rate) == pytest.approx(float(q[0, 0, one.start, one.end]), rel=1e-9)
            assert tuple(driver.name for driver in one.drivers) == COVARIATES
            assert sum(one.groups.values()) + one.intercept == pytest.approx(one.log_rate)


def test_only_eras_that_have_begun_are_told(predictor: Predictor) -> None:
    assert predictor.risk is not None
    risk = predictor.risk.alone
    assert risk is not None
    assert transition_terms(risk, _grading(predictor), start=1, until_months=0) == ()
    assert len(transition_terms(risk, _grading(predictor), start=1, until_months=1)) == 2


def test_what_if_is_the_risk_of_that_reading(predictor: Predictor, explained: Explanation) -> None:
    assert [one.grade for one in explained.what_if] == [None, 0, 1, 2, 3, 4]
    for one in explained.what_if:
        (again,) = predictor.predict_batch([KNEE], horizon_months=MONTHS, grades=[one.grade])
        np.testing.assert_allclose(one.risk_any, [h.risk_any for h in again.horizons], atol=1e-9)
        np.testing.assert_allclose(one.risk_fast, [h.risk_fast for h in again.horizons], atol=1e-9)
    assert explained.what_if[-1].risk_any == (0.0, 0.0)
    assert predictor.risk is not None
    assert what_if(predictor.risk.alone, _grading(predictor), MONTHS) == explained.what_if


def test_steps_are_those_of_the_prediction(predictor: Predictor, explained: Explanation) -> None:
    """A knee read as grade 1 has risk_any of the step 1 → 2, and none of the step 0 → 1."""
    last = explained.prediction.horizons[-1]
    assert [term.start for term in explained.step_terms] == [0, 1, 2, 3]
    assert explained.step_terms[0].chance == 0 and explained.step_terms[0].seen_grade == pytest.approx(
        0, abs=1e-5
    )
    assert explained.step_terms[1].chance == pytest.approx(last.risk_any, abs=1e-6)
    assert explained.step_terms[2].chance == pytest.approx(last.risk_fast, abs=1e-6)
    plain = predictor.predict_batch([KNEE], horizon_months=MONTHS, grades=[1])[0]
    assert plain.horizons[-1].image is not None and last.image is not None
    np.testing.assert_array_equal(plain.horizons[-1].image, last.image)
    assert explained.start_grade == 1 == explained.grade_read


def test_neighbours_are_those_of_the_prediction(explained: Explanation) -> None:
    assert len(explained.neighbours) == NEIGHBOURS
    distances = tuple(one.distance for one in explained.neighbours)
    assert distances == pytest.approx(explained.prediction.neighbour_distances, abs=1e-6)
    for one in explained.neighbours:
        assert one.rendering.shape == (RESOLUTION, RESOLUTION) and len(one.grades) == len(one.months) == 2


def test_maps_lie_as_the_knee_does(predictor: Predictor) -> None:
    """A left knee's map is the mirror image of the one that a right knee with mirrored pixels has."""
    options = {"samples": 0}
    x = to_model(KNEE.pixels, side=Side.LEFT, resolution=48)[None]
    scores = {"grade": expected_grade}
    left = saliency_maps(predictor.grader, {"radiograph": x}, scores, side=Side.LEFT, **options)
    right = saliency_maps(predictor.grader, {"radiograph": x}, scores, side=Side.RIGHT, **options)
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one.values, other.values[:, ::-1])
        assert one.share_in_band == other.share_in_band and 0 <= one.share_in_band <= 1
        assert one.values.min() >= 0 and one.values.max() <= 1
        assert one.area_of_band == pytest.approx(0.2, abs=0.02)


def test_the_page_says_what_matters(explained: Explanation) -> None:
    text = explanation_text(explained)
    last = explained.prediction.horizons[-1]
    assert f"a chance of {last.risk_any:.0%} that the Kellgren-Lawrence grade rises" in text
    assert "a reader called it grade 1" in text and "Research use, not a medical device" in text
    assert "drawn from a model of a cohort and are nobody's" in text
    assert "Typicality" in text and "nan" not in text


def test_a_bank_of_peoples_knees_is_named_as_one(explained: Explanation) -> None:
    near = explained.neighbours[0]
    real = type(near)(**(vars(near) | {"kind": "graded"}))
    text = explanation_text(Explanation(**(vars(explained) | {"neighbours": (real,)})))
    assert "renderings come from the codes of people's radiographs" in text and "nobody's" not in text


def test_the_other_knee_is_told_apart(predictor: Predictor) -> None:
    """Without it, the risk of the knee alone; with it, the prediction's, whose change the steps make."""
    other = Radiograph(knee(seed=3), Side.RIGHT, "other knee")
    asked = {"horizon_months": MONTHS, "accept_atypical": True}
    both = explain(predictor, KNEE, grade=1, other=other, other_grade=3, samples=0, **asked)
    (alone,) = predictor.predict_batch([KNEE], grades=[1], **asked)
    (together,) = predictor.predict_batch([KNEE], grades=[1], others=[other], other_grades=[3], **asked)
    assert both.without_other is not None and both.prediction.other_knee
    np.testing.assert_allclose(both.without_other.risk_any, [h.risk_any for h in alone.horizons], atol=1e-6)
    np.testing.assert_allclose(both.without_other.risk_fast, [h.risk_fast for h in alone.horizons], atol=1e-6)
    last = both.prediction.horizons[-1]
    assert last.risk_any == pytest.approx(together.horizons[-1].risk_any, abs=1e-6)
    assert last.risk_any != pytest.approx(both.without_other.risk_any[-1], abs=1e-4)
    assert both.step_terms[1].chance == pytest.approx(last.risk_any, abs=1e-6)
    assert f"({last.risk_any - both.without_other.risk_any[-1]:+.1%})" in explanation_text(both)


def test_grade_four_has_nothing_to_rise_to(predictor: Predictor) -> None:
    explained = explain(predictor, KNEE, grade=4, samples=1)
    assert explained.transitions == () and explained.main_transition is None
    assert "Grade 4 is the highest: nothing can rise." in explanation_text(explained)
    assert len(explanation_figure(explained).axes) > 8


def test_json_holds_numbers_and_nobodys_name(explained: Explanation) -> None:
    told = json.loads(json.dumps(explanation_json(explained), allow_nan=False))
    assert {*told} == {
        "prediction", "grade_read", "start_grade", "saliency", "neighbours", "transitions", "step_terms", "what_if",
        "without_other",
    }  # fmt: skip
    assert "P0" not in json.dumps(told["neighbours"]) and "rendering" not in told["neighbours"][0]
    assert told["transitions"][0]["drivers"][0].keys() == {"name", "words", "group", "value", "log_rate"}


def test_it_needs_a_risk_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no risk part"):
        explain(
            load_predictor(write_model(tmp_path / "bare", risk=False), device="cpu", engine="torch"), KNEE
        )


def test_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = save_knee(tmp_path / "bea.png")
    arguments = ["explain", str(image), "--side", "left", "--months", "36", "--model", str(folder)]
    options = ["--engine", "torch", "--out", str(tmp_path / "out")]
    assert run([*arguments, *options]) == 0, capsys.readouterr().err
    assert run([*arguments, *options, "--grade", "2"]) == 0  # its own files are replaced
    files = tmp_path / "out" / "bea"
    assert sorted(p.name for p in files.iterdir()) == [
        "explanation.json",
        "explanation.md",
        "explanation.png",
    ]
    with Image.open(files / "explanation.png") as picture:
        assert picture.info["Synthetic"] == "yes" and picture.info["Laterality"] == "L"
    assert json.loads((files / "explanation.json").read_text())["grade_read"] == 2
    (files / "notes.txt").write_text("mine")
    assert run([*arguments, *options]) == 1
    assert "holds other files (notes.txt)" in capsys.readouterr().err
    assert run([*arguments, "--grade", "7"]) == 2


def test_only_torch_tensors_are_kept_off(explained: Explanation) -> None:
    """What an explanation holds can be kept and sent on: numbers, text and arrays, no graph of a network."""
    held = [vars(one) for one in (*explained.saliency, *explained.neighbours, *explained.step_terms)]
    assert not any(isinstance(value, torch.Tensor) for one in held for value in one.values())
