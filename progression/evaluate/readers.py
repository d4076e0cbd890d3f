"""A reader study from its table of ratings: AUC, and sensitivity and specificity where a threshold is given.

Each figure of merit is analysed three times, because a result "for readers in general" and one "for these
readers" are different claims; the report holds all of them, so that none is chosen afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from progression import __version__
from progression.errors import TableError, UsageError
from progression.evaluate.report import interval, markdown_table
from progression.metrics.proportions import mcnemar, sensitivity, specificity
from progression.metrics.readers import (
    Covariance,
    Merit,
    Pilot,
    Ratings,
    ReaderStudy,
    cases_needed,
    obuchowski_rockette,
    power,
)
from progression.metrics.readers.model import Factor
from progression.metrics.readers.ratings import COLUMNS
from progression.tables import read_table

MODELS: dict[str, tuple[Factor, Factor, str]] = {
    "random_readers_random_cases": ("random", "random", "random readers, random cases"),
    "fixed_readers_random_cases": ("fixed", "random", "fixed readers, random cases"),
    "random_readers_fixed_cases": ("random", "fixed", "random readers, fixed cases"),
}
"""Name in the report: readers, cases, and the same in words."""


def read_ratings(path: str | Path, *, reference: str | None = None) -> Ratings:
    """Read a CSV table with columns reader, treatment, case, truth, rating and optionally subject.

    Parameters
    ----------
    path
        One row a rating; UTF-8, separated by commas.
    reference
        Treatment that the others are compared with: it comes last, so that differences read other minus
        reference.  Without it the last by name: aided, unaided.

    Raises
    ------
    TableError
        The file cannot be read, or is no full design (`Ratings.of`).
    UsageError
        The reference is not a treatment of the table.
    """
    read = read_table(path, known=(*COLUMNS, "subject"), required=COLUMNS)
    table = {name: read.texts(name) for name in (*COLUMNS, "subject") if name in read.columns}
    ratings = Ratings.of(table)
    if reference is None:
        return ratings
    if reference not in ratings.treatments:
        raise UsageError(
            f"expected the reference to be one of {', '.join(ratings.treatments)}, received {reference}"
        )
    order = sorted(ratings.treatments, key=lambda name: name == reference)
    return Ratings.of(table, treatments=order)


def analyse_readers(
    ratings: Ratings,
    *,
    threshold: float | None = None,
    covariance: str = "jackknife",
    confidence: float = 0.95,
    n_draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The report of ``progression readers analyse``.

    Parameters
    ----------
    ratings
        Last treatment: the reference.
    threshold
        Ratings at or above it count as positive.  Without it sensitivity and specificity are left out,
        unless there are two ratings only: then the higher is positive.
    covariance, confidence, n_draws, seed
        As `obuchowski_rockette`; sensitivity and specificity take the jackknife where DeLong's is asked for.

    Raises
    ------
    TableError, UsageError
        As `obuchowski_rockette`.
    """
    levels = np.unique(ratings.rating)
    if threshold is None and len(levels) == 2:
        threshold = float(levels[1])
    if threshold is not None and not levels[0] < threshold <= levels[-1]:
        raise UsageError(
            f"threshold {threshold:g}: ratings go from {levels[0]:g} to {levels[-1]:g}, so it must be above the lowest "
            "and not above the highest"
        )
    options: dict[str, Any] = {"confidence": confidence, "n_draws": n_draws, "seed": seed}
    report: dict[str, Any] = {
        "treatments": ratings.treatments,
        "reference": ratings.treatments[-1],
        "readers": ratings.readers,
        "cases": len(ratings.cases),
        "with_condition": int(ratings.truth.sum()),
        "subjects": len(np.unique(ratings.subject)),
        "ratings": {"lowest": levels[0], "highest": levels[-1], "distinct": len(levels)},
        "threshold": threshold,
        "confidence": confidence,
        "covariance": covariance,
        "bootstrap": {"draws": n_draws, "seed": seed} if covariance == "bootstrap" else None,
        "auc": _merit(ratings, Merit.AUC, None, covariance, options),
    }
    if threshold is not None:
        # DeLong's is for areas; of a mean the jackknife is the plain sampling covariance
        simple = "jackknife" if covariance == Covariance.DELONG else covariance
        report["sensitivity"] = _merit(ratings, Merit.SENSITIVITY, threshold, simple, options)
        report["specificity"] = _merit(ratings, Merit.SPECIFICITY, threshold, simple, options)
        report["operating_points"] = _points(ratings, threshold, confidence)
        report["mcnemar"] = _mcnemar(ratings, threshold)
    return {**report, "progression": __version__}


