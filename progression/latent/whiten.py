"""Statistics of W, and how far out a latent lies.

The last step of the mapping network is a leaky ReLU, which folds W. Undone, latents are close to Gaussian
(Zhu et al., *Improved StyleGAN Embedding*, arXiv 2012.09036), so a covariance describes them:

    p = leaky_relu⁻¹(w),   v = Λ^(-1/2) Uᵀ (p - p̄),   radius(w) = ‖v‖ / √K

with U Λ Uᵀ the covariance of p over many mapped z, and K the number of directions in which samples vary noticeably
(the others' deviation is floored). Sampled latents have radius about 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from progression.stylegan2 import Generator
from progression.stylegan2.ops import LEAKY_GAIN, LEAKY_SLOPE

# Directions in which samples hardly vary would otherwise rule the radius of every real code.
RELATIVE_FLOOR = 1e-3


@dataclass(frozen=True)
class Whitening:
    """Mean, principal axes and standard deviations of W.

    Attributes
    ----------
    w_mean : (D,) mean of w
    w_std : () root of the mean squared distance of w from `w_mean`, over all coordinates together
    mean : (D,) mean of p
    axes : (D, D) orthonormal principal axes of p, one a column
    deviation : (D,) standard deviation along each axis, floored
    """

    w_mean: Tensor
    w_std: Tensor
    mean: Tensor
    axes: Tensor
    deviation: Tensor

    @classmethod
    def fit(cls, w: Tensor) -> Whitening:
        """Statistics of mapped latents w (N, D), N well above D."""
        p = unfold(w).double()
        mean = p.mean(dim=0)
        values, axes = torch.linalg.eigh((p - mean).T @ (p - mean) / (len(p) - 1))
        deviation = values.clamp(min=RELATIVE_FLOOR * float(values.mean())).sqrt()
        w_mean = w.double().mean(dim=0)
        w_std = (w - w_mean).square().sum(dim=1).mean().sqrt()
        return cls(*(t.float() for t in (w_mean, w_std, mean, axes, deviation)))

    @classmethod
    def of(cls, generator: Generator, *, samples: int = 10_000, seed: int = 0) -> Whitening:
        """Statistics of a generator's own W, from `samples` mapped z."""
        return cls.fit(sample_w(generator, samples, seed=seed))

    def apply(self, w: Tensor) -> Tensor:
        """Whitened coordinates of w (..., D)."""
        return (unfold(w) - self.mean) @ self.axes / self.deviation

    def undo(self, v: Tensor) -> Tensor:
        """The w (..., D) with whitened coordinates v."""
        return fold((v * self.deviation) @ self.axes.T + self.mean)

    def radius(self, w: Tensor) -> Tensor:
        """Whitened radius (...) of w (..., D): about 1 for samples, 0 at the mean."""
        return (self.apply(w).square().sum(dim=-1) / self.varied).sqrt()

    @property
    def varied(self) -> Tensor:
        """K, () : how many deviations are above the floor."""
        floor = math.sqrt(RELATIVE_FLOOR) * self.deviation.square().mean().sqrt()
        return (self.deviation > 1.01 * floor).sum().clamp(min=1)

    def tensors(self) -> dict[str, Tensor]:
        """What :meth:`from_tensors` needs, by name."""
        return dict(vars(self))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Whitening:
        """Inverse of :meth:`tensors`."""
        return cls(**{name: tensors[name] for name in ("w_mean", "w_std", "mean", "axes", "deviation")})

    def to(self, device: torch.device | str) -> Whitening:
        """A copy on another device."""
        return Whitening(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def unfold(w: Tensor) -> Tensor:
    """Undo the scaled leaky ReLU with which the mapping network ends."""
    return torch.where(w < 0, w / LEAKY_SLOPE, w) / LEAKY_GAIN


def fold(p: Tensor) -> Tensor:
    """The scaled leaky ReLU with which the mapping network ends."""
    return torch.where(p < 0, p * LEAKY_SLOPE, p) * LEAKY_GAIN


@torch.no_grad()
def sample_w(generator: Generator, count: int, *, seed: int) -> Tensor:
    """Latents w (count, D) of Gaussian z, untruncated; an unlabelled generator is expected."""
    device = next(generator.parameters()).device
    draws = torch.Generator().manual_seed(seed)
    z = torch.randn(count, generator.z_dim, generator=draws).to(device)
    return torch.cat([generator.mapping(part, None)[:, 0] for part in z.split(1024)])
