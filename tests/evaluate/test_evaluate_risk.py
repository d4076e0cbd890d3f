"""Risks judged by outcomes that are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from progression.data.outcomes import Event
from progression.errors import TableError, UsageError
from progression.evaluate.followup import Followup
from progression.evaluate.report import write_json
from progression.evaluate.risk import (
    censored_auc,
    evaluate_risk,
    grade_risk,
    read_results,
    risk_table,
    still_read,
)
from progression.metrics.auc import auc

MakeFollowup = Callable[..., Followup]


def cohort(followup: MakeFollowup, n: int = 120, seed: int = 0) -> tuple[pd.DataFrame, Followup]:
    """Knees whose true risk is known, and results that say it, at two horizons."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 4, size=n)
    risk = rng.uniform(0.05, 0.6, size=n)
    rise = (rng.random(n) < risk) * rng.integers(1, 3, size=n)
    later = np.minimum(base + rise, 4)
    knees = followup(*[[b, b, k, k] for b, k in zip(base, later, strict=True)])
    results = pd.DataFrame(
        {"name": knees.name, "risk_fast": risk / 2, "risk_any": risk, "risk_any_product": risk**2}
    )
    results["risk_fast_product"] = results["risk_fast"]
    for grade in range(5):
        results[f"kl_now_{grade}"] = (base == grade).astype(float)
    return pd.concat([results.assign(horizon_months=m) for m in (48, 96)], ignore_index=True), knees


def test_report_holds_what_was_asked(followup: MakeFollowup) -> None:
    results, knees = cohort(followup)
    report = evaluate_risk(results, knees, n_draws=100, label="image only")
    rows = {(r["end_point"], r["score"], r["horizon_months"]): r for r in report["rows"]}
    # the product of fast equals its risk and is not judged twice
    assert {key[:2] for key in rows} == {
        ("fast", "risk_fast"), ("fast", "grade seen"), ("fast", "grade read"),
        ("any", "risk_any"), ("any", "risk_any_product"), ("any", "grade seen"), ("any", "grade read"),
    }  # fmt: skip
    row = rows["any", "risk_any", 48]
    y = knees.outcome(Event.ANY, 48)
    assert row["n"] == np.isfinite(y).sum() and row["events"] == np.nansum(y)
    assert row["auc"] == pytest.approx(auc(y, results["risk_any"][: len(y)]))
    for low, high in (row["auc_people"], row["auc_delong"]):
        assert low < row["auc"] < high
    against = row["minus_read_grade"]
    assert against["difference"] == pytest.approx(row["auc"] - rows["any", "grade read", 48]["auc"])
    assert against["people"][0] < against["difference"] < against["people"][1] and 0 <= against["p"] <= 1
    assert rows["any", "risk_any_product", 48]["auc"] == pytest.approx(row["auc"])
    assert rows["any", "risk_any_product", 48]["mean_risk"] < row["mean_risk"]
    assert rows["any", "grade seen", 48]["brier"] is None
    assert report["label"] == "image only" and report["grade_rates_from"] == "the judged knees"


def test_a_true_risk_is_calibrated(followup: MakeFollowup) -> None:
    results, knees = cohort(followup, n=3000, seed=1)
    rows = evaluate_risk(results[results["horizon_months"] == 48], knees, n_draws=2)["rows"]
    row = next(r for r in rows if r["score"] == "risk_any")
    assert row["slope"] == pytest.approx(1, abs=0.2)
    assert row["ece"] < 0.05 and abs(row["mean_risk"] - row["event_rate"]) < 0.03


def test_failed_and_unknown_knees_are_counted_not_judged(followup: MakeFollowup) -> None:
    results, knees = cohort(followup)
    results.loc[results["name"] == "k0", ["risk_fast", "risk_any"]] = np.nan
    results.loc[results["name"] == "k1", "name"] = "stranger"
    report = evaluate_risk(results, knees, n_draws=5)
    assert report["knees"] == {"in_results": 120, "failed": 1, "without_outcomes": 1}


