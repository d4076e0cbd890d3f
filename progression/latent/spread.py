"""The spread of futures: how much a knee may change, and what it looks like at a percentile of that change.

A knee moves along its steps, δ = Σ_j c_j B_j, and what is uncertain is how far. Its change s in grades is a mixture
over the grades now and then, P(k_0 = i, k_T = j) of the multi-state model
(:func:`progression.latent.history.joint_grades`), of

    s | n steps ~ N(n, n τ²),   n = j - i;   exactly 0 for n = 0

with τ how much knees that made one step differ in how much of its look they show, beyond what any two films differ by
(:func:`progression.latent.expected.StepEffects.variability`). The picture at percentile p has s = F⁻¹(p) and the look

    c_j(s) = Σ_(i ≤ j < k) P(i → k | s) · s / (k - i)

so that a knee whose grade is uncertain moves by the steps that such a change would consist of. Most knees do not
rise, so the fifth percentile, and often the fiftieth, is no change; the expected picture of method `joint` lies
between futures and is itself none of them. What is left out: pose and scanner of the later film, errors of the
multi-state model, and whatever does not lie along the steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

PERCENTILES = (5, 50, 95)
_LEAST = 0.02
"""Grades; the least τ that the mixture is computed with."""


def change_at(joint: Tensor, percentiles: Sequence[float], *, variability: float) -> Tensor:
    """Change s in grades at each percentile, (N, H, P), from joint grades (N, H, 5, 5)."""
    steps = steps_made(joint)
    wanted = torch.tensor([p / 100 for p in percentiles], dtype=torch.float64)
    low = torch.zeros(*steps.shape[:2], len(wanted), dtype=torch.float64)
    high = torch.full_like(low, steps.shape[2] - 1 + 8 * max(variability, _LEAST) * 2)
    below = steps[:, :, None, 0] >= wanted  # the point mass at no change
    for _ in range(50):
        middle = (low + high) / 2
        under = distribution(steps, middle, variability=variability) < wanted
        low, high = torch.where(under, middle, low), torch.where(under, high, middle)
    return torch.where(below, 0.0, high)


def steps_made(joint: Tensor) -> Tensor:
    """P(n steps), (N, H, 5), of joint grades (N, H, 5, 5)."""
    return torch.stack(
        [joint.diagonal(offset=n, dim1=2, dim2=3).sum(dim=2) for n in range(joint.shape[2])], dim=2
    )


def distribution(steps: Tensor, change: Tensor, *, variability: float) -> Tensor:
    """F(s) (N, H, P) of changes s (N, H, P), >= 0, given P(n steps) (N, H, 5)."""
    n = torch.arange(1, steps.shape[2], dtype=torch.float64)
    z = (change[..., None] - n) / (max(variability, _LEAST) * n.sqrt())
    return steps[:, :, None, 0] + (steps[:, :, None, 1:] * torch.special.ndtr(z)).sum(dim=3)


def steps_at(joint: Tensor, change: Tensor, *, variability: float) -> Tensor:
    """c (N, H, P, 4), how much of each step is made where the change is s (N, H, P)."""
    tau, grades = max(variability, _LEAST), joint.shape[2]
    weights, shares = [], []
    order = torch.arange(grades - 1)
    for i in range(grades):
        for k in range(i + 1, grades):
            n = k - i
            density = -((change - n) ** 2) / (2 * n * tau**2) - 0.5 * math.log(n)
            weights.append(joint[:, :, None, i, k].clamp(min=1e-300).log() + density)
            shares.append(((order >= i) & (order < k)).double() / n)
    posterior = torch.stack(weights, dim=3).softmax(dim=3)
    return change[..., None] * (posterior @ torch.stack(shares))
