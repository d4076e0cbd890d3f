"""What an explanation tells, and its files: a figure, JSON, and a page in plain words."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from progression.files import atomic_folder
from progression.report.figures import bare, picture, wrapped
from progression.report.lettering import drawn
from progression.report.mark import NOTICE, WORD, synthetic_metadata
from progression.report.outputs import as_json, check_replaceable
from progression.report.words import cannot_rise, late, told_risk
from progression.texts import printable
from progression.types import Pixels, Prediction

_OWN_FILE = re.compile(r"explanation\.(png|json|md)")
Map = npt.NDArray[np.float32]
RADIOGRAPH = "radiograph"
OTHER_KNEE = "the other knee"
"""What maps of the two radiographs say that they are of, all other pictures being synthetic; and a group of drivers."""
RISE, GRADIENT = "chance of a rise", "gradient"
"""A score and a method, as maps call them."""
_PACE = "the pace of the earlier films"


@dataclass(frozen=True)
class SaliencyMap:
    """Where a score comes from in one picture.

    Attributes
    ----------
    of, score, method : which picture, which score, how; in words
    values : (R, R) float32 in [0, 1], in the picture's own orientation; 1 is the map's maximum
    share_in_band, area_of_band : of the map's mass in the picture's central band of rows, and that band's share of the
        area
    mean : of the map before it was scaled to 1; a gradient's is in units of the score, a picture's greys being 2 apart
    """

    of: str
    score: str
    method: str
    values: Map
    share_in_band: float
    area_of_band: float
    mean: float


@dataclass(frozen=True)
class NeighbourSeen:
    """One of the bank's nearest knees.

    Attributes
    ----------
    distance : to the knee, 0 (same direction in W) to 2
    kind : "imaged", "graded" or "synthetic"
    rendering : (R, R) float32 in [0, 1], the generator's picture of its key, oriented as the knee
    grades, months : what was read, and when after its first visit
    """

    distance: float
    kind: str
    rendering: Pixels
    grades: tuple[int, ...]
    months: tuple[float, ...]


@dataclass(frozen=True)
class Driver:
    """One covariate's share of a transition's log rate.

    Attributes
    ----------
    name, words : the covariate, in the model's and in plain words
    group : what kind of thing is seen; covariates of one group go together, so their sum says more than they do
    value : standard deviations from the mean training knee, within ±4
    log_rate : its term, value times weight; exp of it is the factor on the rate
    """

    name: str
    words: str
    group: str
    value: float
    log_rate: float


@dataclass(frozen=True)
class TransitionTerms:
    """The exact sum that a rate from `start` to `end` is made of: log rate = intercept + Σ drivers + log pace.

    Attributes
    ----------
    start, end : grades
    from_months, to_months : the era in which these weights hold
    intercept : log rate of the mean training knee
    drivers : in the model's order
    log_pace : log of what earlier films multiply all rates by, 0 without any
    """

    start: int
    end: int
    from_months: float
    to_months: float
    intercept: float
    drivers: tuple[Driver, ...]
    log_pace: float = 0.0

    @property
    def log_rate(self) -> float:
        """Log of the rate, per year of the model's clock."""
        return self.intercept + sum(driver.log_rate for driver in self.drivers) + self.log_pace

    @property
    def groups(self) -> dict[str, float]:
        """Sum of the terms of each group, in the order in which they first come."""
        found: dict[str, float] = {}
        for driver in self.drivers:
            found[driver.group] = found.get(driver.group, 0.0) + driver.log_rate
        return found


@dataclass(frozen=True)
class StepTerm:
    """One grade step's part in the predicted change of the picture.

    Attributes
    ----------
    start : the step is from this grade to the next
    chance : that this knee makes it by the horizon
    length : of its effect in W, were it made for certain
    seen_grade : change of the expected grade that the grader sees when the step's share alone (chance × effect) is
        rendered, against the reconstruction
    grey : mean absolute change of grey, in shares of the baseline's contrast, of the same rendering
    """

    start: int
    chance: float
    length: float
    seen_grade: float
    grey: float


@dataclass(frozen=True)
class WhatIf:
    """Risk had a reader given this grade; `grade` None is the image alone."""

    grade: int | None
    risk_any: tuple[float, ...]
    risk_fast: tuple[float, ...]


