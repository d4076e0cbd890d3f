"""Where a knee's latent will be: the closed form of Han et al., Nat Mach Intell 2022 (arXiv 2111.11439).

| symbol | meaning | shape, unit |
|---|---|---|
| w_0 | latent of the knee now | (N, D) or (N, L, D) |
| d_n | displacement of neighbour n between two of its visits | (N, k, D) |
| Δt_n | time between these two visits | (N, k), months |
| T | horizon | (H,), months |
| a_n | weight of neighbour n, summing to 1 over the k neighbours | (N, k) |

Pure maths: nothing here searches, loads or draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from progression.errors import UsageError

Search = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Latents (N, D) → their neighbours' displacements (N, k, D) and intervals (N, k) in months."""


def offset(
    displacement: Tensor,
    interval_months: Tensor,
    horizon_months: Sequence[float] | Tensor,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """Change of the latent by each horizon, Σ_n a_n (T/Δt_n) d_n.

    Parameters
    ----------
    displacement : (N, k, D)
        Neighbours' displacements.
    interval_months : (N, k)
        Time that each displacement took, > 0.
    horizon_months : (H,)
        Horizons, >= 0.
    weights : (N, k), optional
        Weights of the neighbours, >= 0, scaled here to sum to 1; equal weights (the paper's mean) if absent.

    Returns
    -------
    Tensor
        (N, H, D).

    Raises
    ------
    UsageError
        If shapes disagree, an interval is not positive, or a horizon is negative.
    """
    horizon = torch.as_tensor(horizon_months, dtype=displacement.dtype, device=displacement.device)
    if displacement.ndim != 3 or interval_months.shape != displacement.shape[:2] or horizon.ndim != 1:
        raise UsageError(
            "expected displacement (N, k, D), interval_months (N, k) and horizon_months (H,), got "
            f"{tuple(displacement.shape)}, {tuple(interval_months.shape)} and {tuple(horizon.shape)}"
        )
    if not bool((interval_months > 0).all()):
        raise UsageError("a neighbour's interval is not positive: expected months > 0 between its two visits")
    if not bool((horizon >= 0).all()):
        raise UsageError(f"negative horizon in {horizon.tolist()}: expected months >= 0")
    if weights is None:
        weights = torch.ones_like(interval_months)
    share = (weights / weights.sum(dim=1, keepdim=True)).to(displacement.dtype)
    rate = torch.einsum("nk,nkd->nd", share / interval_months.to(displacement.dtype), displacement)
    return horizon[None, :, None] * rate[:, None, :]


def extrapolate(
    w0: Tensor,
    displacement: Tensor,
    interval_months: Tensor,
    horizon_months: Sequence[float] | Tensor,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """Latents at all horizons, ŵ(T) = w_0 + Σ_n a_n (T/Δt_n) d_n.

    The mean is taken over the k scaled displacements; each is scaled by its own interval only.

    Parameters
    ----------
    w0 : (N, D) or (N, L, D)
        One latent a knee, or one a layer; the same change is added to every layer.
    displacement, interval_months, horizon_months, weights
        As in :func:`offset`.

    Returns
    -------
    Tensor
        (N, H, D) or (N, H, L, D).
    """
    change = offset(displacement, interval_months, horizon_months, weights=weights)
    if w0.ndim == 3:
        change = change[:, :, None, :]
    return w0[:, None] + change


def extrapolate_stepwise(w0: Tensor, horizon_months: Sequence[float], *, search: Search) -> Tensor:
    """Latents at ascending horizons, searched anew at every step.

    From T_{i-1} to T_i the neighbours of ŵ(T_{i-1}) give the change
    mean_n (T_i - T_{i-1})/Δt_n · d_n, and the steps add up. For use from Python: the command line predicts
    with :func:`extrapolate`, from one search at w_0.

    Parameters
    ----------
    w0 : (N, D) or (N, L, D)
        The search key of (N, L, D) is the mean over layers.
    horizon_months : (H,)
        Ascending, >= 0.
    search : callable
        Gives displacements to the neighbours' NEXT visits, and how long they took.

    Returns
    -------
    Tensor
        (N, H, D) or (N, H, L, D).
    """
    steps = [later - earlier for earlier, later in zip([0.0, *horizon_months], horizon_months, strict=False)]
    if any(step < 0 for step in steps):
        raise UsageError(f"horizons {list(horizon_months)} are not ascending from 0: sort them")
    w = w0
    visited = []
    for step in steps:
        displacement, interval_months = search(key_of(w))
        w = extrapolate(w, displacement, interval_months, [step])[:, 0]
        visited.append(w)
    return torch.stack(visited, dim=1)


def key_of(w: Tensor) -> Tensor:
    """The one w (N, D) a knee by which it is searched: the mean over layers of (N, L, D)."""
    return w.mean(dim=1) if w.ndim == 3 else w
