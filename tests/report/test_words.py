"""The words of all reports: what was asked with, what is expected, and what is not to be had."""

from dataclasses import replace

import pytest

from progression.report.words import (
    LATE_BY_ANOTHER,
    LATE_BY_DEFAULT,
    UNSEEN_BY_DEFAULT,
    asked_with,
    cannot_rise,
    caveats,
    grade_sentences,
    late,
    risk_sentences,
    tables,
    told_risk,
)
from progression.types import Prediction
from tests.fakes import prediction, radiograph


def told(*, months: tuple[int, ...] = (48,), other_knee: bool = False, **provenance: object) -> Prediction:
    """A prediction with this in its provenance."""
    made = prediction(radiograph("knee"), months)
    return replace(made, other_knee=other_knee, provenance={**made.provenance, **provenance})


def read_as(grade: int) -> Prediction:
    """A prediction of a knee whose grade was read."""
    start = tuple(float(k == grade) for k in range(5))
    made = told(grade_read=grade, kl_start=start)
    (horizon,) = made.horizons
    none = {"risk_fast": 0.0, "risk_fast_interval": (0.0, 0.0)} if grade > 2 else {}
    none |= {"risk_any": 0.0, "risk_any_interval": (0.0, 0.0)} if grade > 3 else {}
    return replace(made, horizons=(replace(horizon, kl_read=start, kl_set=(grade,), **none),))


def test_what_it_was_asked_with() -> None:
    assert asked_with(told()) == (
        "Asked with: this radiograph, no grade read; no other knee; no earlier films."
    )
    films = [{"months_before": 48.0, "grade_read": 0}, {"months_before": 12.5, "grade_read": None}]
    assert asked_with(told(grade_read=2, other_knee=True, other_grade_read=3, history=films)) == (
        "Asked with: this radiograph, read as grade 2; the other knee, read as grade 3; "
        "earlier films: 48 months before, read as grade 0; 12.5 months before."
    )


def test_another_knee_that_had_no_part_is_not_told_of() -> None:
    """One that was refused, or that the model does not take."""
    assert "no other knee" in asked_with(told(other_grade_read=3))


@pytest.mark.parametrize(
    ("risk", "number"),
    [(0.0, "fewer than 1"), (0.004, "fewer than 1"), (0.126, "about 13"), (0.999, "more than 99")],
)
def test_risks_in_words(risk: float, number: str) -> None:
    made = told()
    made = replace(made, horizons=(replace(made.horizons[0], risk_any=risk, risk_fast=risk),))
    (sentence,) = risk_sentences(made)
    assert f"Of 100 knees like this one, {number} are expected" in sentence
    assert sentence.endswith(f"and {number} at least two.")


def test_grade_four_cannot_rise() -> None:
    made = read_as(4)
    assert risk_sentences(made) == ["Grade 4 is the highest: this knee's grade cannot rise."]
    assert tables(made)[0].rows == (("48 months", "cannot rise", "cannot rise"),)
    assert grade_sentences(made) == caveats(made) == []  # there is no share to explain
    assert not late(replace(made, horizons=(replace(made.horizons[0], horizon_months=96),)))


def test_grade_three_can_rise_by_one() -> None:
    made = read_as(3)
    first, second = risk_sentences(made)
    assert first.endswith("worse within 48 months.") and second == "From grade 3 it cannot rise by two."
    assert told_risk(made, made.horizons[0], 2) == "cannot rise"
    assert told_risk(made, made.horizons[0], 1).endswith("% (2.0% to 70.0%)")


def test_what_earlier_films_rule_out_cannot_rise() -> None:
    """The start of the forecast decides, where there is one; else the grade that was read."""
    assert cannot_rise(told(grade_read=2, kl_start=(0.0, 0.0, 0.0, 1.0, 0.0)), 2)
    assert not cannot_rise(told(), 1)
    assert [cannot_rise(told(kl_start=None, grade_read=3), steps) for steps in (1, 2)] == [False, True]


def test_the_grade_that_is_expected() -> None:
    assert grade_sentences(told()) == [
        "The highest grade read within 48 months is most likely 0 (50%); nine times in ten it is 0 or 1."
    ]
    made = told()
    unknown = replace(made, horizons=(replace(made.horizons[0], kl_set=None),))
    assert grade_sentences(unknown)[0].endswith("is most likely 0 (50%).")
    assert tables(unknown)[1].head[-1] == "KL 4" and tables(unknown)[1].rows[0][-1] == "5%"
    three = replace(made, horizons=(replace(made.horizons[0], kl_set=(0, 1, 3)),))
    assert grade_sentences(three)[0].endswith("it is 0, 1 or 3.")
    grades = tables(made)[1]
    assert grades.rows == (
        ("now", "55%", "20%", "10%", "10%", "5%", ""),
        ("48 months", "50%", "20%", "10%", "10%", "10%", "0 or 1"),
    )
    assert len(tables(told(kl_start=None))) == 1


@pytest.mark.parametrize(("model", "sentence"), [("default", LATE_BY_DEFAULT), ("mine", LATE_BY_ANOTHER)])
def test_late_horizons_are_doubted(model: str, sentence: str) -> None:
    assert late(told(months=(24, 48), model=model)) == ()
    assert late(told(months=(48, 49), model=model)) == (sentence,)
    assert sentence in caveats(told(months=(96,), model=model))


def test_what_was_not_seen_is_true_of_the_training_films() -> None:
    """Data card `knees`: posteroanterior films; the part `risk_pair` sees both knees."""
    words = " ".join(UNSEEN_BY_DEFAULT)
    assert "posteroanterior" in words and "no AP films" in words and "the other" in words
