"""The judge on frozen maps: what it learns, and its losses by hand."""

from __future__ import annotations

import pytest
import torch

from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS
from progression.risk.maps import FrozenMaps
from progression.train.judge import Judge, hinge_generator, hinge_judge

STAGES = (Stage(1, 3, 1, 1, 4), Stage(1, 3, 2, 2, 6), Stage(1, 3, 2, 2, 8))


@pytest.fixture
def maps() -> FrozenMaps:
    torch.manual_seed(0)
    network = EfficientNet(1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=STAGES)
    return FrozenMaps(network, torch.rand(32, 1, 32, 32) * 2 - 1)


def test_learns_to_tell_real_from_generated(maps: FrozenMaps) -> None:
    torch.manual_seed(1)
    judge = Judge(maps.channels)
    adam = torch.optim.Adam(judge.heads.parameters(), lr=3e-3, betas=(0.0, 0.99))

    def batch() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        real = torch.rand(16, 1, 32, 32) * 2 - 1
        return maps(real)[0], maps(torch.nn.functional.avg_pool2d(real, 3, 1, 1))[0]

    for _ in range(60):
        real, fake = batch()
        adam.zero_grad()
        hinge_judge(judge(real), judge(fake)).backward()
        adam.step()
    real, fake = batch()
    assert all(a.mean() > b.mean() + 0.5 for a, b in zip(judge(real), judge(fake), strict=True))


def test_losses_by_hand() -> None:
    real, fake = (
        [torch.tensor([2.0, 0.0]), torch.tensor([0.5])],
        [torch.tensor([-2.0, 0.0]), torch.tensor([0.5])],
    )
    assert float(hinge_judge(real, fake)) == pytest.approx(0.5 + 0.5 + 0.5 + 1.5)
    assert float(hinge_generator(fake)) == pytest.approx(1.0 - 0.5)


@pytest.mark.parametrize(("side", "largest"), [(64, 4), (128, 8)])
def test_logits_are_a_sixteenth_of_the_picture_at_most(side: int, largest: int) -> None:
    levels = [(c, side >> (level + 1)) for level, c in enumerate((4, 6, 8, 10, 12))]
    logits = Judge([c for c, _ in levels])([torch.zeros(1, c, s, s) for c, s in levels])
    assert max(d.shape[-1] for d in logits) == largest
