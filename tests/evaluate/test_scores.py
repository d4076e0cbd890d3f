"""Several scores judged on the same knees."""

from __future__ import annotations

import numpy as np
import pytest

from progression.evaluate.scores import judge_scores
from progression.metrics.auc import auc, average_precision, delong_test
from progression.metrics.bootstrap import cluster_bootstrap
from progression.metrics.calibration import brier_skill


@pytest.fixture(scope="module")
def knees() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Two knees a person, a risk that is true, the same blurred, and one of no use."""
    rng = np.random.default_rng(0)
    p = rng.uniform(0.05, 0.8, size=200)
    y = (rng.random(200) < p).astype(float)
    scores = {"true": p, "blurred": np.clip(p + rng.normal(0, 0.3, 200), 0, 1), "constant": np.full(200, 0.4)}
    return y, np.arange(200) // 2, scores


def test_figures_are_those_of_the_metrics(
    knees: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]],
) -> None:
    y, subject, scores = knees
    rows = judge_scores(y, subject, scores, risks=("true", "constant"), against="true", n_draws=200)
    true, blurred, constant = (rows[name] for name in scores)
    assert true["auc"] == pytest.approx(auc(y, scores["true"]))
    assert true["ap"] == pytest.approx(average_precision(y, scores["true"]))
    # the very draws of the bootstrap that resamples rows
    assert true["auc_people"] == pytest.approx(
        cluster_bootstrap(auc, subject, y, scores["true"], n_draws=200)
    )
    assert true["brier_skill_people"] == pytest.approx(
        cluster_bootstrap(brier_skill, subject, y, scores["true"], n_draws=200)
    )
    low, high = true["slope_people"]
    assert low < 1 < high and low < true["slope"] < high
    assert blurred["brier"] is None and blurred["slope_people"] is None
    assert constant["auc"] == 0.5 and constant["brier_skill"] <= 0 and np.isnan(constant["slope"])


def test_all_are_compared_with_one(knees: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]) -> None:
    y, subject, scores = knees
    rows = judge_scores(y, subject, scores, risks=(), against="true", n_draws=50)
    assert "minus" not in rows["true"]
    minus = rows["blurred"]["minus"]
    z, p = delong_test(y, scores["blurred"], scores["true"], subject=subject)
    assert (minus["of"], minus["z"], minus["p"]) == ("true", z, p)
    assert minus["difference"] == pytest.approx(rows["blurred"]["auc"] - rows["true"]["auc"])
    assert minus["people"][0] < minus["difference"] < minus["people"][1]
    tests = [rows[name]["minus"] for name in ("blurred", "constant")]
    smaller, larger = sorted(tests, key=lambda test: test["p"])
    assert smaller["p_holm"] == pytest.approx(2 * smaller["p"])
    assert larger["p_holm"] == pytest.approx(max(larger["p"], smaller["p_holm"]))
    alone = judge_scores(y, subject, scores, risks=(), against=None, n_draws=2)
    assert all("minus" not in row for row in alone.values())
