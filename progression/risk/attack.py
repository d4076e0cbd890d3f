"""Pictures that a network gets wrong, within so many grey levels of a real one (PGD, arXiv 1706.06083)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GREY_LEVEL = 2 / 255
"""One grey level of 255 in the units of model pictures, [-1, 1]."""


def perturb(
    x: Tensor,
    loss: Callable[[Tensor], Tensor],
    *,
    epsilon: float,
    steps: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Pictures near `x` at which `loss` is high.

    From a random start, `steps` moves of every pixel along the sign of its gradient. A move is 2.5 ε / (steps + 1)
    long: all of the range can be crossed, and a single step does not end at its corners, training on which teaches a
    network to fool one step only (arXiv 2001.03994).

    Parameters
    ----------
    x : pictures (N, 1, H, W) in [-1, 1]
    loss : pictures → a scalar in which every picture has its own share
    epsilon : ε, largest change of a pixel in grey levels of 255
    generator : of the random start, on the device of `x`; by default that device's own

    Returns
    -------
    Tensor
        Pictures in [-1, 1], without gradient; the network's own gradients are left as they are.
    """
    reach = epsilon * GREY_LEVEL
    length = 2.5 * reach / (steps + 1)
    x = x.detach()
    low, high = (x - reach).clamp(min=-1), (x + reach).clamp(max=1)
    y = x + torch.empty_like(x).uniform_(-reach, reach, generator=generator)
    y = torch.minimum(torch.maximum(y, low), high)
    for _ in range(steps):
        y.requires_grad_(True)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(loss(y), y)
        y = y.detach() + length * slope.sign()
        y = torch.minimum(torch.maximum(y, low), high)
    return y
