"""A mapping network made from codes, in closed form.

An encoder may code knees where the mapping network hardly draws: few directions in which codes differ much, and as
many as W has in which mapped z do. Then samples are less varied than knees, and a knee's code is far out. Here W is
first moved, so that codes lie where the leaky ReLU with which a mapping network ends is straight,

    w' = w + c,   c_i = 5 σ_i - w̄_i,   A w + b = A w' + (b - A c) for every affine layer of the synthesis network,

with w̄ and σ the codes' mean and deviation: no picture changes. Then a mapping network of two layers is set so that
mapped z have the codes' mean and, in the Z leading principal components U, their covariance U Λ Uᵀ:

    w' = w̄' + U Λ^(1/2) z,   z ∈ R^Z

That knees fill few dimensions of W, and that z should have no more, is also found for photographs by StyleGAN-XL (arXiv
2202.00273, §3.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from progression.errors import UsageError
from progression.latent.whiten import unfold
from progression.stylegan2.generator import MappingNetwork, SynthesisLayer, SynthesisNetwork, ToImage
from progression.stylegan2.ops import LEAKY_GAIN, LEAKY_SLOPE, FullyConnected

STRAIGHT = 5.0
"""Deviations that codes lie above 0."""


@torch.no_grad()
def move(synthesis: SynthesisNetwork, codes: Tensor) -> Tensor:
    """Move W so that codes (M, w_dim) lie above 0; the synthesis network takes w + c for w. Returns c (w_dim,)."""
    shift = STRAIGHT * codes.std(dim=0) - codes.mean(dim=0)
    for layer in synthesis.modules():
        if isinstance(layer, (SynthesisLayer, ToImage)):
            layer.affine.bias.sub_(layer.affine.weight @ shift / math.sqrt(len(shift)))
    return shift


def lies_above_0(codes: Tensor) -> bool:
    """Whether codes (M, w_dim) were moved, by half of what `move` does at least: they drift a little in training."""
    return bool((codes.mean(dim=0) > STRAIGHT / 2 * codes.std(dim=0)).all())


@torch.no_grad()
def mapping_of(codes: Tensor, *, z_dim: int, num_ws: int, seed: int = 0) -> MappingNetwork:
    """Mapping network z (N, z_dim) → w whose w are distributed as `codes` (M, w_dim), which lie above 0.

    Its first layer holds z and -z, from which the second gets z back: lrelu(a) - lrelu(-a) = (1 + slope)·a. The rest
    of the first layer is random and not used until training does.

    Raises
    ------
    UsageError
        `z_dim` above half of w_dim, or too few codes for so many components.
    """
    w_dim = codes.shape[1]
    if not 1 <= 2 * z_dim <= w_dim:
        raise UsageError(f"z_dim {z_dim}: expected 1 to {w_dim // 2}, half of w_dim")
    if len(codes) <= 2 * z_dim:
        raise UsageError(f"{len(codes)} codes are too few for a z_dim of {z_dim}: expected twice as many")
    p = unfold(codes.double())
    mean = p.mean(dim=0)
    values, axes = torch.linalg.eigh((p - mean).T @ (p - mean) / (len(p) - 1))
    leading = axes[:, -z_dim:].flip(1)
    # an axis has two directions: take the same one everywhere, so that processes agree
    leading = leading * leading.gather(0, leading.abs().argmax(dim=0, keepdim=True)).sign()
    component = leading * values[-z_dim:].flip(0).clamp(min=0).sqrt()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mapping = MappingNetwork(z_dim, 0, w_dim, num_ws, num_layers=2).to(codes.device)
    first, second = mapping.fc0, mapping.fc1
    assert isinstance(first, FullyConnected) and isinstance(second, FullyConnected)
    # stored weights count lr_multiplier / √fan-in, biases lr_multiplier
    unit = math.sqrt(z_dim) / first.lr_multiplier
    eye = torch.eye(z_dim, device=codes.device)
    first.weight[: 2 * z_dim] = unit * torch.cat([eye, -eye])
    first.bias.zero_()
    second.weight.zero_()
    per_z = component / (LEAKY_GAIN * (1 + LEAKY_SLOPE))
    stored = per_z * math.sqrt(w_dim) / second.lr_multiplier
    second.weight[:, : 2 * z_dim] = torch.cat([stored, -stored], dim=1).float()
    second.bias.copy_(mean / second.lr_multiplier)
    mapping.w_avg.copy_(codes.mean(dim=0))
    return mapping
