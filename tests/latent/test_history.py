"""Earlier films: the pace by hand, chances conditioned on readings, agreement with the risk model."""

from __future__ import annotations

import pytest
import torch

from progression.latent.history import (
    Past,
    Visits,
    expected_rise,
    joint_grades,
    own_rate,
    pace,
    risk_of,
    slope,
)
from progression.risk.grader import Grading
from progression.risk.model import RiskModel
from progression.weights import load_model

from ..models import write_model

MONTHS = (24.0, 96.0)


@pytest.fixture(scope="module")
def risk(tmp_path_factory: pytest.TempPathFactory) -> RiskModel:
    files = load_model(write_model(tmp_path_factory.mktemp("models") / "tiny"))
    return RiskModel.from_tensors(files.tensors("risk"), files.config("risk"))


def grading(n: int = 4, *, seed: int = 0) -> Grading:
    draws = torch.Generator().manual_seed(seed)
    now, future = torch.randn(n, 5, generator=draws), torch.randn(n, 3, 5, generator=draws)
    return Grading(now.softmax(dim=1), future.softmax(dim=2), torch.rand(n, 4, generator=draws))


UNREAD = torch.full((4,), -1)


def test_pace_by_hand() -> None:
    assert pace(0.5, 0.5) == 1.0
    assert pace(2.0, 0.5, shape=1.0) == pytest.approx(2.0)
    assert pace(0.0, 1.0, shape=1.0) == pytest.approx(0.5)
    assert pace(-1.0, 1.0, shape=1.0) == pytest.approx(0.5)  # a grade that seems to fall is one that stayed
    assert pace(3.0, 0.0, shape=1e9) == pytest.approx(1.0)  # paces that do not differ cannot be learnt


def test_slope_and_own_rate_by_hand() -> None:
    months = torch.tensor([-48.0, -24.0, 0.0])
    codes = torch.tensor([[0.0, 1], [1, 1], [2, 1]])
    torch.testing.assert_close(slope(codes, months), torch.tensor([2 / 48, 0.0]))
    found = own_rate([codes, codes[:1]], [months, months[2:]], film_variance=3.0)
    torch.testing.assert_close(found.rate, torch.tensor([[2 / 48, 0.0], [0, 0]]))
    # Σ (t - t̄)² = 2 · 24²
    torch.testing.assert_close(found.variance, torch.tensor([3 / 1152, torch.inf]))


def test_without_a_past_the_sums_are_the_risk_models(risk: RiskModel) -> None:
    seen, read = grading(), torch.tensor([-1, 0, 3, -1])
    joint = joint_grades(risk, seen, read, MONTHS)
    torch.testing.assert_close(joint.sum(dim=(2, 3)), torch.ones(4, 2).double())
    assert not joint.tril(diagonal=-1).any()
    ours, theirs = risk_of(joint), risk.predict(seen, MONTHS, grade=read)
    for name in ("fast", "any", "future"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))


def test_a_past_that_says_nothing_changes_nothing(risk: RiskModel) -> None:
    nothing = Past(torch.full((4,), -1), torch.ones(4).double())
    torch.testing.assert_close(
        joint_grades(risk, grading(), UNREAD, MONTHS, past=nothing),
        joint_grades(risk, grading(), UNREAD, MONTHS),
    )


def test_a_faster_knee_rises_more(risk: RiskModel) -> None:
    rises = [
        expected_rise(
            joint_grades(risk, grading(), UNREAD, MONTHS, past=Past(UNREAD, torch.full((4,), p).double()))
        )
        for p in (0.5, 1.0, 2.0)
    ]
    assert bool((rises[0] < rises[1]).all() and (rises[1] < rises[2]).all())


def test_the_grade_is_never_below_one_that_was_read(risk: RiskModel) -> None:
    past = Past(torch.tensor([2, 2, 2, -1]), torch.ones(4).double())
    start = joint_grades(risk, grading(), torch.tensor([-1, 1, 3, -1]), MONTHS, past=past)[:, 0].sum(dim=2)
    plain = risk.grade_now(grading())
    torch.testing.assert_close(
        start[0], torch.cat([torch.zeros(2).double(), plain[0, 2:] / plain[0, 2:].sum()])
    )
    # read lower now: readings fall, the disease does not
    torch.testing.assert_close(start[1], torch.tensor([0, 0, 1, 0, 0]).double())
    torch.testing.assert_close(start[2], torch.tensor([0, 0, 0, 1, 0]).double())
    torch.testing.assert_close(start[3], plain[3])


def test_pace_from_readings(risk: RiskModel) -> None:
    three = Grading(*(torch.cat([t[:1]] * 3) for t in vars_of(grading())))
    months = [-48.0, -24.0, 0.0]
    rose = Visits(three, months, [0, 1, 2])
    stayed = Visits(three, months, [1, 1, 1])
    alone = Visits(Grading(*(t[:1] for t in vars_of(three))), [0.0], [-1])
    past = Past.of(risk, [rose, stayed, alone], shape=1.0)
    assert past.lowest.tolist() == [1, 1, -1]
    first = Grading(*(t[:1] for t in vars_of(three)))
    ahead = float(expected_rise(joint_grades(risk, first, torch.tensor([0]), [48.0])))
    assert float(past.pace[0]) == pytest.approx(3 / (1 + ahead))
    assert float(past.pace[1]) < 1.0 == float(past.pace[2])


def vars_of(g: Grading) -> tuple[torch.Tensor, ...]:
    return g.now, g.future, g.rise


def test_the_model_is_left_as_it_was(risk: RiskModel) -> None:
    before = risk.multistate.intercepts.clone()
    joint_grades(risk, grading(), UNREAD, MONTHS, past=Past(UNREAD, torch.full((4,), 3.0).double()))
    assert torch.equal(risk.multistate.intercepts, before)
