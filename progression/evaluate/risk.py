"""Did the risks of ``progression cohort`` come true?  Discrimination and calibration of each.

Every score is judged on the same knees as the baseline grade alone, which any reader has for free: the
event rate of its grade, since risk does not rise with the grade (a knee of grade 2 seldom becomes 4).
Intervals and tests take people as the sample.  Beside the AUC that counts visits without a reading as no rise
stands one that takes them as censored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from progression.data.outcomes import Event
from progression.errors import TableError, UsageError
from progression.evaluate.followup import Followup
from progression.evaluate.report import as_table, interval, markdown_table
from progression.evaluate.scores import judge_scores
from progression.evaluate.sets import SETS, evaluate_sets
from progression.metrics.auc import structural_components
from progression.report.outputs import COLUMNS
from progression.tables import read_table
from progression.types import KL_GRADES

Floats = NDArray[np.float64]

_NEEDED = ("name", "horizon_months", "risk_fast", "risk_any")
_TEXTS = ("name", "side", "kl_set", "other_knee", "warnings")
GRADE_SEEN = "grade seen"
"""Expected grade now, from kl_now_*: what the picture shows to the grader."""
GRADE_READ = "grade read"
"""Event rate of the baseline grade that a reader gave."""


@dataclass(frozen=True)
class Judged:
    """One end point at one horizon.

    Attributes
    ----------
    followup : grades of all M knees with results
    outcome : (M,) 0 or 1, nan where it is not known; the N others are judged
    every_score : name → (M,)
    """

    event: Event
    horizon_months: float
    followup: Followup
    outcome: Floats
    every_score: dict[str, Floats]

    @property
    def known(self) -> NDArray[np.bool_]:
        """(M,) which knees are judged."""
        return np.isfinite(self.outcome)

    @property
    def y(self) -> Floats:
        """(N,) 0 or 1."""
        return self.outcome[self.known]

    @property
    def subject(self) -> NDArray[np.str_]:
        """(N,) whose knee each is."""
        return self.followup.subject[self.known]

    @property
    def scores(self) -> dict[str, Floats]:
        """Name → (N,); `GRADE_SEEN` orders knees and is no probability, the others are."""
        return {name: score[self.known] for name, score in self.every_score.items()}

    @property
    def title(self) -> str:
        """What happened, in words."""
        return f"rise ≥ {self.event.rise} by {self.horizon_months:g} months"

    @property
    def risks(self) -> dict[str, Floats]:
        """The scores that are probabilities."""
        return {name: score for name, score in self.scores.items() if name != GRADE_SEEN}

    @property
    def both_classes(self) -> bool:
        """Whether some knees have the event and some have not."""
        return bool(0 < self.y.sum() < len(self.y))


def evaluate_risk(
    results: pd.DataFrame,
    outcomes: Followup,
    *,
    reference: Followup | None = None,
    label: str = "",
    n_draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Judge the risks in `results` by the grades in `outcomes`.

    Parameters
    ----------
    results, outcomes, reference
        As `judged`.
    label
        What the results are, for the report ("image only", "image and read grade").
    n_draws, seed
        Of the bootstrap of subjects.

    Returns
    -------
    dict with ``knees`` (counts) and ``rows``: one a horizon, end point and score.

    Raises
    ------
    TableError
        As `judged`.
    """
    usable, matched = _usable(results, outcomes)
    rows: list[dict[str, Any]] = []
    for case in judged(results, outcomes, reference=reference):
        shared = {
            "end_point": case.event.label,
            "horizon_months": case.horizon_months,
            "n": len(case.y),
            "subjects": len(np.unique(case.subject)),
            "events": int(case.y.sum()),
        }
        if not case.both_classes:
            rows.append({**shared, "score": f"risk_{case.event.label}", "auc": None})
            continue
        found = judge_scores(
            case.y,
            case.subject,
            case.scores,
            risks=case.risks,
            against=GRADE_READ,
            n_draws=n_draws,
            seed=seed,
        )
        for name, row in found.items():
            against = row.pop("minus", None)
            rows.append(
                {**shared, "score": name, **row, "auc_censored": _or_nan(case, case.every_score[name])}
                | ({"minus_read_grade": against} if against else {})
            )
    return {
        "label": label,
        "knees": {
            "in_results": int(results["name"].nunique()),
            "failed": int(results["name"].nunique() - usable["name"].nunique()),
            "without_outcomes": int(usable["name"].nunique() - matched["name"].nunique()),
        },
        "grade_rates_from": "the judged knees" if reference is None else f"{len(reference)} other knees",
        "bootstrap": {"draws": n_draws, "seed": seed, "unit": "subject"},
        "rows": rows,
        "grade_sets": evaluate_sets(results, outcomes) if SETS in results else [],
    }


