"""The main path on an untrained model: shapes, invariants, and the command line from picture to files."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import progression
from progression.answer import _disagreement
from progression.asked import Asked
from progression.cli import run
from progression.cohort import predict_entries
from progression.dicom import example
from progression.entries import Entry
from progression.errors import ImageError, NotAKneeError, UsageError, WeightsError
from progression.image import exposure, from_model, read_image, to_model
from progression.latent.directions import Directions
from progression.latent.expected import StepEffects, step_chances
from progression.latent.extrapolate import extrapolate, key_of
from progression.latent.invert import refine
from progression.latent.perceptual import SeenDistance
from progression.predict import NEIGHBOURS, Predictor, load_predictor
from progression.refusal import Gate
from progression.risk.risk import product_excess
from progression.types import Prediction, Radiograph, Request, Side
from progression.weights import load_model, save_part
from tests.dicom.films import save
from tests.localise.test_places import Says

from .fakes import knee, save_knee
from .models import RESOLUTION, W_DIM, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return load_predictor(folder, device="cpu")


def radiograph(seed: int = 0, side: Side = Side.RIGHT) -> Radiograph:
    return Radiograph(knee(seed=seed), side, f"knee{seed}")


def test_one_prediction(predictor: Predictor) -> None:
    prediction = predictor.predict(knee(), side="left", horizon_months=[48, 12, 96], grade=1, name="anna")
    assert prediction.name == "anna" and prediction.side is Side.LEFT
    assert [h.horizon_months for h in prediction.horizons] == [12, 48, 96]
    assert prediction.baseline.shape == prediction.reconstruction.shape == (RESOLUTION, RESOLUTION)
    assert sum(prediction.kl_now) == pytest.approx(1, abs=1e-5)
    assert 0 <= prediction.typicality <= 1
    assert len(prediction.neighbour_distances) == NEIGHBOURS
    assert list(prediction.neighbour_distances) == sorted(prediction.neighbour_distances)
    before = (0.0, 0.0)
    for horizon in prediction.horizons:
        assert horizon.image is not None and horizon.image.shape == (RESOLUTION, RESOLUTION)
        assert sum(horizon.kl_future) == pytest.approx(1, abs=1e-5)
        assert 0 <= horizon.risk_fast <= horizon.risk_any <= 1
        assert 0 <= horizon.risk_fast_product <= horizon.risk_any_product <= 1
        assert horizon.risk_fast >= before[0] and horizon.risk_any >= before[1]
        before = (horizon.risk_fast, horizon.risk_any)


def test_the_product_is_that_of_the_two_gradings(predictor: Predictor) -> None:
    prediction = predictor.predict(knee(), side="right")
    (horizon,) = prediction.horizons
    pairs = [(j - i, prediction.kl_now[i] * horizon.kl_future[j]) for i in range(5) for j in range(5)]
    assert horizon.risk_fast_product == pytest.approx(sum(p for rise, p in pairs if rise >= 2), abs=1e-5)
    assert horizon.risk_any_product == pytest.approx(sum(p for rise, p in pairs if rise >= 1), abs=1e-5)


def test_the_path_is_the_papers_steps(predictor: Predictor) -> None:
    """Step by step by hand, against the whole."""
    given = radiograph()
    x = to_model(given.pixels, side=given.side, resolution=RESOLUTION)[None]
    code = predictor.encoder.encoder(x)
    by_hand = SeenDistance.of(predictor.generator, predictor.grader)
    ws = refine(
        predictor.generator, code, x, steps=3, whitening=predictor.encoder.whitening, perceptual=by_hand
    )
    bank = predictor.bank
    units = torch.nn.functional.normalize(bank.w, dim=1)
    distance = (torch.nn.functional.normalize(key_of(code), dim=1) - units).norm(dim=1)
    nearest = distance.argsort()[:NEIGHBOURS]
    future = extrapolate(ws, bank.displacement[nearest][None], bank.interval_months[nearest][None], [24])
    with torch.no_grad():
        image = predictor.generator.synthesis(future[0], noise_mode="const").clamp(-1, 1)[0]
    expected = from_model(image, side=given.side, exposure=exposure(given.pixels))
    found = predictor.predict_batch([given], horizon_months=[24], refine_steps=3, method="paper")[0]
    np.testing.assert_allclose(found.horizons[0].image, expected, atol=1e-5)
    np.testing.assert_allclose(found.neighbour_distances, distance[nearest].detach(), atol=1e-5)


@pytest.mark.parametrize("method", ["paper", "joint"])
def test_a_knees_numbers_do_not_depend_on_the_batch_or_on_rendering(
    predictor: Predictor, method: str
) -> None:
    knees = [radiograph(seed) for seed in range(3)]
    asked: dict[str, Any] = {"horizon_months": [24, 48], "method": method}
    together = predictor.predict_batch(knees, grades=[None, 2, 0], render=False, **asked)
    for given, grade, found in zip(knees, (None, 2, 0), together, strict=True):
        alone = predictor.predict_batch([given], grades=[grade], **asked)[0]
        assert found.typicality == pytest.approx(alone.typicality, abs=1e-4)
        for a, b in zip(found.horizons, alone.horizons, strict=True):
            assert a.image is None and b.image is not None
            assert a.risk_any == pytest.approx(b.risk_any, abs=1e-5)
            assert a.kl_future == pytest.approx(b.kl_future, abs=1e-4)


def test_the_excess_is_zero_where_nothing_changes() -> None:
    graded = torch.tensor([[0.5, 0.5, 0, 0, 0]])
    same = product_excess(graded, graded[:, None])
    risen = product_excess(graded, torch.tensor([[[0, 0, 0.5, 0.5, 0]]]))
    assert torch.equal(same, torch.zeros(1, 1, 2))
    # fast: 0.25·(0→2) + 0.25·(0→3) + 0.25·(1→3) = 0.75 over 0; any: (1 − 0.25) / (1 − 0.25)
    torch.testing.assert_close(risen, torch.tensor([[[0.75, 1.0]]]))


def test_a_mirrored_left_knee_is_the_right_knee(predictor: Predictor) -> None:
    right = radiograph()
    left = Radiograph(np.ascontiguousarray(right.pixels[:, ::-1]), Side.LEFT, "knee0")
    a, b = predictor.predict_batch([right, left], horizon_months=[48])
    assert a.horizons[0].image is not None and b.horizons[0].image is not None
    np.testing.assert_allclose(a.horizons[0].image, b.horizons[0].image[:, ::-1], atol=1e-5)
    assert a.horizons[0].risk_fast == pytest.approx(b.horizons[0].risk_fast, abs=1e-6)


def test_joint_adds_the_expected_change(predictor: Predictor) -> None:
    """By hand, against the whole."""
    given = radiograph()
    x = to_model(given.pixels, side=given.side, resolution=RESOLUTION)[None]
    seen = to_model(given.pixels, side=given.side, resolution=predictor.grader.input_resolution)[None]
    assert predictor.risk is not None
    with torch.no_grad():
        code, grading = predictor.encoder.encoder(x), predictor.grader(seen)
        read = torch.tensor([1])
        alone = predictor.risk.alone
        future = alone.predict(grading, [24, 96], grade=read).future
        chances = step_chances(alone.grade_now(grading, read), future)
        change = StepEffects.fit(predictor.bank).displacement_at(key_of(code), chances)
        image = predictor.generator.synthesis(code + change[:, 1, None], noise_mode="const").clamp(-1, 1)[0]
    expected = from_model(image, side=given.side, exposure=exposure(given.pixels))
    found = predictor.predict_batch([given], horizon_months=[24, 96], grades=[1])[0]
    np.testing.assert_allclose(found.horizons[1].image, expected, atol=1e-5)
    assert found.provenance["arguments"]["method"] == "joint"
    paper = predictor.predict_batch([given], horizon_months=[24, 96], grades=[1], method="paper")[0]
    for ours, theirs in zip(found.horizons, paper.horizons, strict=True):
        assert (ours.risk_fast, ours.risk_any) == (theirs.risk_fast, theirs.risk_any)
        assert not np.array_equal(ours.image, theirs.image)


def test_joint_changes_nothing_where_the_grade_cannot_rise(predictor: Predictor) -> None:
    (found,) = predictor.predict_batch([radiograph()], horizon_months=[96], grades=[4], method="joint")
    np.testing.assert_allclose(found.horizons[0].image, found.reconstruction, atol=1e-5)


def test_both_knees_of_a_person(predictor: Predictor) -> None:
    """Each is the other's other; its part of the risk is that of the model of both, whatever the order."""
    right, left = radiograph(0), radiograph(1, Side.LEFT)
    months, grades = [24, 96], [1, None]
    both = predictor.predict_batch(
        [right, left], horizon_months=months, grades=grades, others=[left, right], other_grades=grades[::-1]
    )
    mixed = predictor.predict_batch(
        [left, radiograph(2), right],
        horizon_months=months,
        grades=[None, 2, 1],
        others=[right, None, left],
        other_grades=[1, None, None],
    )
    alone = predictor.predict_batch([right, radiograph(2)], horizon_months=months, grades=[1, 2])
    assert [p.other_knee for p in (*both, *mixed, *alone)] == [True, True, True, False, True, False, False]
    for one, same in ((both[0], mixed[2]), (both[1], mixed[0]), (alone[1], mixed[1])):
        for a, b in zip(one.horizons, same.horizons, strict=True):
            assert (a.risk_fast, a.risk_any) == pytest.approx((b.risk_fast, b.risk_any), abs=1e-6)
            assert a.kl_set == b.kl_set
    assert both[0].horizons[1].risk_any != pytest.approx(alone[0].horizons[1].risk_any, abs=1e-4)
    other_read = predictor.predict(
        right.pixels, side="right", grade=1, other=left.pixels, other_grade=4, horizon_months=months
    )
    assert other_read.horizons[1].risk_any != pytest.approx(both[0].horizons[1].risk_any, abs=1e-4)
    assert other_read.other_knee and other_read.provenance["other_grade_read"] == 4


