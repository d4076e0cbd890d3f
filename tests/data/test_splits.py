"""Splits and folds: whole subjects, and nobody moves when others come or go."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progression.data.splits import split_visits, subject_folds, subject_splits
from progression.data.visits import check_visits
from progression.errors import TableError, UsageError

MANY = [f"p{number}" for number in range(5000)]


def test_golden_assignments_stay_as_they_are() -> None:
    """A change here would move participants between splits of users' cohorts."""
    names = ["9000001", "9000002", "9000003", "9000004", "9000005", "9000006", "9000007", "9000008"]
    assert subject_folds(names, folds=5).tolist() == [4, 1, 0, 1, 4, 1, 1, 1]
    expected = ["test", "train", "train", "train", "test", "val", "test", "train"]
    assert subject_splits(names).tolist() == expected


def test_sizes_hold_on_average() -> None:
    shares = Counter(subject_splits(MANY, shares={"train": 6, "val": 1, "test": 3}).tolist())
    assert shares["train"] / 5000 == pytest.approx(0.6, abs=0.03)
    assert shares["test"] / 5000 == pytest.approx(0.3, abs=0.03)
    folds = np.bincount(subject_folds(MANY, folds=5))
    assert len(folds) == 5
    assert folds / 5000 == pytest.approx(0.2, abs=0.03)


def test_folds_do_not_follow_splits_or_other_seeds() -> None:
    folds, other = subject_folds(MANY, folds=5), subject_folds(MANY, folds=5, seed=1)
    assert np.mean(folds == other) == pytest.approx(0.2, abs=0.03)
    train = subject_splits(MANY) == "train"
    assert np.bincount(folds[train]) / train.sum() == pytest.approx(0.2, abs=0.03)


def test_only_splits_that_were_asked_for() -> None:
    assert set(subject_splits(MANY, shares={"train": 0.9, "val": 0.1})) == {"train", "val"}
    assert set(subject_splits(MANY, shares={"test": 1})) == {"test"}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=20), st.lists(st.text(min_size=1), max_size=20))
def test_adding_and_turning_rows_moves_nobody(subjects: list[str], more: list[str]) -> None:
    alone = subject_folds(subjects, folds=4)
    assert subject_folds(subjects + more, folds=4)[: len(subjects)].tolist() == alone.tolist()
    assert subject_folds(subjects[::-1], folds=4)[::-1].tolist() == alone.tolist()
    splits = subject_splits(subjects + subjects)
    assert splits[: len(subjects)].tolist() == splits[len(subjects) :].tolist()


def test_split_visits_keeps_knees_together_and_splits_that_are_there() -> None:
    table = check_visits(
        pd.DataFrame(
            {
                "subject": np.repeat(MANY[:50], 4),
                "side": ["left", "right"] * 100,
                "months": [0, 0, 12, 12] * 50,
            }
        )
    )
    drawn = split_visits(table)
    assert (drawn.groupby("subject")["split"].nunique() == 1).all()
    with pytest.raises(TableError, match="filled already"):
        split_visits(drawn)
    again = split_visits(drawn, seed=3, replace=True)
    assert (again["split"] != drawn["split"]).any()


@pytest.mark.parametrize(
    "shares", [{"train": -1, "val": 2}, {"train": 0}, {"holdout": 1}, {"train": float("nan")}]
)
def test_shares_that_are_none(shares: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected non-negative shares of train, val, test"):
        subject_splits(["a"], shares=shares)


def test_one_fold_is_no_fold() -> None:
    with pytest.raises(UsageError, match="expected at least 2"):
        subject_folds(["a"], folds=1)
