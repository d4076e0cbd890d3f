"""A discriminator on a frozen network's features (after Projected GAN, arXiv 2111.01007).

A network that already sees, one of the grader's or one trained on ImageNet, looks at the picture (as it is, not
enlarged to the network's own resolution); small heads on its maps (`progression.risk.maps`) say real or generated. One
more head may look at the fine detail of the pixels themselves, which the maps hardly hold. Nothing but the heads is
trained.

| symbol | meaning | shape |
|---|---|---|
| m_l | map of the network at stride 2^(l+1), each channel over its deviation on real knees | (N, C_l, R/2^(l+1), …) |
| y_l | fixed random 1x1 mix of m_l and of y_(l+1): no head can rely on a few channels | (N, K_l, …) |
| d_l | logits of head l, positive for real | (N, 1, R/16, R/16) or less |
| h | picture less its blurred self, over its deviation on real knees: what the head of detail sees | (N, C, R, R) |
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

WIDTHS = (32, 48, 64, 64, 64)
HEAD_WIDTH = 64
DETAIL_WIDTHS = (32, 64, 64)
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def detail(x: Tensor) -> Tensor:
    """Pictures (N, C, R, R) less their 5x5 binomial blur."""
    # sums of moved pictures: a convolution of one channel has a slow gradient on CPUs
    blurred = F.pad(x, (2,) * 4, mode="reflect")
    for axis in (2, 3):
        size = x.shape[axis]
        moved = [tap * blurred.narrow(axis, start, size) for start, tap in enumerate(BINOMIAL)]
        blurred = torch.stack(moved).sum(dim=0)
    return x - blurred


class Judge(nn.Module):
    """Heads on frozen maps.

    Parameters
    ----------
    channels : C_l, fine to coarse
    reference : real knees (N, C, R, R) in [-1, 1] on which the deviation of detail is measured; None for no such head
    """

    detail_scale: Tensor

    def __init__(self, channels: list[int], reference: Tensor | None = None) -> None:
        super().__init__()
        widths = [WIDTHS[min(level, len(WIDTHS) - 1)] for level in range(len(channels))]
        self.mix, self.down, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, (given, width) in enumerate(zip(channels, widths, strict=True)):
            self.mix.append(nn.Conv2d(given, width, 1, bias=False))
            if level + 1 < len(channels):
                self.down.append(nn.Conv2d(widths[level + 1], width, 1, bias=False))
        for layer in (*self.mix, *self.down):
            nn.init.normal_(layer.weight, std=layer.weight.shape[1] ** -0.5)
        self.mix.requires_grad_(False)
        self.down.requires_grad_(False)
        for level, width in enumerate(widths):
            halvings = max(0, len(channels) - 2 - level)
            layers: list[nn.Module] = []
            for step in range(halvings + 1):
                stride = 2 if step < halvings else 1
                layers += [
                    spectral_norm(nn.Conv2d(width if step == 0 else HEAD_WIDTH, HEAD_WIDTH, 3, stride, 1)),
                    nn.LeakyReLU(0.2),
                ]
            layers.append(spectral_norm(nn.Conv2d(HEAD_WIDTH, 1, 3, 1, 1)))
            self.heads.append(nn.Sequential(*layers))
        self.sees_detail = reference is not None
        if reference is not None:
            self.register_buffer("detail_scale", 1 / detail(reference).std())
            layers, width = [], reference.shape[1]
            for wider in DETAIL_WIDTHS:
                layers += [spectral_norm(nn.Conv2d(width, wider, 4, 2, 1)), nn.LeakyReLU(0.2)]
                width = wider
            layers.append(spectral_norm(nn.Conv2d(width, 1, 3, 1, 1)))
            self.heads.append(nn.Sequential(*layers))

    def forward(self, maps: list[Tensor], pictures: Tensor | None = None) -> list[Tensor]:
        """Logits of every head, fine to coarse; that of detail last, of the `pictures` (N, C, R, R) with these maps."""
        logits = []
        y: Tensor | None = None
        for level in reversed(range(len(maps))):
            mixed = self.mix[level](maps[level])
            if y is not None:
                mixed = (mixed + self.down[level](F.interpolate(y, size=mixed.shape[-2:]))) * 0.5**0.5
            y = mixed
            logits.append(self.heads[level](y).float())
        logits.reverse()
        if self.sees_detail:
            assert pictures is not None
            with torch.autocast(pictures.device.type, enabled=False):  # a difference of like numbers
                fine = detail(pictures.float()) * self.detail_scale
            logits.append(self.heads[-1](fine).float())
        return logits


def hinge_judge(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Σ_l mean max(0, 1 - d_l(real)) + mean max(0, 1 + d_l(fake))."""
    terms = [F.relu(1 - a).mean() + F.relu(1 + b).mean() for a, b in zip(real, fake, strict=True)]
    return torch.stack(terms).sum()


def hinge_generator(fake: list[Tensor]) -> Tensor:
    """-Σ_l mean d_l(fake)."""
    return -torch.stack([logits.mean() for logits in fake]).sum()
