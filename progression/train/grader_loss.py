"""What the grader is to say: labels of its three heads from grade series, and the loss over those that were read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from progression.data.dataset import Knees
from progression.data.outcomes import UNREAD, Event, GradeSeries, outcomes
from progression.risk.grader import FUTURE_MONTHS, RISE_TARGETS, split_outputs
from progression.train.grader_config import GraderConfig
from progression.types import KL_GRADES


@dataclass(frozen=True)
class Targets:
    """Labels of N knees; -1 where not read or not applicable."""

    now: Tensor
    future: Tensor
    rise: Tensor

    def rows(self, index: Tensor) -> Targets:
        return Targets(self.now[index], self.future[index], self.rise[index])

    def to(self, device: torch.device | str) -> Targets:
        return Targets(self.now.to(device), self.future.to(device), self.rise.to(device))

    def flip(self) -> Targets:
        """From the last knee to the first."""
        return Targets(self.now.flip(0), self.future.flip(0), self.rise.flip(0))


def make_targets(knees: Knees) -> Targets:
    """Labels of the three heads from the grade series.

    A future grade is the highest read until its month; it needs a reading in the second half of that time.
    """
    series = GradeSeries(knees.subject, knees.side, knees.series_months, knees.grade_series)
    labels = {month: outcomes(series, month) for _, month in RISE_TARGETS}
    events = {event.rise: event.label for event in Event}
    rise = [labels[month][events[step]].astype("float64").fillna(UNREAD) for step, month in RISE_TARGETS]
    future = []
    for month in FUTURE_MONTHS:
        recent = (series.months > month / 2) & (series.months <= month)
        known = (series.grade[:, recent] != UNREAD).any(axis=1)
        highest = series.grade[:, series.months <= month].max(axis=1)
        future.append(np.where(known, highest, UNREAD))
    return Targets(
        torch.as_tensor(knees.grade, dtype=torch.long),
        torch.as_tensor(np.stack(future, axis=1), dtype=torch.long),
        torch.as_tensor(np.stack(rise, axis=1), dtype=torch.float32),
    )


def soften(grades: Tensor, softening: float) -> Tensor:
    """One-hot grades (...) with the share `softening` spread over the adjacent grades, (..., 5)."""
    hot = F.one_hot(grades.clamp(min=0), KL_GRADES).float()
    padded = F.pad(hot, (1, 1))
    near = padded[..., :-2] + padded[..., 2:]
    return (1 - softening) * hot + softening * near / near.sum(dim=-1, keepdim=True)


def grading_loss(outputs: Tensor, targets: Targets, config: GraderConfig) -> Tensor:
    """Mean loss of the heads over what was read."""
    now, future, rise = split_outputs(outputs.float())

    def mean(losses: Tensor, known: Tensor) -> Tensor:
        return (losses * known).sum() / known.sum().clamp(min=1)

    def ordinal(logits: Tensor, grades: Tensor) -> Tensor:
        losses = -(soften(grades, config.softening) * logits.log_softmax(dim=-1)).sum(dim=-1)
        return mean(losses, grades >= 0)

    rise_losses = F.binary_cross_entropy_with_logits(rise, targets.rise.clamp(min=0), reduction="none")
    return (
        ordinal(now, targets.now)
        + config.future_weight * ordinal(future, targets.future)
        + config.rise_weight * mean(rise_losses, targets.rise >= 0)
    )
