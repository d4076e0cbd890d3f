"""What a generator and its encoder have learnt, beyond distances between sets of pictures.

Each check is one function of pictures or features and gives plain numbers for a report. `benchmarks/generator.py`
runs them all on a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from scipy.stats import ks_2samp
from torch import Tensor

from progression.encoder import Encoder, EncoderConfig
from progression.errors import UsageError
from progression.metrics.auc import auc_delong
from progression.metrics.features import batches_of
from progression.types import KL_GRADES

LEVELS = (0.05, 0.5, 0.95)


# ---- could a stranger tell? (classifier two-sample test, arXiv 1610.06545) --------------------------------------


def real_or_synthetic(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    epochs: int = 6,
    batch: int = 32,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> dict[str, Any]:
    """AUC of a small convolutional network, trained afresh to tell synthetic pictures from real ones.

    0.5 would be pictures that it cannot tell; 1 that it always can. It sees each pair of sets moved by up to four
    pixels and changed in contrast and brightness, so that it has to look at more than exposure.

    Parameters
    ----------
    train, test
        Real and synthetic pictures, (N, R, R) uint8 each; R a power of two, at least 16. No person's knee may be in
        both.

    Returns
    -------
    dict with ``auc``, its DeLong ``interval``, and ``fooled``: the share of real pictures that the network finds
    less likely to be real than the median synthetic one.
    """
    resolution = train[0].shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Encoder(EncoderConfig(resolution, 1, 1, width=16, max_width=128, hidden=128, offset_rank=0))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    draws = torch.Generator().manual_seed(seed)
    pictures, labels = torch.cat(train), _labels(train)
    steps = epochs * -(-len(pictures) // batch)
    adam = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, learning_rate, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(pictures), generator=draws).split(batch):
            x = _varied(next(batches_of(pictures[rows], batch=len(rows))), draws)
            loss = F.binary_cross_entropy_with_logits(network.split(x)[0][:, 0], labels[rows])
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
            schedule.step()
    network.eval()
    with torch.inference_mode():
        score = torch.cat([network.split(x)[0][:, 0] for x in batches_of(torch.cat(test))])
    area, interval = auc_delong(_labels(test).numpy(), score.numpy())
    real, made = score[: len(test[0])], score[len(test[0]) :]
    fooled = float((real > made.median()).float().mean())
    return {
        "auc": area,
        "interval": interval,
        "fooled": fooled,
        "trained_on": len(pictures),
        "tested_on": len(score),
    }


def _labels(sets: tuple[Tensor, Tensor]) -> Tensor:
    return torch.cat([torch.zeros(len(sets[0])), torch.ones(len(sets[1]))])


def _varied(x: Tensor, draws: torch.Generator, *, most: int = 4) -> Tensor:
    """Moved, with other contrast and brightness."""
    across, down = torch.randint(2 * most + 1, (2,), generator=draws).tolist()
    side = x.shape[-1]
    x = F.pad(x, (most,) * 4, mode="reflect")[:, :, down : down + side, across : across + side]
    contrast, brightness = torch.randn(2, len(x), 1, 1, 1, generator=draws)
    return (x * (0.15 * contrast).exp() + 0.15 * brightness).contiguous(memory_format=torch.channels_last)


# ---- is it still the same knee? ---------------------------------------------------------------------------------


def identity_kept(real: ArrayLike, rebuilt: ArrayLike) -> dict[str, float]:
    """Is the real picture nearest to a reconstruction the one that was reconstructed?

    Parameters
    ----------
    real, rebuilt
        (N, d) features of N real pictures and of their reconstructions, in the same order.

    Returns
    -------
    dict with ``first``, the share of reconstructions whose own picture is the nearest, ``first_five``, the share for
    which it is among the nearest five, and ``by_chance``, 1/N.
    """
    a, b = np.asarray(real, dtype=np.float64), np.asarray(rebuilt, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 2 or not len(a):
        raise UsageError(
            f"expected features (N, d) of pictures and reconstructions, got {a.shape}, {b.shape}"
        )
    distance = (b**2).sum(axis=1)[:, None] + (a**2).sum(axis=1)[None, :] - 2 * b @ a.T
    rank = (distance < np.diag(distance)[:, None]).sum(axis=1)
    return {
        "first": float((rank == 0).mean()),
        "first_five": float((rank < 5).mean()),
        "by_chance": 1 / len(a),
    }


# ---- are all kinds of knees there? ------------------------------------------------------------------------------


def grade_coverage(real: ArrayLike, made: ArrayLike) -> dict[str, list[float]]:
    """Shares of the grades 0 to 4 that a grader sees among real and among synthetic pictures.

    Parameters
    ----------
    real, made : (N, 5), (M, 5) probabilities of the grades
    """
    return {
        name: np.asarray(p).mean(axis=0).round(4).tolist() for name, p in (("real", real), ("made", made))
    }


def exposure_drift(real: Tensor, made: Tensor) -> dict[str, dict[str, Any]]:
    """How brightness and contrast are distributed in real and synthetic pictures (N, R, R) uint8.

    For the mean and the standard deviation of a picture's grey levels in [0, 1]: the 5th, 50th and 95th percentile
    over pictures on either side, and ``distance``, the largest difference of the cumulative distributions
    (Kolmogorov-Smirnov, 0 to 1).
    """
    figures: dict[str, dict[str, Any]] = {}
    one, other = (x.flatten(1).float() / 255 for x in (real, made))
    for name, a, b in (
        ("mean", one.mean(dim=1), other.mean(dim=1)),
        ("deviation", one.std(dim=1), other.std(dim=1)),
    ):
        figures[name] = {
            "real": _percentiles(a),
            "made": _percentiles(b),
            "distance": float(ks_2samp(a.numpy(), b.numpy()).statistic),
        }
    return figures


def _percentiles(x: Tensor) -> list[float]:
    return [round(float(value), 4) for value in x.quantile(torch.tensor(LEVELS))]


# ---- what the eye misses: detail by scale -----------------------------------------------------------------------


def detail_by_scale(real: Tensor, made: Tensor) -> dict[int, float]:
    """Power of synthetic over real pictures (N, R, R) uint8 at 1, 2, 4 … R/2 cycles a picture; 1 is equal.

    Below 1 the pictures are smoother than real ones at that scale, above 1 busier.
    """
    spectra = [_power(x) for x in (real, made)]
    return {cycles: float(spectra[1][cycles] / spectra[0][cycles]) for cycles in _octaves(real.shape[-1])}


def _octaves(resolution: int) -> list[int]:
    return [2**i for i in range((resolution // 2).bit_length())]


def _power(pictures: Tensor) -> Tensor:
    """Mean power by whole cycles a picture, (R/2 + 1,), through a Hann window."""
    side = pictures.shape[-1]
    window = torch.hann_window(side, periodic=False)
    total = torch.zeros(side, side)
    for x in batches_of(pictures):
        x = x[:, 0] - x[:, 0].mean(dim=(1, 2), keepdim=True)
        total += torch.fft.fft2(x * window * window[:, None]).abs().square().sum(dim=0)
    k = torch.fft.fftfreq(side, 1 / side)
    ring = (k[:, None].square() + k.square()).sqrt().round().long().clamp(max=side // 2).flatten()
    sums = torch.zeros(side // 2 + 1).index_add_(0, ring, total.flatten() / len(pictures))
    return sums / torch.bincount(ring, minlength=side // 2 + 1)


def grade_shares_text(coverage: Mapping[str, list[float]]) -> str:
    """Two lines of shares by grade."""
    head = "".join(f"{f'KL {k}':>8s}" for k in range(KL_GRADES))
    lines = [
        f"{name:10s}" + "".join(f"{share:8.3f}" for share in coverage[name]) for name in ("real", "made")
    ]
    return "\n".join([f"{'':10s}{head}", *lines])
