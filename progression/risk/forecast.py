"""Whether a knee's grade will rise, from all that was seen of the person: one knee or both, read or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from progression.risk.covariates import OtherKnee
from progression.risk.grader import Grading, mean_grading
from progression.risk.model import Risk, RiskModel
from progression.weights import ModelFiles


@dataclass(frozen=True)
class Seen:
    """What is known of N knees, among P graded pictures.

    Attributes
    ----------
    networks : gradings of all P pictures by each of the grader's networks
    knee : (N,) picture of each knee
    grade : (N,) as a reader gave it, -1 where none did
    other : (N,) picture of the person's other knee, -1 where there is none
    other_grade : (N,) likewise of that knee
    """

    networks: Sequence[Grading]
    knee: Tensor
    grade: Tensor
    other: Tensor
    other_grade: Tensor

    @property
    def grading(self) -> Grading:
        """Of the N knees, by all networks."""
        return mean_grading(self.networks).rows(self.knee)


@dataclass(frozen=True)
class Forecast:
    """What is to be expected of N knees.

    Attributes
    ----------
    now : (N, 5), P(k_0): certainty where a reader gave the grade
    risk : at the horizons
    with_other : (N,) bool, whether the other knee had a part in it
    """

    now: Tensor
    risk: Risk
    with_other: Tensor


@dataclass(frozen=True)
class RiskModels:
    """The risk model of a knee alone, and the one of both knees where the folder has it (parts `risk`, `risk_pair`)."""

    alone: RiskModel
    pair: RiskModel | None = None

    @classmethod
    def load(cls, files: ModelFiles) -> RiskModels | None:
        """Of a model folder; None if it has no risk model."""
        alone, pair = (
            RiskModel.from_tensors(files.tensors(part), files.config(part)) if part in files.parts else None
            for part in ("risk", "risk_pair")
        )
        return None if alone is None else cls(alone, pair)

    def forecast(self, seen: Seen, horizon_months: Sequence[float]) -> Forecast:
        """Each knee by the model that uses most of what was seen."""
        mean = mean_grading(seen.networks)
        with_other = (seen.other >= 0) & (self.pair is not None)
        now, risks = [], []
        for both in (False, True):
            rows = (with_other == both).nonzero()[:, 0]
            model = self.pair if both else self.alone
            if not len(rows) or model is None:
                continue
            own, grade = seen.knee[rows], seen.grade[rows]
            other = OtherKnee(mean.rows(seen.other[rows]), seen.other_grade[rows]) if both else None
            networks = [network.rows(own) for network in seen.networks]
            grading = mean.rows(own)
            now.append((rows, model.grade_now(grading, grade)))
            risks.append(
                (rows, model.predict(grading, horizon_months, grade=grade, other=other, networks=networks))
            )
        order = torch.cat([rows for rows, _ in now]).argsort()
        return Forecast(torch.cat([p for _, p in now])[order], Risk.joined(risks), with_other)
