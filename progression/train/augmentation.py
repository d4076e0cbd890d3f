"""Other pictures of the same knees, for training the grader: moved, re-exposed, blurred, and mixed in pairs.

Which part of a batch passes through which resolution is drawn on the host, all else where the pictures are, so that
a GPU is never waited for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from progression.risk.grader import resize


def augment(x: Tensor, resolution: int) -> Tensor:
    """Another picture of the same knees: position, exposure, sharpness.

    Quarters of the batch pass through lower resolutions, from 96 pixels up, so that small synthetic
    pictures are graded as well as radiographs.
    """
    n, size = len(x), x.shape[-1]

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(n, device=x.device).uniform_(low, high)

    angle, scale, aspect = uniform(-0.2, 0.2), uniform(0.85, 1.1), uniform(0.95, 1.05)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack(
        [
            torch.stack([cos * aspect, -sin, uniform(-0.1, 0.1)], dim=1),
            torch.stack([sin, cos / aspect, uniform(-0.1, 0.1)], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, [n, 1, size, size], align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    parts = []
    for part in x.chunk(4):
        if torch.rand(()) < 0.5:
            part = resize(part, int(torch.randint(min(96, size // 2), size, ())))
        parts.append(resize(part, resolution))
    x = torch.cat(parts)
    gamma, contrast, brightness = uniform(-0.3, 0.3).exp(), uniform(-0.2, 0.2).exp(), uniform(-0.15, 0.15)
    unit = ((x + 1) / 2).clamp(1e-4, 1) ** gamma[:, None, None, None]
    x = (2 * unit - 1) * contrast[:, None, None, None] + brightness[:, None, None, None]
    return (x + torch.randn_like(x) * uniform(0, 0.04)[:, None, None, None]).clamp(-1, 1)


def mix(x: Tensor, share: float) -> Tensor:
    """`share` of each picture and the rest of another, the batch read from its end (mixup, arXiv 1710.09412)."""
    return torch.lerp(x.flip(0), x, share)
