"""Wavelet filters of the augmentation pipeline, as matrices along one image axis.

Every filter here is linear and separable, so an image X is filtered as A·X·Bᵀ with one matrix an axis. Edge
handling is part of the matrix, and gradients of any order are matrix products.

| symbol | meaning | shape |
|---|---|---|
| h | scaling filter, Σh = √2, Σ h[k]·h[k+2m] = δ(m) | (taps,) |
| n | pixels along the axis | |
| U | pixels → samples at twice the rate | (6n-4, n) |
| D | samples at twice the rate → pixels; D·U = 1 | (n, 2n+taps-2) |
| B | pixels → one octave band of them | (bands, n, n) |

U continues the axis by one reflection at either end and by zero beyond that.

Sources: I. Daubechies, *Ten Lectures on Wavelets* (1992), §6.4 (sym2 = db2, in closed form) and §8.1.1 (sym6,
the least asymmetric filter with six vanishing moments); Karras et al., arXiv 2006.06676, App. B.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ROOT3 = 3.0**0.5
SYM2 = tuple(c / (4 * 2**0.5) for c in (1 - _ROOT3, 3 - _ROOT3, 3 + _ROOT3, 1 + _ROOT3))
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
BANDS = 4
_TAPS = len(SYM6)
OVERHANG = _TAPS // 2 - 1  # index of the tap next to sym6's centre of mass, 5.1: it stands on the pixel


@lru_cache(maxsize=32)
def upsampling(n: int, device: torch.device) -> Tensor:
    """U for n pixels: row m + 2(n-1) is the sample at pixel coordinate m/2."""
    matrix = np.zeros((6 * n - 4, n))
    for k in range(-(n - 1), 2 * n - 1):  # a pixel of the continued axis, and where its taps land
        first = 2 * k - OVERHANG + 2 * (n - 1)
        for tap, value in enumerate(SYM6):
            if 0 <= first + tap < len(matrix):
                matrix[first + tap, reflect(k, n)] += 2**0.5 * value
    return _constant(matrix, device)


@lru_cache(maxsize=32)
def downsampling(n: int, device: torch.device) -> Tensor:
    """D for n pixels: its column m + OVERHANG is the sample at pixel coordinate m/2."""
    matrix = np.zeros((n, 2 * n + _TAPS - 2))
    for k in range(n):
        matrix[k, 2 * k : 2 * k + _TAPS] = np.array(SYM6) / 2**0.5
    return _constant(matrix, device)


@lru_cache(maxsize=32)
def octave_bands(n: int, device: torch.device) -> Tensor:
    """B for n pixels: the bands [0, π/8], [π/8, π/4], [π/4, π/2], [π/2, π], which sum to the identity."""
    filters = octave_filters()
    reach = filters.shape[1] // 2
    matrix = np.zeros((BANDS, n, n))
    for row in range(n):
        for offset in range(-reach, reach + 1):
            matrix[:, row, reflect(row + offset, n)] += filters[:, reach + offset]
    return _constant(matrix, device)


def _constant(matrix: np.ndarray[Any, np.dtype[np.float64]], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # cached, and must serve training whoever asked first
        return torch.from_numpy(matrix).float().to(device)


def octave_filters() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Zero-phase band filters (BANDS, taps) of the dyadic sym2 filter bank, lowest band first.

    With the half-band pair L(z) = H(z)·H(1/z)/2 and 1 - L(z), the bands are 1 - L(z), L(z)·(1 - L(z²)),
    L(z)·L(z²)·(1 - L(z⁴)) and the rest L(z)·L(z²)·L(z⁴).
    """
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    rest, bands = np.ones(1), []
    for level in range(BANDS - 1):
        stretched = np.zeros((len(low) - 1) * 2**level + 1)
        stretched[:: 2**level] = low
        lower = np.convolve(rest, stretched)
        bands.append(np.pad(rest, len(stretched) // 2) - lower)
        rest = lower
    bands.append(rest)
    return np.stack([np.pad(band, (len(rest) - len(band)) // 2) for band in reversed(bands)])


def reflect(k: int, n: int) -> int:
    """Index of pixel k of an axis that is continued by mirroring at its edge pixels."""
    if n == 1:
        return 0
    k %= 2 * (n - 1)
    return min(k, 2 * (n - 1) - k)