def judged(
    results: pd.DataFrame, outcomes: Followup, *, reference: Followup | None = None
) -> Iterator[Judged]:
    """What is to be judged, horizon by horizon and end point by end point.

    Parameters
    ----------
    results
        Columns name, horizon_months, risk_fast, risk_any; optionally risk_fast_product,
        risk_any_product and kl_now_0..4 (judged too).  Rows without risks (failed knees) are left out.
    outcomes
        Grades of the same knees, found by name; others are ignored.
    reference
        Other knees, from which the event rate of each baseline grade is taken (the training ones).
        Without them it is taken from the judged knees themselves, which favours the grade.

    Raises
    ------
    TableError
        A column is missing, a knee has two rows for a horizon, or no knee has both results and outcomes.
    """
    _, matched = _usable(results, outcomes)
    place = {name: i for i, name in enumerate(outcomes.name)}
    for months, part in matched.groupby("horizon_months"):
        followup = outcomes.take(np.array([place[name] for name in part["name"]]))
        for event in Event:
            horizon = float(str(months))
            outcome = followup.outcome(event, horizon)
            scores = _scores(part, event.label)
            if np.isfinite(outcome).any():
                scores[GRADE_READ] = grade_risk(
                    followup, reference or followup, event=event, horizon_months=horizon
                )
            yield Judged(event, horizon, followup, outcome, scores)


def risk_table(report: Mapping[str, Any]) -> str:
    """One line a horizon, end point and score; then one a horizon and baseline grade for the sets of grades."""
    tables = [as_table(_HEADER, [_line(row) for row in report["rows"]])]
    if report["grade_sets"]:
        tables.append(as_table(_SETS_HEADER, _sets_lines(report)))
    return "\n\n".join(tables)


def risk_markdown(report: Mapping[str, Any]) -> str:
    """`risk_table` for Markdown."""
    tables = [markdown_table(_HEADER, [_line(row) for row in report["rows"]])]
    if report["grade_sets"]:
        tables.append(markdown_table(_SETS_HEADER, _sets_lines(report)))
    return "\n\n".join(tables)


_HEADER = ("score", "months", "n", "events", "AUC [95 % by people]", "[DeLong]", "censored", "AP",
           "sensitivity", "specificity", "Brier", "skill", "ECE", "slope", "− read grade", "p")  # fmt: skip
"""Sensitivity at 90 % specificity, specificity at 80 % sensitivity (`progression.evaluate.scores`)."""


_SETS_HEADER = ("90 % sets of the future grade", "months", "n", "coverage [95 % by people]", "mean size")


def _sets_lines(report: Mapping[str, Any]) -> list[tuple[object, ...]]:
    return [
        (
            "all" if row["baseline"] is None else f"grade {row['baseline']} at baseline",
            f"{row['horizon_months']:g}",
            row["n"],
            interval(row["coverage"], row["coverage_people"]),
            row["mean_size"],
        )
        for row in report["grade_sets"]
    ]


def _line(row: Mapping[str, Any]) -> tuple[object, ...]:
    about = (f"{row['end_point']}: {row['score']}", f"{row['horizon_months']:g}", row["n"], row["events"])
    if row["auc"] is None:
        return (*about, *[None] * 12)
    against = row.get("minus_read_grade")
    return (
        *about,
        interval(row["auc"], row["auc_people"]),
        "[{:.3f}, {:.3f}]".format(*row["auc_delong"]),
        *(row[key] for key in ("auc_censored", "ap", "sensitivity", "specificity")),
        *(row[key] for key in ("brier", "brier_skill", "ece")),
        None if row["slope"] is None else interval(row["slope"], row["slope_people"]),
        *((interval(against["difference"], against["people"]), against["p"]) if against else (None, None)),
    )


def read_results(path: str | Path) -> pd.DataFrame:
    """Read results.csv of ``progression cohort``.

    Raises
    ------
    TableError
        The file cannot be read or lacks a column.
    """
    known = [name for name in COLUMNS if name not in _TEXTS]
    read = read_table(path, known=COLUMNS, required=_NEEDED, tell="near", source=f"the results {path}")
    table = read.frame()
    for column in (name for name in _TEXTS if name in table):
        table[column] = read.texts(column)
    for column in (name for name in known if name in table):
        cells = pd.Series(read.texts(column), dtype=object)
        table[column] = pd.to_numeric(cells.where(cells != ""), errors="coerce")
        wrong = np.flatnonzero((cells != "") & ~np.isfinite(table[column].to_numpy(dtype=float)))
        if len(wrong):
            raise TableError(
                f"{read.source} row {read.numbers[wrong[0]]}: column {column!r} holds {cells[wrong[0]]!r}; expected a "
                "number or nothing"
            )
    _check(table)
    return table


