"""Saliency: by hand where networks are simple enough, and what must hold of any."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from progression.errors import UsageError
from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS, RISE_TARGETS, Grader, Grading, as_grading
from progression.risk.model import COVARIATES, RiskModel
from progression.risk.multistate import TRANSITIONS, MultiState
from progression.risk.saliency import deletion, expected_grade, grad_cam, gradient, rise_score, risk_score

FIRST_RISE = NUM_OUTPUTS - len(RISE_TARGETS)


class _Linear(nn.Module):
    """A grader whose first rise head is a weighted sum of the pixels."""

    input_resolution = 8

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor) -> Grading:
        outputs = torch.zeros(len(x), NUM_OUTPUTS)
        outputs = outputs.index_add(
            1, torch.tensor([FIRST_RISE]), (x[:, 0] * self.weights).sum(dim=(1, 2))[:, None]
        )
        return as_grading(outputs)


class _Patches(nn.Module):
    """A network whose two last maps are the picture's bright and dark parts in cells of 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(2, NUM_OUTPUTS, bias=False)
        nn.init.zeros_(self.out.weight)
        self.out.weight.data[FIRST_RISE] = torch.tensor([2.0, -1.0])

    def maps(self, x: Tensor) -> Tensor:
        cells = nn.functional.avg_pool2d(x, 4)
        return torch.cat([cells.relu(), (-cells).relu()], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.maps(x).mean(dim=(2, 3)))
        return found


def _grader(seed: int = 0) -> Grader:
    torch.manual_seed(seed)
    stages = (Stage(1, 3, 2, 1, 4),)
    networks = [EfficientNet(1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=stages) for _ in range(2)]
    for network in networks:
        nn.init.normal_(network.out.weight, std=2.0)
    return Grader(networks, input_resolution=32).eval().requires_grad_(False)


def _risk_model() -> RiskModel:
    torch.manual_seed(1)
    shape = (len(COVARIATES), len(TRANSITIONS))
    months = torch.tensor([0.0, 24, 96]).double()
    chain = MultiState(
        intercepts=torch.full((1, shape[1]), -2.0).double(),
        weights=torch.randn(1, *shape).double() / 8,
        era_months=months[[0, 2]],
        clock_months=months,
        clock=months / 24,
    )
    zeros, ones = torch.zeros(shape[0]).double(), torch.ones(shape[0]).double()
    return RiskModel(chain, chain, zeros, ones, torch.tensor(1.0).double(), torch.zeros(5).double())


PICTURE = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8


@pytest.mark.parametrize("samples", [0, 3])
def test_a_linear_grader_has_its_weights_for_gradient(samples: int) -> None:
    weights = torch.linspace(-0.02, 0.02, 64).view(8, 8)
    found = gradient(_Linear(weights), torch.zeros(2, 1, 8, 8), rise_score(*RISE_TARGETS[0]), samples=samples)  # type: ignore[arg-type]
    torch.testing.assert_close(found, weights.expand(2, 8, 8), atol=1e-6, rtol=1e-4)


def test_gradient_is_the_change_of_the_score() -> None:
    grader = _grader()
    for score in (expected_grade, rise_score(2, 96)):
        slope = gradient(grader, PICTURE, score)
        step = 1e-3 * slope.sign()[:, None]
        change = score(grader(PICTURE + step)) - score(grader(PICTURE - step))
        torch.testing.assert_close(2e-3 * slope.abs().sum(dim=(1, 2)), change, rtol=0.05, atol=1e-5)


def test_grad_cam_by_hand() -> None:
    """Top left bright 0.4, bottom right dark -0.6: only the first speaks for a rise, 2 · 0.4 / 4 cells."""
    x = torch.zeros(1, 1, 8, 8)
    x[:, :, :4, :4], x[:, :, 4:, 4:] = 0.4, -0.6
    found = grad_cam(Grader([_Patches()], input_resolution=8), x, rise_score(*RISE_TARGETS[0]))  # type: ignore[list-item]
    assert found.shape == (1, 8, 8)
    assert found[0, 0, 0].item() == pytest.approx(0.2, abs=1e-4)
    assert float(found[0, 4:, 4:].max()) < 0.11 and found[0, 7, 7].item() == 0
    twice = Grader([_Patches(), _Patches()], input_resolution=8)  # type: ignore[list-item]
    torch.testing.assert_close(grad_cam(twice, x, rise_score(*RISE_TARGETS[0])), found)


def test_other_weights_give_another_map() -> None:
    """A map that survives new weights would be one of edges (Adebayo et al. 2018)."""
    for make in (gradient, grad_cam):
        one, other = (make(_grader(seed), PICTURE, expected_grade).flatten(1) for seed in (0, 1))
        assert float(nn.functional.cosine_similarity(one, other).abs().max()) < 0.9
        torch.testing.assert_close(make(_grader(0), PICTURE, expected_grade).flatten(1), one)


def test_risk_reaches_the_picture_and_its_score_is_the_stated_risk() -> None:
    grader, model = _grader(), _risk_model()
    for step, event in ((1, "any"), (2, "fast")):
        foretell = partial(model.predict, horizon_months=[24, 48], grade=torch.tensor([-1, 1]))
        score = risk_score(foretell, step=step)
        stated = getattr(foretell(grader(PICTURE)), event)[:, 1]
        torch.testing.assert_close(score(grader(PICTURE)).sigmoid(), stated)
        for found in (gradient(grader, PICTURE, score), grad_cam(grader, PICTURE, score)):
            assert found.shape == (2, 32, 32)
            assert bool(found.isfinite().all()) and float(found.abs().amax(dim=(1, 2)).min()) > 0


def test_deleting_what_matters_changes_a_linear_score_most() -> None:
    weights = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) / 50
    grader, score = _Linear(weights), rise_score(*RISE_TARGETS[0])
    x, empty, shares = torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), (0.0, 0.25, 1.0)
    scores = deletion(grader, x, score, weights[None], shares=shares, filling=empty)  # type: ignore[arg-type]
    largest = weights.flatten().sort(descending=True).values
    expected = torch.stack([largest.sum(), largest[16:].sum(), torch.tensor(0.0)])[None]
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)
    least = deletion(grader, x, score, -weights[None], shares=(0.25,), filling=empty)  # type: ignore[arg-type]
    assert float(least) > float(scores[0, 1])


def test_unknown_scores_are_refused() -> None:
    with pytest.raises(UsageError, match="no head for a rise by 3 within 48 months: expected one of by 1"):
        rise_score(3, 48)
    with pytest.raises(UsageError, match="rise by 3: expected 1"):
        risk_score(partial(_risk_model().predict, horizon_months=[48]), step=3)
    with pytest.raises(UsageError, match="samples -1: expected 0"):
        gradient(_grader(), PICTURE, expected_grade, samples=-1)
