"""How well a grader agrees with the readers, on knees that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from progression.errors import TableError, UsageError
from progression.evaluate.report import as_table, interval
from progression.metrics.auc import auc, auc_delong
from progression.metrics.bootstrap import cluster_bootstrap, cluster_draws, percentile_interval
from progression.metrics.calibration import brier, ece
from progression.metrics.grading import accuracy, confusion_matrix, quadratic_kappa
from progression.risk.attack import perturb
from progression.risk.grader import Grader
from progression.types import KL_GRADES

OSTEOARTHRITIS_FROM = 2
"""Kellgren and Lawrence's threshold: grade 2 and above is osteoarthritis."""
ATTACK_STEPS = 10
"""Of the attack that robust accuracy is measured under."""


def evaluate_grader(
    probability: ArrayLike,
    read: ArrayLike,
    subject: ArrayLike,
    *,
    n_draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Agreement of the likeliest grade with the grade read, with intervals over people.

    Parameters
    ----------
    probability
        (N, 5) P(KL = 0..4) a knee.
    read
        (N,) grade read, -1 where none was; these knees are left out.
    subject
        (N,) whose knee each is.

    Raises
    ------
    TableError
        No knee was read.
    UsageError
        The arrays do not fit together.
    """
    chances, grade, who = np.asarray(probability, dtype=np.float64), np.asarray(read), np.asarray(subject)
    if chances.shape != (len(grade), KL_GRADES) or len(who) != len(grade):
        raise UsageError(f"expected ({len(grade)}, {KL_GRADES}) probabilities, received {chances.shape}")
    known = grade >= 0
    if not known.any():
        raise TableError("no knee of this split has a grade at month 0: nothing to compare with")
    chances, grade, who = chances[known], grade[known], who[known]
    predicted = chances.argmax(axis=1)

    def agreement(read: NDArray[np.int64], predicted: NDArray[np.int64]) -> tuple[float, float]:
        return accuracy(read, predicted), quadratic_kappa(read, predicted)

    draws = cluster_draws(agreement, who, grade, predicted, n_draws=n_draws, seed=seed)
    matrix = confusion_matrix(grade, predicted)
    expected_grade = chances @ np.arange(KL_GRADES)
    return {
        "n": len(grade),
        "subjects": len(np.unique(who)),
        "accuracy": accuracy(grade, predicted),
        "accuracy_people": percentile_interval(draws[:, 0]),
        "quadratic_kappa": quadratic_kappa(grade, predicted),
        "quadratic_kappa_people": percentile_interval(draws[:, 1]),
        "within_one_grade": float((np.abs(predicted - grade) <= 1).mean()),
        "mean_absolute_error": float(np.abs(expected_grade - grade).mean()),
        "accuracy_by_grade": [
            float(matrix[k, k] / matrix[k].sum()) if matrix[k].sum() else None for k in range(KL_GRADES)
        ],
        "confusion": matrix.tolist(),
        "osteoarthritis": _osteoarthritis(chances, grade, who, n_draws=n_draws, seed=seed),
        "bootstrap": {"draws": n_draws, "seed": seed, "unit": "subject"},
    }


def attacked_probabilities(
    grader: Grader,
    images: Tensor,
    read: ArrayLike,
    *,
    epsilon: float,
    steps: int = ATTACK_STEPS,
    batch: int = 64,
    seed: int = 0,
) -> NDArray[np.float32]:
    """P(KL = 0..4) of pictures changed against the grade read, by an attacker who has the grader's weights.

    Parameters
    ----------
    images
        (N, R, R) uint8, at the grader's resolution.
    read
        (N,) grade read; where none was (-1), the picture is changed at random.
    epsilon
        Largest change of a pixel, in grey levels of 255 (`progression.risk.attack`).

    Returns
    -------
    (N, 5)
        As `Grader.probabilities`, which the attack sees whole: all networks at once.
    """
    device = next(grader.parameters()).device
    draws = torch.Generator(device).manual_seed(seed)
    answers = []
    for pictures, grades in zip(images.split(batch), torch.as_tensor(read).split(batch), strict=True):
        x, wanted = pictures[:, None].to(device).float() / 127.5 - 1, grades.long().to(device)

        def loss(y: Tensor, wanted: Tensor = wanted) -> Tensor:
            chance = grader.probabilities(y).gather(1, wanted.clamp(min=0)[:, None])[:, 0]
            return -(chance.clamp(min=1e-12).log() * (wanted >= 0)).sum()

        y = perturb(x, loss, epsilon=epsilon, steps=steps, generator=draws)
        with torch.no_grad():
            answers.append(grader.probabilities(y).cpu())
    return torch.cat(answers).numpy()


def grader_table(report: Mapping[str, Any]) -> str:
    """Figures, then the confusion matrix: one row a grade read, one column a grade predicted."""
    lines = [
        f"{report['n']} knees of {report['subjects']} people",
        f"accuracy         {interval(report['accuracy'], report['accuracy_people'])}",
        f"quadratic kappa  {interval(report['quadratic_kappa'], report['quadratic_kappa_people'])}",
        f"within one grade {report['within_one_grade']:.3f}",
    ]
    if report["osteoarthritis"] is not None:
        figures = report["osteoarthritis"]
        lines.append(f"AUC of KL >= 2   {interval(figures['auc'], figures['auc_people'])}")
    for figures in report.get("attacked", ()):
        lines.append(
            f"changed by {figures['epsilon']:g} of 255 grey levels: "
            f"accuracy {interval(figures['accuracy'], figures['accuracy_people'])}, "
            f"quadratic kappa {interval(figures['quadratic_kappa'], figures['quadratic_kappa_people'])}"
        )
    rows = [
        (f"KL {k}", *counts, share)
        for k, (counts, share) in enumerate(
            zip(report["confusion"], report["accuracy_by_grade"], strict=True)
        )
    ]
    header = ("read \\ predicted", *map(str, range(KL_GRADES)), "right")
    return "\n".join([*lines, "", as_table(header, rows)])


def _osteoarthritis(
    chances: NDArray[np.float64],
    grade: NDArray[np.int64],
    subject: NDArray[np.str_],
    *,
    n_draws: int,
    seed: int,
) -> dict[str, Any] | None:
    present = (grade >= OSTEOARTHRITIS_FROM).astype(int)
    if present.all() or not present.any():
        return None
    risk = np.clip(chances[:, OSTEOARTHRITIS_FROM:].sum(axis=1), 0, 1)
    area, delong = auc_delong(present, risk)
    people = cluster_bootstrap(auc, subject, present, risk, n_draws=n_draws, seed=seed)
    return {
        "auc": area,
        "auc_delong": delong,
        "auc_people": people,
        "brier": brier(present, risk),
        "ece": ece(present, risk),
    }
