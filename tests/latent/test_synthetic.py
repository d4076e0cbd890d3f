"""The synthetic bank: like the real one in what matters, and nobody in particular."""

import numpy as np
import pytest
import torch

from progression.errors import UsageError
from progression.latent import synthetic
from progression.latent.bank import TrajectoryBank
from progression.latent.build import build_graded
from progression.latent.synthetic import (
    BankModel,
    nearest_distance_test,
    nearest_distances,
    sample_keys,
    synthesise,
)

D = 12
MONTHS = [0.0, 24.0, 48.0, 96.0]


def cohort(count: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys whose first axis carries the grade now and whose second carries the pace; rising series."""
    draws = torch.Generator().manual_seed(seed)
    w = torch.randn(count, D, generator=draws)
    grade = (w[:, 0] + 1.5 + 0.3 * torch.randn(count, generator=draws)).round().clamp(0, 4).long()
    series = [grade]
    for _ in MONTHS[1:]:
        rises = torch.rand(count, generator=draws) < 0.15 * torch.exp(0.8 * w[:, 1]).clamp(max=5)
        series.append((series[-1] + rises).clamp(max=4))
    return w, torch.stack(series, dim=1)


def real_bank(count: int = 1000) -> TrajectoryBank:
    w, series = cohort(count)
    return build_graded(
        w, subject=[f"P{i // 2}" for i in range(count)], grade_series=series.numpy(), series_months=MONTHS
    )


@pytest.fixture(scope="module")
def real() -> TrajectoryBank:
    return real_bank()


@pytest.fixture(scope="module")
def made(real: TrajectoryBank) -> TrajectoryBank:
    return synthesise(real, count=1000, components=6)[0]


def rises(bank: TrajectoryBank) -> torch.Tensor:
    return (bank.grade_series[:, -1] - bank.grade_series[:, 0]).float()


def test_grades_and_rises_are_distributed_alike(real: TrajectoryBank, made: TrajectoryBank) -> None:
    for grade in range(5):
        shares = [(bank.grade_series[:, 0] == grade).float().mean().item() for bank in (real, made)]
        assert shares[1] == pytest.approx(shares[0], abs=0.05)
    assert rises(made).mean().item() == pytest.approx(rises(real).mean().item(), rel=0.2)
    assert (made.grade_series.diff(dim=1) >= 0).all()


def test_pace_still_depends_on_the_latent(real: TrajectoryBank, made: TrajectoryBank) -> None:
    for bank in (real, made):
        can = bank.grade_series[:, 0] <= 2
        fast = bank.w[:, 1] > 0
        assert rises(bank)[can & fast].mean() > 1.5 * rises(bank)[can & ~fast].mean()


def test_displacements_follow_the_grade(real: TrajectoryBank, made: TrajectoryBank) -> None:
    assert not made.displacement[rises(made) == 0].any()
    for rise in (1, 2):
        mean = [bank.displacement[rises(bank) == rise].mean(dim=0) for bank in (real, made)]
        torch.testing.assert_close(mean[1], mean[0], atol=0.15, rtol=0.2)


def test_nothing_of_the_real_bank_is_in_it(real: TrajectoryBank, made: TrajectoryBank) -> None:
    assert set(made.kind) == {"synthetic"}
    assert not set(made.subject) & set(real.subject)
    assert nearest_distances(made.w, real.w).min() > 0


def test_keys_have_the_moments_of_the_population() -> None:
    like = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0)) @ torch.randn(5, 5) + 3
    keys = sample_keys(like, 20_000, seed=1)
    torch.testing.assert_close(keys.mean(dim=0), like.mean(dim=0), atol=0.1, rtol=0.05)
    torch.testing.assert_close(keys.T.cov(), like.T.cov(), atol=0.2, rtol=0.1)
    assert sample_keys(like, 5, seed=2).equal(sample_keys(like, 5, seed=2))


def test_copies_are_found_out(real: TrajectoryBank) -> None:
    independent = sample_keys(real.w, len(real), seed=7)
    fine = nearest_distance_test(sample_keys(real.w, 500, seed=8), real.w, independent=independent)
    assert fine.passed
    assert fine.share_nearer < 0.05
    assert fine.training_median == pytest.approx(fine.independent_median, rel=0.1)
    copied = torch.cat([sample_keys(real.w, 499, seed=8), 2 * real.w[:1] + 0.001])
    bad = nearest_distance_test(copied, real.w, independent=independent)
    assert not bad.passed
    assert bad.training_min < 0.01


def test_keys_too_near_are_dropped(real: TrajectoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(like: torch.Tensor, count: int, *, seed: int) -> torch.Tensor:
        keys = sample_keys(like, count, seed=seed)
        if seed == 0:
            keys[:5] = like[:5] * 1.001
        return keys

    monkeypatch.setattr(synthetic, "sample_keys", leaky)
    made, privacy = synthesise(real, count=300, components=4)
    assert privacy.passed
    assert len(made) == 300

    def parrot(like: torch.Tensor, count: int, *, seed: int) -> torch.Tensor:
        return like[torch.arange(count) % len(like)] if seed == 0 else sample_keys(like, count, seed=seed)

    monkeypatch.setattr(synthetic, "sample_keys", parrot)
    with pytest.raises(UsageError, match="keep their distance"):
        synthesise(real, count=300, components=4)


def test_imaged_bank_keeps_drift_without_grade_change(real: TrajectoryBank) -> None:
    years = real.interval_months / 12
    drift = torch.zeros(len(real), D)
    drift[:, 3] = 0.1 * years
    noise = 0.05 * torch.randn(len(real), D, generator=torch.Generator().manual_seed(2))
    imaged = TrajectoryBank(
        **{
            **vars_of(real),
            "displacement": real.displacement + drift + noise,
            "kind": np.full(len(real), "imaged"),
        }
    )
    made = BankModel.fit(imaged, components=4).sample(sample_keys(real.w, 400, seed=5), seed=0)
    still = rises(made) == 0
    assert made.displacement[still, 3].mean().item() == pytest.approx(0.8, rel=0.1)
    assert made.displacement[still, 5].std() > 0.02


def vars_of(bank: TrajectoryBank) -> dict[str, object]:
    return {name: getattr(bank, name) for name in bank.__dataclass_fields__}


def test_same_seed_same_bank(real: TrajectoryBank) -> None:
    model = BankModel.fit(real, components=4)
    keys = sample_keys(real.w, 50, seed=3)
    one, two = model.sample(keys, seed=1), model.sample(keys, seed=1)
    assert one.displacement.equal(two.displacement)
    assert not one.grade_series.equal(model.sample(keys, seed=2).grade_series)


def test_wrong_banks(made: TrajectoryBank, real: TrajectoryBank) -> None:
    with pytest.raises(UsageError, match="kind graded or of kind imaged, got synthetic"):
        BankModel.fit(made)
    unread = TrajectoryBank(**{**vars_of(real), "grade_series": torch.full_like(real.grade_series, -1)})
    with pytest.raises(UsageError, match="grades at the first"):
        BankModel.fit(unread)
    with pytest.raises(UsageError, match="as many independent samples"):
        nearest_distance_test(made.w, real.w, independent=real.w[:5])