def readers_text(report: Mapping[str, Any]) -> str:
    """The report for people, in Markdown."""
    several = len(report["treatments"]) > 1
    clustered = report["subjects"] < report["cases"]
    people = f" of {report['subjects']} people" if clustered else ""
    lines = [
        "# Reader study",
        "",
        f"{_count(len(report['readers']), 'reader')}, {_count(len(report['treatments']), 'treatment')} "
        f"({', '.join(report['treatments'])}); "
        f"{report['cases']} cases{people}, "
        f"{report['with_condition']} with the condition. Intervals: {100 * report['confidence']:g} %. "
        f"Obuchowski-Rockette analysis with Hillis's degrees of freedom, {report['covariance']} covariances"
        f"{' over people' if clustered else ''}.",
        "",
        "*Random* readers or cases are a sample of those the result speaks about; if *fixed*, it speaks about these "
        "alone. Intervals of means may pass 0 or 1; one without width says that nothing varied here, not that "
        "the value is certain.",
    ]
    for merit in Merit:
        if merit in report:
            lines += ["", f"## {_title(merit, report['threshold'])}", "", _figures(report, merit)]
            if several:
                lines += ["", _differences(report, merit), "", _tests(report, merit)]
    return "\n".join(lines)


def differences_of(report: Mapping[str, Any], merit: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Every difference of two treatments with whose it is: of each reader, then of the mean as in `MODELS`."""
    part = report[merit]
    found = [(f"reader {entry['reader']}", entry) for entry in part["each_reader"]]
    for name, (_, _, words) in MODELS.items():
        if name in part:
            found += [(f"mean, {words}", entry) for entry in part[name]["differences"]]
    return found


def pilot_of(report: Mapping[str, Any], merit: str = "auc") -> Pilot:
    """What planning needs from a report (read back from result.json).

    Raises
    ------
    TableError
        The report holds no analysis of random readers and cases with two treatments for this merit.
    """
    part = report.get(merit)
    try:
        errors, components = part["covariances"], part["variance_components"]  # type: ignore[index]
        return Pilot(
            variance=float(errors["var_error"]),
            cov1=float(errors["cov1"]),
            cov2=float(errors["cov2"]),
            cov3=float(errors["cov3"]),
            treatment_reader=float(components["TR"]),
            cases=int(part["cases"]),  # type: ignore[index]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(
            f"the report holds no variance components of {merit}: expected result.json of a study with at least "
            "two treatments and two readers, analysed by progression readers analyse"
        ) from error


def plan_text(
    pilot: Pilot,
    *,
    difference: float,
    readers: tuple[int, ...],
    cases: int | None = None,
    target: float = 0.8,
    alpha: float = 0.05,
    merit: str = "auc",
) -> str:
    """Cases needed for each number of readers, or the power with `cases`; in Markdown.

    Cases are those that `merit` is about: for sensitivity, those with the condition.
    """
    kind = {"sensitivity": "cases with the condition", "specificity": "cases without the condition"}
    counted = kind.get(merit, "cases")
    if cases is not None:
        found = [
            (n, float(power(pilot, n_readers=n, n_cases=cases, difference=difference, alpha=alpha)))
            for n in readers
        ]
        return markdown_table(("readers", f"power with {cases} {counted}"), found)
    rows = []
    for n in readers:
        needed = cases_needed(pilot, n_readers=n, difference=difference, target=target, alpha=alpha)
        rows.append((n, needed if needed is not None else "more than 5000"))
    return markdown_table(("readers", f"{counted} for a power of {target:g}"), rows)


def _merit(
    ratings: Ratings, merit: Merit, threshold: float | None, covariance: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """One figure of merit, analysed as in `MODELS`; with one reader, of these readers only."""
    studies = {
        name: obuchowski_rockette(
            ratings,
            readers=readers,
            cases=cases,
            merit=merit,
            threshold=threshold,
            covariance=covariance,
            **options,
        )
        for name, (readers, cases, _) in MODELS.items()
        if len(ratings.readers) > 1 or readers == "fixed"
    }
    study = studies["fixed_readers_random_cases"]
    errors = study.errors
    assert errors is not None  # its cases are random
    return {
        "by_reader": {
            treatment: dict(zip(study.reader_names, figures.tolist(), strict=True))
            for treatment, figures in zip(study.treatments, study.figures, strict=True)
        },
        "mean": {estimate.treatment: estimate.value for estimate in study.estimates},
        "cases": study.n_cases,
        "mean_squares": {
            "T": study.squares.treatment,
            "R": study.squares.reader,
            "TR": study.squares.treatment_reader,
        },
        "covariances": {
            "cov1": errors.cov1,
            "cov2": errors.cov2,
            "cov3": errors.cov3,
            "var_error": errors.variance,
        },
        "variance_components": None
        if study.components is None
        else {"R": study.components.reader, "TR": study.components.treatment_reader},
        **{name: _analysis(found) for name, found in studies.items()},
        "each_reader": [asdict(entry) for entry in study.by_reader],
    }


def _analysis(study: ReaderStudy) -> dict[str, Any]:
    """Test, differences and single treatments; degrees of freedom are null where infinite."""
    test = study.test
    told: dict[str, Any] = {
        "treatments": [asdict(estimate) for estimate in study.estimates],
        "differences": [asdict(entry) for entry in study.differences],
    }
    if test is None:
        return told
    normal = test.df_denominator == math.inf
    return {
        "F": test.f,
        "df": test.df_numerator,
        "ddf": test.df_denominator,
        **({"chi2": test.chi2} if normal else {}),
        "p": test.p,
        **told,
    }


def _points(ratings: Ratings, threshold: float, confidence: float) -> list[dict[str, Any]]:
    """Sensitivity and specificity of every reader under every treatment, with Wilson intervals."""
    return [
        {
            "reader": reader,
            "treatment": treatment,
            **{
                name: asdict(
                    share(
                        ratings.truth,
                        ratings.rating[i, j],
                        threshold=threshold,
                        subject=ratings.subject,
                        confidence=confidence,
                    )
                )
                for name, share in (("sensitivity", sensitivity), ("specificity", specificity))
            },
        }
        for i, treatment in enumerate(ratings.treatments)
        for j, reader in enumerate(ratings.readers)
    ]


def _mcnemar(ratings: Ratings, threshold: float) -> list[dict[str, Any]] | None:
    """Exact test of each reader against the reference; none where people have several cases."""
    if len(np.unique(ratings.subject)) < len(ratings.cases):
        return None
    right = (ratings.rating >= threshold) == ratings.truth
    return [
        {
            "reader": reader,
            "first": treatment,
            "second": ratings.treatments[-1],
            **{
                name: asdict(mcnemar(right[i, j, about], right[-1, j, about]))
                for name, about in (("sensitivity", ratings.truth), ("specificity", ~ratings.truth))
            },
        }
        for i, treatment in enumerate(ratings.treatments[:-1])
        for j, reader in enumerate(ratings.readers)
    ]


def _title(merit: Merit, threshold: float | None) -> str:
    return "AUC" if merit is Merit.AUC else f"{merit.capitalize()} (positive: rating ≥ {threshold:g})"


def _figures(report: Mapping[str, Any], merit: Merit) -> str:
    part, treatments = report[merit], report["treatments"]
    rows: list[tuple[object, ...]] = [
        (reader, *(part["by_reader"][treatment][reader] for treatment in treatments))
        for reader in report["readers"]
    ]
    for name, (_, _, words) in MODELS.items():
        if name in part:
            told = part[name]["treatments"]
            rows.append((f"mean, {words}", *(interval(e["value"], (e["low"], e["high"])) for e in told)))
    return markdown_table(("reader", *treatments), rows)


def _differences(report: Mapping[str, Any], merit: Merit) -> str:
    rows = [
        (
            f"{entry['first']} − {entry['second']}",
            who,
            interval(entry["difference"], (entry["low"], entry["high"])),
            entry["stderr"],
            _df(entry["df"]),
            _p(entry["p"]),
        )
        for who, entry in differences_of(report, merit)
    ]
    return markdown_table(("difference", "in", "value", "standard error", "df", "p"), rows)


def _tests(report: Mapping[str, Any], merit: Merit) -> str:
    part = report[merit]
    rows = [
        (
            words,
            f"F = {part[name]['F']:.2f}" if "chi2" not in part[name] else f"χ² = {part[name]['chi2']:.2f}",
            _df(part[name]["df"]) + ("" if "chi2" in part[name] else f", {_df(part[name]['ddf'])}"),
            _p(part[name]["p"]),
        )
        for name, (_, _, words) in MODELS.items()
        if name in part
    ]
    return markdown_table(("are all treatments alike?", "test", "df", "p"), rows)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _df(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2f}".rstrip("0").rstrip(".")


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