def test_predictions_say_how_sure_they_are(predictor: Predictor) -> None:
    prediction = predictor.predict(knee(), side="right", horizon_months=[12, 48], grade=2)
    for horizon in prediction.horizons:
        assert horizon.risk_any_interval is not None and horizon.kl_read is not None and horizon.kl_set
        low, high = horizon.risk_any_interval
        assert 0 < low <= horizon.risk_any <= high < 1
        assert sum(horizon.kl_read) == pytest.approx(1) and sum(horizon.kl_read[3:]) == pytest.approx(
            horizon.risk_any
        )
        assert horizon.kl_read.index(max(horizon.kl_read)) in horizon.kl_set


def test_the_grade_now_is_what_the_risks_start_from(predictor: Predictor) -> None:
    assert predictor.risk is not None
    given = radiograph()
    unread, read = predictor.predict_batch([given, given], horizon_months=[96], grades=[None, 2])
    seen = to_model(given.pixels, side=given.side, resolution=predictor.grader.input_resolution)[None]
    with torch.no_grad():
        start = predictor.risk.alone.grade_now(predictor.grader(seen))[0]
    np.testing.assert_allclose(unread.provenance["kl_start"], start, atol=1e-6)
    assert read.provenance["kl_start"] == [0, 0, 1, 0, 0]
    # the highest grade by then is never lower than now
    later = np.cumsum(unread.horizons[0].kl_read)
    assert (later <= np.cumsum(unread.provenance["kl_start"]) + 1e-6).all()