@dataclass(frozen=True)
class VisitSeen:
    """A visit, `months_before` the present one (0): the grade read, None if unread, and the grade it looks like."""

    months_before: float
    grade_read: int | None
    grade_seen: float


@dataclass(frozen=True)
class EarlierTerms:
    """What earlier films say of the knee (`progression.latent.history`).

    Attributes
    ----------
    visits : oldest first, the present one last
    rise, expected : of the grade from the first visit to the last: seen (slope through all visits, may be below 0), and
        what the model expected of that time from the first film
    pace : the rates are multiplied by it
    lowest_grade : that the knee can have now, as it was read before; None if no earlier film was read
    """

    visits: tuple[VisitSeen, ...]
    rise: float
    expected: float
    pace: float
    lowest_grade: int | None


@dataclass(frozen=True)
class Explanation:
    """Why one knee's prediction is what it is, at its last horizon.

    Attributes
    ----------
    prediction : what is explained
    grade_read : by a reader, None if none was given
    start_grade : the grade whose rates are taken apart: the one read, or the likeliest
    saliency : of the radiograph and of the rendered follow-up, and of the other knee where that was seen
    neighbours : nearest first
    transitions : the rates from `start_grade`, in every era up to the horizon
    step_terms : of the predicted change
    what_if : image alone, then grades 0 to 4
    without_other : risk at each horizon without the other knee, where that had a part in the prediction's
    earlier : what earlier films say, None without any
    without_earlier : risk at each horizon without them
    other_knee : (R, R) float32 in [0, 1], the other knee as the model saw it
    """

    prediction: Prediction
    grade_read: int | None
    start_grade: int
    saliency: tuple[SaliencyMap, ...]
    neighbours: tuple[NeighbourSeen, ...]
    transitions: tuple[TransitionTerms, ...]
    step_terms: tuple[StepTerm, ...]
    what_if: tuple[WhatIf, ...]
    without_other: WhatIf | None = None
    earlier: EarlierTerms | None = None
    without_earlier: WhatIf | None = None
    other_knee: Pixels | None = None

    @property
    def main_transition(self) -> TransitionTerms | None:
        """The rate to the next grade in the last era, or None from the highest grade."""
        next_grade = [t for t in self.transitions if t.end == t.start + 1]
        return next_grade[-1] if next_grade else None


def explanation_json(explanation: Explanation) -> dict[str, Any]:
    """The content of explanation.json: all numbers, no pictures, no map, nobody's name."""
    return {
        "prediction": as_json(explanation.prediction),
        "grade_read": explanation.grade_read,
        "start_grade": explanation.start_grade,
        "saliency": [_without(one, "values") for one in explanation.saliency],
        "neighbours": [_without(one, "rendering") for one in explanation.neighbours],
        "transitions": [
            asdict(one) | {"log_rate": one.log_rate, "groups": one.groups} for one in explanation.transitions
        ],
        "step_terms": [asdict(one) for one in explanation.step_terms],
        "what_if": [asdict(one) for one in explanation.what_if],
        **{
            name: value and asdict(value)
            for name in ("without_other", "earlier", "without_earlier")
            for value in [getattr(explanation, name)]
        },
    }


