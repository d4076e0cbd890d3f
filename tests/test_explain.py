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
from progression.explain import explain, saliency_maps, transition_terms
from progression.image import to_model
from progression.latent.history import pace
from progression.predict import NEIGHBOURS, Predictor, load_predictor
from progression.report.explanation import (
    GRADIENT,
    OTHER_KNEE,
    RADIOGRAPH,
    RISE,
    Explanation,
    explanation_figure,
    explanation_json,
    explanation_text,
)
from progression.report.words import LATE_BY_ANOTHER
from progression.risk.covariates import COVARIATES, OtherKnee, covariates, names, standardise
from progression.risk.grader import Grading
from progression.risk.multistate import TRANSITIONS
from progression.risk.saliency import expected_grade
from progression.types import EarlierFilm, Radiograph, Side

from .fakes import knee, save_knee
from .models import RESOLUTION, write_model

MONTHS = (24, 60)
KNEE = Radiograph(knee(), Side.LEFT, "anna")
OTHER = Radiograph(knee(seed=3), Side.RIGHT, "other knee")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return load_predictor(folder, device="cpu", engine="torch")


@pytest.fixture(scope="module")
def explained(predictor: Predictor) -> Explanation:
    return explain(predictor, KNEE, horizon_months=MONTHS, grade=1, samples=2)


def _grading(predictor: Predictor, shown: Radiograph = KNEE) -> Grading:
    x = to_model(shown.pixels, side=shown.side, resolution=predictor.grader.input_resolution)
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
    assert LATE_BY_ANOTHER in text  # 60 months


def test_no_legend_lies_over_bars_and_nothing_is_cut_off(explained: Explanation) -> None:
    figure = explanation_figure(explained)
    figure.canvas.draw()
    legends = [(axes, axes.get_legend()) for axes in figure.axes if axes.get_legend() is not None]
    assert len(legends) == 2
    for axes, legend in legends:
        assert legend is not None and not legend.get_window_extent().overlaps(axes.get_window_extent())
        below = [axes.xaxis.label, *axes.get_xticklabels()]
        assert not any(
            legend.get_window_extent().overlaps(t.get_window_extent()) for t in below if t.get_text()
        )
    for text in (*figure.texts, *(axes.title for axes in figure.axes)):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_a_bank_of_peoples_knees_is_named_as_one(explained: Explanation) -> None:
    near = explained.neighbours[0]
    real = type(near)(**(vars(near) | {"kind": "graded"}))
    text = explanation_text(Explanation(**(vars(explained) | {"neighbours": (real,)})))
    assert "renderings come from the codes of people's radiographs" in text and "nobody's" not in text


def test_the_other_knee_is_told_apart(predictor: Predictor) -> None:
    """Without it, the risk of the knee alone; with it, the prediction's, whose change the steps make."""
    other = OTHER
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
    (read_two,) = predictor.predict_batch([KNEE], grades=[2], others=[other], other_grades=[3], **asked)
    np.testing.assert_allclose(both.what_if[3].risk_any, [h.risk_any for h in read_two.horizons], atol=1e-6)


def test_drivers_of_both_knees_add_up_to_the_pair_models_rate(predictor: Predictor) -> None:
    assert predictor.risk is not None and predictor.risk.pair is not None
    risk, other = predictor.risk.pair, OtherKnee(_grading(predictor, OTHER), torch.tensor([3]))
    x = standardise(covariates(_grading(predictor), other), risk.mean, risk.scale)
    q = risk.multistate.generators(x[:, 1])
    both = explain(predictor, KNEE, grade=1, other=OTHER, other_grade=3, samples=0, accept_atypical=True)
    one = both.main_transition
    assert one is not None and (one.start, one.end) == (1, 2)
    assert np.exp(one.log_rate) == pytest.approx(float(q[0, 0, 1, 2]), rel=1e-6)
    beside = [driver for driver in one.drivers if driver.group == OTHER_KNEE]
    assert [driver.name for driver in beside] == list(names(other=True))[len(COVARIATES) :]
    assert one.groups[OTHER_KNEE] == pytest.approx(sum(driver.log_rate for driver in beside)) != 0
    assert f"- {OTHER_KNEE}: × {np.exp(one.groups[OTHER_KNEE]):.2f}" in explanation_text(both)