def test_a_reading_that_the_picture_does_not_show_is_warned_of() -> None:
    seen = torch.tensor([0.5, 0.3, 0.1, 0.0901, 0.0099])
    assert _disagreement(None, seen) == _disagreement(3, seen) == ()
    assert _disagreement(4, seen) == (
        "read as grade 4, but the picture looks like grade 0 (grade 4: under 1%): "
        "reading and picture disagree, check both",
    )


def test_one_other_knee_for_each(predictor: Predictor) -> None:
    with pytest.raises(UsageError, match="1 other knees for 2 knees: give one a knee, None if there is none"):
        predictor.predict_batch([radiograph(0), radiograph(1)], others=[radiograph(2)])


def test_joint_needs_a_risk_part_and_grades(predictor: Predictor, tmp_path: Path) -> None:
    plain = load_predictor(write_model(tmp_path / "plain", risk=False), device="cpu")
    with pytest.raises(UsageError, match="no risk part: train one"):
        plain.predict(knee(), side="right", method="joint")
    unread = replace(predictor.bank, grade_series=torch.full_like(predictor.bank.grade_series, -1))
    with pytest.raises(UsageError, match="build the bank with grades"):
        replace(predictor, bank=unread).predict(knee(), side="right", method="joint")


def test_own_knees_do_not_say_what_a_step_looks_like(predictor: Predictor) -> None:
    given: dict[str, Any] = {"horizon_months": [96], "grades": [0], "method": "joint"}
    free, kept_out, stranger = (
        predictor.predict_batch([radiograph()], subjects=[subject], **given)[0].horizons[0].image
        for subject in (None, "P0", "elsewhere")
    )
    assert np.array_equal(free, stranger)
    assert not np.array_equal(free, kept_out)