def explanation_text(explanation: Explanation) -> str:
    """The same in plain words, Markdown."""
    prediction, horizon = explanation.prediction, explanation.prediction.horizons[-1]
    months = horizon.horizon_months
    likeliest = int(np.argmax(prediction.kl_now))
    lines = [
        f"# Why: {_plain(prediction.name)}, {prediction.side.value} knee",
        "",
        f"Research use, not a medical device. All pictures but the {_radiographs(explanation)} {WORD.lower()}.",
        "",
        f"{_chances(prediction)} The picture looks most like grade {likeliest} "
        f"({prediction.kl_now[likeliest]:.0%}); {_reading(explanation)}. "
        f"Typicality {prediction.typicality:.2f} (share of ordinary knees that the model finds as odd).",
        "",
        *(f"Warning: {_plain(text)}.\n" for text in prediction.warnings),
        *_other_lines(explanation),
        *_earlier_lines(explanation),
        "## What drives the risk",
        "",
        *_driver_lines(explanation),
        *(f"{text}\n" for text in late(prediction)),
        "## If a reader had called it otherwise",
        "",
        f"| grade read | rise by {months} months | by two or more |",
        "|---|---|---|",
        *(
            f"| {'none' if one.grade is None else one.grade} | {one.risk_any[-1]:.0%} | {one.risk_fast[-1]:.0%} |"
            for one in explanation.what_if
        ),
        "",
        "The picture is the same in every row: one that looks worse than its grade is expected to be read higher.",
        "",
        "## What the predicted change is made of",
        "",
        "| step | chance by then | seen by the grader | change of grey |",
        "|---|---|---|---|",
        *(
            f"| {term.start} → {term.start + 1} | {term.chance:.0%} | {term.seen_grade:+.2f} grades | {term.grey:.1%} |"
            for term in explanation.step_terms
        ),
        "",
        "Each step is rendered by itself, at its chance; the follow-up is their sum. "
        + (
            "Small chances make faint pictures."
            if horizon.risk_any < 0.5
            else "What is rendered is the mean over futures, not the likeliest one."
        ),
        "",
        "## The most similar knees known",
        "",
        *(f"- {_neighbour_words(one)}" for one in explanation.neighbours),
        "",
        _whose(explanation.neighbours),
        "",
        "## Where the networks look",
        "",
        *(
            f"- {one.score}, {one.of}, {one.method}: {one.share_in_band:.0%} of the map in the central band of rows "
            f"around the joint ({one.area_of_band:.0%} of the picture)"
            for one in explanation.saliency
        ),
        "",
        "Bright parts are where the networks' score rests; they are not findings.",
    ]
    return "\n".join(lines) + "\n"


def explanation_figure(explanation: Explanation) -> Figure:
    """Pictures with maps, neighbours, and the terms of risk and change; Agg canvas."""
    prediction, horizon = explanation.prediction, explanation.prediction.horizons[-1]
    columns = max(len(explanation.saliency) + 1, len(explanation.neighbours), 4)
    figure = Figure(figsize=(2.6 * columns, 9.6), dpi=100)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        3, 2 * columns, left=0.03, right=0.98, bottom=0.1, top=0.9, hspace=0.3, wspace=0.25
    )
    window = (float(prediction.baseline.min()), float(prediction.baseline.max()))

    def cell(row: int, column: int) -> Axes:
        return figure.add_subplot(grid[row, 2 * column : 2 * column + 2])

    picture(cell(0, 0), prediction.baseline, "radiograph", window, synthetic=False)
    for column, one in enumerate(explanation.saliency, start=1):
        real = {RADIOGRAPH: prediction.baseline, OTHER_KNEE: explanation.other_knee}.get(one.of)
        under = next(shown for shown in (real, horizon.image, prediction.baseline) if shown is not None)
        axes = cell(0, column)
        picture(axes, under, f"{one.score}\n{one.of}, {one.method}", window, synthetic=real is None)
        extent = (-0.5, under.shape[1] - 0.5, under.shape[0] - 0.5, -0.5)
        axes.imshow(one.values, cmap="inferno", alpha=0.75 * one.values, extent=extent, vmin=0, vmax=1)
    for column, near in enumerate(explanation.neighbours):
        title = f"{near.kind} neighbour, {near.distance:.2f}\n{_series(near)}"
        picture(cell(1, column), near.rendering, title, window, synthetic=True)
    bottom = grid[2, :].subgridspec(1, 12, wspace=0.6)  # labels take what is left of each
    _draw_drivers(figure.add_subplot(bottom[0, 3:6]), explanation)
    _draw_what_if(figure.add_subplot(bottom[0, 7:9]), explanation)
    _draw_steps(figure.add_subplot(bottom[0, 10:12]), explanation)
    head = (
        f"{prediction.name}, {prediction.side.value} knee, chance of a rise within {horizon.horizon_months} months: "
        f"{told_risk(prediction, horizon, 1)}; by two or more grades: {told_risk(prediction, horizon, 2)}; "
        f"{_reading(explanation)}"
    )
    lines = wrapped([head], 0.94 * figure.get_figwidth(), points=11)
    figure.text(0.03, 0.985, "\n".join(lines), fontsize=11, va="top")
    figure.text(0.03, 0.01, f"{WORD} pictures are renderings. {NOTICE}", fontsize=9)
    return figure


