"""Fitting the risk model on simulated cohorts: it finds who progresses, and never sees whom it predicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from progression.data.dataset import Knees
from progression.errors import TableError, UsageError
from progression.metrics.auc import auc
from progression.risk.grader import FUTURE_MONTHS, RISE_TARGETS, Grading
from progression.risk.multistate import Penalty
from progression.train.risk import (
    RiskConfig,
    calibrate_grades,
    choose_penalty,
    cross_predict,
    fit_risk,
    load_out_of_fold,
    pairs,
    train_risk,
)

QUICK = RiskConfig(
    penalties=(Penalty(10.0, 30.0),), era_months=(0.0, 48.0), folds=2, inner_folds=2, resamples=3
)


def _cohort(count: int = 300) -> tuple[Knees, Grading]:
    """Knees whose rise head tells their pace, up to noise."""
    rng = np.random.default_rng(0)
    pace = rng.normal(size=count)
    start = rng.integers(0, 4, count)
    series = [start]
    for _ in range(3):
        series.append(np.minimum(series[-1] + (rng.random(count) < 0.15 * np.exp(pace)), 4))
    grades = np.stack(series, axis=1)
    now = torch.full((count, 5), 0.05).scatter(1, torch.as_tensor(start)[:, None], 0.8)
    rise = torch.as_tensor(pace + rng.normal(size=count) / 4).float().sigmoid()
    grading = Grading(
        now, now[:, None].expand(-1, len(FUTURE_MONTHS), -1), rise[:, None].expand(-1, len(RISE_TARGETS))
    )
    subject = np.array([f"P{i // 2:03d}" for i in range(count)])
    side = np.array(["left", "right"] * (count // 2))
    images = torch.zeros(count, 1, 1, dtype=torch.uint8)
    return Knees(images, subject, side, start, grades, np.array([0.0, 12, 24, 48])), grading


def test_cross_prediction_ranks_and_is_calibrated() -> None:
    knees, grading = _cohort()
    alone, read = cross_predict(knees, grading, [48], config=QUICK)
    rises = knees.grade_series.max(axis=1) > knees.grade
    population = knees.grade <= 3
    for risk in (alone, read):
        assert auc(rises[population], risk.any[population, 0].numpy()) > 0.7
        assert bool((risk.fast <= risk.any).all())
    assert abs(float(read.any[population].mean()) - rises[population].mean()) < 0.04


def test_a_subject_does_not_reach_its_own_prediction() -> None:
    knees, grading = _cohort(200)
    alone, _ = cross_predict(knees, grading, [48], config=QUICK)
    changed = knees.grade_series.copy()
    changed[:2, 1:] = 4  # both knees of the first subject
    other = Knees(knees.images, knees.subject, knees.side, knees.grade, changed, knees.series_months)
    again, _ = cross_predict(other, grading, [48], config=QUICK)
    assert torch.equal(alone.any[:2], again.any[:2])
    assert not torch.equal(alone.any, again.any)


def test_the_other_knee_tells_where_it_is_what_counts() -> None:
    """Rises follow the grade of the other knee, which no picture of this one shows."""
    knees, grading = _cohort(400)
    rng = np.random.default_rng(1)
    bad = knees.grade[knees.other_knee] >= 2
    rises = (rng.random(len(bad)) < np.where(bad, 0.5, 0.05)) & (knees.grade < 4)
    series = np.repeat(knees.grade[:, None], 4, axis=1)
    series[:, 2:] += rises[:, None]
    knees, blank = (
        replace(knees, grade_series=series),
        replace(grading, rise=torch.full_like(grading.rise, 0.2)),
    )
    _, _, other = pairs(knees, blank)
    for setting, without in zip(
        cross_predict(knees, blank, [48], other=other, config=QUICK),
        cross_predict(knees, blank, [48], config=QUICK),
        strict=True,
    ):
        areas = [
            auc(rises[knees.grade < 4], risk.any[knees.grade < 4, 0].numpy()) for risk in (setting, without)
        ]
        assert areas[0] > 0.65 > 0.6 > areas[1]  # at best 0.78 and 0.5


def test_pairs_are_of_one_person() -> None:
    knees, grading = _cohort(20)
    both, seen, other = pairs(knees.select(np.arange(1, 20)), grading.rows(torch.arange(1, 20)))
    assert both.subject.tolist() == knees.subject[2:].tolist()  # the first one's other knee is not there
    assert torch.equal(seen.now, grading.now[2:])
    assert other.grade.tolist() == [knees.grade[i ^ 1] for i in range(2, 20)]
    assert torch.equal(other.grading.now[0], grading.now[3])


def test_trained_model_says_how_sure_it_is() -> None:
    knees, grading = _cohort(200)
    said: list[str] = []
    model = train_risk(knees, grading, config=QUICK, progress=said.append)
    risk = model.predict(grading, [12, 48], grade=torch.as_tensor(knees.grade))
    assert risk.any_interval is not None and risk.grade_set is not None and len(said) == 3
    low, high = risk.any_interval[knees.grade < 4].unbind(dim=-1)
    assert bool((low < risk.any[knees.grade < 4]).all() and (high > risk.any[knees.grade < 4]).all())
    covered = risk.grade_set[:, 1].gather(1, torch.as_tensor(knees.grade_series[:, -1:])).float().mean()
    assert covered >= 0.89


def test_harder_penalty_gives_smaller_weights_and_choice_is_by_likelihood() -> None:
    knees, grading = _cohort(200)
    gentle, harsh = Penalty(1.0, 3.0, 1.0), Penalty(1000.0, 3000.0, 1000.0)
    soft, hard = (
        fit_risk(knees, grading, penalty=penalty, config=QUICK).multistate for penalty in (gentle, harsh)
    )
    assert float(hard.weights.norm()) < 0.4 * float(soft.weights.norm())
    assert (
        choose_penalty(knees, grading, replace(QUICK, penalties=(harsh, QUICK.penalties[0])))
        == QUICK.penalties[0]
    )


def test_overconfident_grades_are_flattened() -> None:
    grade = torch.tensor([0, 1] * 50)
    now = torch.full((100, 5), 1e-4)
    now[:, 0] = 1 - 4e-4
    sharpness, bias = calibrate_grades(Grading(now, now[:, None], now), grade)
    posterior = (sharpness * now.double().log() + bias).softmax(dim=1)[0]
    assert posterior[:2].tolist() == pytest.approx([0.5, 0.5], abs=0.06)


def test_gradings_must_be_of_these_knees(tmp_path: Path) -> None:
    knees, grading = _cohort(20)
    path = tmp_path / "out_of_fold.npz"
    np.savez(
        path,
        subject=knees.subject,
        side=knees.side,
        now=grading.now,
        future=grading.future,
        rise=grading.rise,
    )
    assert torch.equal(load_out_of_fold(path, knees).now, grading.now)
    with pytest.raises(TableError, match="other knees"):
        load_out_of_fold(path, knees.select(np.arange(10)))
    with pytest.raises(UsageError, match="20 knees, received 10"):
        train_risk(knees, grading.rows(torch.arange(10)))
    grading.now[3] = float("nan")
    with pytest.raises(UsageError, match="no out-of-fold grading"):
        train_risk(knees, grading)
