"""Planning: against the definition of power, and simulation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from progression.errors import UsageError
from progression.metrics.readers import Pilot, cases_needed, obuchowski_rockette, power
from progression.metrics.readers.model import ErrorCovariance, f_test, mean_squares, noise_of_differences
from tests.reader_studies import study

VANDYKE = Pilot(variance=0.0008022883, cov1=0.0003466137, cov2=0.0003440748, cov3=0.0002390284,
                treatment_reader=0.0002004025, cases=114)  # fmt: skip


@pytest.mark.parametrize(
    ("n_readers", "n_cases"), [(4, 1089), (5, 344), (6, 251), (7, 211), (8, 188), (9, 173), (10, 163)]
)
def test_cases_for_the_observed_difference_of_vandyke(n_readers: int, n_cases: int) -> None:
    """80 % for a difference of 0.0438: our own numbers, so that a change shows."""
    assert cases_needed(VANDYKE, n_readers=n_readers, difference=0.04380032) == n_cases


def test_some_studies_are_out_of_reach() -> None:
    assert cases_needed(VANDYKE, n_readers=3, difference=0.0438, most=2000) is None
    assert cases_needed(VANDYKE, n_readers=8, difference=0.0438, readers="fixed") < 188  # type: ignore[operator]


@pytest.mark.parametrize("readers", ["random", "fixed"])
@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_power_without_a_difference_is_alpha(readers: str, alpha: float) -> None:
    found = power(VANDYKE, n_readers=5, n_cases=[50, 200], difference=0, alpha=alpha, readers=readers)  # type: ignore[arg-type]
    assert found == pytest.approx([alpha, alpha])


def test_power_rises_with_readers_cases_and_difference() -> None:
    assert (np.diff(power(VANDYKE, n_readers=6, n_cases=np.arange(20, 400), difference=0.05)) > 0).all()
    by_readers = [float(power(VANDYKE, n_readers=r, n_cases=150, difference=0.05)) for r in range(3, 12)]
    assert (np.diff(by_readers) > 0).all()
    one, two = (float(power(VANDYKE, n_readers=6, n_cases=150, difference=d)) for d in (0.03, -0.06))
    assert one < two


def test_fixed_cases_leave_only_the_readers() -> None:
    fixed = power(VANDYKE, n_readers=5, n_cases=114, difference=0.05, cases="fixed")
    assert fixed > power(VANDYKE, n_readers=5, n_cases=114, difference=0.05)


def test_pilot_of_a_study() -> None:
    found = obuchowski_rockette(study(gain=0.4))
    pilot = Pilot.of(found)
    assert found.errors is not None and found.components is not None
    assert (pilot.variance, pilot.cov3) == (found.errors.variance, found.errors.cov3)
    assert (pilot.treatment_reader, pilot.cases) == (found.components.treatment_reader, 40)
    with pytest.raises(UsageError, match="two treatments, two readers and random cases"):
        Pilot.of(obuchowski_rockette(study(), cases="fixed"))


def test_power_is_how_often_the_test_finds_it() -> None:
    """Figures drawn from the model itself, with the true error covariances and σ²_TR."""
    rng = np.random.default_rng(0)
    n_readers, difference, draws = 5, 0.06, 4000
    v, c1, c2, c3 = VANDYKE.variance, VANDYKE.cov1, VANDYKE.cov2, VANDYKE.cov3
    treatments, people = np.eye(2), np.eye(n_readers)
    covariance = (
        np.kron(treatments, people) * (v - c1 - c2 + c3)
        + np.kron(np.ones((2, 2)), people) * (c1 - c3)
        + np.kron(treatments, np.ones((n_readers, n_readers))) * (c2 - c3)
        + c3
        + np.eye(2 * n_readers) * VANDYKE.treatment_reader
    )
    theta = rng.multivariate_normal(np.zeros(2 * n_readers), covariance, size=draws).reshape(draws, 2, -1)
    theta[:, 0] += difference
    found = 0
    for figures in theta:
        squares = mean_squares(figures)
        noise = noise_of_differences(
            squares, ErrorCovariance(v, c1, c2, c3), shape=(2, n_readers), readers="random"
        )
        found += f_test(squares.treatment, noise, n_treatments=2).p < 0.05
    expected = float(power(VANDYKE, n_readers=n_readers, n_cases=114, difference=difference))
    assert found / draws == pytest.approx(expected, abs=0.03)


def test_conjectured_by_hand() -> None:
    # Hanley & McNeil: Q1 = .8/1.2, Q2 = 1.28/1.8; (.16 + 9·(.66667 − .64) + 19·(.71111 − .64)) / 200
    pilot = Pilot.conjectured(auc=0.8, events=10, others=20, r1=0.5, r2=0.4, r3=0.3, treatment_reader=1e-4)
    variance = (0.16 + 9 * (0.8 / 1.2 - 0.64) + 19 * (1.28 / 1.8 - 0.64)) / 200
    expected = (variance, 0.5 * variance, 0.4 * variance, 0.3 * variance, 1e-4, 30)
    assert dataclasses.astuple(pilot) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_readers": 1, "n_cases": 100}, "at least 2 readers"),
        ({"n_readers": 5, "n_cases": 1}, "at least 2 readers and 2 cases, received 5 and 1"),
        ({"n_readers": 5, "n_cases": 100, "alpha": 5}, "alpha between 0 and 1"),
        ({"n_readers": 5, "n_cases": 100, "difference": 5}, "difference 5: expected a fraction"),
        ({"n_readers": 5, "n_cases": 100, "difference": np.nan}, "difference nan: expected a fraction"),
        ({"n_readers": 5, "n_cases": 100, "readers": "fixed", "cases": "fixed"}, "nothing is a sample"),
    ],
)
def test_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        power(VANDYKE, **{"difference": 0.05, **options})  # type: ignore[arg-type]


def test_refuses_impossible_pilots_and_targets() -> None:
    with pytest.raises(UsageError, match="variance above cov1"):
        Pilot(variance=1e-4, cov1=2e-4, cov2=0, cov3=0, treatment_reader=0, cases=100)
    with pytest.raises(UsageError, match="power between 0 and 1"):
        cases_needed(VANDYKE, n_readers=5, difference=0.05, target=80)
    for points in (5, 1, 0, -0.05, np.nan):
        with pytest.raises(UsageError, match=r"expected a fraction between 0 and 1 \(0.05 for five points\)"):
            cases_needed(VANDYKE, n_readers=5, difference=points)
    with pytest.raises(UsageError, match="AUC between 0 and 1"):
        Pilot.conjectured(auc=1.0, events=10, others=20, r1=0.5, r2=0.4, r3=0.3, treatment_reader=0)
