"""How knee-like a picture is, from what the model cannot make of it.

Two figures of a picture's code straight from the encoder: the reconstruction error, and the whitened
radius. For each, p is the share of reference knees with at least that figure, going on as an exponential
beyond the largest one seen. With the smaller of both,

    typicality = 1 - (1 - min(p_error, p_radius))²

which is about uniform over knees like the reference ones (if the figures were independent, exactly), falls
as either figure grows, and tends to 0 for pictures unlike any of them: "0.01" reads "one knee in a hundred
is as odd".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from progression.errors import UsageError

LEVELS = 201


@dataclass(frozen=True)
class Typicality:
    """Quantiles of the two figures over reference knees.

    Attributes
    ----------
    error, radius : (Q,) float32, ascending quantiles at Q equally spaced levels from 0 to 1
    """

    error: Tensor
    radius: Tensor

    @classmethod
    def fit(cls, error: Tensor, radius: Tensor) -> Typicality:
        """From reconstruction errors (N,) and whitened radii (N,) of knees not trained on, N >= 2."""
        if error.shape != radius.shape or error.ndim != 1 or len(error) < 2:
            raise UsageError(
                f"expected errors and radii of the same two or more knees, got {tuple(error.shape)} and "
                f"{tuple(radius.shape)}"
            )
        levels = torch.linspace(0, 1, LEVELS)
        return cls(error.float().quantile(levels), radius.float().quantile(levels))

    def __call__(self, error: Tensor, radius: Tensor) -> Tensor:
        """Typicality (N,) in [0, 1] of pictures with these figures (N,)."""
        p = torch.minimum(survival(error, self.error), survival(radius, self.radius))
        return 1 - (1 - p).square()

    def tensors(self) -> dict[str, Tensor]:
        """What :meth:`from_tensors` needs, by name."""
        return dict(vars(self))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Typicality:
        """Inverse of :meth:`tensors`; half precision may have broken ties, so the order is restored."""
        return cls(tensors["error"].sort().values, tensors["radius"].sort().values)


def survival(value: Tensor, quantiles: Tensor) -> Tensor:
    """Share of a reference with at least `value` (N,), with an exponential tail beyond it; falling from 1 to 0.

    The reference is given by its ascending quantiles (Q,) at equally spaced levels.
    """
    quantiles = quantiles.to(value.device)
    steps = len(quantiles) - 1
    place = torch.searchsorted(quantiles, value.contiguous(), right=True)
    low, high = quantiles[(place - 1).clamp(0, steps)], quantiles[place.clamp(0, steps)]
    within = ((value - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    share = 1 - ((place - 1).clamp(min=0) + within * (place > 0)) / steps
    last = 1 / steps
    # The tail takes over at the last level but one and keeps its slope there.
    start, end = quantiles[-2], quantiles[-1]
    tail = last * torch.exp(-(value - start) / (end - start).clamp(min=1e-12))
    return torch.where(value >= start, tail, share)
