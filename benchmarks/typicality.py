"""Is what is no knee refused, and are knees not? By kind, with intervals, on knees not fitted on.

    python benchmarks/typicality.py VISITS.csv --images FOLDER [--model default] [--split val] [--knees 100]
        [--figure docs/refusal.png]

Every kind of `not_knees.py` is made `--knees` times from as many knees of the split (no two of one person); `knees` are
all knees of the split as they are. Intervals are Wilson's, over people. `layout` is the share that part "typicality"
finds odder than one knee in a hundred, `drawing` the share that the generator cannot draw (typicality under 0.001;
`warned`: under 0.01), `refused` either, as `predict` does. `told` is the share whose refusal names what to undo.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from not_knees import NOT_KNEES, SPOILT, STILL_KNEES, Make, unchanged

from progression.data.visits import read_visits
from progression.image import read_image
from progression.memory import keep_freed_memory
from progression.metrics.proportions import proportion
from progression.predict import Predictor, load_predictor
from progression.refusal import ATYPICAL, MISLAID, OFF_MANIFOLD
from progression.types import Radiograph, Side


def seen(
    predictor: Predictor, knees: list[tuple[str, str]], make: Make
) -> Iterator[tuple[float, float, bool]]:
    """Typicality of layout and of drawing, and whether the remedy is told, of each knee (path, side)."""
    assert predictor.appearance is not None
    rng = np.random.default_rng(0)
    for path, side in knees:
        picture = Radiograph(make(rng, read_image(path)), Side.parse(side), "picture")
        with torch.no_grad():
            x = predictor._pictures([picture], predictor.resolution)
            drawing = float(predictor.encoder.typical(predictor.generator, x))
            small = predictor._pictures([picture], 128)
            layout = float(predictor.appearance(small))
            yield layout, drawing, bool(predictor.appearance.turned(small))


def figure(rows: list[tuple[str, str, float, tuple[float, float]]]) -> Figure:
    """Share refused of each (group, kind), with its interval."""
    made = Figure(figsize=(7, 0.24 * len(rows) + 1))
    FigureCanvasAgg(made)
    axes = made.add_subplot()
    colours = {"drawn": "#b2182b", "spoilt": "#e08214", "still a knee": "#2166ac", "knees": "#053061"}
    places = np.arange(len(rows))[::-1]
    for place, (group, _, share, (low, high)) in zip(places, rows, strict=True):
        axes.barh(place, share, color=colours[group])
        axes.plot([low, high], [place, place], color="black", linewidth=1)
    axes.set_yticks(places, [f"{kind.replace('_', ' ')} ({group})" for group, kind, *_ in rows], fontsize=7)
    axes.set(xlabel="share refused", xlim=(0, 1.02))
    made.tight_layout()
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--split", default="val")
    parser.add_argument("--knees", type=int, default=100)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    predictor = load_predictor(options.model, device="cpu", engine="torch")
    if predictor.appearance is None:
        parser.error(
            f"model {options.model} has no part typicality: run progression train typicality {options.table}"
        )
    visits = read_visits(options.table)
    films = visits[(visits["months"] == 0) & (visits["image"] != "") & (visits["split"] == options.split)]
    root = options.images or options.table.parent

    def paths(table: object) -> list[tuple[str, str]]:
        return [(str(root / row.image), row.side) for row in table.itertuples()]  # type: ignore[attr-defined]

    one_each = films.groupby("subject").sample(1, random_state=0)
    sample = paths(one_each.sample(min(options.knees, len(one_each)), random_state=0))
    asked = [("knees", "knees", unchanged, paths(films))]
    for group, kinds in (("still a knee", STILL_KNEES), ("spoilt", SPOILT), ("drawn", NOT_KNEES)):
        asked += [(group, kind, make, sample) for kind, make in kinds.items()]
    rows = []
    print("group         kind             n    layout drawing (warned) refused  [95 %]         told")
    for group, kind, make, knees in asked:
        layout, drawing, told = (
            np.array(column) for column in zip(*seen(predictor, knees, make), strict=True)
        )
        refused = (layout < MISLAID) | (drawing < OFF_MANIFOLD)
        found = proportion(refused, subject=films["subject"] if group == "knees" else None)
        rows.append((group, kind, found.value, (found.low, found.high)))
        share = (told & refused).sum() / max(refused.sum(), 1)
        print(
            f"{group:13s} {kind:15s} {len(refused):4d}   {(layout < MISLAID).mean():6.3f}  "
            f"{(drawing < OFF_MANIFOLD).mean():6.3f}  ({(drawing < ATYPICAL).mean():.3f})  {found.value:6.3f}  "
            f"[{found.low:.3f}, {found.high:.3f}]   {share:.2f}",
            flush=True,
        )
    if options.figure:
        figure(rows).savefig(options.figure, dpi=100)


if __name__ == "__main__":
    main()
