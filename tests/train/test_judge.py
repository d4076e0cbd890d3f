"""The judge on frozen maps: what it learns, and its losses by hand."""

from __future__ import annotations

import pytest
import torch

from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS
from progression.risk.maps import FrozenMaps
from progression.train.judge import Judge, detail, hinge_generator, hinge_judge

STAGES = (Stage(1, 3, 1, 1, 4), Stage(1, 3, 2, 2, 6), Stage(1, 3, 2, 2, 8))


@pytest.fixture
def maps() -> FrozenMaps:
    torch.manual_seed(0)
    network = EfficientNet(1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=STAGES)
    return FrozenMaps(network, torch.rand(32, 1, 32, 32) * 2 - 1)


def test_learns_to_tell_real_from_generated(maps: FrozenMaps) -> None:
    torch.manual_seed(1)
    judge = Judge(maps.channels, torch.rand(32, 1, 32, 32) * 2 - 1)
    adam = torch.optim.Adam(judge.heads.parameters(), lr=3e-3, betas=(0.0, 0.99))

    def batch() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        real = torch.rand(16, 1, 32, 32) * 2 - 1
        fake = torch.nn.functional.avg_pool2d(real, 3, 1, 1)
        return judge(maps(real), real), judge(maps(fake), fake)

    for _ in range(60):
        real, fake = batch()
        adam.zero_grad()
        hinge_judge(real, fake).backward()
        adam.step()
    real, fake = batch()
    assert len(real) == 4  # three of maps, one of detail
    assert all(a.mean() > b.mean() + 0.5 for a, b in zip(real, fake, strict=True))


def test_detail_is_what_a_blur_takes_away() -> None:
    ramp = torch.linspace(-1, 1, 16).expand(2, 1, 16, 16)
    assert float(detail(ramp)[..., 2:-2, 2:-2].abs().max()) < 1e-6
    checks = 1.0 - 2.0 * ((torch.arange(16)[:, None] + torch.arange(16)) % 2).float().expand(2, 1, 16, 16)
    torch.testing.assert_close(detail(checks), checks)


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
    logits = Judge([c for c, _ in levels])(
        [torch.zeros(1, c, s, s) for c, s in levels], torch.zeros(1, 1, side, side)
    )
    assert max(d.shape[-1] for d in logits) == largest
