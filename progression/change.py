"""w_0 → ŵ(T): how far codes move, by the least of the objective, and between which futures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from progression.latent.bank import Neighbours, TrajectoryBank
from progression.latent.directions import PART, Directions
from progression.latent.expected import StepEffects, step_chances
from progression.latent.objective import Ground, Observed, Weights, grade_probe, solve, spread_of_rates
from progression.latent.spread import PERCENTILES, change_at, steps_at
from progression.latent.whiten import Whitening
from progression.risk.forecast import Forecast
from progression.weights import ModelFiles

Subjects = Sequence[str | None] | None


@dataclass(frozen=True)
class Change:
    """What a bank, and a model's directions, know of how codes change."""

    bank: TrajectoryBank
    files: ModelFiles

    def expected(
        self,
        key: Tensor,
        months: Sequence[int],
        *,
        weights: Weights,
        forecast: Forecast | None,
        neighbours: Neighbours,
        subjects: Subjects,
    ) -> Tensor:
        """(N, H, D): the change of codes (N, D) that makes the objective least."""
        w0, expected, observed = key.cpu(), None, None
        if weights.expected and forecast is not None:
            chances = step_chances(forecast.now, forecast.risk.future)
            expected = self.steps.displacement_at(w0, chances, subject=subjects)
        if weights.neighbours:
            bank = self.bank
            variance = spread_of_rates(bank.displacement, bank.interval_months)
            observed = Observed(*bank.trajectories(neighbours), neighbours.distance, variance)
        ground = self.ground if weights.manifold or weights.kept or weights.grade else None
        change = solve(w0, months, weights=weights, expected=expected, neighbours=observed, ground=ground)
        return change.to(key.device)

    def between(self, key: Tensor, joint: Tensor, *, subjects: Subjects) -> tuple[Tensor, Tensor]:
        """At the percentiles of the change: it in grades (N, H, P), and the moves (N, H, P, D)."""
        change = change_at(joint, PERCENTILES, variability=self.steps.variability)
        made = steps_at(joint, change, variability=self.steps.variability).float()
        looks = self.steps.steps(key.cpu(), subject=subjects)
        # row by row: a product over the batch would round with its size
        moves = torch.stack([share @ look for share, look in zip(made, looks, strict=True)])
        return change, moves.to(key.device)

    @cached_property
    def steps(self) -> StepEffects:
        """How grade steps look in W, learnt from the bank when first asked for."""
        return StepEffects.fit(self.bank)

    @cached_property
    def ground(self) -> Ground:
        """What the objective's terms beside the data stand on, learnt from the bank when first asked for.

        The directions are the model's own; without such a part the term `kept` has nothing to stand on.
        """
        probe = grade_probe(self.bank.w, self.bank.grade_series[:, 0].long())
        whitening = Whitening.fit(self.bank.w)
        if PART not in self.files.parts:
            return Ground(whitening, probe=probe)
        found = Directions.load(self.files)
        kept = torch.tensor([name != "grade" for name in found.names])
        return Ground(whitening, found.effect, kept, probe)