def write_explanation(folder: str | Path, explanation: Explanation) -> Path:
    """Write explanation.png, explanation.json and explanation.md, all or none.

    Raises
    ------
    OutputError
        If it cannot be written, or `folder` holds files that are not an explanation's.
    """
    folder = Path(folder)
    check_explanation_replaceable(folder)
    with atomic_folder(folder) as temporary:
        metadata = synthetic_metadata(explanation.prediction.side)
        explanation_figure(explanation).savefig(
            temporary / "explanation.png", format="png", metadata=metadata
        )
        text = json.dumps(explanation_json(explanation), indent=2, allow_nan=False) + "\n"
        (temporary / "explanation.json").write_text(text, encoding="utf-8")
        (temporary / "explanation.md").write_text(explanation_text(explanation), encoding="utf-8")
    return folder


def check_explanation_replaceable(folder: str | Path) -> None:
    """OutputError unless `folder` is missing or holds nothing but an older explanation."""
    check_replaceable(folder, own=_OWN_FILE)


# ---- in words ---------------------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """A text of others in Markdown, where tags would be HTML."""
    return escape(printable(text), quote=False)


def _radiographs(explanation: Explanation) -> str:
    return "radiograph are" if explanation.other_knee is None else "radiographs of the two knees are"


def _chances(prediction: Prediction) -> str:
    """The two risks at the last horizon, or that there are none."""
    if cannot_rise(prediction, 1):
        return "Grade 4 is the highest: it cannot rise."
    horizon = prediction.horizons[-1]
    fast = (
        "it cannot rise by two"
        if cannot_rise(prediction, 2)
        else f"of {horizon.risk_fast:.0%} that it rises by two or more"
    )
    return (
        f"By {horizon.horizon_months} months the model gives a chance of {horizon.risk_any:.0%} that the "
        f"Kellgren-Lawrence grade rises, and {fast}."
    )


def _reading(explanation: Explanation) -> str:
    if explanation.grade_read is None:
        return "no reader's grade was given"
    return f"a reader called it grade {explanation.grade_read}"


def _other_lines(explanation: Explanation) -> list[str]:
    if explanation.without_other is None:
        return []
    here, there = (
        sum(
            one.mean
            for one in explanation.saliency
            if (one.of, one.score, one.method) == (of, RISE, GRADIENT)
        )
        for of in (RADIOGRAPH, OTHER_KNEE)
    )
    words = "All that follows is of the model of both knees."
    if here > 0:
        words += (
            f" A pixel of the other knee moves the log odds of a rise {there / here:.2f} times as much as one of this "
            "knee, on average."
        )
    return [
        "## What the other knee adds",
        "",
        *_without_lines(explanation, explanation.without_other, "it"),
        "",
        words,
        "",
    ]


def _earlier_lines(explanation: Explanation) -> list[str]:
    earlier = explanation.earlier
    if earlier is None or explanation.without_earlier is None:
        return []
    span = earlier.visits[0].months_before
    lines = [
        "## What the earlier films add",
        "",
        "| months before | read as grade | looks like |",
        "|---|---|---|",
        *(
            f"| {one.months_before:g} | {'-' if one.grade_read is None else one.grade_read} | {one.grade_seen:.1f} |"
            for one in earlier.visits
        ),
        "",
        f"Over these {span:g} months the grade went up by {earlier.rise:.2f} (a line through the visits, by the grades "
        f"read where there are any), where {earlier.expected:.2f} were to be expected of the first film. So all rates "
        f"below are multiplied by {earlier.pace:.2f}."
        + (
            ""
            if not earlier.lowest_grade
            else f" The grade now is {earlier.lowest_grade} at least, as that was read before."
        ),
        "",
        *_without_lines(explanation, explanation.without_earlier, "them"),
        "",
    ]
    return lines


def _without_lines(explanation: Explanation, without: WhatIf, it: str) -> list[str]:
    """A table of the risks without something, and with all."""
    lines = [
        f"| by | rise, without {it} | with {it} | by two or more, without | with |",
        "|---" * 5 + "|",
    ]
    lines += [
        f"| {given.horizon_months} months | {any_:.0%} | {given.risk_any:.0%} ({given.risk_any - any_:+.1%}) "
        f"| {fast:.0%} | {given.risk_fast:.0%} ({given.risk_fast - fast:+.1%}) |"
        for any_, fast, given in zip(
            without.risk_any, without.risk_fast, explanation.prediction.horizons, strict=True
        )
    ]
    return lines


