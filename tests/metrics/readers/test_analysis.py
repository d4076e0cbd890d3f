"""The published analysis of VanDyke, cases worked by hand, and what must hold for any ratings."""

from __future__ import annotations

import dataclasses
import json
from math import inf, isnan
from pathlib import Path
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from progression.errors import TableError, UsageError
from progression.metrics.auc import delong_covariance, delong_test
from progression.metrics.readers import analyse, obuchowski_rockette
from progression.metrics.readers.model import (
    ErrorCovariance,
    Factor,
    MeanSquares,
    error_covariance,
    f_test,
    mean_squares,
    noise_of_differences,
)
from tests.reader_studies import study

MODELS: list[tuple[Factor, Factor]] = [("random", "random"), ("fixed", "random"), ("random", "fixed")]


class TestVanDyke:
    """Van Dyke et al. 1993: aortic dissection in spin-echo and cine MRI, 5 readers, 114 patients.

    Expected: the printed output of OR-DBM MRMC 2.51 (trapezoidal AUC, jackknife).  The ratings are not
    part of the package; what follows from the printed means and covariances is checked without them.
    """

    AUCS = np.array(
        [
            [0.91964573, 0.85877617, 0.90386473, 0.97310789, 0.82979066],
            [0.94782609, 0.90531401, 0.92173913, 0.99935588, 0.92995169],
        ]
    )
    ERRORS = ErrorCovariance(variance=0.00080229, cov1=0.00034661, cov2=0.00034407, cov3=0.00023903)
    # readers, cases: F, ddf, p, standard error of the difference
    PRINTED: ClassVar[dict[tuple[Factor, Factor], tuple[float, float, float, float]]] = {
        ("random", "random"): (4.46, 15.26, 0.0517, 0.02075),
        ("fixed", "random"): (5.476, inf, 0.0193, 0.01872),
        ("random", "fixed"): (8.70, 4, 0.0420, 0.01485),
    }

    @pytest.mark.parametrize(("readers", "cases"), MODELS)
    def test_from_printed_means_and_covariances(self, readers: Factor, cases: Factor) -> None:
        squares = mean_squares(self.AUCS)
        assert dataclasses.astuple(squares) == pytest.approx((0.00479617, 0.00383620, 0.00055103), abs=5e-9)
        errors = self.ERRORS if cases == "random" else None
        noise = noise_of_differences(squares, errors, shape=(2, 5), readers=readers)
        test = f_test(squares.treatment, noise, n_treatments=2)
        f, ddf, p, stderr = self.PRINTED[readers, cases]
        assert test.f == pytest.approx(f, abs=0.005)
        assert test.df_denominator == pytest.approx(ddf, abs=0.005)
        assert test.p == pytest.approx(p, abs=0.00005)
        assert np.sqrt(2 * noise.mean_square / 5) == pytest.approx(stderr, abs=0.000005)

    def test_from_the_ratings_digit_for_digit(self, shared: Path) -> None:
        folder = shared / "data" / "readers"
        if not (folder / "vandyke_ratings.csv").is_file():
            pytest.skip("needs the Van Dyke ratings, which are not part of the project")
        table = pd.read_csv(folder / "vandyke_ratings.csv")
        expected = json.loads((folder / "vandyke_expected.json").read_text())
        found = {
            name: obuchowski_rockette(table, readers=readers, cases=cases)
            for name, (readers, cases) in zip(
                ("random_readers_random_cases", "fixed_readers_random_cases", "random_readers_fixed_cases"),
                MODELS,
                strict=True,
            )
        }
        study = found["random_readers_random_cases"]
        assert study.errors is not None
        for i, treatment in enumerate(study.treatments):
            assert [round(area, 8) for area in study.figures[i]] == expected["auc_by_reader"][treatment]
            assert round(study.estimates[i].value, 8) == expected["auc_mean"][treatment]
        squares = {name: round(value, 8) for name, value in zip(
            ("T", "R", "TR"), dataclasses.astuple(study.squares), strict=True)}  # fmt: skip
        assert squares == expected["mean_squares"]
        errors = {name: round(value, 8) for name, value in zip(
            ("var_error", "cov1", "cov2", "cov3"), dataclasses.astuple(study.errors), strict=True)}  # fmt: skip
        assert errors == expected["covariances"]
        for name, analysis in found.items():
            test, (difference,) = analysis.test, analysis.differences
            assert test is not None
            ours: dict[str, Any] = {
                "F": round(test.f, 2),
                "chi2": round(test.chi2, 5),
                "ddf": round(test.df_denominator, 2),
                "p": round(test.p, 4),
                "difference": round(difference.difference, 5),
                "stderr": round(difference.stderr, 5),
                "ci95": [round(difference.low, 5), round(difference.high, 5)],
            }
            assert {key: ours[key] for key in expected[name]} == expected[name]
            assert difference.p == pytest.approx(test.p, rel=1e-9)