def test_own_subject_is_no_neighbour(predictor: Predictor) -> None:
    given = radiograph()
    free = predictor.predict_batch([given], refine_steps=0)[0]
    nearest = predictor.bank.search(
        key_of(
            predictor.encoder.encoder(to_model(given.pixels, side=given.side, resolution=RESOLUTION)[None])
        ),
        k=1,
    )
    subject = str(predictor.bank.subject[nearest.index[0, 0]])
    kept_out = predictor.predict_batch([given], refine_steps=0, subjects=[subject])[0]
    assert kept_out.neighbour_distances[0] > free.neighbour_distances[0]


def test_without_a_risk_part_the_product_is_the_risk(tmp_path: Path) -> None:
    plain = load_predictor(write_model(tmp_path / "plain", risk=False), device="cpu")
    months = [12, 24, 48, 96]
    prediction = plain.predict(knee(), side="right", horizon_months=months, method="paper")
    highest = 0.0
    for horizon in prediction.horizons:
        highest = max(highest, horizon.risk_any_product)
        assert horizon.risk_any == pytest.approx(highest)


def test_projection_runs_and_differs(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    from functools import partial

    from progression import inversion

    monkeypatch.setattr(inversion, "project", partial(inversion.project, steps=5))
    projected = predictor.predict(knee(), side="right", inversion="projection")
    encoded = predictor.predict(knee(), side="right")
    assert not np.allclose(projected.reconstruction, encoded.reconstruction, atol=1e-3)
    assert projected.neighbour_distances == encoded.neighbour_distances  # the key is the encoder's
    assert projected.provenance["arguments"]["inversion"] == "projection"


def test_projection_does_not_depend_on_the_place_in_the_batch(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from functools import partial

    from progression import inversion

    monkeypatch.setattr(inversion, "project", partial(inversion.project, steps=5))
    both = predictor.predict_batch([radiograph(0), radiograph(1)], inversion="projection")
    alone = predictor.predict_batch([radiograph(1)], inversion="projection")
    np.testing.assert_allclose(both[1].reconstruction, alone[0].reconstruction, atol=1e-4)


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    mixed = write_model(tmp_path / "mixed")
    other = load_model(write_model(tmp_path / "other", seed=1))
    save_part(mixed, "encoder", other.tensors("encoder"), other.config("encoder"), dtype="float32")
    with pytest.raises(WeightsError, match=r"trained for another generator|built with another encoder"):
        load_predictor(mixed, device="cpu")


def test_a_part_does_not_change_the_models_resolution(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    save_part(model, "grader", {}, {}, resolution=224)
    assert load_model(model).resolution == RESOLUTION


def test_a_bank_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", seed=1)
    with pytest.raises(WeightsError, match="built with another"):
        load_predictor(folder, device="cpu", bank=other)
    assert load_predictor(folder, device="cpu", bank=folder).bank_hash == load_model(folder).hashes()["bank"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon_months": [0]}, "from 1 to 96"),
        ({"horizon_months": [-12]}, "from 1 to 96"),
        ({"horizon_months": [97]}, "from 1 to 96"),
        ({"horizon_months": []}, "no horizon"),
        ({"method": "magic"}, "paper or joint"),
        ({"inversion": "guess"}, "encoder or projection"),
        ({"grades": [5]}, "from 0 to 4"),
        ({"grades": [1, 2]}, "2 grades for 1 knees"),
    ],
)
def test_wrong_use_is_told(predictor: Predictor, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        predictor.predict_batch([radiograph()], **options)


@pytest.mark.parametrize("given", [None, ["knee.png"], b"knee.png", 3])
def test_what_is_no_picture_is_told(predictor: Predictor, given: object) -> None:
    picture: Any = given
    expected = "expected a file's path, a NumPy array or PyTorch tensor"
    with pytest.raises(UsageError, match=expected):
        predictor.predict(picture, side="left")
    with pytest.raises(UsageError, match=expected):
        predictor.predict(knee(), side="left", history=[(picture, 12, None)])
    if given is not None:
        with pytest.raises(UsageError, match=expected):
            predictor.predict(knee(), side="left", other=picture)
    with pytest.raises(UsageError, match=r"expected progression\.Radiograph\(pixels, side, name\)"):
        predictor.predict_batch([picture])


def test_one_picture_in_every_form(predictor: Predictor, tmp_path: Path) -> None:
    path = save_knee(tmp_path / "knee.png")
    with Image.open(path) as picture:
        grey = np.asarray(picture)
        forms = [
            path,
            str(path),
            grey,
            picture,
            torch.from_numpy(grey.copy())[None],
            torch.from_numpy(grey / 255.0),
        ]
        risks = [predictor.predict(form, side="left").horizons[0].risk_any for form in forms]
    assert risks == pytest.approx([risks[0]] * len(forms), abs=1e-6)
    cut_short = path.read_bytes()[:300]
    with Image.open(BytesIO(cut_short)) as broken, pytest.raises(ImageError, match="damaged or truncated"):
        predictor.predict(broken, side="left")


def test_options_of_one_knee_are_known(predictor: Predictor) -> None:
    free, kept_out = (predictor.predict(knee(), side="right", subject=of, grade=0) for of in (None, "P0"))
    assert not np.array_equal(free.horizons[0].image, kept_out.horizons[0].image)
    with pytest.raises(TypeError, match="unexpected keyword argument 'month'"):
        predictor.predict(knee(), side="right", month=48)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="the side is not known: say left or right"):
        predictor.predict(knee())
    with pytest.raises(UsageError, match="horizon '48'"):
        predictor.predict(knee(), side="right", horizon_months="48")  # type: ignore[arg-type]
    assert predictor.predict(knee(), side="right", horizon_months=24).horizons[0].horizon_months == 24


def test_numbers_that_are_not_finite_are_refused(predictor: Predictor) -> None:
    """Whatever they come from, and even where odd pictures are accepted."""
    asked = Asked.of([radiograph(0), radiograph(1)])
    figures = torch.tensor([0.5, torch.nan])
    for accept in (False, True):
        with pytest.raises(NotAKneeError, match=r"^knee1: refused, .* not finite") as told:
            Gate(None, predictor.device).admit(
                asked, typicality=figures, mirrored=figures, accept_atypical=accept
            )
        assert list(told.value.refused) == [1]


def test_a_film_of_both_knees_is_read_as_on_the_command_line(predictor: Predictor, tmp_path: Path) -> None:
    """The knee that is not asked for has its part in the risk."""
    film = save(tmp_path / "film.dcm", example.bilateral_film(knee()))
    finding = replace(predictor)
    finding.__dict__["finder"] = Says()
    request = Request(horizon_months=(48,))
    (outcome,) = predict_entries(finding, [Entry("film", str(film), "left")], request=request, render=False)
    expected = outcome.result
    assert isinstance(expected, Prediction)
    found = finding.predict(film, side="left", render=False)
    assert found.other_knee and expected.other_knee and found.name == "film"
    assert found.horizons[0].risk_any == pytest.approx(expected.horizons[0].risk_any, abs=1e-6)
    assert found.warnings == expected.warnings
    with pytest.raises(UsageError, match="shows both knees"):
        finding.predict(film)


def test_a_predictor_is_shown_in_a_line(predictor: Predictor) -> None:
    told = repr(predictor)
    assert len(told) < 300 and "\n" not in told
    for part in (
        "tiny",
        "32 x 32",
        "generator, encoder, grader, bank",
        "12 rows",
        predictor.engine.name,
        "cpu",
    ):
        assert part in told
    assert predictor == predictor and predictor != replace(predictor) and hash(predictor)


def test_package_names() -> None:
    assert set(progression.__all__) <= set(dir(progression))
    assert files("progression").joinpath("py.typed").is_file()
    assert progression.load_predictor is load_predictor
    assert progression.Radiograph is Radiograph
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = progression.nothing


def test_command_line_from_picture_to_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = save_knee(tmp_path / "knee.png")
    common = ["--months", "24", "--months", "48", "--model", str(folder), "--device", "cpu"]
    assert (
        run(
            [
                "predict",
                str(picture),
                "--side",
                "left",
                "--grade",
                "1",
                "--out",
                str(tmp_path / "out"),
                *common,
            ]
        )
        == 0
    )
    written = tmp_path / "out" / "knee"
    assert {p.name for p in written.iterdir()} == {
        "future_024m.png", "future_048m.png", "figure.png", "future.gif", "prediction.json", "report.html",
    }  # fmt: skip
    with Image.open(written / "future_048m.png") as future:
        assert future.info["Synthetic"] == "yes"
    report = json.loads((written / "prediction.json").read_text())
    assert report["weights_sha256"] == load_model(folder).hashes()
    assert str(tmp_path) not in json.dumps(report)

    table = tmp_path / "table.csv"
    table.write_text("name,image,side,grade\nknee,knee.png,left,1\nlost,lost.png,right,\n")
    results = tmp_path / "results.csv"
    assert run(["cohort", str(table), "--out", str(results), *common]) == 1  # one knee is lost
    rows = list(csv.DictReader(results.read_text().splitlines()))
    assert [row["name"] for row in rows] == ["knee", "knee", "lost", "lost"]
    for row, horizon in zip(rows[:2], report["horizons"], strict=True):
        assert float(row["risk_any"]) == pytest.approx(horizon["risk_any"], abs=1e-5)
        assert float(row["risk_fast_product"]) == pytest.approx(horizon["risk_fast_product"], abs=1e-5)
    assert "no such file" in rows[2]["warnings"]
    assert "lost" in capsys.readouterr().err


def test_edits_follow_the_models_directions(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    found = load_predictor(model, device="cpu")
    with pytest.raises(WeightsError, match=r"has no directions: run progression train directions"):
        found.edit(knee(), side="left", grade=1)
    draws = torch.Generator().manual_seed(0)
    w = torch.randn(60, W_DIM, generator=draws)
    known = Directions.fit(w, {"grade": w[:, 0], "left": w[:, 1]})
    known.save(model, made_for=load_model(model))
    predictor = load_predictor(model, device="cpu")
    unchanged = predictor.predict(knee(), side="left").reconstruction
    # with no amounts, or amounts of 0, the reconstruction
    np.testing.assert_allclose(predictor.edit(knee(), side="left"), unchanged, atol=1e-5)
    np.testing.assert_allclose(predictor.edit(knee(), side="left", grade=0.0), unchanged, atol=1e-5)
    both = predictor.edit(knee(), side="left", grade=1, left=-1)
    assert both.shape == unchanged.shape
    worse = predictor.edit(knee(), side="left", grade=4)
    assert worse.shape == (RESOLUTION, RESOLUTION) and np.abs(worse - unchanged).max() > 1e-4
    with pytest.raises(UsageError, match=r"attribute 'age': expected one of grade, left"):
        predictor.edit(knee(), side="left", age=5)
    for amount in (50, -5, np.nan, "1"):
        with pytest.raises(UsageError, match=rf"grade={amount!r}: expected a change from -4\.67 to 4\.67"):
            predictor.edit(knee(), side="left", grade=amount)  # type: ignore[arg-type]


def test_edits_look_at_the_picture_as_predictions_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A side that the file contradicts, a film of both knees, and what is no knee are not edited."""
    model = write_model(tmp_path / "model")
    w = torch.randn(60, W_DIM, generator=torch.Generator().manual_seed(0))
    Directions.fit(w, {"grade": w[:, 0]}).save(model, made_for=load_model(model))
    predictor = load_predictor(model, device="cpu")
    predictor.__dict__["finder"] = Says()
    right = save_knee(tmp_path / "right.png", side=Side.RIGHT)
    with pytest.raises(UsageError, match="states that it is a right knee"):
        predictor.edit(right, side="left", grade=1)
    np.testing.assert_array_equal(
        predictor.edit(right, grade=1), predictor.edit(read_image(right), side="right", grade=1)
    )
    film = save(tmp_path / "film.dcm", example.bilateral_film(knee()))
    with pytest.raises(UsageError, match="shows both knees"):
        predictor.edit(film, grade=1)
    one = predictor.edit(film, side="left")
    np.testing.assert_allclose(one, predictor.predict(film, side="left").reconstruction, atol=1e-5)
    monkeypatch.setattr(Gate, "_reasons", lambda gate, radiographs, *_: ["it is none"] * len(radiographs))
    with pytest.raises(NotAKneeError, match="refused, it is none"):
        predictor.edit(knee(), side="left", grade=1)
    with pytest.warns(UserWarning, match="accepted although it is none: do not rely on this"):
        predictor.edit(knee(), side="left", grade=1, accept_atypical=True)


def test_refinement_is_in_full_precision_unless_half_was_asked_for(predictor: Predictor) -> None:
    assert predictor.likeness.dtype == torch.float32
    half = replace(predictor, engine=replace(predictor.engine, precision="bfloat16"))
    assert half.likeness.dtype == torch.bfloat16
    given = radiograph()
    a, b = (p.predict_batch([given], refine_steps=3)[0].reconstruction for p in (predictor, half))
    np.testing.assert_allclose(a, b, atol=0.05)
