"""Intervals against published examples and against counting; McNemar by hand."""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from progression.errors import UsageError
from progression.metrics import mcnemar, proportion, sensitivity, specificity, threshold_for

Y = [0, 0, 0, 0, 1, 1, 1]
SCORE = [1, 2, 3, 3, 2, 4, 5]


def test_published_examples() -> None:
    # Newcombe 1998 (Stat Med 17:857), table I: 81 of 263 and 15 of 148
    wilson = proportion([1] * 81 + [0] * 182)
    assert (round(wilson.low, 4), round(wilson.high, 4)) == (0.2553, 0.3662)
    exact = proportion([1] * 15 + [0] * 133, interval="exact")
    assert (round(exact.low, 4), round(exact.high, 4)) == (0.0578, 0.1617)


@given(right=st.integers(0, 30), wrong=st.integers(0, 30), confidence=st.floats(0.5, 0.999))
def test_as_scipy_has_it(right: int, wrong: int, confidence: float) -> None:
    n = right + wrong
    if n == 0:
        return
    for interval in ("wilson", "exact"):
        found = proportion([1] * right + [0] * wrong, interval=interval, confidence=confidence)  # type: ignore[arg-type]
        expected = binomtest(right, n).proportion_ci(confidence, method=interval)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_at_a_threshold_by_hand() -> None:
    found = sensitivity(Y, SCORE, threshold=4)
    assert (found.count, found.total, found.value) == (2, 3, pytest.approx(2 / 3))
    assert sensitivity(Y, SCORE, threshold=2).value == 1
    assert specificity(Y, SCORE, threshold=3).count == 2
    assert specificity(Y, SCORE, threshold=3.5).value == 1


def test_threshold_for_a_fixed_point() -> None:
    assert threshold_for(Y, SCORE, sensitivity=1) == 2
    assert threshold_for(Y, SCORE, sensitivity=0.6) == 4
    assert threshold_for(Y, SCORE, specificity=0.5) == 3
    assert threshold_for(Y, SCORE, specificity=1) == 4
    assert threshold_for([0, 1], [2, 1], specificity=1) == float("inf")


@given(
    st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=2, max_size=40),
    st.floats(0, 1, allow_subnormal=False),
)
def test_a_threshold_reaches_what_was_asked_and_no_higher_one_does(
    rows: list[tuple[bool, int]], share: float
) -> None:
    rows = [*rows, (True, 0), (False, 0)]
    y, score = [int(r[0]) for r in rows], [r[1] for r in rows]
    found = threshold_for(y, score, sensitivity=share)
    assert sensitivity(y, score, threshold=found).value >= share - 1e-9
    for higher in {s for s in score if s > found}:
        assert sensitivity(y, score, threshold=higher).value < share
    found = threshold_for(y, score, specificity=share)
    assert specificity(y, score, threshold=found).value >= share - 1e-9
    for lower in {s for s in score if s < found}:
        assert specificity(y, score, threshold=lower).value < share


def test_one_knee_a_person_changes_nothing() -> None:
    right = [1, 0, 1, 1, 0, 1, 1, 1]
    assert proportion(right, subject=list("abcdefgh")) == proportion(right)


def test_knees_that_repeat_each_other_count_once() -> None:
    rng = np.random.default_rng(0)
    right = (rng.random(200) < 0.7).astype(int)
    doubled = proportion(np.repeat(right, 2), subject=np.repeat(np.arange(200), 2))
    single = proportion(right)
    assert doubled.design_effect == pytest.approx(2, abs=0.02)
    assert (doubled.low, doubled.high) == pytest.approx((single.low, single.high), abs=1e-3)
    assert doubled.value == single.value


def test_a_share_of_one_counts_people() -> None:
    found = proportion([1] * 20, subject=np.arange(20) // 2, interval="exact")
    assert found.low == pytest.approx(0.025 ** (1 / 10))
    assert found.high == 1.0


@pytest.mark.parametrize("interval", ["wilson", "exact"])
def test_covers_shares_of_people_with_two_knees(interval: Any) -> None:
    covered = naive = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        subject = np.repeat(np.arange(60), 2)
        # a person's own share: 0.3 or 1, so that knees are alike; 0.65 on average
        right = rng.random(120) < np.repeat(rng.choice([0.3, 1.0], size=60), 2)
        found = proportion(right, subject=subject, interval=interval)
        covered += found.low <= 0.65 <= found.high
        plain = proportion(right, interval=interval)
        naive += plain.low <= 0.65 <= plain.high
    assert 0.92 <= covered / 400 <= 0.99
    assert naive < covered


def test_mcnemar_by_hand() -> None:
    # 1 against 5 discordant knees: 2 (1 + 6) / 2^6
    first = [1] + [0] * 5 + [1, 1, 0]
    second = [0] + [1] * 5 + [1, 1, 0]
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (1, 5)
    assert found.p == pytest.approx(2 * (comb(6, 0) + comb(6, 1)) / 2**6)
    assert mcnemar(first, first).p == 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_mcnemar_is_a_sign_test(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(calls, dtype=int) for calls in zip(*pairs, strict=True))
    found = mcnemar(first, second)
    discordant = found.only_first + found.only_second
    assert mcnemar(second, first).p == found.p
    if discordant:
        assert found.p == pytest.approx(binomtest(found.only_first, discordant).pvalue)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: proportion([]), "at least one knee"),
        (lambda: proportion([0, 2]), "calls 0 or 1"),
        (lambda: proportion([0, 1], subject=[1]), "a subject for each of 2 knees"),
        (lambda: proportion([0, 1], interval="wald"), "'wilson' or 'exact', received 'wald'"),
        (lambda: proportion([0, 1], confidence=95), "between 0 and 1, received 95"),
        (lambda: sensitivity([0, 0], [1, 2], threshold=1), "both events and non-events"),
        (lambda: threshold_for([0, 1], [1, 2]), "either a sensitivity or a specificity"),
        (lambda: threshold_for([0, 1], [1, 2], sensitivity=90), "from 0 to 1"),
        (lambda: mcnemar([0, 1], [1]), "two calls on the same knees"),
        (lambda: mcnemar([0, 2], [1, 1]), "calls 0 or 1"),
    ],
)
def test_refuses(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()
