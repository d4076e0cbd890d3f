"""The ratings of a reader study: every reader reads every case under every treatment.

A *treatment* is a way of reading (without, then with the predicted follow-up), a *case* is what gets one
rating (one knee), a *subject* is a person, who may bring two cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progression.errors import TableError, UsageError
from progression.metrics.auc import Floats
from progression.tables import cell_text, is_missing, number
from progression.texts import printable

Ints = NDArray[np.intp]

COLUMNS = ("reader", "treatment", "case", "truth", "rating")
"""Columns of a ratings table; `subject` may come with them."""


@dataclass(frozen=True)
class Ratings:
    """A full design of I treatments, J readers and N cases.

    Attributes
    ----------
    treatments : I names; differences are told as earlier minus later
    readers : J names
    cases : N names
    truth : (N,) bool, whether the case has the condition
    rating : (I, J, N) finite, higher means more likely to have it
    subject : (N,) int, which cases are one person's; one case a person unless told
    """

    treatments: tuple[str, ...]
    readers: tuple[str, ...]
    cases: tuple[str, ...]
    truth: NDArray[np.bool_]
    rating: Floats
    subject: Ints

    @classmethod
    def of(cls, table: Mapping[str, ArrayLike], *, treatments: Sequence[str] | None = None) -> Ratings:
        """From a table with one row a rating.

        Parameters
        ----------
        table
            Columns reader, treatment, case, truth (0 or 1), rating and optionally subject, each
            (rows,): a data frame or a mapping of arrays, rows in any order.  Names may be numbers.
        treatments
            Order of the treatments; without it by name, numbers by size.  Readers and cases are always
            ordered so, hence nothing depends on the order of the rows.

        Raises
        ------
        TableError
            A column is missing or empty, a rating or truth is not a number, a rating is given twice or
            missing (the design must be full), truth or subject of a case differ between rows, or the cases
            are all with or all without the condition.
        UsageError
            `treatments` are not those of the table.
        """
        missing = [name for name in COLUMNS if name not in table]
        if missing:
            raise TableError(
                f"the ratings lack the column {missing[0]}: expected {', '.join(COLUMNS)}, one row a rating"
            )
        columns = {name: np.asarray(table[name]) for name in (*COLUMNS, "subject") if name in table}
        lengths = {name: column.shape for name, column in columns.items()}
        if len(set(lengths.values())) > 1 or columns["reader"].ndim != 1:
            raise TableError(f"expected columns of one length, received {lengths}")
        if not len(columns["reader"]):
            raise TableError("the ratings have no rows: expected one row a rating")
        found, treatment = _named("treatment", columns["treatment"])
        readers, reader = _named("reader", columns["reader"])
        cases, case = _named("case", columns["case"])
        if treatments is not None:
            treatment = _reordered(found, treatment, treatments)
            found = tuple(treatments)
        names = (found, readers, cases)
        cell = np.ravel_multi_index((treatment, reader, case), [len(n) for n in names])
        _check_full(cell, names)
        rating = np.empty([len(n) for n in names])
        rating.flat[cell] = _numbers("rating", columns["rating"])
        truth = _of_case("truth", _truth(columns["truth"]), case, cases)
        owner = _named("subject", columns["subject"])[1] if "subject" in columns else case
        ratings = cls(
            found, readers, cases, truth.astype(bool), rating, _of_case("subject", owner, case, cases)
        )
        if ratings.truth.all() or not ratings.truth.any():
            raise TableError(
                f"expected cases with and without the condition, received {int(ratings.truth.sum())} with it "
                f"among {len(cases)}: check the column truth"
            )
        return ratings


def _named(column: str, values: NDArray[np.generic]) -> tuple[tuple[str, ...], Ints]:
    """Distinct names, numbers by size and before words, and the place of each row's among them."""
    texts = [printable(cell_text(value) or str(value).strip()) for value in values.tolist()]
    for row, text in enumerate(texts, start=1):
        if is_missing(text):
            said = f" ({printable(text)!r} says that nobody knows it)" if text else ""
            raise TableError(f"row {row} of the ratings has no {column}{said}: name it, or drop the row")
    names = tuple(sorted(set(texts), key=_by_size))
    place = {name: i for i, name in enumerate(names)}
    return names, np.array([place[text] for text in texts], dtype=np.intp)


def _by_size(name: str) -> tuple[bool, float, str]:
    try:
        return False, number(name), name
    except ValueError:
        return True, 0.0, name


def _reordered(found: tuple[str, ...], treatment: Ints, wanted: Sequence[str]) -> Ints:
    if sorted(found) != sorted(wanted):
        raise UsageError(f"expected the treatments of the table, {', '.join(found)}, in the order wanted; "
                         f"received {', '.join(wanted)}")  # fmt: skip
    return np.array([list(wanted).index(name) for name in found], dtype=np.intp)[treatment]


def _numbers(column: str, values: NDArray[np.generic]) -> Floats:
    """Finite numbers, or the first row that has none."""
    numbers = np.empty(len(values))
    for row, value in enumerate(values.tolist()):
        try:
            numbers[row] = number(value) if isinstance(value, str) else float(value)
        except (TypeError, ValueError, OverflowError):
            numbers[row] = np.nan
        if not isfinite(numbers[row]):
            raise TableError(
                f"row {row + 1} of the ratings has {column} {value!r}: expected a finite number; enter it, or "
                "drop this case for all readers and treatments"
            )
    return numbers


def _truth(values: NDArray[np.generic]) -> Floats:
    truth = _numbers("truth", values)
    wrong = np.flatnonzero((truth != 0) & (truth != 1))
    if len(wrong):
        raise TableError(
            f"row {wrong[0] + 1} of the ratings has truth {values[wrong[0]]}: expected 1 (with the condition) or 0"
        )
    return truth


def _of_case(
    column: str, values: NDArray[np.generic], case: Ints, cases: tuple[str, ...]
) -> NDArray[np.intp]:
    """What all rows of a case agree on, (N,)."""
    agreed = np.empty(len(cases), dtype=np.intp)
    agreed[case] = values
    differs = np.flatnonzero(agreed[case] != values)
    if len(differs):
        raise TableError(
            f"case {cases[case[differs[0]]]} has more than one {column} in the ratings: expected the same in "
            "all its rows; if two knees share the name, tell them apart in the column case"
        )
    return agreed


def _check_full(cell: Ints, names: tuple[tuple[str, ...], ...]) -> None:
    """Each treatment, reader and case together exactly once."""
    sizes = [len(n) for n in names]
    times = np.bincount(cell, minlength=int(np.prod(sizes)))
    if (times != 1).any():
        wrong = int(np.argmax(times != 1))
        treatment, reader, case = (n[i] for n, i in zip(names, np.unravel_index(wrong, sizes), strict=True))
        where = f"reader {reader} of case {case} under treatment {treatment}"
        if times[wrong]:
            raise TableError(f"the ratings hold {times[wrong]} by {where}: keep one")
        raise TableError(
            f"the ratings hold none by {where} ({int((times == 0).sum())} missing in all): every reader must "
            "read every case under every treatment; add it, or drop the case or the reader altogether"
        )
