"""W moved, and a mapping network made from codes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from progression.errors import UsageError
from progression.latent.whiten import Whitening
from progression.stylegan2 import Generator
from progression.train.mapping import STRAIGHT, mapping_of, move


def codes_of(count: int, dim: int, seed: int) -> torch.Tensor:
    """Correlated Gaussian codes around a mean that is negative in places."""
    draws = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=draws) / dim**0.5
    return torch.randn(count, dim, generator=draws) @ mix + torch.randn(dim, generator=draws)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_moving_w_changes_no_picture(seed: int) -> None:
    torch.manual_seed(seed)
    generator = Generator(8, 0, 12, 16, 1, 2, 64, 8)
    codes = codes_of(100, 12, seed)
    ws = codes[:3, None].expand(-1, generator.num_ws, -1)
    with torch.no_grad():
        before = generator.synthesis(ws, noise_mode="const")
        shift = move(generator.synthesis, codes)
        after = generator.synthesis(ws + shift, noise_mode="const")
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)
    moved = codes + shift
    torch.testing.assert_close(moved.mean(dim=0), STRAIGHT * moved.std(dim=0))


def test_mapped_z_have_the_codes_mean_and_leading_covariance() -> None:
    raw = codes_of(4000, 24, 3)
    codes = raw + STRAIGHT * raw.std(dim=0) - raw.mean(dim=0)
    mapping = mapping_of(codes, z_dim=12, num_ws=4)
    z = torch.randn(40_000, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ws = mapping(z)
    assert ws.shape == (40_000, 4, 24) and ws.std(dim=1).max() == 0
    w = ws[:, 0]
    torch.testing.assert_close(w.mean(dim=0), codes.mean(dim=0), rtol=0, atol=0.02)
    torch.testing.assert_close(mapping.w_avg, codes.mean(dim=0))
    values, axes = torch.linalg.eigh(torch.cov(codes.T))
    found = axes.T @ torch.cov(w.T) @ axes
    wanted = torch.diag(torch.where(torch.arange(24) >= 12, values, 0.0))
    assert float((found - wanted).abs().max()) < 0.05 * float(values[-1])
    # half of the directions hold nearly all of the variance of samples, and their radius is 1 by these alone
    whitening = Whitening.fit(w)
    assert int(whitening.varied) == 12
    assert float(whitening.radius(w).median()) == pytest.approx(1, abs=0.05)


def test_refuses_what_two_layers_cannot_hold() -> None:
    codes = codes_of(100, 24, 0)
    with pytest.raises(UsageError, match="expected 1 to 12"):
        mapping_of(codes, z_dim=13, num_ws=4)
    with pytest.raises(UsageError, match="too few for a z_dim of 12"):
        mapping_of(codes[:24], z_dim=12, num_ws=4)
