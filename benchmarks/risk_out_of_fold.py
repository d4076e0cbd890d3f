"""How well is progression told apart on knees that no part of the risk model saw? Both settings, with intervals.

    python benchmarks/risk_out_of_fold.py VISITS.csv --images FOLDER --grader-run RUN [--split train]

RUN is the folder of `progression train grader`: its cross-fitted networks graded each training knee without having
seen its subject. The risk model (penalty included) is fitted anew without each fold of subjects: nested
cross-validation. Beside it: the read grade alone, as the event rate of that grade among the other folds' knees.
End points and populations: rise of the highest grade read in (0, T], as in the data card.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from progression.data.dataset import load_baselines
from progression.data.outcomes import Event, GradeSeries, outcomes
from progression.data.splits import subject_folds
from progression.data.visits import read_visits
from progression.metrics.auc import auc, auc_delong, delong_test
from progression.metrics.bootstrap import cluster_bootstrap
from progression.metrics.calibration import brier, ece
from progression.train.grader import PRESETS
from progression.train.risk import cross_predict, load_out_of_fold

HORIZONS = (24, 48, 96)
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--grader-run", type=Path, required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument(
        "--preset", default="cpu", help="of the grader's run; says at which resolution it looked"
    )
    options = parser.parse_args()
    resolution = PRESETS[options.preset].resolutions[-1]
    knees = load_baselines(
        read_visits(options.table), resolution=resolution, root=options.images, split=options.split
    )
    grading = load_out_of_fold(options.grader_run / "out_of_fold.npz", knees)
    alone, read = cross_predict(knees, grading, HORIZONS)
    fold = np.asarray(subject_folds(knees.subject, folds=10, seed=0))
    series = GradeSeries(knees.subject, knees.side, knees.series_months, knees.grade_series)
    print(
        "event months knees events  score                       AUC (DeLong)          clustered 95 %    Brier   ECE"
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
            for name, score in scores.items():
                value, (low, high) = auc_delong(y, score)
                bounds = cluster_bootstrap(auc, subject, y, score, n_draws=1000, seed=0)
                print(
                    f"{event.label:5s} {months:6d} {len(y):5d} {int(y.sum()):6d}  {name:22s} "
                    f"{value:.3f} ({low:.3f}, {high:.3f})  ({bounds[0]:.3f}, {bounds[1]:.3f})  "
                    f"{brier(y, score):.4f}  {ece(y, score):.3f}"
                )
            z, p = delong_test(y, scores["image and read grade"], scores["read grade alone"])
            print(f"      image and read grade against read grade alone: z = {z:.2f}, p = {p:.2g}")


if __name__ == "__main__":
    main()