def test_a_horizon_without_events_keeps_its_row(followup: MakeFollowup) -> None:
    knees = followup([0, 0, 0, 0], [1, 1, 1, 1])
    results = pd.DataFrame({"name": ["k0", "k1"], "horizon_months": 48, "risk_fast": 0.1, "risk_any": 0.2})
    report = evaluate_risk(results, knees, n_draws=5)
    assert [(r["events"], r["auc"]) for r in report["rows"]] == [(0, None), (0, None)]
    assert "any: risk_any" in risk_table(report)


def test_grade_rates_by_hand(followup: MakeFollowup) -> None:
    reference = followup([0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 3, 3], [4, 4, 4, 4])
    # any by 48: grade 0 has 1 of 3, grade 1 has 1 of 1, overall 1/2 is added once
    risk = grade_risk(
        followup([0, 0, 0, 0], [1] * 4, [2] * 4, [4] * 4), reference, event=Event.ANY, horizon_months=48
    )
    np.testing.assert_allclose(risk[:3], [1.5 / 4, 1.5 / 2, 0.5])
    assert np.isnan(risk[3])
    with pytest.raises(TableError, match="the reference has no knee read"):
        grade_risk(reference, followup([0, None, None, 1]), event=Event.ANY, horizon_months=48)


def test_censored_auc_is_the_auc_where_all_are_read(followup: MakeFollowup) -> None:
    results, knees = cohort(followup)
    score = results["risk_any"][: len(knees)].to_numpy()
    y = knees.outcome(Event.ANY, 48)
    known = np.isfinite(y)
    assert censored_auc(knees, score, event=Event.ANY, horizon_months=48) == pytest.approx(
        auc(y[known], score[known])
    )


def test_censored_auc_by_hand(followup: MakeFollowup) -> None:
    knees = followup(
        [0, 1, 1, 1],  # event at 12, weight 1
        [0, 0, None, None],  # left after 12: of 4 at risk there, 1 leaves
        [0, 0, 1, 1],  # event at 48, weight 1 / (3/4)
        [0, 0, 0, 0],  # free of it
        [0, 0, 0, None],  # free of it at 48
    )
    score = np.array([0.5, 0.0, 0.8, 0.6, 0.7])
    stay = still_read(*knees.event_months(Event.ANY), at=np.array([12.0, 48.0]))
    np.testing.assert_allclose(stay, [1, 3 / 4])
    # event one beats none of two, event three beats both
    expected = (1 * 0 + 4 / 3 * 1) / (1 + 4 / 3)
    assert censored_auc(knees, score, event=Event.ANY, horizon_months=48) == pytest.approx(expected)
    with pytest.raises(UsageError, match="without one"):
        censored_auc(knees.take(np.array([0, 1])), score[:2], event=Event.ANY, horizon_months=48)


def test_refuses_results_that_do_not_fit(followup: MakeFollowup, tmp_path: Path) -> None:
    results, knees = cohort(followup)
    with pytest.raises(TableError, match="twice for 48 months"):
        evaluate_risk(pd.concat([results, results]), knees)
    with pytest.raises(TableError, match="no knee has both"):
        evaluate_risk(results.assign(name=results["name"] + "x"), knees)
    (tmp_path / "results.csv").write_text("name,horizon_months\nk0,48\n")
    with pytest.raises(TableError, match="lacks the column 'risk_fast'"):
        read_results(tmp_path / "results.csv")
    with pytest.raises(TableError, match="cannot read"):
        read_results(tmp_path / "none.csv")


def test_report_is_json_without_nan(followup: MakeFollowup, tmp_path: Path) -> None:
    results, knees = cohort(followup)
    report = evaluate_risk(results, knees, n_draws=5)
    write_json(report, tmp_path / "risk.json")
    text = (tmp_path / "risk.json").read_text()
    assert "NaN" not in text and len(json.loads(text)["rows"]) == len(report["rows"])
    assert len(risk_table(report).splitlines()) == len(report["rows"]) + 2
