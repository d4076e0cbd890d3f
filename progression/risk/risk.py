"""The paper's risk: a product of two gradings (Han et al. 2022, the risk estimation of the Methods).

    R_fast = Σ_{j - i >= 2} P(k_0 = i | x_0) P(k_T = j | x_T)        R_any = Σ_{j - i >= 1} ...

The product takes the errors of the two gradings as independent, so it is not 0 when nothing changes (two
pictures graded 50/50 between neighbouring grades give R_any = 0.25).  `excess` removes that part.
"""

from __future__ import annotations

import torch
from torch import Tensor


def product_risk(p_now: Tensor, p_future: Tensor) -> tuple[Tensor, Tensor]:
    """Risk from gradings of the picture now and of its futures.

    Parameters
    ----------
    p_now
        (N, 5) grade probabilities now, sum 1.
    p_future
        (N, H, 5) grade probabilities of the synthetic futures.

    Returns
    -------
    (fast, any)
        (N, H) each, in [0, 1], fast <= any.
    """
    joint = p_now[:, None, :, None] * p_future[:, :, None, :]
    fast = joint.triu(diagonal=2).sum(dim=(2, 3))
    rises = joint.triu(diagonal=1).sum(dim=(2, 3))
    return fast.clamp(0, 1), rises.clamp(0, 1)


def excess(risk: Tensor, risk_unchanged: Tensor) -> Tensor:
    """Risk above that of no change: max(0, (R - R_0) / (1 - R_0)).

    Parameters
    ----------
    risk
        (N, H) from `product_risk`.
    risk_unchanged
        (N,) or (N, 1): the same product with the picture now in the future's place (T = 0).
    """
    unchanged = risk_unchanged.reshape(-1, 1).clamp(max=1 - 1e-6)
    return ((risk - unchanged) / (1 - unchanged)).clamp(0, 1)


def product_excess(p_rebuilt: Tensor, p_future: Tensor) -> Tensor:
    """(N, H, 2) fast and any: the product between two synthetic pictures, above that for no change.

    Parameters
    ----------
    p_rebuilt
        (N, 5) grade probabilities of the reconstruction.
    p_future
        (N, H, 5) of the synthetic futures.
    """
    changed = product_risk(p_rebuilt, p_future)
    unchanged = product_risk(p_rebuilt, p_rebuilt[:, None])
    return torch.stack([excess(r, r0) for r, r0 in zip(changed, unchanged, strict=True)], dim=-1)
