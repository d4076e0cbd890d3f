"""From grading to risk: covariates by hand, both settings, order of the risks, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from progression.errors import UsageError, WeightsError
from progression.risk.grader import NUM_OUTPUTS, Grading, as_grading
from progression.risk.model import COVARIATES, RiskModel, covariates
from progression.risk.multistate import TRANSITIONS, MultiState
from progression.weights import load_model, save_part

_PLAIN = ("mean", "scale", "sharpness", "bias")


def _gradings(count: int = 4) -> Grading:
    torch.manual_seed(1)
    return as_grading(torch.randn(count, NUM_OUTPUTS))


def _model() -> RiskModel:
    torch.manual_seed(0)
    features, kinds = len(COVARIATES), len(TRANSITIONS)
    months = torch.tensor([0.0, 12, 24, 48, 96]).double()
    parts = [
        MultiState(
            torch.full((1, kinds), -3.0).double(),
            torch.randn(1, features, kinds).double() / 8,
            torch.tensor([0.0, 96]).double(),
            months,
            months * pace,
        )
        for pace in (0.05, 0.1)
    ]
    zeros, ones = torch.zeros(features).double(), torch.ones(features).double()
    return RiskModel(*parts, zeros, ones, torch.tensor(1.0).double(), torch.zeros(5).double())


def test_covariates_by_hand() -> None:
    now = torch.tensor([[0.5, 0, 0.5, 0, 0]])
    future = torch.tensor([[[0, 1.0, 0, 0, 0]] * 2 + [[0, 0, 0, 1.0, 0]]])
    received = covariates(Grading(now, future, torch.tensor([[0.5, 0.5, 0.5, 0.0]])))
    assert received.shape == (1, 5, len(COVARIATES))
    assert received[0, 0, :2].exp().tolist() == pytest.approx([0.5, 1e-6])
    assert received[0, 0, 5:12].tolist() == [1, 0, 0, 2, 0, 0, 0]  # spread, rises, odds
    assert -10 < float(received[0, 0, 12]) < -9  # held, so that certainty does not overflow
    assert received[0, :, 13].tolist() == [1, 0, -1, -2, -3]  # looks like grade 1


def test_reading_selects_the_row_and_image_mixes_rows() -> None:
    model, grading = _model(), _gradings()
    alone = model.predict(grading, [48])
    by_grade = [model.predict(grading, [48], grade=torch.full((4,), grade)) for grade in range(5)]
    weights = model.grade_now(grading)
    mixed = sum(weights[:, [grade]] * by_grade[grade].any for grade in range(5))
    torch.testing.assert_close(alone.any, mixed)
    assert bool((by_grade[4].any == 0).all() and (by_grade[3].fast == 0).all())


def test_unread_grades_may_be_among_read_ones() -> None:
    model, grading = _model(), _gradings()
    some = model.predict(grading, [12, 96], grade=torch.tensor([0, -1, 2, -1]))
    assert torch.equal(some.any[1], model.predict(grading, [12, 96]).any[1])
    assert torch.equal(model.grade_now(grading, torch.tensor([0, -1, 2, -1]))[2], torch.eye(5).double()[2])


def test_risks_are_ordered_and_complete_readings_use_their_own_chain() -> None:
    model, grading = _model(), _gradings()
    months = list(range(1, 97))
    risk = model.predict(grading, months)
    assert bool((risk.fast <= risk.any).all())
    assert bool((risk.fast.diff(dim=1) >= 0).all() and (risk.any.diff(dim=1) >= 0).all())
    torch.testing.assert_close(risk.future.sum(dim=2), torch.ones(4, 96).double())
    other = RiskModel(model.complete, model.multistate, *(getattr(model, name) for name in _PLAIN))
    assert torch.equal(model.predict(grading, months, complete=True).any, other.predict(grading, months).any)


@pytest.mark.parametrize(
    "grade", [torch.tensor([0, 1, 2, 5]), torch.tensor([0, 1]), torch.tensor([-2, 0, 0, 0])]
)
def test_wrong_grades_are_refused(grade: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="grades: expected 4 whole numbers from 0 to 4"):
        _model().predict(_gradings(), [48], grade=grade)


def test_way_to_disk_and_back(tmp_path: Path) -> None:
    model, grading = _model(), _gradings()
    save_part(tmp_path, "risk", model.tensors(), model.config(), dtype="float32", name="test", resolution=64)
    files = load_model(tmp_path)
    restored = RiskModel.from_tensors(files.tensors("risk"), files.config("risk"))
    torch.testing.assert_close(restored.predict(grading, [48]).any, model.predict(grading, [48]).any)
    with pytest.raises(WeightsError, match="other covariates"):
        RiskModel.from_tensors(model.tensors(), {"covariates": ["age"]})
    tensors = model.tensors()
    del tensors["complete.clock"]
    with pytest.raises(WeightsError, match=r"lacks the tensor 'complete.clock'"):
        RiskModel.from_tensors(tensors, model.config())
