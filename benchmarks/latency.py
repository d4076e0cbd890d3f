"""How long does a prediction take, stage by stage, beside the paper's 1,000-step projection?

    python benchmarks/latency.py [--model default] [--knees 8] [--threads 2]

Times are medians of interleaved repetitions in one process, so that ratios hold on a noisy machine. The projection
is run for 20 steps and scaled to 1,000; knees are made by the model's own generator. The last lines give the whole
of `predict_batch` a knee, alone and in a batch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from progression.image import from_model
from progression.latent.extrapolate import extrapolate, key_of
from progression.latent.invert import project, refine
from progression.predict import NEIGHBOURS, Predictor, load_predictor
from progression.types import Radiograph, Side

HORIZONS = (24, 48, 72, 96)
PROJECTION_STEPS = 20
REFINED = 20


def synthetic_knees(predictor: Predictor, count: int) -> list[Radiograph]:
    """Samples of the generator, as radiographs of right knees."""
    z = torch.randn(count, predictor.generator.z_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        images = predictor.generator(z, noise_mode="const")
    return [
        Radiograph(from_model(x, side=Side.RIGHT), Side.RIGHT, f"sample{i}") for i, x in enumerate(images)
    ]


def median_seconds(stages: dict[str, Callable[[], object]], *, repetitions: int) -> dict[str, float]:
    """Median wall time of each stage; stages take turns."""
    times: dict[str, list[float]] = {name: [] for name in stages}
    for stage in stages.values():
        stage()
    for _ in range(repetitions):
        for name, stage in stages.items():
            start = time.perf_counter()
            stage()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default")
    parser.add_argument("--knees", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    predictor = load_predictor(options.model, device="cpu")
    knees = synthetic_knees(predictor, options.knees)
    generator, encoder = predictor.generator, predictor.encoder
    x = predictor._pictures(knees[:1], predictor.resolution)
    with torch.no_grad():
        ws = encoder.encoder(x)
        found = predictor.bank.search(key_of(ws), k=NEIGHBOURS)
        futures_ws = extrapolate(ws, *predictor.bank.trajectories(found), HORIZONS).flatten(0, 1)
        futures = generator.synthesis(futures_ws, noise_mode="const").clamp(-1, 1)
        stages: dict[str, Callable[[], object]] = {
            "read into model range": lambda: predictor._pictures(knees[:1], predictor.resolution),
            "encode": lambda: encoder.encoder(x),
            f"refine, {REFINED} steps (not by default)": lambda: refine(
                generator, ws, x, steps=REFINED, whitening=encoder.whitening
            ),
            f"search {len(predictor.bank)} trajectories": lambda: predictor.bank.search(
                key_of(ws), k=NEIGHBOURS
            ),
            f"render {len(HORIZONS)} horizons": lambda: generator.synthesis(futures_ws, noise_mode="const"),
            f"grade 1 + {len(HORIZONS)} pictures": lambda: (predictor.grader(x), predictor.grader(futures)),
            "predict, one knee": lambda: predictor.predict_batch(knees[:1], horizon_months=HORIZONS),
            f"predict, batch of {len(knees)}": lambda: predictor.predict_batch(
                knees, horizon_months=HORIZONS
            ),
            f"projection, {PROJECTION_STEPS} steps": lambda: project(generator, x, steps=PROJECTION_STEPS),
        }
        seconds = median_seconds(stages, repetitions=options.repetitions)
    seconds[f"predict, batch of {len(knees)}"] /= len(knees)
    projection = seconds.pop(f"projection, {PROJECTION_STEPS} steps") * 1000 / PROJECTION_STEPS
    whole = seconds["predict, one knee"]
    print(
        f"{predictor.resolution}² model, {options.threads} threads, {len(HORIZONS)} horizons; seconds a knee"
    )
    for name, value in seconds.items():
        print(f"  {name:32s} {value:8.3f}")
    print(
        f"  {'projection, 1,000 steps (scaled)':32s} {projection:8.1f}   {projection / whole:.0f} x predict"
    )


if __name__ == "__main__":
    main()
