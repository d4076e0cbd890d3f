"""One figure a reader study: ROC curves, what each reader's operating point does, differences by reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from progression.files import atomic_write
from progression.metrics.auc import Floats, roc_points
from progression.metrics.readers.ratings import Ratings
from progression.report.lettering import drawn, label

REFERENCE, OTHERS = "#4d4d4d", ("#2166ac", "#b2182b", "#e08214", "#1b7837")
"""Colours of the reference and of the other treatments, which repeat from the fifth on."""
_GRID = np.linspace(0, 1, 201)
_SIDE, _NAMES = 4.4, 1.6
"""Inches a panel, and for the names of whose the differences are."""
_MOST_LABELS = 12
_UNIT_POINTS = 240.0
"""Points that the unit square's side takes in a panel, about."""
_NAME_POINTS, _MARK_POINTS = 8.0, 3.0
"""Height of a reader's name, and half the side of a marker."""
_NAME_GAPS_POINTS = (5.0, 10.0, 16.0)
"""Between a point and its reader's name; the nearest at which there is room."""
_ASTRAY = 1.0
"""Square points of covered names or markers that one point nearer to another's marker weighs as much as."""


def reader_figure(
    ratings: Ratings,
    differences: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    threshold: float | None = None,
    confidence: float = 0.95,
) -> Figure:
    """Draw a study.

    Parameters
    ----------
    ratings
        What was rated; the last treatment is the reference.
    differences
        Whose AUC, and the fields of a `progression.metrics.readers.analysis.Difference` of it; those from
        the reference are drawn.  May be empty.
    threshold
        Ratings at or above it are positive; None leaves the operating points out.
    confidence
        Of the intervals in `differences`, for the title.

    Returns
    -------
    Figure
        With an Agg canvas; no window, no global state.
    """
    compared = bool(differences)
    panels = 1 + (threshold is not None) + compared
    width = _SIDE * panels + (_NAMES if compared else 0)
    figure = Figure(figsize=(width, _SIDE + 0.1), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = iter(np.atleast_1d(figure.subplots(1, panels)))
    draw_curves(next(axes), ratings)
    if threshold is not None:
        positive = ratings.rating >= threshold
        false, true = positive[..., ~ratings.truth].mean(axis=2), positive[..., ratings.truth].mean(axis=2)
        place = next(axes)
        draw_points(place, false, true, treatments=ratings.treatments, readers=ratings.readers)
        place.set_title(f"operating points (rating ≥ {threshold:g})", fontsize=10)
    if compared:
        place = next(axes)
        draw_differences(place, differences, treatments=ratings.treatments)
        place.set_title(f"difference, {100 * confidence:g} % interval", fontsize=10)
    return figure


def save_figure(path: str | Path, figure: Figure) -> None:
    """Write a PNG, whole or not at all.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def colours(treatments: Sequence[str]) -> list[str]:
    """A colour each, the reference (last) in grey."""
    return [*(OTHERS[i % len(OTHERS)] for i in range(len(treatments) - 1)), REFERENCE]


def draw_curves(axes: Axes, ratings: Ratings) -> None:
    """Empirical ROC curves of all readers, and their mean sensitivity at each false positive rate."""
    _unit_square(axes)
    # the reference first, so that it lies below
    for i in reversed(range(len(ratings.treatments))):
        colour = colours(ratings.treatments)[i]
        means = np.zeros_like(_GRID)
        for scores in ratings.rating[i]:
            false, true = roc_points(ratings.truth, scores)
            axes.plot(false, true, color=colour, linewidth=0.7, alpha=0.5)
            means += _height(false, true) / len(ratings.readers)
        axes.plot(_GRID, means, color=colour, linewidth=2.2, label=label(ratings.treatments[i]))
    axes.set_title("ROC curves (thick: mean of the readers)", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def draw_points(
    axes: Axes,
    false_positive: Floats,
    true_positive: Floats,
    *,
    treatments: Sequence[str],
    readers: Sequence[str],
) -> None:
    """Operating points (I, R) of R readers; with two treatments an arrow leads from the last to the first."""
    _unit_square(axes)
    for i in reversed(range(len(treatments))):
        axes.scatter(
            false_positive[i], true_positive[i], s=26, color=colours(treatments)[i], label=label(treatments[i]),
            zorder=3, facecolor="white" if i == len(treatments) - 1 and i else None,
        )  # fmt: skip
    for j in range(len(readers)):
        if len(treatments) == 2:
            axes.annotate(
                "", (false_positive[0, j], true_positive[0, j]),
                xytext=(false_positive[1, j], true_positive[1, j]), zorder=2,
                arrowprops={"arrowstyle": "-|>", "color": colours(treatments)[0], "alpha": 0.6,
                            "shrinkA": 3, "shrinkB": 3, "linewidth": 1.2},
            )  # fmt: skip
    if len(readers) <= _MOST_LABELS:
        ends = np.stack([false_positive, true_positive], axis=-1)
        names = [drawn(reader) for reader in readers]
        for reader, tip, offset in zip(names, ends[0], name_offsets(ends, names), strict=True):
            axes.annotate(
                reader, tuple(tip), xytext=tuple(offset), fontsize=_NAME_POINTS, textcoords="offset points",
                color=colours(treatments)[0], ha="center", va="center",
            )  # fmt: skip
    axes.set_title("operating points", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def name_offsets(ends: Floats, names: Sequence[str]) -> Floats:
    """Where names stand from the tips of their arrows, in points, (R, 2): clear of one another and of the points.

    Beyond the arrow's head if there is room, so that it does not cross the name; else round the tip, or farther off.

    Parameters
    ----------
    ends : (I, R, 2), rates of I treatments, in the unit square that is drawn; arrows lead from the last to the first
    names : R readers
    """
    points = ends * _UNIT_POINTS
    half = np.array([[0.3 * _NAME_POINTS * len(name), 0.5 * _NAME_POINTS] for name in names])
    marks = points.reshape(-1, 2)
    taken, taken_half = marks, np.full_like(marks, _MARK_POINTS)
    offsets = np.zeros((len(names), 2))
    for j in range(len(names)):
        way = points[0, j] - points[-1, j]
        ahead = np.arctan2(way[1], way[0])  # 0 where there is no arrow
        turns = ahead + np.pi / 4 * np.array([0, 1, -1, 2, -2, 3, -3, 4])
        round_ = np.stack([np.cos(turns), np.sin(turns)], axis=-1)
        # a long name stands off by its own width where it is beside its point
        tries = np.concatenate([round_ * (half[j] + far) for far in _NAME_GAPS_POINTS])
        gap = np.abs(points[0, j] + tries[:, None] - taken) - (half[j] + taken_half)
        covered = np.clip(-gap, 0, None).prod(axis=-1).sum(axis=-1)
        # no nearer to another's point than to its own
        others = points[0] - points[0, j]
        others = others[(others != 0).any(axis=-1)]
        nearest = np.linalg.norm(tries[:, None] - others, axis=-1).min(axis=-1, initial=np.inf)
        astray = np.clip(np.linalg.norm(tries, axis=-1) - nearest, 0, None)
        offsets[j] = tries[int((covered + _ASTRAY * astray).argmin())]
        taken = np.vstack([taken, points[0, j] + offsets[j]])
        taken_half = np.vstack([taken_half, half[j]])
    return offsets


def draw_differences(
    axes: Axes, differences: Sequence[tuple[str, Mapping[str, Any]]], *, treatments: Sequence[str]
) -> None:
    """Differences from the last treatment with their intervals, one a line; diamonds are means of readers."""
    reference, several = treatments[-1], len(treatments) > 2
    colour = dict(zip(treatments, colours(treatments), strict=True))
    rows = [(who, entry) for who, entry in differences if entry["second"] == reference]
    for y, (_, entry) in enumerate(rows):
        mean = entry["reader"] is None
        shade = colour[entry["first"]]
        axes.plot([entry["low"], entry["high"]], [y, y], color=shade, linewidth=2.2 if mean else 1.2)
        axes.plot(entry["difference"], y, marker="D" if mean else "o", color=shade, markersize=6)
    axes.axvline(0, color="#888888", linewidth=0.8, linestyle=":")
    names = [drawn(f"{who} ({entry['first']})" if several else who) for who, entry in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set(xlabel=drawn(f"AUC, {'treatment' if several else treatments[0]} − {reference}"), box_aspect=1)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _unit_square(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle=":")
    axes.set(
        xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), xlabel="1 − specificity", ylabel="sensitivity", box_aspect=1
    )


def _height(false: Floats, true: Floats) -> Floats:
    """Sensitivity on `_GRID`; where the curve rises straight up, its top."""
    last = np.append(np.diff(false) > 0, True)
    return np.interp(_GRID, false[last], true[last])
