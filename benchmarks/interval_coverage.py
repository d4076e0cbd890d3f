"""How often does the interval of a risk hold the true one? Phantoms, whose true risk is known.

    python benchmarks/extrapolation_phantom.py --work DIR [--repeat] --stage films --stage grader
    python benchmarks/interval_coverage.py --work DIR [--repeat]

The interval says what other training people and another training would have made of the risk
(`progression.risk.model`). It is asked here of all test subjects of the run in DIR, at the end points of the reports,
at 90 % and, stretched on the scale of log odds, at 95 %, for two truths:

- *own*: the chance of this knee, given all that a perfect reader of its baseline film could know
  (`progression.data.phantom.disease.rise_chance`). No interval of a fit's uncertainty can be expected to hold it: what
  the model does not see in a film is not in it.
- *alike*: the mean of that chance over knees to which the model gives the same risk, which is what a perfectly
  calibrated model would say of them. It is a smooth curve through the own chances: log odds a + b z + c z², with z
  those of the risk, by least deviance.

Shares have Wilson's 95 % interval over subjects (a phantom has one knee). *Own apart*: median distance of the own truth
from the risk, in standard deviations of the interval.

All knees of a run have one training in common, and the interval is about trainings. So the training subjects are dealt
out into `TRAININGS` equal parts, on each of which everything is trained anew (half as long), and each training's
interval is held against

- *peers*: the mean log odds of the risk by the other trainings, whose own uncertainty widens the interval by
  √(1 + 1/(M - 1)): what the interval says that it holds,
- *alike* and *own*, as above.

Mean share over the trainings, and in brackets the least and the largest. *Spread*: the standard deviation of log odds
between trainings over the intervals' own, 1 if those are right.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from extrapolation_phantom import REPEAT, Plan, load_films, train_both
from phantom_films import HORIZONS, Films
from scipy.optimize import minimize

from progression.data.outcomes import Event
from progression.data.phantom import sample_knee
from progression.data.phantom.disease import rise_chance
from progression.latent.part import from_bytes
from progression.metrics.proportions import proportion
from progression.risk.grader import Grader, concatenate, mean_grading
from progression.risk.model import INTERVAL_SDS, Risk, RiskModel
from progression.weights import load_model

Floats = npt.NDArray[np.float64]
REACH = {"90 %": INTERVAL_SDS, "95 %": 1.96}
_BATCH = 50
TRAININGS = 5


def logit(p: Floats) -> Floats:
    """Log odds."""
    held = p.clip(1e-9, 1 - 1e-9)
    return np.asarray(np.log(held / (1 - held)))


def alike(risk: Floats, truth: Floats) -> Floats:
    """Mean truth (N,) of knees of the same risk (N,): the curve of the module's docstring."""
    z = logit(risk)
    x = np.stack([np.ones_like(z), z, z**2], axis=1)

    def deviance(weights: Floats) -> tuple[float, Floats]:
        at = x @ weights
        slope = x.T @ (1 / (1 + np.exp(-at)) - truth)
        return float((np.logaddexp(0, at) - truth * at).mean()), slope / len(z)

    best = minimize(deviance, np.array([0.0, 1.0, 0.0]), jac=True, method="BFGS")
    return np.asarray(1 / (1 + np.exp(-(x @ best.x))))


def coverage(risk: Floats, interval: Floats, truth: Floats) -> dict[str, Any]:
    """Of risks (N,) with 90 % intervals (N, 2) and own truths (N,); those with no interval (risk 0) left out."""
    rows = risk > 0
    risk, truth, (low, high) = risk[rows], truth[rows], logit(interval[rows].T)
    sd = (high - low) / 2 / INTERVAL_SDS
    found: dict[str, Any] = {
        "knees": len(risk),
        "risk": risk.mean(),
        "truth": truth.mean(),
        "sd": np.median(sd),
    }
    for name, target in (("own", truth), ("alike", alike(risk, truth))):
        apart = np.abs(logit(target) - logit(risk)) / sd
        for level, reach in REACH.items():
            found[f"{name} {level}"] = proportion(apart <= reach)
        found[f"{name} apart"] = np.median(apart)
    return found


@torch.no_grad()
def risks(films: Films, folder: Path) -> dict[str, Risk]:
    """Of the baseline films, by the grader and the risk model in `folder`: by setting."""
    files = load_model(folder)
    grader = Grader.from_tensors(files.tensors("grader"), files.config("grader"))
    model = RiskModel.from_tensors(files.tensors("risk"), files.config("risk"))
    batches = [grader.grade_each(batch) for batch in from_bytes(films.images[:, 0]).split(_BATCH)]
    networks = [concatenate(by_one) for by_one in zip(*batches, strict=True)]
    grading, read = mean_grading(networks), films.grade[:, 0]
    return {
        "image only": model.predict(grading, HORIZONS, networks=networks),
        "read grade": model.predict(grading, HORIZONS, networks=networks, grade=read),
    }


def test_films(work: Path) -> Films:
    """Baseline films of all test subjects."""
    parts = [load_films(work, split) for split in ("test", "more")]
    first = [replace(part, images=part.images[:, :1]) for part in parts]
    return Films(**{name: torch.cat([getattr(part, name) for part in first]) for name in vars(first[0])})