def test_mean_squares_by_hand() -> None:
    # grand mean 5; treatments 4, 6; readers 3.5, 6.5; all interaction residuals ±0.5
    squares = mean_squares(np.array([[3.0, 5.0], [4.0, 8.0]]))
    assert squares == MeanSquares(treatment=4.0, reader=9.0, treatment_reader=1.0)


def test_error_covariance_counts_every_pair_once() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    covariance = (root @ root.T).reshape(2, 3, 2, 3)
    kinds: dict[tuple[bool, bool], list[float]] = {}
    for i, j, k, m in np.ndindex(2, 3, 2, 3):
        kinds.setdefault((i == k, j == m), []).append(covariance[i, j, k, m])
    found = error_covariance(covariance)
    expected = [np.mean(kinds[kind]) for kind in ((True, True), (False, True), (True, False), (False, False))]
    assert dataclasses.astuple(found) == pytest.approx(expected, abs=1e-12)


def test_random_readers_on_fixed_cases_are_a_paired_t_test() -> None:
    first, second = [0.7, 0.8, 0.65, 0.9], [0.6, 0.75, 0.7, 0.7]
    found = analyse([first, second], None, treatments=["a", "b"], reader_names="1234", cases="fixed")
    expected = ttest_rel(first, second)
    (difference,) = found.differences
    assert (difference.statistic, difference.p) == pytest.approx((expected.statistic, expected.pvalue))
    low, high = expected.confidence_interval()
    assert (difference.low, difference.high) == pytest.approx((low, high))
    assert found.test is not None
    assert (found.test.f, found.test.p) == pytest.approx((expected.statistic**2, expected.pvalue))


def test_one_reader_is_a_paired_test() -> None:
    table = study(n_readers=1)
    found = obuchowski_rockette(table, readers="fixed", covariance="delong")
    one, two = (table[table["treatment"] == name] for name in ("aided", "unaided"))
    z, p = delong_test(one["truth"], one["rating"], two["rating"])
    (difference,) = found.differences
    assert (difference.statistic, difference.p) == pytest.approx((z, p))
    assert (difference.statistic, difference.p) == pytest.approx(
        (found.by_reader[0].statistic, found.by_reader[0].p)
    )
    assert found.test is not None and found.test.chi2 == pytest.approx(z * z)
    _, covariance = delong_covariance(one["truth"], [one["rating"]])
    assert found.estimates[0].stderr == pytest.approx(np.sqrt(covariance[0, 0]))
    assert found.components is None


def test_fixed_readers_are_a_test_of_their_mean() -> None:
    """All readers' AUCs averaged by hand: the same, as the pooled covariances average to it."""
    table = study(gain=0.3)
    found = obuchowski_rockette(table, readers="fixed", covariance="delong")
    first, second = (
        table[table["treatment"] == name].pivot(index="reader", columns="case", values="rating").to_numpy()
        for name in ("aided", "unaided")
    )
    truth = table[:40]["truth"]
    theta, covariance = delong_covariance(truth, [*first, *second])
    contrast = np.repeat([0.25, -0.25], 4)
    assert found.errors is not None and found.errors.cov2 > found.errors.cov3
    assert found.differences[0].difference == pytest.approx(contrast @ theta)
    assert found.differences[0].stderr == pytest.approx(np.sqrt(contrast @ covariance @ contrast))


