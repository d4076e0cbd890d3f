"""Losses and regularisers of StyleGAN2 training.

| symbol | meaning | shape |
|---|---|---|
| D(x) | logit, positive for real | (N, 1) |
| J_w | Jacobian ∂g(w)/∂w | image × (L, w_dim) |
| y | Gaussian image, scaled by 1/√(H·W) | (N, C, H, W) |
| a | running mean of path lengths | scalar |
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss, −log σ(D(G(z))), averaged (Goodfellow et al. 2014 §3)."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """−log σ(D(x)) − log(1 − σ(D(G(z)))), averaged."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def relativistic_loss(believed: Tensor, other: Tensor) -> Tensor:
    """−log σ(D(a) − D(b)) over pairs (a, b), averaged: a shall look more real than b (RpGAN, arXiv 1807.00734).

    R3GAN (arXiv 2501.05441 §2) minimises it over D with a real and b generated, and over G the other way round.
    """
    return F.softplus(other - believed).mean()


def gradient_penalty(images: Tensor, logits: Tensor) -> Tensor:
    """‖∇_x D(x)‖² a sample, (N,); `images` needs grad.

    Times γ/2 it is R1 on real pictures, R2 on generated ones (arXiv 1801.04406 eq. 9 and 10).
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def path_lengths(images: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
    """‖J_wᵀ y‖ a sample, the mean square taken over layers, (N,) (arXiv 1912.04958 eq. 4).

    `images` (N, C, H, W) were rendered from `ws` (N, L, w_dim), which needs grad; `noise` ~ N(0, 1) as images.
    """
    y = noise / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * y).sum(), ws, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def path_length_penalty(lengths: Tensor, mean: Tensor, *, decay: float = 0.01) -> tuple[Tensor, Tensor]:
    """(‖J_wᵀ y‖ − a)² averaged, and the updated running mean a, detached (arXiv 1912.04958 App. B)."""
    mean = mean.lerp(lengths.detach().mean(), decay)
    return (lengths - mean).square().mean(), mean
