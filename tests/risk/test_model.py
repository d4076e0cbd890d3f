"""From grading to risk: covariates by hand, both settings, order of the risks, and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from progression.errors import UsageError, WeightsError
from progression.risk.covariates import COVARIATES, OTHER_KNEE, OtherKnee, covariates, names
from progression.risk.grader import NUM_OUTPUTS, Grading, as_grading
from progression.risk.model import RiskModel
from progression.risk.multistate import TRANSITIONS, MultiState
from progression.weights import load_model, save_part

_PLAIN = ("mean", "scale", "sharpness", "bias")


def _gradings(count: int = 4) -> Grading:
    torch.manual_seed(1)
    return as_grading(torch.randn(count, NUM_OUTPUTS))


def _model(*, other: bool = False) -> RiskModel:
    torch.manual_seed(0)
    features, kinds = len(names(other=other)), len(TRANSITIONS)
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


def test_covariates_of_the_other_knee_by_hand() -> None:
    grading = _gradings(2)
    grading = replace(grading, now=torch.tensor([[0.5, 0.5, 0, 0, 0], [0, 0, 0, 0, 1.0]]))
    now = torch.tensor([[0.5, 0, 0.5, 0, 0]] * 2)
    other = OtherKnee(Grading(now, grading.future, grading.rise), torch.tensor([3, -1]))
    received = covariates(grading, other)
    assert received.shape == (2, 5, len(COVARIATES) + len(OTHER_KNEE))
    assert torch.equal(received[..., : len(COVARIATES)], covariates(grading))
    beside = received[..., len(COVARIATES) :]
    assert beside[0].tolist() == [[0, 0.5, 0, 0, 0.5, 2]] * 5  # read two grades worse than it looks
    assert beside[1].tolist() == [[0, 0.5, 0, 0, 0, 0]] * 5
    alone = covariates(grading.rows(torch.tensor([1])), other.rows([1]))
    assert torch.equal(alone, received[[1]])


def test_a_model_says_whether_it_needs_the_other_knee() -> None:
    grading = _gradings(2)
    other = OtherKnee(grading, torch.tensor([-1, 2]))
    assert _model(other=True).predict(grading, [48], other=other).any.shape == (2, 1)
    with pytest.raises(UsageError, match="takes no other knee"):
        _model().predict(grading, [48], other=other)
    with pytest.raises(UsageError, match="needs other knee"):
        _model(other=True).predict(grading, [48])


def _sure(model: RiskModel, spread: float, count: int = 6) -> RiskModel:
    """With resamples whose log rates are shifted by ± `spread`."""
    chain = model.multistate
    shifts = [spread * (-1) ** i for i in range(count)]
    fits = [replace(chain, intercepts=chain.intercepts + shift) for shift in shifts]
    return replace(model, resampled=MultiState.stack(fits))


def test_interval_is_the_spread_of_refits_on_the_logit() -> None:
    """Small rates r give risks near r·t, whose logit moves as log r: by ± 0.1, sd 0.1·√(6/5)."""
    model = _model()
    slow = replace(model.multistate, intercepts=model.multistate.intercepts - 5)
    model = _sure(replace(model, multistate=slow), 0.1)
    risk = model.predict(_gradings(), [12, 48], grade=torch.tensor([0, 1, 2, 4]))
    assert risk.any_interval is not None and risk.fast_interval is not None
    reach = 1.645 * 0.1 * (6 / 5) ** 0.5
    got = risk.any_interval.logit() - risk.any[..., None].logit()
    torch.testing.assert_close(
        got[:3], torch.tensor([-reach, reach]).expand(3, 2, 2).double(), rtol=0.01, atol=0
    )
    assert bool((risk.any_interval[3] == 0).all() and (risk.any[3] == 0).all())  # grade 4 cannot rise


def test_networks_that_disagree_widen_the_interval() -> None:
    model, grading = _sure(_model(), 0.1), _gradings()
    networks = [as_grading(torch.randn(4, NUM_OUTPUTS)) for _ in range(3)]
    alone = model.predict(grading, [48])
    with_them = model.predict(grading, [48], networks=networks)
    agreed = model.predict(grading, [48], networks=[grading] * 3)
    assert alone.any_interval is not None and with_them.any_interval is not None
    assert torch.equal(alone.any, with_them.any)
    assert bool((with_them.any_interval.diff() > alone.any_interval.diff()).all())
    assert agreed.any_interval is not None
    torch.testing.assert_close(agreed.any_interval, alone.any_interval, rtol=0.05, atol=0)


def test_sets_by_setting() -> None:
    for alone in (1, 5):  # one level for the picture alone, as earlier versions had, or one a grade
        levels = torch.tensor([[1.0, 1.0]] * alone + [[0.0, 0.0]]).double()
        model = replace(_model(), set_months=torch.tensor([12.0, 48]).double(), set_levels=levels)
        sets = model.predict(_gradings(), [12, 48], grade=torch.tensor([-1, 0, 1, 2])).grade_set
        assert sets is not None
        assert bool(sets[0].all()) and sets[1:].sum(dim=2).tolist() == [[1, 1]] * 3


def test_a_set_of_a_picture_takes_the_level_of_every_grade_it_may_come_from() -> None:
    """Grades 2 and above may come from 2, whose level is 1; 0 and 1 may not."""
    levels = torch.tensor([[0.0], [0.0], [1.0], [0.0], [0.0], [0.0]]).double()
    model = replace(_model(), set_months=torch.tensor([48.0]).double(), set_levels=levels)
    risk = model.predict(_gradings(), [48])
    assert risk.grade_set is not None
    likeliest = torch.nn.functional.one_hot(risk.future.argmax(dim=2), 5).bool()
    assert torch.equal(risk.grade_set, likeliest | (torch.arange(5) >= 2))


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
    model, grading = _sure(_model(other=True), 0.2), _gradings()
    model = replace(model, set_months=torch.tensor([48.0]).double(), set_levels=torch.ones(2, 1).double())
    save_part(tmp_path, "risk", model.tensors(), model.config(), dtype="float32", name="test", resolution=64)
    files = load_model(tmp_path)
    restored = RiskModel.from_tensors(files.tensors("risk"), files.config("risk"))
    other = OtherKnee(_gradings(), torch.tensor([0, -1, 2, 4]))
    found, expected = (one.predict(grading, [48], other=other) for one in (restored, model))
    for field in ("any", "any_interval", "grade_set"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field), rtol=1e-4, atol=1e-6)
    with pytest.raises(WeightsError, match="other covariates"):
        RiskModel.from_tensors(model.tensors(), {"covariates": ["age"]})
    tensors = model.tensors()
    del tensors["complete.clock"]
    with pytest.raises(WeightsError, match=r"lacks the tensor 'complete.clock'"):
        RiskModel.from_tensors(tensors, model.config())
