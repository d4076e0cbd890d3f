"""How much of a knee does its code keep, and what can still be done with the code? Refinement against projection.

    python benchmarks/inversion.py VISITS.csv --images FOLDER [--model default] [--knees 8]

For the encoder's code refined by 0, 10, 30, 100 and 300 steps, and for our own 1,000-step projection of the paper (from
the mean latent, one w, noise maps): likeness to the radiograph (PSNR, SSIM, LPIPS), the radius of the code in whitened
W (1 is normal), seconds a knee, and *editability*: the code is moved by the mean change of one KL grade, other
attributes held, and the change of the grade that the grader sees is measured, with the radiograph's own likeness kept
(LPIPS between the edited and the unedited rendering: an edit should change little else). A code that follows every
pixel but no longer answers to directions is of no use for prediction (the trade-off of e4e, arXiv 2102.02766).

All on the same held-out knees, one a person, in one process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from generator import attributes
from torch import Tensor

from progression.evaluate.report import as_table
from progression.evaluate.run import Subjects
from progression.latent.directions import Directions
from progression.latent.extrapolate import key_of
from progression.latent.invert import project, refine
from progression.latent.part import EncoderPart, encode_keys, from_bytes, load_generator
from progression.memory import keep_freed_memory
from progression.metrics.image import psnr, ssim
from progression.metrics.lpips import load_lpips

STEPS = (0, 10, 30, 100, 300)
FITTED_ON = 1500
HEADER = ("code", "PSNR dB", "SSIM", "LPIPS", "radius", "s/knee", "grade + 1 gives", "LPIPS of the edit")


def one_a_person(subjects: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """Rows of `count` knees of as many people."""
    first = np.unique(subjects, return_index=True)[1]
    return np.sort(np.random.default_rng(seed).permutation(first)[:count])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--split", default="val")
    parser.add_argument("--knees", type=int, default=8)
    parser.add_argument("--projection-steps", type=int, default=1000)
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
    lpips, knees, train = load_lpips("alex"), subjects.knees(), subjects.knees("train")
    rows = torch.from_numpy(np.random.default_rng(0).permutation(len(train.images))[:FITTED_ON])
    grade = Directions.fit(
        encode_keys(part.encoder, train.images[rows]), attributes(grader, train.images[rows])
    )
    x = from_bytes(knees.images[torch.from_numpy(one_a_person(knees.subject, options.knees))])

    def expected(pictures: Tensor) -> Tensor:
        return grader.probabilities(pictures) @ torch.arange(5.0)

    def line(name: str, invert: Callable[[], Tensor]) -> tuple[object, ...]:
        start = time.perf_counter()
        ws = invert()
        seconds = (time.perf_counter() - start) / len(x)
        with torch.inference_mode():
            y, edited = (
                generator.synthesis(code, noise_mode="const").clamp(-1, 1)
                for code in (ws, grade.move(ws, "grade", 1.0))
            )
            return (
                name,
                float(psnr(x, y, data_range=2).mean()),
                float(ssim(x, y, data_range=2).mean()),
                float(lpips(x, y).mean()),
                float(part.whitening.radius(key_of(ws)).mean()),
                seconds,
                float((expected(edited) - expected(y)).mean()),
                float(lpips(edited, y).mean()),
            )

    with torch.no_grad():
        start = part.encoder(x)
    found = []
    for steps in STEPS:

        def refined(steps: int = steps) -> Tensor:
            return refine(generator, start, x, steps=steps, whitening=part.whitening)

        found.append(line(f"encoder + {steps} steps", refined))
    found.append(line(
        f"projection, {options.projection_steps} steps",
        lambda: project(generator, x, steps=options.projection_steps),
    ))  # fmt: skip
    print(f"{len(x)} knees of {len(x)} people at {x.shape[-1]} pixels, {options.threads} threads\n")
    print(as_table(HEADER, found))


if __name__ == "__main__":
    main()
