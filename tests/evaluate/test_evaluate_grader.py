"""A grader judged on verdicts that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from progression.errors import TableError, UsageError
from progression.evaluate.grader import attacked_probabilities, evaluate_grader, grader_table
from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS, Grader

READ = np.array([0, 0, 1, 2, 3, 4, -1])
VERDICT = np.array([0, 1, 1, 2, 4, 4, 0])
SUBJECT = np.array(["a", "a", "b", "b", "c", "c", "d"])


def sure_of(verdict: np.ndarray) -> np.ndarray:
    return np.eye(5)[verdict] * 0.9 + 0.02


def test_by_hand() -> None:
    report = evaluate_grader(sure_of(VERDICT), READ, SUBJECT, n_draws=200)
    assert (report["n"], report["subjects"]) == (6, 3)
    assert report["accuracy"] == pytest.approx(4 / 6)
    assert report["within_one_grade"] == 1
    assert report["accuracy_by_grade"] == [0.5, 1, 1, 0, 1]
    assert report["confusion"][3] == [0, 0, 0, 0, 1]
    low, high = report["quadratic_kappa_people"]
    assert low <= report["quadratic_kappa"] <= high
    # every knee of grade 2 or more is rated above every other
    assert report["osteoarthritis"]["auc"] == 1
    table = grader_table(report)
    assert "6 knees of 3 people" in table and "KL 4" in table


def test_without_osteoarthritis_there_is_no_such_auc() -> None:
    report = evaluate_grader(sure_of(VERDICT[:3]), READ[:3], SUBJECT[:3], n_draws=5)
    assert report["osteoarthritis"] is None
    assert "AUC" not in grader_table(report)


def test_refuses() -> None:
    with pytest.raises(TableError, match="no knee of this split has a grade"):
        evaluate_grader(sure_of(VERDICT[:2]), [-1, -1], SUBJECT[:2])
    with pytest.raises(UsageError, match=r"expected \(7, 5\) probabilities"):
        evaluate_grader(sure_of(VERDICT[:2]), READ, SUBJECT)


def test_an_attack_lowers_the_chance_of_the_grade_read() -> None:
    torch.manual_seed(0)
    networks = [
        EfficientNet(1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=(Stage(1, 3, 2, 1, 4),))
        for _ in range(2)
    ]
    grader = Grader(networks, input_resolution=16).eval().requires_grad_(False)
    images = torch.randint(0, 256, (6, 16, 16), dtype=torch.uint8)
    read = np.array([0, 1, 2, 3, 4, -1])
    before = grader.probabilities(images[:, None].float() / 127.5 - 1).numpy()
    chances = [attacked_probabilities(grader, images, read, epsilon=e, steps=3, batch=4) for e in (2, 20)]
    known = np.arange(5)
    for lower, higher in zip([chances[1], chances[0]], [chances[0], before], strict=True):
        assert (lower[known, read[known]] < higher[known, read[known]]).all()
    np.testing.assert_allclose(chances[1].sum(axis=1), 1, atol=1e-5)
