"""How much of a knee does its code keep, and what can still be done with the code? Refinement against projection.

    python benchmarks/inversion.py VISITS.csv --images FOLDER [--model default] [--knees 8] [--projection-steps 1000]

For the encoder's code refined by 0, 10, 30, 100 and 300 steps (as a prediction refines, in bfloat16; once in float32
and once by the pyramid alone), and for our own 1,000-step projection of the paper (from the mean latent, one w, noise
maps): likeness to the radiograph (PSNR, SSIM, LPIPS), *off*: by how much of a grade the expected grade of the picture
differs from that of the radiograph, seen by the grader's networks that refinement did not look through, the radius of
the code in whitened W (1 is normal), and *editability*: the code is moved by one KL grade along a direction that was
calibrated with the same grader on other knees' unrefined codes, and the change of the grade that it sees is measured,
with the radiograph's own likeness kept (LPIPS between the edited and the unedited rendering: an edit should change
little else). A code that follows every pixel but no longer answers to directions is of no use for prediction (the
trade-off of e4e, arXiv 2102.02766).

Then the time a knee, all knees together, of a hundred steps and of the projection, by turns, medians: the
projection's from 20 steps, scaled to 1,000, in float32 as it runs; once by the pyramid, once by the maps that
refinement looks at (the paper's own distance, LPIPS, is through a larger network).

All on the same held-out knees, one a person, in one process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from progression.evaluate.report import as_table
from progression.evaluate.run import Subjects
from progression.latent.directions import PART, Directions
from progression.latent.extrapolate import key_of
from progression.latent.invert import project, refine
from progression.latent.part import EncoderPart, from_bytes, load_generator
from progression.latent.perceptual import Distance, SeenDistance, pyramid
from progression.memory import keep_freed_memory
from progression.metrics.image import psnr, ssim
from progression.metrics.lpips import load_lpips
from progression.train.directions import train_directions

STEPS = (0, 10, 30, 100, 300)
TIMED = 100
SCALED = 20
"""Steps of the projection that are timed."""
HEADER = (
    "code", "PSNR dB", "SSIM", "LPIPS", "off", "radius", "s/knee", "grade + 1 gives", "LPIPS of the edit",
)  # fmt: skip


def one_a_person(subjects: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """Rows of `count` knees of as many people."""
    first = np.unique(subjects, return_index=True)[1]
    return np.sort(np.random.default_rng(seed).permutation(first)[:count])


def timed(ways: dict[str, Callable[[], object]], *, turns: int, threads: int) -> dict[str, float]:
    """Median seconds of each way, which take turns after a first round that does not count."""
    clock = time.process_time if threads == 1 else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            start = clock()
            way()
            if turn:
                found[name].append(clock() - start)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--split", default="val")
    parser.add_argument("--knees", type=int, default=8)
    parser.add_argument(
        "--projection-steps", type=int, default=1000, help="0 leaves the projection's figures out"
    )
    parser.add_argument("--turns", type=int, default=3, help="of the clock; 0 leaves the times out")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    subjects = Subjects(options.model, options.table, options.images, options.split)
    generator, part, grader = (
        load_generator(subjects.files),
        EncoderPart.load(subjects.files),
        subjects.grader(),
    )
    lpips, knees = load_lpips("alex"), subjects.knees()
    if PART in subjects.files.parts:
        directions = Directions.load(subjects.files)
    else:
        directions = train_directions(
            generator, part, grader, subjects.knees("train"), progress=print
        ).directions
    x = from_bytes(knees.images[torch.from_numpy(one_a_person(knees.subject, options.knees))])
    seen = SeenDistance.of(generator, grader)
    half = replace(seen, dtype=torch.bfloat16)

    def expected(pictures: Tensor) -> tuple[Tensor, Tensor]:
        """By all networks, and by those that refinement does not look through."""
        grades = grader.each(pictures) @ torch.arange(5.0)
        return grades.mean(dim=1), (grades[:, 1:] if grades.shape[1] > 1 else grades).mean(dim=1)

    with torch.inference_mode():
        real = expected(x)[1]

    def line(name: str, invert: Callable[[], Tensor]) -> tuple[object, ...]:
        start = time.perf_counter()
        ws = invert()
        seconds = (time.perf_counter() - start) / len(x)
        with torch.inference_mode():
            y, edited = (
                generator.synthesis(code, noise_mode="const").clamp(-1, 1)
                for code in (ws, directions.move(ws, "grade", 1.0))
            )
            (before, unseen), (after, _) = expected(y), expected(edited)
            return (
                name,
                float(psnr(x, y, data_range=2).mean()),
                float(ssim(x, y, data_range=2).mean()),
                float(lpips(x, y).mean()),
                float((unseen - real).abs().mean()),
                float(part.whitening.radius(key_of(ws)).mean()),
                seconds,
                float((after - before).mean()),
                float(lpips(edited, y).mean()),
            )

    with torch.no_grad():
        start = part.encoder(x)

    def refined(steps: int, by: Distance = half, dtype: torch.dtype = torch.bfloat16) -> Callable[[], Tensor]:
        return lambda: refine(
            generator, start, x, steps=steps, whitening=part.whitening, perceptual=by, dtype=dtype
        )

    exact = STEPS[-2] if len(STEPS) > 2 else STEPS[-1]
    found = [line(f"encoder + {steps} steps", refined(steps)) for steps in STEPS]
    found += [
        line(f"{exact} steps, float32", refined(exact, seen, torch.float32)),
        line(f"{exact} steps, pyramid", refined(exact, pyramid, torch.float32)),
    ]
    if options.projection_steps:
        found.append(
            line(
                f"projection, {options.projection_steps} steps",
                lambda: project(generator, x, steps=options.projection_steps),
            )
        )
    print(f"{len(x)} knees of {len(x)} people at {x.shape[-1]} pixels, {options.threads} threads\n")
    print(as_table(HEADER, found))
    if not options.turns:
        return
    ways = {
        f"refinement, {TIMED} steps, bfloat16": refined(TIMED),
        f"refinement, {TIMED} steps, float32": refined(TIMED, seen, torch.float32),
        "projection, 1,000 steps, pyramid": lambda: project(generator, x, steps=SCALED),
        "projection, 1,000 steps, maps": lambda: project(generator, x, steps=SCALED, perceptual=seen),
    }
    seconds = timed(ways, turns=options.turns, threads=options.threads)
    rows = []
    for name, value in seconds.items():
        knee = value / len(x) * (1000 / SCALED if name.startswith("projection") else 1)
        rows.append((name, knee))
    first = rows[0][1]
    print(f"\nmedians of {options.turns}, by turns, {len(x)} knees together\n")
    print(as_table(("", "s/knee", "over the first"), [(name, s, s / first) for name, s in rows]))


if __name__ == "__main__":
    main()
