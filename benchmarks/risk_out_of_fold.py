"""How well is progression told apart on knees that no part of the risk model saw? Both settings, with intervals.

    python benchmarks/risk_out_of_fold.py VISITS.csv --images FOLDER [--model default] [--codes 16]

Each training knee is graded by the one of the model's cross-fitted networks that never saw its subject. The risk model
(penalty included) is fitted anew without each fold of subjects: nested cross-validation. Beside it: the read grade
alone, as the event rate of that grade among the other folds' knees. With `--codes K` also a risk model whose rates are
driven by the K leading coordinates of the encoder's code as well, beside the same without them (one penalty, plain
cross-validation; the encoder saw these knees, but no grade series). DeLong's intervals and tests take people as the
sample. End points and populations: rise of the highest grade read in (0, T], as in the data card.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from code_risk import PENALTY, CodeRisk

from progression.data.dataset import Knees, load_baselines
from progression.data.outcomes import Event, GradeSeries, outcomes
from progression.data.splits import subject_folds
from progression.data.visits import read_visits
from progression.latent.part import EncoderPart, encode_keys
from progression.memory import keep_freed_memory
from progression.metrics.auc import auc, auc_delong, delong_test
from progression.metrics.bootstrap import cluster_bootstrap
from progression.metrics.calibration import brier, ece
from progression.risk.grader import Grader, Grading
from progression.train.grader import fold_of, grade_out_of_fold
from progression.train.risk import RiskConfig, cross_predict, fit_risk
from progression.weights import ModelFiles, load_model

HORIZONS = (24, 48, 96)
SETTINGS = ("image only", "image and read grade")
Array = npt.NDArray[np.float64]


def rate_by_grade(grade: Array, y: Array, fold: npt.NDArray[np.int64]) -> Array:
    """Event rate of each knee's grade among the knees of other folds."""
    rate = np.zeros(len(y))
    for held_out in np.unique(fold):
        inside, outside = fold != held_out, fold == held_out
        for k in np.unique(grade[outside]):
            same = inside & (grade == k)
            rate[outside & (grade == k)] = y[same].mean() if same.any() else y[inside].mean()
    return rate


def with_codes(
    knees: Knees, grading: Grading, files: ModelFiles, options: argparse.Namespace
) -> dict[str, dict[str, Array]]:
    """Risk by name and event, (N, H), by models that never saw the subject: one penalty, without and with the code."""
    pictures = load_baselines(
        read_visits(options.table), resolution=files.resolution, root=options.images, split=options.split
    )
    w = encode_keys(EncoderPart.load(files).encoder, pictures.images)
    config = RiskConfig()
    fold = fold_of(knees.subject, folds=config.folds, seed=config.seed + 1)
    months = torch.as_tensor(knees.series_months).double()
    names = [f"{setting}, {how}" for setting in SETTINGS for how in ("one penalty", "and code")]
    risks = {name: {e.label: np.zeros((len(w), len(HORIZONS))) for e in Event} for name in names}
    for left_out in range(config.folds):
        inside, outside = np.flatnonzero(fold != left_out), np.flatnonzero(fold == left_out)
        seen = grading.rows(torch.as_tensor(inside))
        base = fit_risk(knees.select(inside), seen, penalty=PENALTY, config=config)
        series = torch.as_tensor(knees.grade_series[inside])
        model = CodeRisk.fit(base, w[inside], series, months, seen, options.codes)
        for setting, grade in zip(SETTINGS, (None, torch.as_tensor(knees.grade[outside])), strict=True):
            unseen = grading.rows(torch.as_tensor(outside))
            without = base.predict(unseen, HORIZONS, grade=grade)
            fast, rises, _ = model.predict(unseen, w[outside], HORIZONS, grade=grade)
            for how, values in (("one penalty", (without.fast, without.any)), ("and code", (fast, rises))):
                for event, value in zip((Event.FAST, Event.ANY), values, strict=True):
                    risks[f"{setting}, {how}"][event.label][outside] = value.numpy()
    return risks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--split", default="train")
    parser.add_argument("--codes", type=int, default=0)
    options = parser.parse_args()
    keep_freed_memory()
    files = load_model(options.model)
    grader = Grader.from_tensors(files.tensors("grader"), files.config("grader")).eval()
    knees = load_baselines(
        read_visits(options.table),
        resolution=grader.input_resolution,
        root=options.images,
        split=options.split,
    )
    grading = grade_out_of_fold(grader, knees, files.config("grader").get("cross_fitting"))
    alone, read = cross_predict(knees, grading, HORIZONS)
    coded = with_codes(knees, grading, files, options) if options.codes else None
    fold = np.asarray(subject_folds(knees.subject, folds=10, seed=0))
    series = GradeSeries(knees.subject, knees.side, knees.series_months, knees.grade_series)
    print(
        "event months knees events  score                              "
        "AUC (DeLong)          clustered 95 %    Brier   ECE"
    )
    for column, months in enumerate(HORIZONS):
        labels = outcomes(series, months)
        for event in Event:
            known = labels[event.label].notna().to_numpy()
            y = labels.loc[known, event.label].to_numpy(dtype=np.float64)
            subject, grade = knees.subject[known], knees.grade[known].astype(np.float64)
            scores = {
                "read grade alone": rate_by_grade(grade, y, fold[known]),
                "image only": getattr(alone, event.label)[:, column].numpy()[known],
                "image and read grade": getattr(read, event.label)[:, column].numpy()[known],
            }
            if coded is not None:
                scores |= {name: risks[event.label][known, column] for name, risks in coded.items()}
            for name, score in scores.items():
                value, (low, high) = auc_delong(y, score, subject=subject)
                bounds = cluster_bootstrap(auc, subject, y, score, n_draws=1000, seed=0)
                print(
                    f"{event.label:5s} {months:6d} {len(y):5d} {int(y.sum()):6d}  {name:33s} "
                    f"{value:.3f} ({low:.3f}, {high:.3f})  ({bounds[0]:.3f}, {bounds[1]:.3f})  "
                    f"{brier(y, score):.4f}  {ece(y, score):.3f}"
                )
            z, p = delong_test(y, scores["image and read grade"], scores["read grade alone"], subject=subject)
            print(f"      image and read grade against read grade alone: z = {z:.2f}, p = {p:.2g}")
            for setting in SETTINGS if coded else ():
                pair = (scores[f"{setting}, {how}"] for how in ("and code", "one penalty"))
                z, p = delong_test(y, *pair, subject=subject)
                print(f"      {setting}, with code against without: z = {z:.2f}, p = {p:.2g}")


if __name__ == "__main__":
    main()
