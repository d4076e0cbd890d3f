"""How well risks tell and keep their word: ROC curves, reliability, decision curves; one panel an end point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from progression.metrics.auc import Floats, auc, roc_points
from progression.metrics.calibration import reliability
from progression.metrics.decision import net_benefit, net_benefit_of_all
from progression.report.lettering import drawn, label

COLOURS = ("#b2182b", "#2166ac", "#1b7837", "#e08214", "#762a83", "#01665e", "#8c510a", "#4d4d4d")
"""Of scores in the order they are given, repeated from the ninth on."""
_SIDE = 3.9
"""Inches a panel."""


@dataclass(frozen=True)
class ReaderPoints:
    """Operating points of readers: false and true positive rates, (R,) each, under the name of a legend."""

    label: str
    false_positive: Floats
    true_positive: Floats
    filled: bool = True


@dataclass(frozen=True)
class Panel:
    """Scores of the same N knees.

    Attributes
    ----------
    title : end point and cohort
    y : (N,) 0 or 1, both among them
    scores : name → (N,); those drawn as risks must be probabilities
    readers : operating points that ROC curves are shown with
    """

    title: str
    y: Floats
    scores: Mapping[str, Floats]
    readers: Sequence[ReaderPoints] = ()


def roc_figure(panels: Sequence[Panel]) -> Figure:
    """ROC curves, and readers' operating points."""

    def draw(axes: Axes, panel: Panel) -> None:
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle=":")
        for name, score, colour in _coloured(panel.scores):
            told = label(f"{name}, {auc(panel.y, score):.2f}")
            axes.plot(*roc_points(panel.y, score), color=colour, linewidth=1.3, label=told)
        for points in panel.readers:
            axes.scatter(
                points.false_positive, points.true_positive, s=20, edgecolor="black", linewidth=0.8, zorder=3,
                facecolor="black" if points.filled else "white", label=label(points.label),
            )  # fmt: skip
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="1 − specificity", ylabel="sensitivity")
        axes.legend(fontsize=6, frameon=False, loc="lower right")

    return _grid(panels, draw)


def reliability_figure(panels: Sequence[Panel], *, n_bins: int = 10) -> Figure:
    """Event rate against mean risk, in bins of equal count."""

    def draw(axes: Axes, panel: Panel) -> None:
        top = 0.0
        for name, risk, colour in _coloured(panel.scores):
            bins = reliability(panel.y, risk, n_bins=n_bins)
            said, seen = ([b[key] for b in bins] for key in ("mean_risk", "event_rate"))
            top = max(top, *said, *seen)
            axes.plot(said, seen, color=colour, linewidth=1.0, marker="o", markersize=3, label=label(name))
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle=":")
        side = 1.05 * max(top, 0.01)
        axes.set(xlim=(0, side), ylim=(0, side), xlabel="mean risk", ylabel="event rate")
        axes.legend(fontsize=6, frameon=False, loc="upper left")

    return _grid(panels, draw)


def decision_figure(panels: Sequence[Panel]) -> Figure:
    """Net benefit against the risk from which on one would act, up to three times the event rate."""

    def draw(axes: Axes, panel: Panel) -> None:
        rate = float(panel.y.mean())
        thresholds = np.linspace(0, min(0.95, 3 * rate), 100)
        all_ = net_benefit_of_all(panel.y, thresholds)
        axes.plot(thresholds, all_, color="#999999", linewidth=1, linestyle="--", label="act on all")
        axes.axhline(0, color="#999999", linewidth=1, linestyle=":", label="act on none")
        for name, risk, colour in _coloured(panel.scores):
            benefit = net_benefit(panel.y, risk, thresholds)
            axes.plot(thresholds, benefit, color=colour, linewidth=1.3, label=label(name))
        axes.set(ylim=(-0.15 * rate, 1.05 * rate), xlabel="risk from which on to act", ylabel="net benefit")
        axes.legend(fontsize=6, frameon=False, loc="upper right")

    return _grid(panels, draw)


def _coloured(scores: Mapping[str, Floats]) -> list[tuple[str, Floats, str]]:
    return [(name, score, COLOURS[i % len(COLOURS)]) for i, (name, score) in enumerate(scores.items())]


def _grid(panels: Sequence[Panel], draw: Callable[[Axes, Panel], None]) -> Figure:
    columns = min(4, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(_SIDE * columns, (_SIDE + 0.3) * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    places = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axes, panel in zip(places, panels, strict=False):
        draw(axes, panel)
        axes.set_box_aspect(1)
        axes.set_title(drawn(panel.title), fontsize=9)
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    return figure
