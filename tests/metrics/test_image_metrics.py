"""PSNR and SSIM against direct computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from progression.errors import UsageError
from progression.metrics.image import gaussian_window, psnr, ssim


def pair(channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    a = torch.rand(2, channels, 17, 15, generator=source)
    return a, (a + 0.2 * torch.randn(a.shape, generator=source)).clamp(0, 1)


def direct_ssim(a: np.ndarray, b: np.ndarray, data_range: float) -> float:
    """Wang et al. 2004, eq. (13), window by window."""
    x, y = np.mgrid[-5:6, -5:6]
    w = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    w /= w.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mp, mq = (w * p).sum(), (w * q).sum()
            vp, vq = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum()
            cov = (w * (p - mp) * (q - mq)).sum()
            values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


def test_psnr_by_hand() -> None:
    a = torch.zeros(1, 1, 4, 4)
    assert psnr(a, a + 0.1, data_range=1).item() == pytest.approx(20, abs=1e-4)
    assert psnr(a, a + 0.2, data_range=2).item() == pytest.approx(20, abs=1e-4)
    assert psnr(a, a, data_range=1).item() == float("inf")


@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_ssim_window_by_window(data_range: float) -> None:
    a, b = pair(channels=2)
    expected = [
        np.mean([direct_ssim(a[n, c].double().numpy(), b[n, c].double().numpy(), data_range) for c in (0, 1)])
        for n in (0, 1)
    ]
    np.testing.assert_allclose(ssim(a, b, data_range=data_range), expected, atol=1e-10)


def test_ssim_is_symmetric_and_one_for_equal_pictures() -> None:
    a, b = pair()
    assert torch.allclose(ssim(a, b, data_range=1), ssim(b, a, data_range=1))
    assert torch.allclose(ssim(a, a, data_range=1), torch.ones(2, dtype=torch.float64))
    assert (ssim(a, b, data_range=1) < 1).all()
    assert gaussian_window().sum().item() == pytest.approx(1)


def test_refuses() -> None:
    with pytest.raises(UsageError, match="of one shape"):
        psnr(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 5), data_range=1)
    with pytest.raises(UsageError, match="pictures of 11 pixels or more"):
        ssim(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), data_range=1)