def test_single_treatments() -> None:
    """Fixed readers, by the covariance of the readers' mean; random readers on fixed cases, by Student."""
    table = study(gain=0.3)
    both = obuchowski_rockette(table, readers="fixed")
    alone = obuchowski_rockette(table[table["treatment"] == "aided"], readers="fixed")
    assert alone.test is None and alone.differences == () and isnan(alone.squares.treatment)
    assert alone.estimates[0] == both.estimates[0]
    assert alone.errors is not None
    expected = np.sqrt((alone.errors.variance + 3 * alone.errors.cov2) / 4)
    assert alone.estimates[0].stderr == pytest.approx(expected)
    assert alone.estimates[0].high - alone.estimates[0].value == pytest.approx(
        NormalDist().inv_cdf(0.975) * expected
    )
    spread = obuchowski_rockette(table, cases="fixed").estimates[0]
    assert spread.stderr == pytest.approx(np.std(both.figures[0], ddof=1) / 2)
    assert spread.df == 3
    widest = obuchowski_rockette(table).estimates[0]
    assert widest.stderr > spread.stderr and widest.df > 3


@pytest.mark.parametrize(("readers", "cases"), MODELS)
def test_two_identical_treatments_do_not_differ(readers: Factor, cases: Factor) -> None:
    table = study()
    same = table[table["treatment"] == "aided"]
    twice = pd.concat([same, same.assign(treatment="unaided")])
    found = obuchowski_rockette(twice, readers=readers, cases=cases)
    (difference,) = found.differences
    assert (difference.difference, difference.p) == (0.0, 1.0)
    assert (difference.low, difference.high) == pytest.approx((0, 0), abs=1e-6)
    assert found.test is not None and found.test.p == 1.0
    assert all(entry.p == 1.0 for entry in found.by_reader)


def test_readings_without_any_variance() -> None:
    """No reader and no case departs from the mean: nothing to hold the difference against, as in `delong_test`."""
    table = study(n_readers=3)
    table["rating"] = np.where(table["treatment"] == "aided", table["truth"], 1)
    found = obuchowski_rockette(table)
    assert found.test is not None
    assert (found.test.p, found.differences[0].p, found.differences[0].difference) == (0.0, 0.0, 0.5)


def test_three_treatments() -> None:
    table = study(treatments=("a", "b", "c"), gain=0.4)
    found = obuchowski_rockette(table)
    assert [(d.first, d.second) for d in found.differences] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert found.test is not None and found.test.df_numerator == 2
    a, b, c = found.figures.mean(axis=1)
    assert [d.difference for d in found.differences] == pytest.approx([a - b, a - c, b - c])
    assert len({round(d.stderr, 12) for d in found.differences}) == 1
    assert len(found.by_reader) == 3 * 4


def test_sensitivity_and_specificity() -> None:
    table = study(gain=0.5)
    for merit, truth in (("sensitivity", 1), ("specificity", 0)):
        found = obuchowski_rockette(table, merit=merit, threshold=3)
        about = table[table["truth"] == truth]
        right = (about["rating"] >= 3) == bool(truth)
        expected = right.groupby([about["treatment"], about["reader"]]).mean().unstack().to_numpy()
        np.testing.assert_allclose(found.figures, expected)
        assert found.n_cases == len(about) / 8
        assert found.n_positive == (found.n_cases if truth else 0)


def summary(table: pd.DataFrame, **options: Any) -> list[float]:
    found = obuchowski_rockette(table, **options)
    assert found.test is not None and found.errors is not None
    return [*found.figures.sum(axis=1), *dataclasses.astuple(found.errors), found.test.f, found.test.p,
            found.differences[0].low, found.differences[0].high]  # fmt: skip


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    per_subject=st.integers(1, 3),
    power=st.floats(0.3, 3),
    covariance=st.sampled_from(["jackknife", "delong"]),
    order=st.randoms(use_true_random=False),
)
def test_invariants(seed: int, per_subject: int, power: float, covariance: str, order: Any) -> None:
    table = study(seed, per_subject=per_subject, n_cases=24)
    expected = pytest.approx(summary(table, covariance=covariance), abs=1e-9)
    # any scale of the same order
    scaled = table.assign(rating=np.exp(table["rating"].astype(float) ** power))
    assert summary(scaled, covariance=covariance) == expected
    # any names, and with them any order, of readers and cases
    names = list(range(24))
    order.shuffle(names)
    renamed = table.assign(case=table["case"].map(lambda c: names[c]), reader=table["reader"].map(
        dict(zip(["r1", "r2", "r3", "r4"], order.sample("wxyz", 4), strict=True))))  # fmt: skip
    assert summary(renamed, covariance=covariance) == expected
    # the other way round: who is healthy and who is ill, and with it the scale
    mirrored = table.assign(truth=1 - table["truth"], rating=-table["rating"])
    assert summary(mirrored, covariance=covariance) == expected


