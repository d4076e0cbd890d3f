"""Does the 5th to 95th percentile of the predicted change of grade hold the change that was read?

    python benchmarks/spread_coverage.py --table visits.csv --images FOLDER --model MODEL --split val

Truth: the highest grade read by each horizon less the one read at baseline, of knees read at least once after it,
which is what the multi-state model predicts. Knees of the split that the grader was trained on are graded out of fold
(the multi-state model's few numbers were fitted on them). *Held*: from the grade at the 5th to that at the 95th
percentile; grades are few, so a calibrated model holds more than 90 %. *Rank*: the share of knees whose randomised
rank among the futures lies within 5 to 95 %, which is 90 % for a calibrated model; with Wilson's interval over
people. *Expected*: what *held* would be if the model were right. *Rises held*: of those that rose.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from progression.data.dataset import Knees, load_baselines
from progression.data.visits import read_visits
from progression.latent.history import joint_grades
from progression.latent.spread import steps_made
from progression.metrics.proportions import proportion
from progression.risk.grader import Grader, Grading
from progression.risk.model import RiskModel
from progression.train.grader import grade_images, grade_out_of_fold
from progression.weights import load_model

HORIZONS = (24.0, 48.0, 96.0)


def covered(steps: Tensor, made: Tensor, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Whether P(n steps) (N, 5) holds the n made (N,) in its 5th to 95th percentile: as such, by randomised rank."""
    upto = steps.cumsum(dim=1).gather(1, made[:, None])[:, 0]
    below = upto - steps.gather(1, made[:, None])[:, 0]
    share = torch.from_numpy(np.random.default_rng(seed).uniform(size=len(made)))
    rank = below + share * (upto - below)
    return (upto >= 0.05) & (below < 0.95), (rank >= 0.05) & (rank <= 0.95)


def table(risk: RiskModel, grading: Grading, knees: Knees) -> str:
    """Coverage by setting and horizon, as Markdown."""
    series = torch.from_numpy(knees.grade_series)
    known = (series[:, 0] >= 0) & (series[:, 1:] >= 0).any(dim=1)
    lines = ["| setting | months | knees | held | rises held | rank | expected |", "|---" * 7 + "|"]
    for setting, read in (("image only", torch.full_like(series[:, 0], -1)), ("read grade", series[:, 0])):
        steps = steps_made(joint_grades(risk, grading, read, HORIZONS))
        for h, months in enumerate(HORIZONS):
            upto = series[:, torch.from_numpy(knees.series_months) <= months].max(dim=1).values
            made = (upto - series[:, 0])[known]
            held, rank = covered(steps[known, h], made)
            subject = knees.subject[known.numpy()]
            expected = within(steps[known, h])
            cells = [
                _cell(held, subject),
                _cell(held[made > 0], subject[(made > 0).numpy()]),
                _cell(rank, subject),
                f"{expected:.1%}",
            ]
            lines.append(f"| {setting} | {months:.0f} | {len(made)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def within(steps: Tensor) -> float:
    """What *held* should be: mean chance that P(n steps) (N, 5) itself gives to its 5th to 95th percentile."""
    upto = steps.cumsum(dim=1)
    inside = (upto >= 0.05) & (upto - steps < 0.95)
    return float((steps * inside).sum(dim=1).mean())


def _cell(right: Tensor, subject: NDArray[np.str_]) -> str:
    share = proportion(right.numpy(), subject=subject)
    return f"{share.value:.1%} ({share.low:.1%}, {share.high:.1%})"


def graded(options: argparse.Namespace) -> tuple[RiskModel, Grading, Knees]:
    """The model's risk part, the split's knees, and their gradings: out of fold for the split "train"."""
    files = load_model(options.model)
    grader = Grader.from_tensors(files.tensors("grader"), files.config("grader"))
    side, visits = grader.input_resolution, read_visits(options.table)
    knees = load_baselines(visits, resolution=side, root=options.images, split=options.split)
    if options.split == "train":
        grading = grade_out_of_fold(grader, knees, files.config("grader")["cross_fitting"])
    else:
        grading = grade_images(grader, knees.images, input_resolution=side)
    return RiskModel.from_tensors(files.tensors("risk"), files.config("risk")), grading, knees


def arguments(doc: str | None, *, split: str) -> argparse.Namespace:
    """Table, images, model, split."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--model", default="default")
    parser.add_argument("--split", default=split)
    return parser.parse_args()


def main() -> None:
    torch.set_num_threads(1)
    print(table(*graded(arguments(__doc__, split="val"))))


if __name__ == "__main__":
    main()