def test_each_knee_has_a_map_of_the_risk(predictor: Predictor) -> None:
    """That of the other knee: how this knee's risk changes with the other's pixels, on the other's picture."""
    options = {"grade": 1, "samples": 0, "accept_atypical": True}
    both = explain(predictor, KNEE, other=OTHER, other_grade=3, **options)
    alone = explain(predictor, KNEE, **options)
    assert {one.of for one in alone.saliency} == {RADIOGRAPH, "follow-up"} and alone.other_knee is None
    own, beside = (
        next(one for one in both.saliency if (one.of, one.score, one.method) == (of, RISE, GRADIENT))
        for of in (RADIOGRAPH, OTHER_KNEE)
    )
    assert predictor.risk is not None and predictor.risk.pair is not None
    read, months = torch.tensor([1]), [48]
    x = to_model(OTHER.pixels, side=OTHER.side, resolution=predictor.grader.input_resolution)[None]
    x.requires_grad_(True)
    risk = predictor.risk.pair.predict(
        _grading(predictor), months, grade=read, other=OtherKnee(predictor.grader(x), torch.tensor([3]))
    )
    (slope,) = torch.autograd.grad(risk.any.logit().sum(), x)
    assert beside.mean == pytest.approx(float(slope.abs().mean()), rel=1e-4) and own.mean > 0
    brightest = np.unravel_index(int(slope[0, 0].abs().argmax()), slope.shape[2:])
    assert beside.values[brightest] == 1.0  # a right knee's map is not mirrored
    assert both.other_knee is not None and both.other_knee.shape == (RESOLUTION, RESOLUTION)
    assert f"{beside.mean / own.mean:.2f} times as much as one of this knee" in explanation_text(both)
    titles = [axes.get_title() for axes in explanation_figure(both).axes]
    assert f"{RISE}\n{OTHER_KNEE}, {GRADIENT}" in titles


def test_what_earlier_films_add(predictor: Predictor) -> None:
    history = [EarlierFilm(knee(seed=5), 24, None), EarlierFilm(knee(seed=4), 48, 0)]
    asked = {"horizon_months": MONTHS, "accept_atypical": True}
    told = explain(predictor, KNEE, grade=2, history=history, samples=0, **asked)
    (with_them,) = predictor.predict_batch([KNEE], grades=[2], histories=[history], **asked)
    (one_film,) = predictor.predict_batch([KNEE], grades=[2], **asked)
    assert told.earlier is not None and told.without_earlier is not None
    np.testing.assert_allclose(
        told.without_earlier.risk_any, [h.risk_any for h in one_film.horizons], atol=1e-6
    )
    last = told.prediction.horizons[-1]
    assert last.risk_any == pytest.approx(with_them.horizons[-1].risk_any, abs=1e-6)
    assert told.step_terms[2].chance == pytest.approx(last.risk_any, abs=1e-6)
    assert [(one.months_before, one.grade_read) for one in told.earlier.visits] == [
        (48, 0),
        (24, None),
        (0, 2),
    ]
    assert told.earlier.pace == pytest.approx(with_them.provenance["pace"])
    assert told.earlier.pace == pytest.approx(pace(told.earlier.rise, told.earlier.expected))
    assert told.earlier.lowest_grade == 0
    (read_three,) = predictor.predict_batch([KNEE], grades=[3], histories=[history], **asked)
    np.testing.assert_allclose(told.what_if[4].risk_any, [h.risk_any for h in read_three.horizons], atol=1e-6)
    plain = explain(predictor, KNEE, grade=2, samples=0, **asked)
    assert plain.earlier is None and plain.without_earlier is None
    for faster, own in zip(told.transitions, plain.transitions, strict=True):
        assert faster.log_rate == pytest.approx(own.log_rate + np.log(told.earlier.pace))
    text = explanation_text(told)
    assert f"- the pace of the earlier films: × {told.earlier.pace:.2f}" in text
    assert f"({last.risk_any - told.without_earlier.risk_any[-1]:+.1%})" in text
    assert len(explanation_figure(told).axes) > 8


def test_grade_four_has_nothing_to_rise_to(predictor: Predictor) -> None:
    explained = explain(predictor, KNEE, grade=4, samples=1)
    assert explained.transitions == () and explained.main_transition is None
    text = explanation_text(explained)
    assert "Grade 4 is the highest: nothing can rise." in text and "a chance of 0%" not in text
    assert len(explanation_figure(explained).axes) > 8


def test_json_holds_numbers_and_nobodys_name(explained: Explanation) -> None:
    told = json.loads(json.dumps(explanation_json(explained), allow_nan=False))
    assert {*told} == {
        "prediction", "grade_read", "start_grade", "saliency", "neighbours", "transitions", "step_terms", "what_if",
        "without_other", "earlier", "without_earlier",
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
    old = save_knee(tmp_path / "old.png", seed=6)
    assert run([*arguments, *options, "--grade", "2", "--previous", f"{old}:24:1"]) == 0
    files = tmp_path / "out" / "bea"
    told = json.loads((files / "explanation.json").read_text())["earlier"]
    assert [one["grade_read"] for one in told["visits"]] == [1, 2] and told["lowest_grade"] == 1
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
