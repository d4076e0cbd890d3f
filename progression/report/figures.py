"""One figure a prediction: pictures, what changes in them, and the risk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from progression.report.lettering import drawn, drawn_lines
from progression.report.mark import NOTICE, WORD, synthetic_metadata
from progression.report.words import asked_with, cannot_rise, grade_now
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
    # sizes in inches; set by hand, since matplotlib's own layouts take as long as all the drawing
    width = 2.9 * (columns + 2) + 1.7
    head = [
        f"{prediction.name}, {prediction.side.value} knee, typicality {prediction.typicality:.2f}",
        asked_with(prediction),
        *(f"warning: {text}" for text in prediction.warnings),
    ]
    lines = wrapped(head, width - 0.9, points=11)
    foot = wrapped([_bars(prediction), f"{WORD} pictures are predictions. {NOTICE}"], width - 0.9, points=9)
    below = 0.65 + 0.16 * len(foot)
    height = 5.8 * blocks + 0.8 + below + 0.2 * len(lines)
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    bottom, top = below / height, 1 - (0.4 + 0.2 * len(lines)) / height
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
    figure.text(0.45 / width, 0.1 / height, "\n".join(foot), fontsize=9)
    return figure


def save_prediction_figure(path: str | Path, prediction: Prediction) -> None:
    """Draw and write figure.png."""
    prediction_figure(prediction).savefig(path, format="png", metadata=synthetic_metadata(prediction.side))


def spread_figure(prediction: Prediction) -> Figure:
    """One row a horizon: what is now, then futures at the percentiles of change, each with its change of grade.

    The radiograph stands first. The reconstruction, from which the changes are drawn, stands beside it, or below in
    every further row.

    Returns
    -------
    Figure
        With an Agg canvas; no window, no global state.
    """
    shown = [h for h in prediction.horizons if h.spread]
    first = 2 if len(shown) == 1 else 1
    columns = first + max(len(h.spread) for h in shown)
    width = 2.9 * columns + 0.4
    head = wrapped(
        [
            f"{prediction.name}, {prediction.side.value} knee: futures at percentiles of the change of grade",
            *(f"warning: {text}" for text in prediction.warnings),
        ],
        width - 0.4,
        points=11,
    )
    foot = wrapped([f"{WORD} pictures are predictions. {NOTICE}"], width - 0.4, points=9)
    above, below = 0.4 + 0.2 * len(head), 0.2 + 0.16 * len(foot)
    height = 3.2 * len(shown) + above + below
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(shown), columns, left=0.2 / width, right=1 - 0.2 / width, bottom=below / height,
        top=1 - above / height, wspace=0.06,
    )  # fmt: skip
    window = (float(np.min(prediction.baseline)), float(np.max(prediction.baseline)))
    picture(figure.add_subplot(grid[0, 0]), prediction.baseline, "radiograph", window, synthetic=False)
    for place in [(0, 1)] if len(shown) == 1 else [(row, 0) for row in range(1, len(shown))]:
        axes = figure.add_subplot(grid[place])
        picture(axes, prediction.reconstruction, "reconstruction", window, synthetic=True)
    for row, horizon in enumerate(shown):
        for column, future in enumerate(horizon.spread, start=first):
            if future.image is not None:
                title = f"+{horizon.horizon_months} months, {future.percentile}th: +{future.change_grades:.1f} grades"
                picture(figure.add_subplot(grid[row, column]), future.image, title, window, synthetic=True)
    figure.text(0.2 / width, 1 - 0.1 / height, "\n".join(head), fontsize=11, va="top")
    figure.text(0.2 / width, 0.1 / height, "\n".join(foot), fontsize=9)
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


def wrapped(texts: Sequence[str], width_inches: float, *, points: float) -> list[str]:
    """Lines that are no wider than that in a font of `points`, by its mean width of a letter, as `drawn` has them."""
    characters = int(width_inches * 72 / (0.58 * points))
    return [line for text in texts for line in drawn_lines(text, characters)]


def bare(axes: Axes, title: str) -> None:
    """A title and no ticks."""
    axes.set_title("\n".join(map(drawn, title.split("\n"))), fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])


def _bars(prediction: Prediction) -> str:
    """What `_grades` draws."""
    if grade_now(prediction) is None:
        return "Bars: the grader's probability of each grade in the radiograph."
    months = prediction.horizons[-1].horizon_months
    return (
        "Bars: probability of each grade now (certain if it was read), and of the highest grade read within "
        f"{months} months, by the risk model; they do not grade the pictures."
    )


def _grades(axes: Axes, prediction: Prediction) -> None:
    # only like with like: the grader sees less in its own reconstruction than in the radiograph, so a rendering's grade
    # beside the radiograph's would look like recovery
    start, last = grade_now(prediction), prediction.horizons[-1]
    grades = np.arange(KL_GRADES)
    if start is None or last.kl_read is None:
        axes.bar(grades, prediction.kl_now, width=0.6, color=_NOW, label="now")
    else:
        axes.bar(grades - 0.2, start, width=0.4, color=_NOW, label="now")
        label = f"within {last.horizon_months} months"
        axes.bar(grades + 0.2, last.kl_read, width=0.4, color=_THEN, label=label)
    axes.set(xlabel="Kellgren-Lawrence grade", ylim=(0, 1.3), yticks=np.linspace(0, 1, 6), box_aspect=1)
    axes.set_title("grade, probability", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper right")


def _risks(axes: Axes, prediction: Prediction) -> None:
    months = [horizon.horizon_months for horizon in prediction.horizons]
    for steps, values, label, colour in (
        (1, [horizon.risk_any for horizon in prediction.horizons], "rise by 1 or more", _ANY),
        (2, [horizon.risk_fast for horizon in prediction.horizons], "rise by 2 or more", _FAST),
    ):
        if cannot_rise(prediction, steps):
            axes.plot([], [], color=colour, label=f"{label}: cannot")
            continue
        axes.plot([0, *months], [0, *values], marker="o", markersize=4, color=colour, label=label)
        axes.annotate(
            f"{values[-1]:.0%}", (months[-1], values[-1]), xytext=(5, 0), textcoords="offset points",
            fontsize=9, color=colour, va="center",
        )  # fmt: skip
    axes.set(xlabel="months", ylim=(0, 1), xlim=(0, max(months) * 1.25), box_aspect=1)
    axes.set_title("risk that the grade rises", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
