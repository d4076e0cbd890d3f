"""Attributes of pictures that are known by construction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from progression.errors import UsageError
from progression.latent.attributes import NAMES, Gauge, bone_width
from progression.metrics.auc import auc
from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS, Grader


@pytest.fixture(scope="module")
def grader() -> Grader:
    torch.manual_seed(0)
    stages = (Stage(1, 3, 2, 1, 8), Stage(1, 3, 2, 2, 16))
    networks = [EfficientNet(1, NUM_OUTPUTS, stages=stages, stem_width=8, head_width=32) for _ in range(2)]
    return Grader(networks, input_resolution=32).eval().requires_grad_(False)


def noisy(count: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed)).clamp(-3, 3)


def marked(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures, half of them with bright stripes, which stand for the side."""
    x, is_left = noisy(count, seed), torch.arange(count) % 2 == 0
    x[is_left, :, ::2] += 0.4
    return x.clamp(-1, 1), is_left


def test_grey_levels_and_grade(grader: Grader) -> None:
    gauge, x = Gauge(grader), noisy(20)
    assert gauge.names == NAMES[:-1] == tuple(gauge(x))
    before, brighter, flatter = gauge(x), gauge(0.5 * x + 0.2), gauge(0.5 * x)
    torch.testing.assert_close(brighter["exposure"] - flatter["exposure"], torch.full((20,), 0.1))
    torch.testing.assert_close(flatter["contrast"], 0.5 * before["contrast"], rtol=0.02, atol=0)
    torch.testing.assert_close(before["grade"], grader(x).expected_grade)


def test_bone_width_by_hand() -> None:
    x = torch.full((1, 1, 64, 64), -1.0)
    x[:, :, :, 16:48] = 1.0
    assert bone_width(x).tolist() == [0.5]
    x[:, :, :, 8:56] = 1.0
    assert bone_width(x).tolist() == [0.75]


def test_the_probe_tells_the_side_of_pictures_that_it_has_not_seen(grader: Grader) -> None:
    x, is_left = marked(60, seed=1)
    gauge = Gauge.fit(grader, x, is_left)
    other, truth = marked(40, seed=2)
    side = gauge(other)["left"]
    assert gauge.names == NAMES
    assert auc(truth.numpy(), side.numpy()) > 0.9
    assert side.mean() == pytest.approx(0.5, abs=0.15)


def test_a_picture_is_measured_alike_in_any_batch(grader: Grader) -> None:
    x, is_left = marked(20, seed=1)
    gauge = Gauge.fit(grader, x, is_left)
    together, alone = gauge(x), [gauge(one) for one in x.split(1)]
    for name in gauge.names:
        torch.testing.assert_close(torch.cat([a[name] for a in alone]), together[name], atol=1e-4, rtol=1e-4)


def test_one_side_teaches_nothing(grader: Grader) -> None:
    with pytest.raises(UsageError, match=r"left and right knees"):
        Gauge.fit(grader, noisy(4), torch.ones(4, dtype=torch.bool))
