"""Earlier films: the pace by hand, chances conditioned on readings, agreement with the risk model."""

from __future__ import annotations

from dataclasses import replace

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
    with_past,
)
from progression.risk.forecast import RiskModels, Seen
from progression.risk.grader import Grading, mean_grading
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


def _visits(risk: RiskModel, read: list[int]) -> tuple[Visits, list[Grading]]:
    """Two films 48 months apart as two networks see them."""
    networks = [grading(2, seed=seed) for seed in (1, 2)]
    return Visits(mean_grading(networks), [-48.0, 0.0], read, networks), networks


def test_each_refit_finds_the_pace_and_the_risk_anew(risk: RiskModel) -> None:
    """The interval is what two models, each from one refit and one network alone, say of the knee."""
    visits, networks = _visits(risk, [0, 2])
    past = Past.of(risk, [visits])
    seen = Seen(
        [one.rows(torch.tensor([1])) for one in networks],
        knee=torch.tensor([0]),
        grade=torch.tensor([2]),
        other=torch.tensor([-1]),
        other_grade=torch.tensor([-1]),
    )
    found = with_past(RiskModels(risk), seen, MONTHS, past).risk
    assert risk.resampled is not None and past.refitted is not None
    share, logits = 2**-0.5, []
    for b, network in enumerate(networks):
        own = risk.resampled.some(torch.tensor(b))
        view = Grading(
            *(
                (1 - share) * m + share * o
                for m, o in zip(vars_of(visits.grading), vars_of(network), strict=True)
            )
        )
        one = replace(risk, multistate=own, resampled=None)
        pace = Past.of(one, [Visits(view, visits.months, visits.read)])
        assert float(past.refitted[b, 0]) == pytest.approx(float(pace.pace[0]))
        now = view.rows(torch.tensor([1]))
        again = risk_of(joint_grades(one, now, torch.tensor([2]), MONTHS, past=pace))
        logits.append(again.any.logit())
    reach = 1.645 * torch.stack(logits).std(dim=0)
    assert found.any_interval is not None
    middle = found.any.logit()
    torch.testing.assert_close(
        found.any_interval, torch.stack([middle - reach, middle + reach], dim=-1).sigmoid()
    )


def test_a_knee_without_a_past_keeps_interval_and_set(risk: RiskModel) -> None:
    visits, networks = _visits(risk, [0, 2])
    alone = Visits(
        visits.grading.rows(torch.tensor([1])), [0.0], [-1], [n.rows(torch.tensor([1])) for n in networks]
    )
    past = Past.of(risk, [visits, alone])
    unread = torch.tensor([-1, -1])
    seen = Seen(networks, knee=torch.tensor([1, 1]), grade=unread, other=unread, other_grade=unread)
    models = RiskModels(risk)
    found, plain = with_past(models, seen, MONTHS, past).risk, models.forecast(seen, MONTHS).risk
    for name in ("any_interval", "fast_interval", "grade_set"):
        ours, theirs = getattr(found, name), getattr(plain, name)
        torch.testing.assert_close(ours[1], theirs[1])
    assert found.grade_set is not None and not found.grade_set[0].any()
    assert found.any_interval is not None and plain.any_interval is not None
    assert not torch.allclose(found.any_interval[0], plain.any_interval[0])


def test_no_refits_no_interval(risk: RiskModel) -> None:
    visits, _ = _visits(risk, [0, 2])
    bare = replace(risk, resampled=None)
    past = Past.of(bare, [visits])
    seen = Seen([grading(1)], *(torch.tensor([v]) for v in (0, 2, -1, -1)))
    found = with_past(RiskModels(bare), seen, MONTHS, past).risk
    assert past.refitted is None and found.any_interval is None and found.fast_interval is None


def vars_of(g: Grading) -> tuple[torch.Tensor, ...]:
    return g.now, g.future, g.rise


def test_the_model_is_left_as_it_was(risk: RiskModel) -> None:
    before = risk.multistate.intercepts.clone()
    joint_grades(risk, grading(), UNREAD, MONTHS, past=Past(UNREAD, torch.full((4,), 3.0).double()))
    assert torch.equal(risk.multistate.intercepts, before)
