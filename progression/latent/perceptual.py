"""How unlike two pictures look: by a Laplacian pyramid, and by what one of the grader's networks sees.

The pyramid needs nothing but the pictures. Each level holds the detail of one scale; L1 differences of details weigh
edges (bone outlines, trabeculae, the joint space) above flat grey. Alone it likes the mean of all sharp pictures that
could be meant, which is smooth, and an optimiser that follows it loses likeness to the eye and signs of the grade. The
network's maps keep these.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from progression.engine.fold import fold_batch_norms
from progression.risk.grader import Grader
from progression.risk.maps import FrozenMaps, map_distances
from progression.stylegan2 import Generator

SMALLEST_SIDE = 8
REFERENCES = 64
WEIGHTS = (0.0, 0.0, 0.5, 0.5, 0.1)
"""λ_l of the maps at strides 2 to 32, chosen on training knees: the coarsest hold most of the grade, those at strides 8
and 16 most of the look; those at 2 and 4 would raise PSNR a little, and LPIPS too."""

Towards = Callable[[Tensor], Tensor]
"""Pictures (N, C, R, R) in [-1, 1] → how unlike N given ones they look, (N,)."""
Distance = Callable[[Tensor], Towards]
"""Given pictures (N, C, R, R) → the distance to them; what is to be known of them is computed once."""


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


def pyramid(others: Tensor) -> Towards:
    """`pyramid_distance` to given pictures."""
    return partial(pyramid_distance, others=others)


@dataclass(frozen=True)
class SeenDistance:
    """pyramid + Σ_l λ_l·mean |m_l(y) - m_l(x)|: the pyramid's distance and that of a network's maps m_l.

    Attributes
    ----------
    maps : of one of the grader's networks
    weights : λ_l, from stride 2 on; a network may have fewer maps
    dtype : float32, or bfloat16 in which the maps (not their differences) are computed
    """

    maps: FrozenMaps
    weights: tuple[float, ...] = WEIGHTS
    dtype: torch.dtype = torch.float32

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        generator: Generator,
        grader: Grader,
        *,
        member: int = 0,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> SeenDistance:
        """Through one network of a grader, whose maps are scaled by their deviation on the generator's own samples.

        Samples stand in for real knees so that nothing has to be stored with a model, or asked of a user: deviations on
        the two agree.
        """
        device = next(generator.parameters()).device
        z = torch.randn(REFERENCES, generator.z_dim, generator=torch.Generator().manual_seed(seed))
        samples = torch.cat([generator(part, noise_mode="const") for part in z.to(device).split(32)])
        network = copy.deepcopy(grader.members[member]).to(device).eval()
        fold_batch_norms(network)
        maps = FrozenMaps(network, samples.clamp(-1, 1))
        maps.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(maps, dtype=dtype)

    def __call__(self, others: Tensor) -> Towards:
        """The distance to given pictures (N, C, R, R)."""
        known = range(len(self.maps.channels))
        levels = [level for level, weight in zip(known, self.weights, strict=False) if weight]
        if not levels:
            return pyramid(others)
        weights = others.new_tensor([self.weights[level] for level in levels])

        def look(images: Tensor) -> list[Tensor]:
            x = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                return self.maps.look(x, levels)

        with torch.no_grad():
            wanted = look(others)
        return lambda images: pyramid_distance(images, others) + map_distances(look(images), wanted) @ weights
