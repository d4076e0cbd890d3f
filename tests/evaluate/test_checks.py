"""Checks of what was learnt, on pictures whose faults are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from progression.errors import UsageError
from progression.evaluate.checks import (
    detail_by_scale,
    exposure_drift,
    grade_coverage,
    grade_shares_text,
    identity_kept,
    real_or_synthetic,
)


def pictures(count: int, *, seed: int, level: float = 128.0) -> Tensor:
    """Smooth blobs at random places."""
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 4, 4, generator=draws)
    smooth = torch.nn.functional.interpolate(coarse, size=16, mode="bicubic")[:, 0]
    return (level + 30 * smooth).clamp(0, 255).to(torch.uint8)


def test_pictures_of_one_source_cannot_be_told_apart() -> None:
    found = real_or_synthetic(
        (pictures(128, seed=0), pictures(128, seed=1)),
        (pictures(200, seed=2), pictures(200, seed=3)),
        epochs=2,
    )
    low, high = found["interval"]
    assert low < 0.5 < high
    assert found["trained_on"] == 256 and found["tested_on"] == 400
    assert 0.2 < found["fooled"] < 0.8


def test_an_artefact_gives_synthetic_pictures_away() -> None:
    def striped(seed: int) -> Tensor:
        x = pictures(128, seed=seed)
        x[:, ::2] = (x[:, ::2].int() + 60).clamp(max=255).to(torch.uint8)
        return x

    found = real_or_synthetic(
        (pictures(128, seed=0), striped(1)), (pictures(100, seed=2), striped(3)), epochs=6, learning_rate=3e-3
    )
    assert found["auc"] > 0.95
    assert found["fooled"] < 0.05


def test_a_check_does_not_disturb_or_depend_on_the_random_state_outside() -> None:
    sets = (pictures(32, seed=0), pictures(32, seed=1)), (pictures(32, seed=2), pictures(32, seed=3))
    torch.manual_seed(1)
    one = real_or_synthetic(*sets, epochs=1)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert real_or_synthetic(*sets, epochs=1)["auc"] == one["auc"]
    assert torch.equal(torch.get_rng_state(), before)


def test_identity_by_hand() -> None:
    # the first two come back to themselves, the third comes back as the first
    real = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    rebuilt = np.array([[1.0, 0.0], [9.0, 1.0], [1.0, 2.0]])
    found = identity_kept(real, rebuilt)
    assert found == {"first": pytest.approx(2 / 3), "first_five": 1.0, "by_chance": pytest.approx(1 / 3)}
    with pytest.raises(UsageError, match=r"pictures and reconstructions"):
        identity_kept(real, rebuilt[:2])


def test_exposure_drift_sees_a_shift_and_only_that() -> None:
    real = pictures(300, seed=0)
    brighter = (real.int() + 40).clamp(max=255).to(torch.uint8)
    found = exposure_drift(real, brighter)
    assert found["mean"]["distance"] > 0.9
    assert found["mean"]["made"][1] - found["mean"]["real"][1] == pytest.approx(40 / 255, abs=0.01)
    assert found["deviation"]["distance"] < 0.1
    assert exposure_drift(real, real)["mean"]["distance"] == 0.0


def test_detail_by_scale_sees_what_smoothing_takes() -> None:
    draws = torch.Generator().manual_seed(0)
    noise = (128 + 30 * torch.randn(64, 32, 32, generator=draws)).clamp(0, 255)
    smooth = torch.nn.functional.avg_pool2d(noise[:, None], 3, stride=1, padding=1)[:, 0]
    found = detail_by_scale(noise.to(torch.uint8), smooth.to(torch.uint8))
    assert list(found) == [1, 2, 4, 8, 16]
    assert found[1] > 0.7 and found[16] < 0.15
    assert detail_by_scale(noise.to(torch.uint8), noise.to(torch.uint8))[8] == pytest.approx(1.0)


def test_grade_coverage_by_hand() -> None:
    found = grade_coverage(np.eye(5), np.eye(5)[:2])
    assert found["real"] == [0.2] * 5
    assert found["made"] == [0.5, 0.5, 0.0, 0.0, 0.0]
    assert grade_shares_text(found).splitlines()[1].split() == ["real", *["0.200"] * 5]