@dataclass(frozen=True)
class Asked:
    """One setting, end point and horizon: risks (N,) with intervals (N, 2) by each training, and own truths (N,)."""

    head: tuple[str, str, str]
    by: Sequence[tuple[Floats, Floats]]
    truth: Floats


def questions(films: Films, by: Sequence[dict[str, Risk]], *, seed: int) -> Iterator[Asked]:
    """All end points, for the knees that can reach them."""
    courses = [sample_knee(index, seed=seed).course for index in films.subject.tolist()]
    for setting in by[0]:
        for event in (Event.ANY, Event.FAST):
            rows = films.grade[:, 0] <= event.highest_baseline
            for h, months in enumerate(HORIZONS):
                chance = [rise_chance(course, step=event.rise, months=months) for course in courses]
                found = [
                    tuple(
                        getattr(one[setting], f"{event.label}{end}")[rows, h].numpy()
                        for end in ("", "_interval")
                    )
                    for one in by
                ]
                head = (setting, f"≥ {event.rise}", f"{months:.0f}")
                yield Asked(head, found, np.array(chance)[rows.numpy()])


def one_table(asked: Iterable[Asked]) -> str:
    """Of one training: coverage by setting, end point and horizon, as Markdown."""
    heads = ["setting", "rise", "months", "knees", "mean risk", "mean truth", "sd, log odds"]
    heads += [f"{name} {level}" for name in ("own", "alike") for level in REACH] + ["own apart"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for question in asked:
        row = coverage(*question.by[0], question.truth)
        shares = [row[f"{name} {level}"] for name in ("own", "alike") for level in REACH]
        cells = [
            *question.head,
            str(row["knees"]),
            f"{row['risk']:.1%}",
            f"{row['truth']:.1%}",
            f"{row['sd']:.2f}",
        ]
        cells += [f"{share.value:.0%} ({share.low:.0%}, {share.high:.0%})" for share in shares]
        lines.append(f"| {' | '.join([*cells, format(row['own apart'], '.1f')])} |")
    return "\n".join(lines)


def peers(by: Sequence[tuple[Floats, Floats]]) -> tuple[dict[str, list[float]], float]:
    """Shares of knees, by level and training, whose interval holds what the other trainings say; and *spread*."""
    z = np.stack([logit(risk) for risk, _ in by])
    sd = np.stack([np.diff(logit(interval))[:, 0] / 2 / INTERVAL_SDS for _, interval in by])
    count = len(by)
    others = (z.sum(axis=0) - z) / (count - 1)
    apart = np.abs(z - others) / sd / np.sqrt(1 + 1 / (count - 1))
    shares = {
        level: [float(share) for share in (apart <= reach).mean(axis=1)] for level, reach in REACH.items()
    }
    return shares, float(np.sqrt(z.var(axis=0, ddof=1).mean() / (sd**2).mean()))


def many_table(asked: Iterable[Asked]) -> str:
    """Of several trainings, as Markdown."""
    names = [f"{name} {level}" for name in ("alike", "own") for level in REACH]
    heads = ["setting", "rise", "months", *(f"peers {level}" for level in REACH), "spread", *names]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for question in asked:
        shares, spread = peers(question.by)
        each = [coverage(*one, question.truth) for one in question.by]
        cells = [_range(shares[level]) for level in REACH] + [f"{spread:.2f}"]
        cells += [_range([one[name].value for one in each]) for name in names]
        lines.append(f"| {' | '.join([*question.head, *cells])} |")
    return "\n".join(lines)


def _range(shares: Sequence[float]) -> str:
    return f"{np.mean(shares):.0%} ({min(shares):.0%}, {max(shares):.0%})"


def make_trainings(work: Path, plan: Plan, *, count: int) -> list[Path]:
    """Folders of graders and risk models of disjoint training subjects; goes on where it was stopped."""
    films, shorter = load_films(work, "train"), replace(plan, grader_epochs=max(1, plan.grader_epochs // 2))
    folders = []
    for i in range(count):
        home = work / "trainings" / f"{i + 1}-of-{count}"
        folders.append(home / "grader")
        if not (folders[-1] / "manifest.json").exists():
            part = Films(**{name: value[i::count] for name, value in vars(films).items()})
            train_both(part, folders[-1], run=home / "grader-run", plan=shorter)
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the run")
    parser.add_argument("--repeat", action="store_true", help="the run was the smaller one")
    parser.add_argument("--trainings", type=int, default=TRAININGS, help="number of parts; 0 for none")
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan, films = REPEAT if options.repeat else Plan(), test_films(options.work)
    if (options.work / "grader" / "manifest.json").exists():
        print(
            one_table(questions(films, [risks(films, options.work / "grader")], seed=plan.seed)), flush=True
        )
    if options.trainings:
        folders = make_trainings(options.work, plan, count=options.trainings)
        print(many_table(questions(films, [risks(films, folder) for folder in folders], seed=plan.seed)))


if __name__ == "__main__":
    main()
