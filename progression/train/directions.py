"""Find directions in W on training knees, and calibrate them on others: what part "directions" of a model holds.

    knees → codes E(x), attributes as seen in x ─ regression → B
    other knees: g(E(x) ± B/2) measured again → R;  B' = R⁻¹ B

What they do is to be tested on knees that took part in neither (`benchmarks/generator.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from progression.data.dataset import Knees
from progression.errors import UsageError
from progression.latent.attributes import Gauge
from progression.latent.directions import Directions, disentanglement
from progression.latent.part import EncoderPart, encode_keys, from_bytes
from progression.risk.grader import Grader
from progression.stylegan2 import Generator

FITTED_ON = 1500
CALIBRATED_ON = 100
ROUNDS = 2
"""Calibrations, each of what the one before has left: attributes do not follow codes in straight lines."""


@dataclass(frozen=True)
class FoundDirections:
    """Directions, and what they are measured with."""

    directions: Directions
    gauge: Gauge


@torch.no_grad()
def train_directions(
    generator: Generator,
    part: EncoderPart,
    grader: Grader,
    knees: Knees,
    *,
    fitted_on: int = FITTED_ON,
    calibrated_on: int = CALIBRATED_ON,
    seed: int = 0,
    progress: Callable[[str], object] = lambda stage: None,
) -> FoundDirections:
    """Directions for grade, exposure, contrast and size, and for left knees against right ones where there are both.

    Parameters
    ----------
    knees : of the training split, at the generator's resolution
    fitted_on, calibrated_on : most knees of the regression and of the calibration, no person in both
    seed : of the choice

    Raises
    ------
    UsageError
        If there are too few people, or an attribute is the same in all knees.
    """
    fit, other = _two_sets(knees, fitted_on, calibrated_on, seed=seed)
    progress(f"measuring {len(fit)} knees")
    images = _pictures(knees, fit, part)
    is_left = torch.from_numpy(knees.side[fit] == "left")
    both = bool(is_left.any()) and not bool(is_left.all())
    gauge = Gauge.fit(grader, images, is_left) if both else Gauge(grader)
    codes = encode_keys(part.encoder, knees.images[torch.from_numpy(fit)])
    found = Directions.fit(codes, {name: value.cpu() for name, value in gauge(images).items()})
    codes = encode_keys(part.encoder, knees.images[torch.from_numpy(other)])
    for turn in range(ROUNDS):
        progress(f"calibrating on {len(other)} knees, {turn + 1} of {ROUNDS}")
        found = found.calibrated(disentanglement(found, codes, measured(generator, gauge)))
    return FoundDirections(found, gauge)


def measured(generator: Generator, gauge: Gauge) -> Callable[[Tensor], dict[str, Tensor]]:
    """Codes (N, D) → attributes (N,) by name, as seen in their pictures."""
    device = next(generator.parameters()).device

    @torch.no_grad()
    def measure(w: Tensor) -> dict[str, Tensor]:
        parts = w.to(device)[:, None].expand(-1, generator.num_ws, -1).split(32)
        found = [gauge(generator.synthesis(ws, noise_mode="const")) for ws in parts]
        return {name: torch.cat([one[name] for one in found]).cpu() for name in gauge.names}

    return measure


def _pictures(knees: Knees, rows: np.ndarray, part: EncoderPart) -> Tensor:
    return from_bytes(knees.images[torch.from_numpy(rows)], part.encoder.w_mean.device)


def _two_sets(knees: Knees, first: int, second: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two sets of knees; people are in one of them at most, the second takes a fifth of the people."""
    people = np.unique(knees.subject)
    if len(people) < 5:
        raise UsageError(f"directions need knees of at least five people, got {len(people)}")
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(knees))
    held = np.isin(knees.subject[rows], rng.permutation(people)[: max(1, len(people) // 5)])
    return rows[~held][:first], rows[held][:second]
