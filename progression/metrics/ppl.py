"""Perceptual path length: how evenly the picture changes as the code moves through W (arXiv 1812.04948).

    PPL = E[ d(g(w_a), g(w_a + ε (w_b − w_a))) / ε² ],   w = f(z),  z ~ N(0, 1)

the "end" form in W of StyleGAN2 (arXiv 1912.04958): steps start at samples, not at points between them,
which need not be on the manifold.  Lower is smoother.  Values are comparable at the same distance d,
resolution and ε only, so all of them are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from progression.errors import UsageError
from progression.metrics.features import Extractor

EPSILON = 1e-4
TRIM = 0.01


class SamplesPictures(Protocol):
    """What is asked of a generator (`progression.stylegan2.Generator` has it)."""

    @property
    def z_dim(self) -> int: ...
    @property
    def c_dim(self) -> int: ...
    @property
    def mapping(self) -> Callable[..., Tensor]: ...
    @property
    def synthesis(self) -> Callable[..., Tensor]: ...
    def parameters(self) -> Iterator[Tensor]: ...


@dataclass(frozen=True)
class PathLength:
    """Mean of `n` path lengths less the lowest and highest 1 %, its standard error, and what it rests on."""

    mean: float
    standard_error: float
    median: float
    n: int
    epsilon: float
    distance: str

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for a report."""
        return asdict(self)


def perceptual_path_length(
    generator: SamplesPictures,
    distance: Callable[[Tensor, Tensor], Tensor],
    *,
    distance_name: str,
    n: int = 1000,
    batch: int = 32,
    epsilon: float = EPSILON,
    seed: int = 0,
) -> PathLength:
    """PPL of a `progression.stylegan2.Generator` in W, end sampling, constant noise, no truncation.

    Parameters
    ----------
    distance
        (N, C, R, R) twice → (N,): a squared perceptual distance, since it is divided by ε².
    epsilon
        Step as a share of the way to another sample.

    Raises
    ------
    UsageError
        Fewer than two samples are asked for.
    """
    if n < 2:
        raise UsageError(f"expected at least 2 samples for a path length, received {n}")
    device = next(generator.parameters()).device
    source = torch.Generator().manual_seed(seed)
    lengths: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, n, batch):
            size = min(batch, n - start)
            z = torch.randn(2 * size, generator.z_dim, generator=source).to(device)
            c = random_labels(generator.c_dim, size, source).to(device)
            w_a, w_b = generator.mapping(z, torch.cat([c, c])).chunk(2)
            x_a = generator.synthesis(w_a, noise_mode="const")
            x_b = generator.synthesis(w_a.lerp(w_b, epsilon), noise_mode="const")
            lengths.append(distance(x_a, x_b).double().cpu() / epsilon**2)
    values = torch.cat(lengths).numpy()
    low, high = np.quantile(values, [TRIM, 1 - TRIM])
    kept = values[(values >= low) & (values <= high)]
    return PathLength(
        mean=float(kept.mean()),
        standard_error=float(kept.std(ddof=1) / np.sqrt(len(kept))),
        median=float(np.median(values)),
        n=n,
        epsilon=epsilon,
        distance=distance_name,
    )


def feature_distance(extractor: Extractor) -> Callable[[Tensor, Tensor], Tensor]:
    """Squared distance of features over their mean squared length: a stand-in where LPIPS is absent."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        one, other = extractor.features(a), extractor.features(b)
        scale = (one.square().sum(dim=1) + other.square().sum(dim=1)) / 2
        return (one - other).square().sum(dim=1) / scale.clamp_min(1e-12)

    return distance


def random_labels(c_dim: int, n: int, source: torch.Generator) -> Tensor:
    """One-hot labels (n, c_dim), every class as likely; (n, 0) for a generator without classes."""
    if not c_dim:
        return torch.zeros(n, 0)
    return torch.eye(c_dim)[torch.randint(c_dim, (n,), generator=source)]
