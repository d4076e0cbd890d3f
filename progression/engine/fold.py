"""Batch normalisation folded into the convolution before it, for networks that are only looked through.

In evaluation mode norm(conv(x)) = conv'(x) with W' = W·γ/√(σ² + ε) and b' = β − μ·γ/√(σ² + ε).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def fold_batch_norms(module: nn.Module) -> None:
    """Fold every norm into its convolution, in place; outputs move by rounding only (under 1e-5 of their largest).

    A convolution `<name>` belongs to the norm called `<name>_norm`, or `norm<i>` for `conv<i>`. Gradients to the
    input still flow.
    """
    for parent in list(module.modules()):
        for name, norm in list(parent.named_children()):
            if not isinstance(norm, nn.BatchNorm2d):
                continue
            if norm.training:
                raise ValueError("batch statistics cannot be folded: call eval() first")
            conv = getattr(
                parent, name.replace("norm", "conv") if name[-1].isdigit() else name[: -len("_norm")]
            )
            assert isinstance(conv, nn.Conv2d) and conv.bias is None
            scale, shift = _affine(norm)
            conv.weight.mul_(scale[:, None, None, None])
            conv.bias = nn.Parameter(shift, requires_grad=False)
            setattr(parent, name, nn.Identity())


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale
