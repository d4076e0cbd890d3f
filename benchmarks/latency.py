"""How long does a prediction take, by stage and engine, and how far do the engines' answers lie apart?

    python benchmarks/latency.py [--model default] [--knees 8] [--threads 1 2] [--engines torch openvino ...]

The paper's 1,000-step projection, run for 20 steps and scaled, is there for comparison. Times are milliseconds a knee,
medians of interleaved repetitions in one process. With one thread it is the processor time, which is the wall time of a
core to oneself, so that a busy machine matters less; with more threads it is the wall time. Knees are made by the
model's own generator. `predict` is the whole of `predict_batch` with four horizons. Differences are the largest (and
the mean) over the knees: of follow-ups in [0, 1], of grade probabilities now and later, of risks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch

from progression.engine import ENGINES
from progression.image import from_model
from progression.latent.expected import StepEffects
from progression.latent.extrapolate import extrapolate, key_of
from progression.latent.invert import project, refine
from progression.predict import NEIGHBOURS, Predictor, load_predictor
from progression.types import Radiograph, Side

HORIZONS = (24, 48, 72, 96)
PROJECTION_STEPS = 20
REFINED = 20
ALONE, REFINE, PROJECT = (
    "predict, one knee",
    f"refine, {REFINED} steps (not by default)",
    "projection, 1,000 steps",
)

Stages = dict[str, tuple[Callable[[], object], float]]
"""What to run, and how many knees that is."""


def synthetic_knees(predictor: Predictor, count: int) -> list[Radiograph]:
    """Samples of the generator, as radiographs of right knees."""
    z = torch.randn(count, predictor.generator.z_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        images = predictor.generator(z, noise_mode="const")
    return [
        Radiograph(from_model(x, side=Side.RIGHT), Side.RIGHT, f"sample{i}") for i, x in enumerate(images)
    ]


def stages_of(predictor: Predictor, knees: list[Radiograph], *, whole: bool) -> Stages:
    """The parts of a prediction; only the whole of it if `whole`."""
    found: Stages = {
        ALONE: (lambda: predictor.predict_batch(knees[:1], horizon_months=HORIZONS, accept_atypical=True), 1),
        f"predict, batch of {len(knees)}": (
            lambda: predictor.predict_batch(knees, horizon_months=HORIZONS, accept_atypical=True),
            len(knees),
        ),
    }
    if whole:
        return found
    engine, generator, whitening = predictor.engine, predictor.generator, predictor.encoder.whitening
    x = predictor._pictures(knees[:1], predictor.resolution)
    ws = engine.encode(x)
    neighbours = predictor.bank.search(key_of(ws), k=NEIGHBOURS)
    futures_ws = extrapolate(ws, *predictor.bank.trajectories(neighbours), HORIZONS).flatten(0, 1)
    futures = engine.render(futures_ws).clamp(-1, 1)
    parts: Stages = {
        "read into model range": (lambda: predictor._pictures(knees[:1], predictor.resolution), 1),
        "encode": (lambda: engine.encode(x), 1),
        f"search {len(predictor.bank)} trajectories": (
            lambda: predictor.bank.search(key_of(ws), k=NEIGHBOURS),
            1,
        ),
        f"render {len(HORIZONS)} horizons": (lambda: engine.render(futures_ws), 1),
        f"grade {len(HORIZONS)} horizons": (lambda: engine.grade(futures), 1),
    }
    if engine.name == "torch":  # what needs gradients is torch's in every engine
        parts[REFINE] = (
            lambda: refine(
                generator, ws, x, steps=REFINED, whitening=whitening, perceptual=predictor.likeness
            ),
            1,
        )
        parts[PROJECT] = (lambda: project(generator, x, steps=PROJECTION_STEPS), PROJECTION_STEPS / 1000)
    return parts | found


@torch.no_grad()
def milliseconds(
    stages: dict[tuple[str, str], tuple[Callable[[], object], float]], *, repetitions: int, threads: int
) -> dict[tuple[str, str], float]:
    """Median time of each stage, a knee; stages take turns."""
    clock = time.process_time if threads == 1 else time.perf_counter
    times: dict[tuple[str, str], list[float]] = {name: [] for name in stages}
    for repetition in range(repetitions + 1):
        for name, (stage, count) in stages.items():
            start = clock()
            stage()
            if repetition:  # the first one warms up
                times[name].append((clock() - start) * 1000 / count)
    return {name: statistics.median(values) for name, values in times.items()}


def differences(predictors: dict[str, Predictor], knees: list[Radiograph]) -> dict[str, str]:
    """How far each engine's predictions are from the first one's."""

    def answers(predictor: Predictor) -> list[np.ndarray]:
        found = predictor.predict_batch(knees, horizon_months=HORIZONS, accept_atypical=True)
        horizons = [h for p in found for h in p.horizons]
        grades = [p.kl_now for p in found] + [h.kl_future for h in horizons]
        risks = [(h.risk_fast, h.risk_any) for h in horizons]
        return [np.asarray(values) for values in ([h.image for h in horizons], grades, risks)]

    first, *others = predictors
    expected, lines = answers(predictors[first]), {}
    for engine in others:
        apart = [np.abs(a - b) for a, b in zip(answers(predictors[engine]), expected, strict=True)]
        names = ("follow-ups", "grade probabilities", "risks")
        lines[engine] = ", ".join(
            f"{n} {d.max():.1e} ({d.mean():.1e})" for n, d in zip(names, apart, strict=True)
        )
    return lines


def main() -> None:
    installed = [e for e in ENGINES[1:] if e == "torch" or find_spec("openvino")]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default")
    parser.add_argument("--knees", type=int, default=8)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--engines", nargs="+", default=installed, choices=ENGINES[1:])
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    for threads in options.threads:
        torch.set_num_threads(threads)
        predictors = {e: load_predictor(options.model, device="cpu", engine=e) for e in options.engines}
        knees = synthetic_knees(next(iter(predictors.values())), options.knees)
        with torch.no_grad():
            stages = {
                (name, engine): stage
                for engine, predictor in predictors.items()
                for name, stage in stages_of(predictor, knees, whole=threads > 1).items()
            }
        start = time.process_time()
        StepEffects.fit(next(iter(predictors.values())).bank)
        learnt = 1000 * (time.process_time() - start)
        found = milliseconds(stages, repetitions=options.repetitions, threads=threads)
        print(f"{threads} thread{'s'[: threads - 1]}, {'processor' if threads == 1 else 'wall'} ms a knee")
        print(f"beside them, once: learning the bank's grade steps, {learnt:.0f} ms of processor time")
        columns = {e: p.engine.precision for e, p in predictors.items()}
        print(f"{'':42s}" + "".join(f"{f'{e} {precision}':>26s}" for e, precision in columns.items()))
        for name in dict.fromkeys(name for name, _ in found):
            cells = (found.get((name, engine)) for engine in columns)
            print(f"  {name:40s}" + "".join(f"{'' if ms is None else f'{ms:.1f}':>26s}" for ms in cells))
        if (PROJECT, "torch") in found:
            ratios = {e: found[PROJECT, "torch"] / found[ALONE, e] for e in columns}
            print("  projection / predict: " + ", ".join(f"{e} {ratio:.0f}" for e, ratio in ratios.items()))
    for engine, line in differences(predictors, knees).items():
        print(f"{engine} from {next(iter(predictors))}: {line}")


if __name__ == "__main__":
    main()
