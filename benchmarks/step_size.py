"""Does a rendered follow-up show as much change as was expected? What the grader sees of it, against what was asked.

    python benchmarks/step_size.py VISITS.csv --images FOLDER [--split val] [--knees 200] [--months 96] [--scales 1 2]

Of each knee, from its picture alone: the expected rise of its grade by the horizon, and the expected grade that the
grader sees on the rendered follow-up less that on the rendered baseline, both from its code, so that what inversion
loses cancels. Displacements are rendered times each of `--scales`, too. *Shown* is the ratio of the means over knees,
with a bootstrap's 95 % interval, people as the sample. The grader is all of its networks; *unseen* leaves out the one
that generator and encoder were trained with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from progression.data.dataset import load_baselines
from progression.data.visits import read_visits
from progression.evaluate.report import interval, markdown_table
from progression.latent.expected import step_chances
from progression.latent.extrapolate import key_of
from progression.latent.part import from_bytes
from progression.memory import keep_freed_memory
from progression.metrics import cluster_bootstrap
from progression.predict import Predictor, load_predictor
from progression.risk.forecast import Seen
from progression.risk.grader import Grading, resize


def expected_grade(gradings: list[Grading]) -> Tensor:
    """(N,) mean over networks."""
    now = torch.stack([grading.now for grading in gradings]).mean(dim=0)
    return now.double() @ torch.arange(5, dtype=torch.float64)


@torch.no_grad()
def measure(
    predictor: Predictor, images: Tensor, reading: Tensor, *, months: int, scales: list[float]
) -> tuple[Tensor, Tensor]:
    """Expected rises (N,), and rises shown at each scale, all networks and the unseen ones (2, S, N).

    `images` (N, R, R) uint8 are the model's, `reading` (N, R', R') uint8 the grader's.
    """
    ws = predictor.engine.encode(from_bytes(images))
    networks = predictor.engine.grade_each(resize(from_bytes(reading), predictor.grader.input_resolution))
    nothing = torch.full((len(images),), -1)
    seen = Seen(networks, torch.arange(len(images)), nothing, nothing, nothing)
    assert predictor.risk is not None
    forecast = predictor.risk.forecast(seen, [months])
    chances = step_chances(forecast.now, forecast.risk.future)
    moved = predictor.steps.displacement_at(key_of(ws), chances)[:, 0]

    def shown(codes: Tensor) -> Tensor:
        side = predictor.grader.input_resolution
        found = predictor.engine.grade_each(resize(predictor.engine.render(codes).clamp(-1, 1), side))
        return torch.stack([expected_grade(found), expected_grade(found[1:])])

    start = shown(ws)
    rises = torch.stack([shown(ws + scale * moved[:, None]) - start for scale in scales], dim=1)
    return chances[:, 0].sum(dim=1), rises


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", default="default", help="name or folder")
    parser.add_argument("--split", default="val")
    parser.add_argument("--knees", type=int, default=200)
    parser.add_argument("--months", type=int, default=96)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 1.5, 2.0])
    options = parser.parse_args()
    keep_freed_memory()
    predictor = load_predictor(options.model, device="cpu")
    sides = predictor.resolution, predictor.grader.input_resolution
    small, large = (
        load_baselines(read_visits(options.table), resolution=side, root=options.images, split=options.split)
        for side in sides
    )
    rows = torch.randperm(len(small), generator=torch.Generator().manual_seed(0))[: options.knees]
    parts = [
        measure(
            predictor, small.images[part], large.images[part], months=options.months, scales=options.scales
        )
        for part in rows.split(32)
    ]
    asked = torch.cat([part[0] for part in parts]).numpy()
    shown = torch.cat([part[1] for part in parts], dim=2).numpy()
    subject = small.subject[rows.numpy()]

    def ratio(seen: np.ndarray, wanted: np.ndarray) -> float:
        return float(seen.mean() / wanted.mean())

    lines = []
    for column, scale in enumerate(options.scales):
        cells = [
            interval(ratio(rises[column], asked), cluster_bootstrap(ratio, subject, rises[column], asked))
            for rises in shown
        ]
        lines.append((f"{scale:g}", float(asked.mean()), float(shown[0, column].mean()), *cells))
    print(f"{len(rows)} knees of {len(np.unique(subject))} people, {options.split}, {options.months} months")
    print(markdown_table(("times", "expected rise", "seen rise", "shown", "shown, unseen networks"), lines))


if __name__ == "__main__":
    main()
