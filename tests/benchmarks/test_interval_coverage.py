"""Coverage of intervals on made-up risks: the benchmark counts what it says that it counts."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("interval_coverage", "extrapolation_phantom", "phantom_films"):
        sys.modules.pop(name, None)
    return importlib.import_module("interval_coverage")


def _interval(benchmark: ModuleType, z: np.ndarray, sd: float) -> np.ndarray:
    reach = benchmark.INTERVAL_SDS * sd
    return np.asarray(1 / (1 + np.exp(-np.stack([z - reach, z + reach], axis=1))))


def test_own_truths_at_known_distances(benchmark: ModuleType) -> None:
    """1, 1.8 and 3 standard deviations off: held at 90 and 95 %, at 95 % only, and never; risk 0 has no interval."""
    z, sd = np.array([-2.0, -1.0, 0.0, -30.0]), 0.5
    risk = 1 / (1 + np.exp(-z))
    risk[3] = 0.0
    truth = 1 / (1 + np.exp(-(z + sd * np.array([1.0, -1.8, 3.0, 0.0]))))
    found = benchmark.coverage(risk, _interval(benchmark, z, sd), truth)
    assert found["knees"] == 3 and found["sd"] == pytest.approx(sd)
    assert found["own 90 %"].value == pytest.approx(1 / 3)
    assert found["own 95 %"].value == pytest.approx(2 / 3)
    assert found["own apart"] == pytest.approx(1.8)


def test_knees_alike_have_the_mean_truth_of_their_risk(benchmark: ModuleType) -> None:
    """Own chances scatter around a curve that is known: the curve is found, and it is held where it is near."""
    rng = np.random.default_rng(0)
    z = rng.normal(-2, 1, size=20_000)
    curve = 1 / (1 + np.exp(-(0.3 + 0.8 * z)))
    truth = rng.beta(2 * curve, 2 * (1 - curve))
    np.testing.assert_allclose(benchmark.alike(1 / (1 + np.exp(-z)), truth), curve, atol=0.02)
    found = benchmark.coverage(1 / (1 + np.exp(-z)), _interval(benchmark, z, 0.3), truth)
    # |0.3 - 0.2 z| <= 1.645 · 0.3, so -0.97 <= z <= 3.97
    assert found["alike 90 %"].value == pytest.approx(((z > -0.97) & (z < 3.97)).mean(), abs=0.03)


def test_peers_of_right_intervals_are_held_as_often_as_stated(benchmark: ModuleType) -> None:
    rng = np.random.default_rng(1)
    centre, sd = rng.normal(-2, 1, size=20_000), 0.4
    for stated, spread in ((sd, 1.0), (sd / 2, 2.0)):
        trainings = [centre + sd * rng.normal(size=len(centre)) for _ in range(4)]
        by = [(1 / (1 + np.exp(-z)), _interval(benchmark, z, stated)) for z in trainings]
        shares, found = benchmark.peers(by)
        assert found == pytest.approx(spread, abs=0.02)
        if stated == sd:
            assert shares["90 %"] == pytest.approx([0.9] * 4, abs=0.01)
            assert shares["95 %"] == pytest.approx([0.95] * 4, abs=0.01)
        else:
            assert max(shares["95 %"]) < 0.7
