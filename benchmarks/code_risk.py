"""A side question of the benchmarks on phantoms and on real knees: does the risk model leave something in the code?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from progression.latent.bank import TrajectoryBank
from progression.latent.expected import COMPONENTS, coordinates, step_chances
from progression.risk.covariates import covariates, standardise
from progression.risk.grader import Grading
from progression.risk.model import RiskModel
from progression.risk.multistate import MultiState, Penalty, fit_multistate, panel, rise_probabilities

PENALTY = Penalty(30.0, 90.0)


@dataclass(frozen=True)
class CodeRisk:
    """The risk model again, its rates driven by the code's leading coordinates beside what the grader sees.

    It has one penalty, `PENALTY`: to be compared with a risk model that was fitted with the same.
    """

    risk: RiskModel
    chain: MultiState
    mean: Tensor
    axes: Tensor

    @classmethod
    def of_bank(cls, risk: RiskModel, bank: TrajectoryBank, grading: Grading) -> CodeRisk:
        """Of the training subjects: bank and out-of-fold gradings of the same knees in the same order."""
        return cls.fit(risk, bank.w, bank.grade_series.long(), bank.series_months.double(), grading)

    @classmethod
    def fit(
        cls,
        risk: RiskModel,
        w: Tensor,
        series: Tensor,
        months: Tensor,
        grading: Grading,
        components: int = COMPONENTS,
    ) -> CodeRisk:
        """Of training knees: codes (N, D), grades (N, V) at `months` (V,), and gradings of the same knees."""
        mean, axes = coordinates(w, components=components)
        model = cls(risk, risk.multistate, mean, axes)
        chain = fit_multistate(
            model._covariates(grading, w)[torch.arange(len(series)), series[:, 0]],
            panel(series, months, carry_forward=True),
            clock_months=risk.multistate.clock_months.tolist(),
            era_months=risk.multistate.era_months.tolist(),
            penalty=PENALTY,
        )
        return replace(model, chain=chain)

    def predict(
        self, grading: Grading, key: Tensor, horizon_months: Sequence[float], *, grade: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Risk of fast and of any rise, (N, H) each, and chances of the steps, (N, H, 4)."""
        now = self.risk.grade_now(grading, grade)
        moves = self.chain.transitions(self._covariates(grading, key), horizon_months)
        fast, rises, future = rise_probabilities(now, moves)
        return fast, rises, step_chances(now, future)

    def _covariates(self, grading: Grading, key: Tensor) -> Tensor:
        seen = standardise(covariates(grading), self.risk.mean, self.risk.scale)
        u = ((key - self.mean) @ self.axes).double().clamp(-4, 4)
        return torch.cat([seen, u[:, None].expand(-1, seen.shape[1], -1)], dim=2)
