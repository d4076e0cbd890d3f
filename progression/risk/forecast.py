"""Whether a knee's grade will rise, from all that was seen of the person: one knee or both, read or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
class Part:
    """Knees of which as much was seen, and the model for that: what its `predict` takes, and which `rows` they are."""

    rows: Tensor
    model: RiskModel
    grading: Grading
    networks: Sequence[Grading]
    grade: Tensor
    other: OtherKnee | None


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

    def sees_both(self, seen: Seen) -> Tensor:
        """(N,) bool, whether the other knee has a part in the forecast."""
        return (seen.other >= 0) & (self.pair is not None)

    def parts(self, seen: Seen) -> Iterator[Part]:
        """The knees by the model that uses most of what was seen of them."""
        mean, both = mean_grading(seen.networks), self.sees_both(seen)
        for model, rows in ((self.alone, ~both), (self.pair, both)):
            index = rows.nonzero()[:, 0]
            if model is None or not len(index):
                continue
            other = None
            if model is self.pair:
                other = OtherKnee(mean.rows(seen.other[index]), seen.other_grade[index])
            own = seen.knee[index]
            networks = [network.rows(own) for network in seen.networks]
            yield Part(index, model, mean.rows(own), networks, seen.grade[index], other)

    def forecast(self, seen: Seen, horizon_months: Sequence[float]) -> Forecast:
        """Of all knees."""
        now, risks = [], []
        for part in self.parts(seen):
            now.append((part.rows, part.model.grade_now(part.grading, part.grade)))
            risk = part.model.predict(
                part.grading, horizon_months, grade=part.grade, other=part.other, networks=part.networks
            )
            risks.append((part.rows, risk))
        return Forecast(joined(now), Risk.joined(risks), self.sees_both(seen))


def joined(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Of all knees, from the rows of each part and what was found of them."""
    order = torch.cat([rows for rows, _ in parts]).argsort()
    return torch.cat([found for _, found in parts])[order]