def censored_auc(followup: Followup, score: ArrayLike, *, event: Event, horizon_months: float) -> float:
    """AUC of events by T against knees known to be free of it at T, others censored at their last reading.

    Events are weighted by 1 / P(still read at the visit of the event), Kaplan-Meier over all knees of the
    population; knees without an event count if they were read at T or later, with one weight for all,
    which cancels (Uno et al. 2007, JASA 102:527; cumulative cases, dynamic controls).  It assumes that
    leaving does not depend on the grade to come, which late, selective readings break.

    Raises
    ------
    UsageError
        There is no event, or no knee known to be free of it.
    """
    values = np.asarray(score, dtype=np.float64)
    eligible = followup.population(event)
    free, seen = (months[eligible] for months in followup.event_months(event))
    cases = seen <= horizon_months
    controls = ~cases & (free >= horizon_months)
    if not cases.any() or not controls.any():
        raise UsageError("expected events and knees read at the horizon without one")
    weight = 1 / still_read(free, seen, at=seen[cases])
    used = cases | controls
    v10, _ = structural_components(cases[used], values[eligible][used][None])
    return float((weight * v10[0]).sum() / weight.sum())


def still_read(free: Floats, seen: Floats, *, at: Floats) -> Floats:
    """Kaplan-Meier estimate of P(still read at t) for each t of `at`; here leaving is what is awaited.

    `free` is the last visit read without the event, `seen` the first with it or infinity.
    """
    left = np.isinf(seen)
    until = np.where(left, free, seen)
    stay = np.ones(len(at))
    for t in np.unique(free[left]):
        at_risk = ((until >= t) & (seen > t)).sum()
        stay[at > t] *= 1 - (left & (free == t)).sum() / at_risk
    return stay


def grade_risk(followup: Followup, reference: Followup, *, event: Event, horizon_months: float) -> Floats:
    """Event rate among the reference knees of the same baseline grade, (N,); nan outside the population.

    One knee at the reference's overall rate is added to each grade, so that a grade seen seldom does
    not get rate 0 or 1.
    """
    y = reference.outcome(event, horizon_months)
    if not np.isfinite(y).any():
        raise TableError(f"the reference has no knee read within {horizon_months:g} months of its baseline")
    overall = np.nanmean(y)
    risk = np.full(len(followup), np.nan)
    for grade in range(KL_GRADES):
        same = y[(reference.baseline == grade) & np.isfinite(y)]
        risk[followup.baseline == grade] = (same.sum() + overall) / (len(same) + 1)
    return np.where(followup.population(event), risk, np.nan)


def _usable(results: pd.DataFrame, outcomes: Followup) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows with risks, and those of them whose knee has outcomes."""
    _check(results)
    usable = results[np.isfinite(results[["risk_fast", "risk_any"]].to_numpy(dtype=float)).all(axis=1)]
    matched = usable[usable["name"].isin(outcomes.name)]
    if matched.empty:
        raise TableError("no knee has both results and outcomes: are the names in both tables the same?")
    return usable, matched


def _scores(part: pd.DataFrame, label: str) -> dict[str, Floats]:
    """What is judged: the best risk, the product where it differs, the grade that the picture shows."""
    risk, product = f"risk_{label}", f"risk_{label}_product"
    scores = {risk: part[risk].to_numpy(dtype=float)}
    if product in part and not np.array_equal(part[product].to_numpy(dtype=float), scores[risk]):
        scores[product] = part[product].to_numpy(dtype=float)
    soft = [f"kl_now_{grade}" for grade in range(KL_GRADES)]
    if set(soft) <= set(part.columns):
        scores[GRADE_SEEN] = part[soft].to_numpy(dtype=float) @ np.arange(KL_GRADES)
    return {name: score for name, score in scores.items() if np.isfinite(score).all()}


def _or_nan(case: Judged, score: Floats) -> float:
    try:
        return censored_auc(case.followup, score, event=case.event, horizon_months=case.horizon_months)
    except UsageError:
        return np.nan


def _check(results: pd.DataFrame) -> None:
    missing = [c for c in _NEEDED if c not in results.columns]
    if missing:
        raise TableError(
            f"the results lack the column {missing[0]}: expected results.csv of progression cohort"
        )
    twice = results[results.duplicated(["name", "horizon_months"])]
    if len(twice):
        first = twice.iloc[0]
        raise TableError(
            f"the results hold knee {first['name']} twice for {first['horizon_months']} months: "
            "names must be unique"
        )
