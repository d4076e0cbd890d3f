"""How unlike two pictures look, from nothing but the pictures: a Laplacian pyramid.

Each level holds the detail of one scale; L1 differences of details weigh edges (bone outlines, trabeculae,
the joint space) above flat grey. Needs no network, so it works wherever the generator does.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SMALLEST_SIDE = 8


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """Details of (N, C, H, W) from fine to coarse, then the rest of at most 8 pixels a side."""
    levels = []
    while min(images.shape[-2:]) >= 2 * SMALLEST_SIDE:
        coarse = F.avg_pool2d(images, 2)
        levels.append(images - F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False))
        images = coarse
    return [*levels, images]


def pyramid_distance(images: Tensor, others: Tensor) -> Tensor:
    """Sum over levels of the mean absolute difference of their details: (N,), 0 for equal pictures.

    Parameters
    ----------
    images, others : (N, C, H, W) in [-1, 1].
    """
    # The pyramid is linear, so the difference's details are the details' difference.
    levels = laplacian_pyramid(images - others)
    return sum((level.abs().mean(dim=(1, 2, 3)) for level in levels[1:]), levels[0].abs().mean(dim=(1, 2, 3)))


def pixel_distance(images: Tensor, others: Tensor) -> Tensor:
    """Mean squared difference: (N,)."""
    return (images - others).square().mean(dim=(1, 2, 3))
