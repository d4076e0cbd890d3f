"""How alike two pictures are, pixel by pixel and structure by structure.

All functions take batches (N, C, H, W) and give one number a picture, (N,).  `data_range` is the width
of the value range: 2 for model images in [-1, 1], 1 for pictures in [0, 1].

SSIM's constants, as Wang et al. 2004 (IEEE TIP 13:600) and most papers since have them: Gaussian window
of 11 × 11 with σ = 1.5, K1 = 0.01, K2 = 0.03, population (not sample) covariance, mean over the places
where the window lies wholly inside the picture, and over channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from progression.errors import UsageError

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1 = 0.01
SSIM_K2 = 0.03


def psnr(a: Tensor, b: Tensor, *, data_range: float) -> Tensor:
    """Peak signal-to-noise ratio, 10·log10(range² / MSE) in dB, (N,); infinite for equal pictures."""
    _check(a, b)
    error = (a - b).double().square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(data_range**2 / error)


def ssim(a: Tensor, b: Tensor, *, data_range: float) -> Tensor:
    """Structural similarity, (N,), at most 1, and 1 for equal pictures; constants in the module's head."""
    _check(a, b)
    if min(a.shape[2:]) < SSIM_WINDOW:
        raise UsageError(
            f"SSIM needs pictures of {SSIM_WINDOW} pixels or more, received {tuple(a.shape[2:])}"
        )
    a, b = a.double(), b.double()
    mean_a, mean_b = _smooth(a), _smooth(b)
    variance_a = _smooth(a * a) - mean_a**2
    variance_b = _smooth(b * b) - mean_b**2
    covariance = _smooth(a * b) - mean_a * mean_b
    c1, c2 = (SSIM_K1 * data_range) ** 2, (SSIM_K2 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def gaussian_window() -> Tensor:
    """The window's one-dimensional factor, (11,), sums to 1."""
    offset = torch.arange(SSIM_WINDOW, dtype=torch.float64) - (SSIM_WINDOW - 1) / 2
    weight = torch.exp(-(offset**2) / (2 * SSIM_SIGMA**2))
    return weight / weight.sum()


def _smooth(x: Tensor) -> Tensor:
    channels = x.shape[1]
    window = gaussian_window().to(x)
    column = window.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    row = window.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(x, column, groups=channels), row, groups=channels)


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.dim() != 4:
        raise UsageError(
            f"expected two batches (N, C, H, W) of one shape, received {tuple(a.shape)} and {tuple(b.shape)}"
        )
