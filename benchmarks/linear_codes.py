"""Codes without a generator's training: principal components of films, for `objective_phantom.py`.

    encode(x) = (x - x̄) Aᵀ + c,    g(w) = x̄ + (w - c) A

with A the leading components (D, R²) of training films. The constant c keeps every coordinate of w positive, where W
is not folded (`progression.latent.whiten`). Pose and exposure move many components at once, and pictures are smooth:
it is a poor generator, and one in which every displacement is exactly as additive as the objective takes it to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from progression.latent.bank import TrajectoryBank
from progression.latent.expected import StepEffects
from progression.risk.grader import Grader, Grading
from progression.risk.model import RiskModel

_BATCH = 100


@dataclass(frozen=True)
class LinearCodes:
    """Attributes: mean (R²,), axes (D, R²) orthonormal, centre c."""

    mean: Tensor
    axes: Tensor
    centre: float

    @classmethod
    def fit(cls, x: Tensor, *, components: int) -> LinearCodes:
        """From pictures (N, 1, R, R)."""
        flat = x.flatten(1)
        mean = flat.mean(dim=0)
        torch.manual_seed(0)
        _, size, axes = torch.pca_lowrank(flat - mean, q=components, center=False, niter=2)
        return cls(mean, axes.T.contiguous(), 10 * float(size[0]) / len(x) ** 0.5)

    def encode(self, x: Tensor) -> Tensor:
        """(N, D) of pictures (N, 1, R, R)."""
        return (x.flatten(1) - self.mean) @ self.axes.T + self.centre

    def render(self, w: Tensor) -> Tensor:
        """Pictures (N, 1, R, R) of codes (N, D)."""
        flat = self.mean + (w - self.centre) @ self.axes
        side = round(flat.shape[1] ** 0.5)
        return flat.unflatten(1, (1, side, side)).clamp(-1, 1)


@dataclass(frozen=True)
class LinearModels:
    """What was trained and built."""

    codes: LinearCodes
    grader: Grader
    risk: RiskModel
    banks: Mapping[str, TrajectoryBank]

    @cached_property
    def steps(self) -> dict[str, StepEffects]:
        """What each bank says of how a step of the grade looks."""
        return {kind: StepEffects.fit(bank) for kind, bank in self.banks.items()}

    def render(self, w: Tensor) -> Tensor:
        """Pictures of codes (N, D)."""
        return self.codes.render(w)

    def features(self, x: Tensor) -> Tensor:
        """(N, F) by the last of the grader's networks, batch by batch."""
        eyes = Grader(self.grader.members[-1:], input_resolution=self.grader.input_resolution)
        return torch.cat([eyes.features(part) for part in x.split(_BATCH)])

    def grading(self, x: Tensor) -> Grading:
        """The grader's answer, batch by batch."""
        parts = [self.grader(part) for part in x.split(_BATCH)]
        return Grading(*(torch.cat([getattr(p, name) for p in parts]) for name in ("now", "future", "rise")))
