"""One figure a prediction: pictures, what changes in them, and the risk."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from progression.report.mark import NOTICE, WORD, synthetic_metadata
from progression.types import KL_GRADES, Pixels, Prediction

COLUMNS = 4
"""Horizons in one row of the figure; more go to further rows."""
LEAST_DIFFERENCE = 0.02
_FAST, _ANY, _NOW, _THEN = "#b2182b", "#e08214", "#4d4d4d", "#2166ac"


def difference(follow_up: Pixels, reconstruction: Pixels, baseline: Pixels) -> Pixels:
    """Change of grey value from reconstruction to follow-up, in shares of the baseline's contrast.

    Contrast is the range from the 1st to the 99th percentile of the baseline. Both pictures come from the
    generator, so that its reconstruction error does not show as change.
    """
    low, high = np.percentile(baseline, (1, 99))
    scaled: Pixels = ((follow_up - reconstruction) / max(high - low, 1e-6)).astype(np.float32)
    return scaled


def prediction_figure(prediction: Prediction) -> Figure:
    """Baseline, reconstruction, every rendered follow-up with its difference map, grades and risk lines.

    Returns
    -------
    Figure
        With an Agg canvas; no window, no global state.
    """
    shown = [(h.horizon_months, h.image) for h in prediction.horizons if h.image is not None]
    columns = min(max(len(shown), 1), COLUMNS)
    blocks = max(1, -(-len(shown) // COLUMNS))
    lines = [f"{prediction.name}, {prediction.side.value} knee, typicality {prediction.typicality:.2f}"]
    lines += [f"warning: {text}" for text in prediction.warnings]
    # sizes in inches; set by hand, since matplotlib's own layouts take as long as all the drawing
    width, height = 2.9 * (columns + 2) + 1.7, 6.2 * blocks + 1.2 + 0.2 * len(lines)
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    bottom, top = 0.8 / height, 1 - (0.4 + 0.2 * len(lines)) / height
    grid = figure.add_gridspec(
        2 * blocks,
        columns + 2,
        left=0.45 / width,
        right=1 - 1.25 / width,
        bottom=bottom,
        top=top,
        wspace=0.18,
    )
    window = (float(np.min(prediction.baseline)), float(np.max(prediction.baseline)))

    picture(figure.add_subplot(grid[0, 0]), prediction.baseline, "radiograph", window, synthetic=False)
    picture(
        figure.add_subplot(grid[0, 1]), prediction.reconstruction, "reconstruction", window, synthetic=True
    )
    _grades(figure.add_subplot(grid[1, 0]), prediction)
    _risks(figure.add_subplot(grid[1, 1]), prediction)

    changes = [difference(image, prediction.reconstruction, prediction.baseline) for _, image in shown]
    limit = max([LEAST_DIFFERENCE, *(float(np.percentile(np.abs(change), 99.5)) for change in changes)])
    for number, ((months, image), change) in enumerate(zip(shown, changes, strict=True)):
        row, column = 2 * (number // COLUMNS), 2 + number % COLUMNS
        picture(figure.add_subplot(grid[row, column]), image, f"+{months} months", window, synthetic=True)
        axes = figure.add_subplot(grid[row + 1, column])
        drawn = axes.imshow(change, cmap="RdBu_r", vmin=-limit, vmax=limit)
        bare(axes, f"change to +{months} months")
    if shown:
        place = figure.add_axes((1 - 1.1 / width, bottom, 0.13 / width, (top - bottom) / (2 * blocks) * 0.9))
        bar = figure.colorbar(drawn, cax=place, extend="both", ticks=MaxNLocator(5))
        bar.set_label("darker   (share of contrast)   brighter")
    figure.text(0.45 / width, 1 - 0.1 / height, "\n".join(lines), fontsize=11, va="top")
    figure.text(0.45 / width, 0.1 / height, f"{WORD} pictures are predictions. {NOTICE}", fontsize=9)
    return figure


def save_prediction_figure(path: str | Path, prediction: Prediction) -> None:
    """Draw and write figure.png."""
    prediction_figure(prediction).savefig(path, format="png", metadata=synthetic_metadata(prediction.side))


def spread_figure(prediction: Prediction) -> Figure:
    """One column a horizon: futures at the percentiles of change, from little to much, each with its change of grade.

    Returns
    -------
    Figure
        With an Agg canvas; no window, no global state.
    """
    shown = [h for h in prediction.horizons if h.spread]
    rows = max(len(h.spread) for h in shown)
    figure = Figure(figsize=(2.9 * (len(shown) + 1) + 0.4, 3.1 * rows + 0.7), dpi=100)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        rows,
        len(shown) + 1,
        left=0.02,
        right=0.98,
        bottom=0.07,
        top=1 - 0.6 / (3.1 * rows + 0.7),
        wspace=0.06,
    )
    window = (float(np.min(prediction.baseline)), float(np.max(prediction.baseline)))
    picture(figure.add_subplot(grid[0, 0]), prediction.baseline, "radiograph", window, synthetic=False)
    for column, horizon in enumerate(shown, start=1):
        for row, future in enumerate(horizon.spread):
            if future.image is not None:
                title = f"+{horizon.horizon_months} months, {future.percentile}th: +{future.change_grades:.1f} grades"
                picture(figure.add_subplot(grid[row, column]), future.image, title, window, synthetic=True)
    top = f"{prediction.name}, {prediction.side.value} knee: futures at percentiles of the change of grade"
    figure.text(0.02, 0.99, top, fontsize=11, va="top")
    figure.text(0.02, 0.015, f"{WORD} pictures are predictions. {NOTICE}", fontsize=9)
    return figure


def save_spread_figure(path: str | Path, prediction: Prediction) -> None:
    """Draw and write spread.png."""
    spread_figure(prediction).savefig(path, format="png", metadata=synthetic_metadata(prediction.side))


def picture(axes: Axes, pixels: Pixels, title: str, window: tuple[float, float], *, synthetic: bool) -> None:
    """Draw (H, W) within a window of grey values; a synthetic one is marked."""
    axes.imshow(pixels, cmap="gray", vmin=window[0], vmax=window[1])
    bare(axes, title)
    if synthetic:
        axes.text(
            0.02, 0.02, WORD, transform=axes.transAxes, color="white", fontsize=9, weight="bold",
            bbox={"facecolor": "black", "edgecolor": "none", "pad": 2},
        )  # fmt: skip


def bare(axes: Axes, title: str) -> None:
    """A title and no ticks."""
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])


def _grades(axes: Axes, prediction: Prediction) -> None:
    last = prediction.horizons[-1]
    grades = np.arange(KL_GRADES)
    axes.bar(grades - 0.2, prediction.kl_now, width=0.4, color=_NOW, label="now")
    axes.bar(grades + 0.2, last.kl_future, width=0.4, color=_THEN, label=f"+{last.horizon_months} months")
    axes.set(xlabel="Kellgren-Lawrence grade", ylim=(0, 1), box_aspect=1)
    axes.set_title("grade, probability", fontsize=10)
    axes.legend(fontsize=8, frameon=False)


def _risks(axes: Axes, prediction: Prediction) -> None:
    months = [horizon.horizon_months for horizon in prediction.horizons]
    for values, label, colour in (
        ([horizon.risk_any for horizon in prediction.horizons], "rise by 1 or more", _ANY),
        ([horizon.risk_fast for horizon in prediction.horizons], "rise by 2 or more", _FAST),
    ):
        axes.plot([0, *months], [0, *values], marker="o", markersize=4, color=colour, label=label)
        axes.annotate(
            f"{values[-1]:.0%}", (months[-1], values[-1]), xytext=(5, 0), textcoords="offset points",
            fontsize=9, color=colour, va="center",
        )  # fmt: skip
    axes.set(xlabel="months", ylim=(0, 1), xlim=(0, max(months) * 1.25), box_aspect=1)
    axes.set_title("risk that the grade rises", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
