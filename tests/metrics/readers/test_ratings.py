"""A full design is read whatever the order of its rows; anything else is refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from progression.errors import TableError, UsageError
from progression.metrics.readers import Ratings
from tests.reader_studies import study


def small() -> pd.DataFrame:
    """Two readers, two treatments, three cases; the rating spells reader, treatment and case."""
    return pd.DataFrame(
        [
            {"reader": reader, "treatment": treatment, "case": case, "truth": int(case == 10),
             "rating": 100 * reader + 10 * number + case / 10}
            for reader in (1, 2)
            for number, treatment in enumerate(("without", "with"))
            for case in (9, 10, 11)
        ]
    )  # fmt: skip


def test_names_are_ordered_numbers_by_size() -> None:
    ratings = Ratings.of(small())
    assert ratings.treatments == ("with", "without")
    assert ratings.readers == ("1", "2")
    assert ratings.cases == ("9", "10", "11")
    assert ratings.truth.tolist() == [False, True, False]
    np.testing.assert_allclose(ratings.rating[0, 1], [210.9, 211.0, 211.1])
    np.testing.assert_allclose(ratings.rating[1, 0], [100.9, 101.0, 101.1])


def test_treatments_in_an_order_of_ones_own() -> None:
    ratings = Ratings.of(small(), treatments=["without", "with"])
    assert ratings.treatments == ("without", "with")
    np.testing.assert_allclose(ratings.rating[0, 0], [100.9, 101.0, 101.1])
    with pytest.raises(UsageError, match="received with, nothing"):
        Ratings.of(small(), treatments=["with", "nothing"])


def test_the_order_of_rows_does_not_matter() -> None:
    table = study(per_subject=2)
    ratings, shuffled = Ratings.of(table), Ratings.of(table.sample(frac=1, random_state=3))
    for name, value in vars(ratings).items():
        np.testing.assert_array_equal(value, getattr(shuffled, name))


def test_columns_of_text_and_a_mapping_are_as_good() -> None:
    table = small().astype(str)
    ratings = Ratings.of({name: table[name].tolist() for name in table})
    np.testing.assert_array_equal(ratings.rating, Ratings.of(small()).rating)


def changed(row: int, column: str, value: object) -> pd.DataFrame:
    table = small().astype(object)
    table.loc[row, column] = value
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (small().drop(columns="truth"), "lack the column truth"),
        (small().iloc[:0], "no rows"),
        (small().drop(index=7), r"none by reader 2 of case 10 under treatment without \(1 missing in all\)"),
        (pd.concat([small(), small().iloc[:1]]), "hold 2 by reader 1 of case 9 under treatment without: keep one"),
        (changed(3, "rating", float("nan")), "row 4 of the ratings has rating nan: expected a finite number"),
        (changed(3, "rating", float("inf")), "row 4 of the ratings has rating inf"),
        (changed(3, "rating", "probably"), "row 4 of the ratings has rating 'probably'"),
        (changed(3, "rating", None), "row 4 of the ratings has rating None"),
        (changed(3, "truth", 2), r"row 4 of the ratings has truth 2: expected 1 \(with the condition\) or 0"),
        (changed(3, "truth", 1), "case 9 has more than one truth"),
        (changed(3, "reader", " "), "row 4 of the ratings has no reader"),
        (small().assign(subject=[*range(12)]), "case 9 has more than one subject"),
        (small().assign(truth=1), "with and without the condition, received 3 with it among 3"),
        (small().assign(truth=0), "with and without the condition, received 0 with it among 3"),
    ],
)  # fmt: skip
def test_refuses(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(TableError, match=message):
        Ratings.of(table)


def test_refuses_columns_of_different_length() -> None:
    columns: dict[str, Any] = {name: small()[name].tolist() for name in small()}
    columns["rating"].pop()
    with pytest.raises(TableError, match="columns of one length"):
        Ratings.of(columns)