@settings(max_examples=40)
@given(seed=st.integers(0, 1000))
def test_exchanging_treatments_only_turns_the_sign(seed: int) -> None:
    table = study(seed, n_cases=24)
    other = table.assign(treatment=table["treatment"].map({"aided": "unaided", "unaided": "aided"}))
    (one,), (two,) = (obuchowski_rockette(t).differences for t in (table, other))
    assert (one.difference, one.low, one.high, one.p) == pytest.approx(
        (-two.difference, -two.high, -two.low, two.p), abs=1e-9
    )


@pytest.mark.parametrize(("readers", "cases"), MODELS)
def test_intervals_and_p_tell_the_same(readers: Factor, cases: Factor) -> None:
    decided = []
    for seed in range(20):
        (d,) = obuchowski_rockette(study(seed, gain=0.6), readers=readers, cases=cases).differences
        assert d.low <= d.difference <= d.high
        assert (d.low <= 0 <= d.high) == (d.p >= 0.05)
        decided.append(d.p < 0.05)
    assert any(decided) and not all(decided)


def test_no_difference_is_found_about_as_often_as_alpha_says() -> None:
    """27 of 400 studies without a difference (docs/reader_study.md): with three readers a little liberal."""
    found = 0
    for seed in range(400):
        test = obuchowski_rockette(study(seed, n_readers=3, n_cases=60), covariance="delong").test
        assert test is not None
        found += test.p < 0.05
    assert abs(found - 27) <= 1


def test_the_bootstrap_is_reproducible() -> None:
    table = study()
    first, again, other = (
        obuchowski_rockette(table, covariance="bootstrap", n_draws=100, seed=seed) for seed in (0, 0, 1)
    )
    assert first.errors == again.errors != other.errors


def test_subjects_widen_the_interval() -> None:
    table = study(per_subject=2, n_cases=80)
    with_subjects = obuchowski_rockette(table, readers="fixed")
    without = obuchowski_rockette(table.drop(columns="subject"), readers="fixed")
    assert (with_subjects.n_subjects, without.n_subjects) == (40, 80)
    assert with_subjects.estimates[0].stderr > without.estimates[0].stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"readers": "fixed", "cases": "fixed"}, "nothing is a sample"),
        ({"readers": "all"}, "expected readers 'random' or 'fixed', received 'all'"),
        ({"cases": "all"}, "expected cases 'random' or 'fixed', received 'all'"),
        ({"merit": "youden"}, "expected merit auc or sensitivity or specificity, received 'youden'"),
        ({"covariance": "magic"}, "expected covariance jackknife or delong or bootstrap"),
        ({"merit": "sensitivity"}, "needs a threshold"),
        ({"confidence": 95}, "confidence between 0 and 1, received 95"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        obuchowski_rockette(study(), **options)


def test_refuses_what_cannot_be_told() -> None:
    with pytest.raises(UsageError, match="one reader cannot stand for readers"):
        obuchowski_rockette(study(n_readers=1))
    few = study(n_cases=3)
    with pytest.raises(TableError, match="at least 2 subjects without the condition, received 1"):
        obuchowski_rockette(few)
    with pytest.raises(UsageError, match="random cases need the covariance"):
        analyse([[0.5, 0.6]], None, treatments=["a"], reader_names=["1", "2"])
    with pytest.raises(UsageError, match="finite figures of 1 treatments by 2 readers"):
        analyse([[0.5, np.nan]], None, treatments=["a"], reader_names=["1", "2"], cases="fixed")
