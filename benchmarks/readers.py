"""Do radiologists tell progression better with a predicted follow-up? What was published, and what it takes to show it.

    python benchmarks/readers.py --points benchmarks/han2022_reader_points.csv --out FOLDER [RATINGS.csv --threshold 4]

1. Published operating points without and with the synthetic follow-up (columns reader, fpr_unaided, tpr_unaided,
   fpr_aided, tpr_aided). Cases are not known one by one, so the test speaks about such readers on those very cases:
   the Obuchowski-Rockette analysis with fixed cases, a paired t test over readers. "Area" is that under the two
   lines through one point, (sensitivity + specificity) / 2. Unaided came first and the same cases again with aid, so
   what readers learnt on the way counts as aid. Arrows: points.png.
2. With RATINGS.csv (columns as `progression readers analyse`), its full analysis: readers.json, readers.md,
   readers.png; and how many readers and cases a new study would need, with it as the pilot.
3. Without RATINGS.csv the same from conjectures that are printed with the numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from progression.errors import ProgressionError, TableError
from progression.evaluate.readers import (
    analyse_readers,
    differences_of,
    pilot_of,
    plan_text,
    read_ratings,
    readers_text,
)
from progression.evaluate.report import interval, markdown_table, write_json, write_text
from progression.metrics.readers import Pilot, analyse
from progression.report.reader_figure import draw_points, reader_figure, save_figure

Array = npt.NDArray[np.float64]
TREATMENTS = ("aided", "unaided")
_RATES = [f"{rate}_{treatment}" for rate in ("fpr", "tpr") for treatment in TREATMENTS]


def read_points(path: Path) -> tuple[list[str], Array, Array]:
    """Readers' names, false positive rates (2, R) and true positive rates (2, R), aided first."""
    try:
        table = pd.read_csv(path, dtype={"reader": str})
        rates = table[_RATES].to_numpy(dtype=np.float64).T
        names = table["reader"].tolist()
    except (OSError, ValueError, KeyError) as error:
        raise TableError(
            f"cannot read the points {path}: {error}; expected columns reader, {', '.join(_RATES)}"
        ) from error
    if not ((rates >= 0) & (rates <= 1)).all():
        raise TableError(f"{path}: expected rates from 0 to 1")
    return names, rates[:2], rates[2:]


def points_text(names: list[str], false: Array, true: Array) -> str:
    """Means and their differences, over readers."""
    rows = []
    for merit, figures in (
        ("sensitivity", true),
        ("specificity", 1 - false),
        ("area", (true + 1 - false) / 2),
    ):
        found = analyse(figures, None, treatments=TREATMENTS, reader_names=names, cases="fixed")
        (gain,) = found.differences
        aided, unaided = found.estimates
        rows.append(
            (
                merit,
                interval(unaided.value, (unaided.low, unaided.high)),
                interval(aided.value, (aided.low, aided.high)),
                interval(gain.difference, (gain.low, gain.high)),
                f"{gain.statistic:.2f}",
                f"{gain.df:g}",
                f"{gain.p:.4f}",
            )
        )
    return markdown_table(
        (f"mean of {len(names)} readers", "unaided", "aided", "difference", "t", "df", "p"), rows
    )


def points_figure(names: list[str], false: Array, true: Array) -> Figure:
    """Arrows from unaided to aided."""
    figure = Figure(figsize=(4.8, 4.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw_points(axes, false, true, treatments=TREATMENTS, readers=names)
    axes.set_title("readers without, then with the predicted follow-up", fontsize=10)
    return figure


def conjectured() -> Pilot:
    """Mean AUC 0.70 on 50 + 150 cases; correlations and σ_TR are guesses, to be replaced by a pilot."""
    return Pilot.conjectured(
        auc=0.70, events=50, others=150, r1=0.5, r2=0.4, r3=0.3, treatment_reader=0.02**2
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ratings", type=Path, nargs="?")
    parser.add_argument("--points", type=Path)
    parser.add_argument("--threshold", type=float, help="ratings at or above it are positive")
    parser.add_argument("--reference", help="treatment that the others are compared with")
    parser.add_argument("--difference", type=float, default=0.05, help="to be found by a new study")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        run(options)
    except ProgressionError as error:
        parser.exit(error.exit_code, f"{error}\n")


def run(options: argparse.Namespace) -> None:
    if options.points is not None:
        names, false, true = read_points(options.points)
        text = points_text(names, false, true)
        write_text(text, options.out / "points.md")
        save_figure(options.out / "points.png", points_figure(names, false, true))
        print(f"Published operating points, {options.points.name}: such readers, those cases\n\n{text}\n")
    if options.ratings is not None:
        ratings = read_ratings(options.ratings, reference=options.reference)
        report = analyse_readers(ratings, threshold=options.threshold)
        write_json(report, options.out / "readers.json")
        write_text(readers_text(report), options.out / "readers.md")
        figure = reader_figure(ratings, differences_of(report, "auc"), threshold=report["threshold"])
        save_figure(options.out / "readers.png", figure)
        print(readers_text(report) + "\n")
        pilot, source = pilot_of(report), f"with {options.ratings.name} as the pilot"
    else:
        pilot, source = conjectured(), "from conjectures"
    print(f"A new study, to find a difference in AUC of {options.difference:g} ({source}: {pilot})\n")
    print(plan_text(pilot, difference=options.difference, readers=tuple(range(4, 13))))


if __name__ == "__main__":
    main()
