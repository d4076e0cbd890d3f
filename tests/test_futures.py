"""Earlier films and the spread of futures through the main path, the command line and the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from progression.cli import run
from progression.cohort import predict_entries
from progression.entries import Entry, parse_previous
from progression.errors import UsageError
from progression.latent.expected import StepEffects
from progression.latent.objective import PAPER, Weights
from progression.predict import Predictor, load_predictor
from progression.types import EarlierFilm, Radiograph, Request, Side
from tests.fakes import FakePredictor, knee, save_knee
from tests.models import RESOLUTION, write_model


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load_predictor(
        write_model(tmp_path_factory.mktemp("models") / "tiny"), device="cpu", engine="torch"
    )


def radiograph(seed: int = 0) -> Radiograph:
    return Radiograph(knee(seed=seed), Side.RIGHT, f"knee{seed}")


# -- earlier films -------------------------------------------------------------------------------------


def test_a_knee_that_rose_before_is_at_more_risk_than_one_that_stayed(predictor: Predictor) -> None:
    rose, stayed = (
        predictor.predict(knee(), side="right", grade=2, history=[(knee(seed=1), 48, read)])
        for read in (0, 2)
    )
    one = predictor.predict(knee(), side="right", grade=2)
    assert rose.provenance["pace"] > 1 > stayed.provenance["pace"]
    assert rose.horizons[0].risk_any > one.horizons[0].risk_any > stayed.horizons[0].risk_any
    assert rose.provenance["history"] == [{"months_before": 48, "grade_read": 0}]
    assert "history" not in one.provenance and "pace" not in one.provenance
    assert rose.kl_now == one.kl_now  # what the picture shows is what it shows
    assert rose.horizons[0].image is not None and not np.array_equal(
        rose.horizons[0].image, one.horizons[0].image
    )


def test_a_grade_read_before_bounds_the_one_now(predictor: Predictor) -> None:
    """Grade 4 before is grade 4 now, which cannot rise."""
    found = predictor.predict(knee(), side="right", history=[(knee(seed=1), 24, 4)])
    assert found.horizons[0].risk_any == 0


def test_every_film_counts_and_their_order_does_not(predictor: Predictor) -> None:
    films = [(knee(seed=1), 60, 0), (knee(seed=2), 24, 2)]
    given: dict[str, Any] = {"side": "right", "grade": 2}
    forth, back = (predictor.predict(knee(), history=some, **given) for some in (films, films[::-1]))
    first_only = predictor.predict(knee(), history=films[:1], **given)
    assert forth.provenance["pace"] == back.provenance["pace"] != first_only.provenance["pace"]


def test_a_knee_without_a_past_is_as_it_is_alone(predictor: Predictor) -> None:
    histories = [[EarlierFilm(knee(seed=5), 36, 0)], []]
    both = predictor.predict_batch([radiograph(0), radiograph(1)], histories=histories)
    alone = predictor.predict_batch([radiograph(1)])[0]
    assert both[1].horizons[0].risk_any == pytest.approx(alone.horizons[0].risk_any, abs=1e-6)
    np.testing.assert_allclose(both[1].horizons[0].image, alone.horizons[0].image, atol=1e-5)
    assert "pace" in both[0].provenance and "pace" not in both[1].provenance
    assert both[1].horizons[0].kl_set == alone.horizons[0].kl_set is not None
    assert both[1].horizons[0].risk_any_interval == pytest.approx(
        alone.horizons[0].risk_any_interval, abs=1e-6
    )


def test_a_risk_from_a_past_says_how_sure_it_is_and_has_no_set(predictor: Predictor) -> None:
    history = [(knee(seed=1), 48, 0)]
    both = predictor.predict(
        knee(), side="right", grade=2, history=history, other=knee(seed=2), other_grade=1
    )
    for found in (both, predictor.predict(knee(), side="right", grade=2, history=history)):
        (horizon,) = found.horizons
        assert horizon.risk_any_interval is not None and horizon.risk_fast_interval is not None
        low, high = horizon.risk_any_interval
        assert 0 < low < horizon.risk_any < high < 1
        assert horizon.kl_set is None and horizon.kl_read is not None
    assert both.other_knee


def test_a_past_needs_a_risk_part(tmp_path: Path) -> None:
    plain = load_predictor(write_model(tmp_path / "plain", risk=False), device="cpu")
    with pytest.raises(UsageError, match="no risk part: train one"):
        plain.predict(knee(), side="right", method="paper", history=[(knee(seed=1), 24, None)])


def test_films_that_are_refused(predictor: Predictor) -> None:
    for months in (0, -3, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="expected a number above 0"):
            EarlierFilm(knee(), months)
    with pytest.raises(UsageError, match="grade 5"):
        EarlierFilm(knee(), 24, 5)
    with pytest.raises(UsageError, match="1 histories for 2 knees"):
        predictor.predict_batch([radiograph(), radiograph(1)], histories=[[]])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("old.png:24", ("old.png", 24.0, None)),
        ("old.png:24.5:2", ("old.png", 24.5, 2)),
        ("all.zip::old.png:12:0", ("all.zip::old.png", 12.0, 0)),
        ("C:/films/old.png:12", ("C:/films/old.png", 12.0, None)),
    ],
)
def test_earlier_films_as_text(text: str, found: tuple[str, float, int | None]) -> None:
    assert parse_previous(text) == found


@pytest.mark.parametrize("text", ["old.png", "old.png:", "old.png:0", "old.png:-3", ":24", "old.png:soon"])
def test_earlier_films_as_text_that_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected PICTURE:MONTHS"):
        parse_previous(text)


def test_entries_bring_their_films(tmp_path: Path) -> None:
    now, old = (str(save_knee(tmp_path / f"{name}.png", seed=i)) for i, name in enumerate(("now", "old")))
    entries = [Entry("a", now, "right", previous=((old, 24.0, 1),)), Entry("b", now, "right")]
    fake = FakePredictor()
    list(predict_entries(fake, entries, request=Request(spread=True), render=False))
    (call,) = fake.calls
    (film,), none = call["histories"]  # type: ignore[misc]
    assert (film.months_before, film.grade, none) == (24.0, 1, [])
    assert call["spread"] is True
    lost = [Entry("c", now, "right", previous=((str(tmp_path / "lost.png"), 24.0, None),))]
    (outcome,) = predict_entries(fake, lost, request=Request(), render=False)
    assert "lost.png" in str(outcome.result)


# -- the objective's weights ---------------------------------------------------------------------------


def test_methods_are_weights_of_one_objective(predictor: Predictor) -> None:
    given: dict[str, Any] = {"side": "right", "horizon_months": [24, 96], "grade": 1}
    for method, weights in (("joint", Weights()), ("paper", PAPER)):
        plain = predictor.predict(knee(), method=method, **given)
        same = predictor.predict(knee(), method=method, weights=weights, **given)
        assert np.array_equal(plain.horizons[1].image, same.horizons[1].image)


def test_other_terms_move_the_picture(predictor: Predictor) -> None:
    given: dict[str, Any] = {"side": "right", "horizon_months": [24, 96], "grade": 1}
    plain = predictor.predict(knee(), **given)
    for weights in (Weights(neighbours=0.5), Weights(manifold=1.0)):
        other = predictor.predict(knee(), weights=weights, **given)
        assert not np.array_equal(plain.horizons[1].image, other.horizons[1].image)
    with pytest.raises(UsageError, match="term kept has a weight"):
        predictor.predict(knee(), weights=Weights(kept=1.0), **given)  # this model has no directions
    with pytest.raises(UsageError, match="term own has a weight"):
        predictor.predict(knee(), weights=Weights(own=1.0), **given)


# -- the spread ----------------------------------------------------------------------------------------


def test_futures_ascend_and_no_change_is_the_reconstruction(predictor: Predictor) -> None:
    found = predictor.predict(knee(), side="left", grade=1, horizon_months=[12, 96], spread=True)
    for horizon in found.horizons:
        assert [future.percentile for future in horizon.spread] == [5, 50, 95]
        change = [future.change_grades for future in horizon.spread]
        assert change == sorted(change)
        for future in horizon.spread:
            assert future.image is not None and future.image.shape == (RESOLUTION, RESOLUTION)
            if future.change_grades == 0:
                np.testing.assert_allclose(future.image, found.reconstruction, atol=1e-5)
    assert found.horizons[1].spread[2].change_grades > 0
    assert found.horizons[0].spread[0].change_grades == 0
    plain = predictor.predict(knee(), side="left", grade=1, horizon_months=[12, 96])
    assert plain.horizons[1].spread == ()
    np.testing.assert_allclose(plain.horizons[1].image, found.horizons[1].image, atol=1e-5)


def test_a_certain_rise_by_one_moves_by_that_step(predictor: Predictor) -> None:
    """From grade 3 there is one way up: the 95th percentile is near one step 3 → 4, scaled by its change."""
    found = predictor.predict(knee(), side="right", grade=3, horizon_months=[96], spread=True)
    future = found.horizons[0].spread[2]
    x = predictor._pictures([radiograph()], RESOLUTION)
    with torch.no_grad():
        code = predictor.encoder.encoder(x)
        step = StepEffects.fit(predictor.bank).steps(code.mean(dim=1))[0, 3]
        image = predictor.generator.synthesis(code + future.change_grades * step, noise_mode="const")
    shown = predictor.predict_batch([radiograph()], grades=[3], horizon_months=[96], spread=True)[0]
    from progression.image import exposure, from_model

    by_hand = from_model(image.clamp(-1, 1)[0], side=Side.RIGHT, exposure=exposure(radiograph().pixels))
    assert future.change_grades > 0.5
    np.testing.assert_allclose(shown.horizons[0].spread[2].image, by_hand, atol=1e-4)


def test_a_knees_spread_does_not_depend_on_the_batch(predictor: Predictor) -> None:
    both = predictor.predict_batch([radiograph(0), radiograph(1)], spread=True)
    alone = predictor.predict_batch([radiograph(1)], spread=True)[0]
    for a, b in zip(both[1].horizons[0].spread, alone.horizons[0].spread, strict=True):
        assert a.change_grades == pytest.approx(b.change_grades, abs=1e-5)
        np.testing.assert_allclose(a.image, b.image, atol=1e-4)


def test_the_papers_method_has_no_spread(predictor: Predictor) -> None:
    with pytest.raises(UsageError, match="spread with method paper"):
        predictor.predict(knee(), side="right", method="paper", spread=True)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "model")
    now, old = (save_knee(tmp_path / f"{name}.png", seed=i) for i, name in enumerate(("now", "old")))
    given = [
        "predict",
        str(now),
        "--side",
        "right",
        "--model",
        str(model),
        "--device",
        "cpu",
        "--months",
        "48",
    ]
    out = ["--out", str(tmp_path / "out")]
    assert run([*given, *out, "--previous", f"{old}:24:0", "--grade", "1", "--spread"]) == 0
    folder = tmp_path / "out" / "now"
    written = {path.name for path in folder.iterdir()}
    assert {f"future_048m_p{p}.png" for p in ("05", "50", "95")} | {"spread.png", "figure.png"} <= written
    told = json.loads((folder / "prediction.json").read_text())
    assert told["history"] == [{"months_before": 24.0, "grade_read": 0}] and told["pace"] > 0
    change = told["horizons"][0]["change_grades"]
    assert list(change) == ["p05", "p50", "p95"] and change["p95"] >= change["p50"]
    # an older prediction, spread and all, is replaced
    assert run([*given, *out]) == 0
    assert "spread.png" not in {path.name for path in folder.iterdir()}
    assert run([*given, str(old), "--previous", f"{old}:24", *out]) != 0
    assert "give one picture" in capsys.readouterr().err
