"""The spread: a mixture checked by hand, against draws, and its limits."""

from __future__ import annotations

import pytest
import torch

from progression.latent.spread import change_at, distribution, steps_at, steps_made


def joint_of(**paths: float) -> torch.Tensor:
    """P(k_0 = i, k_T = j), (1, 1, 5, 5), from "ij": probability."""
    joint = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    for path, p in paths.items():
        joint[0, 0, int(path[1]), int(path[2])] = p
    return joint


def test_no_rise_is_no_change() -> None:
    joint = joint_of(k00=0.6, k33=0.4)
    change = change_at(joint, (5, 50, 95), variability=0.5)
    assert not change.any()
    assert not steps_at(joint, change, variability=0.5).any()


def test_percentiles_by_hand() -> None:
    joint = joint_of(k00=0.5, k01=0.3, k02=0.2)
    torch.testing.assert_close(steps_made(joint)[0, 0], torch.tensor([0.5, 0.3, 0.2, 0, 0]).double())
    change = change_at(joint, (5, 50, 65, 95), variability=0.1)[0, 0]
    assert change[:2].tolist() == [0.0, 0.0]
    # 0.5 + 0.3 Φ(z) = 0.65: half of those of one step
    assert float(change[2]) == pytest.approx(1.0, abs=1e-6)
    # 0.8 + 0.2 Φ(z) = 0.95: z = 0.6745 of √2 · 0.1
    assert float(change[3]) == pytest.approx(2 + 0.6745 * 0.1 * 2**0.5, abs=1e-4)


def test_the_look_is_that_of_the_steps_made() -> None:
    joint = joint_of(k00=0.2, k01=0.4, k12=0.4)
    change = torch.tensor([[[1.0, 1.2]]]).double()
    made = steps_at(joint, change, variability=0.2)[0, 0]
    # as likely from grade 0 as from grade 1: half of each step, scaled by the change
    torch.testing.assert_close(made, torch.tensor([[0.5, 0.5, 0, 0], [0.6, 0.6, 0, 0]]).double())
    twice = steps_at(joint_of(k02=1.0), torch.tensor([[[2.0]]]).double(), variability=0.2)[0, 0, 0]
    torch.testing.assert_close(twice, torch.tensor([1.0, 1, 0, 0]).double())


def test_percentiles_against_draws() -> None:
    draws = torch.Generator().manual_seed(0)
    p = torch.rand(1, 1, 5, 5, generator=draws, dtype=torch.float64).triu()
    joint = p / p.sum()
    n = torch.multinomial(steps_made(joint)[0, 0], 200_000, replacement=True, generator=draws).double()
    sample = n + n.sqrt() * 0.3 * torch.randn(len(n), generator=draws, dtype=torch.float64)
    for percentile in (40, 50, 75, 95):
        found = float(change_at(joint, (percentile,), variability=0.3))
        assert found == pytest.approx(float(torch.quantile(sample, percentile / 100)), abs=0.03)


def test_percentiles_ascend_and_hold_their_share() -> None:
    joint = joint_of(k00=0.4, k01=0.2, k12=0.2, k13=0.15, k04=0.05)
    percentiles = (5, 25, 50, 75, 95)
    change = change_at(joint, percentiles, variability=0.4)
    assert bool((change.diff(dim=2) >= 0).all())
    share = distribution(steps_made(joint), change, variability=0.4)[0, 0]
    for p, s, c in zip(percentiles, share.tolist(), change[0, 0].tolist(), strict=True):
        assert s == pytest.approx(p / 100, abs=1e-6) if c > 0 else s >= p / 100