def _driver_lines(explanation: Explanation) -> list[str]:
    terms = explanation.main_transition
    if terms is None:
        return ["Grade 4 is the highest: nothing can rise.", ""]
    most = sorted(terms.drivers, key=lambda one: -abs(one.log_rate))[:3]
    return [
        f"How fast a knee of grade {terms.start} goes to {terms.end} ({terms.from_months:g} to {terms.to_months:g} "
        f"months) is a product: the mean training knee's rate, times one factor for each thing seen, in all "
        f"{np.exp(terms.log_rate - terms.intercept):.2f} times that rate:",
        "",
        *(f"- {group}: × {np.exp(value):.2f}" for group, value in terms.groups.items()),
        *([f"- {_PACE}: × {np.exp(terms.log_pace):.2f}"] if explanation.earlier else []),
        "",
        "The largest single factors: "
        + "; ".join(
            f"{one.words} × {np.exp(one.log_rate):.2f} ({one.value:+.1f} standard deviations)" for one in most
        )
        + ". Things seen go together, so no factor is an effect of its own; their product is what counts.",
        "",
    ]


def _series(near: NeighbourSeen) -> str:
    if not near.grades:
        return "grades unread"
    return f"grade {near.grades[0]} → {max(near.grades)} in {near.months[-1]:.0f} months"


def _neighbour_words(near: NeighbourSeen) -> str:
    return f"distance {near.distance:.2f} ({near.kind}): {_series(near)}"


def _whose(neighbours: Sequence[NeighbourSeen]) -> str:
    if all(near.kind == "synthetic" for near in neighbours):
        return "These knees are drawn from a model of a cohort and are nobody's; so are their grades."
    return (
        "These renderings come from the codes of people's radiographs: treat them, and their grades, as data of those "
        "people. They may look like them."
    )


def _without(one: Any, *names: str) -> dict[str, Any]:
    return {name: value for name, value in vars(one).items() if name not in names}


# ---- drawn ------------------------------------------------------------------------------------------------------


def _draw_drivers(axes: Axes, explanation: Explanation) -> None:
    terms = explanation.main_transition
    if terms is None:
        bare(axes, "grade 4 cannot rise")
        return
    single = sorted(terms.drivers, key=lambda one: abs(one.log_rate))[-5:]
    bars = [(one.words, one.log_rate, 0.45) for one in single]
    bars += [(f"ALL: {group}", value, 1.0) for group, value in terms.groups.items()]
    bars += [(_PACE, terms.log_pace, 1.0)] if explanation.earlier else []
    for place, (_, value, opacity) in enumerate(bars):
        axes.barh(place, value, color="#b2182b" if value > 0 else "#2166ac", alpha=opacity)
    axes.set_yticks(range(len(bars)), [drawn(words) for words, *_ in bars])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.tick_params(labelsize=7)
    axes.set_title(f"log rate {terms.start} → {terms.end}: terms beyond the mean knee", fontsize=9)


def _draw_what_if(axes: Axes, explanation: Explanation) -> None:
    names = ["none" if one.grade is None else str(one.grade) for one in explanation.what_if]
    places = np.arange(len(names))
    axes.bar(
        places - 0.2, [one.risk_any[-1] for one in explanation.what_if], 0.4, color="#e08214", label="by ≥ 1"
    )
    axes.bar(
        places + 0.2, [one.risk_fast[-1] for one in explanation.what_if], 0.4, color="#b2182b", label="by ≥ 2"
    )
    axes.set_xticks(places, names, fontsize=8)
    axes.set(xlabel="grade read", ylim=(0, 1))
    _legend_below(axes)
    axes.set_title("chance of a rise,\nhad it been read", fontsize=9)


def _draw_steps(axes: Axes, explanation: Explanation) -> None:
    names = [f"{term.start}→{term.start + 1}" for term in explanation.step_terms]
    places = np.arange(len(names))
    axes.bar(
        places - 0.2, [term.chance for term in explanation.step_terms], 0.4, color="#4d4d4d", label="chance"
    )
    seen = [term.seen_grade for term in explanation.step_terms]
    axes.bar(places + 0.2, seen, 0.4, color="#2166ac", label="grades seen")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(places, names, fontsize=8)
    _legend_below(axes)
    axes.set_title("terms of the\nrendered change", fontsize=9)


def _legend_below(axes: Axes) -> None:
    """Under the axes and their label, where it covers no bar, however tall."""
    axes.legend(
        fontsize=7, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.23), borderaxespad=0.0
    )
