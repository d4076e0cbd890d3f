"""From a grading to the risk: image features drive the multi-state model, the grade's posterior starts it.

One model serves both settings.  With x the covariates of a picture and P(T | x) the multi-state model's
transition matrix,

    image only:           risk(T) = Σ_i P(k_0 = i | picture) · P(rise by T | k_0 = i, x)
    image + read grade:   the same with P(k_0 = i) = 1 for the grade that was read.

So a knee that looks worse than its reading has a high risk given that reading: x holds what the picture looks
like, and i what a reader called it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from progression.errors import UsageError, WeightsError
from progression.risk.grader import FUTURE_MONTHS, RISE_TARGETS, Grading
from progression.risk.multistate import MultiState, rise_probabilities
from progression.types import KL_GRADES

UNREAD = -1

COVARIATES = (
    *(f"log_p_grade{grade}" for grade in range(KL_GRADES)),
    "grade_spread",
    *(f"expected_rise_{month}m" for month in FUTURE_MONTHS),
    *(f"logit_rise{step}_{month}m" for step, month in RISE_TARGETS),
    "looks_worse_by",
)


def covariates(grading: Grading) -> Tensor:
    """What of a grading drives the rates, for every grade to start from: (N, 5, F) float64.

    In the order of `COVARIATES`: log probability of each grade now, standard deviation of the grade, expected
    rise to each later visit (grades), log odds of each rise, and, the only one that depends on the start,
    expected grade now minus the grade started from.
    """
    scale = torch.arange(KL_GRADES, dtype=torch.float64)
    now, future = grading.now.double(), grading.future.double()
    expected = now @ scale
    spread = (now @ scale.square() - expected.square()).clamp(min=0).sqrt()
    rise = future @ scale - expected[:, None]
    odds = grading.rise.double().clamp(1e-4, 1 - 1e-4).logit()
    picture = torch.cat([now.clamp(min=1e-6).log(), spread[:, None], rise, odds], dim=1)
    worse = expected[:, None] - scale
    return torch.cat([picture[:, None].expand(-1, KL_GRADES, -1), worse[:, :, None]], dim=2)


def standardise(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Covariates in standard deviations, held within ±4: odd pictures do not extrapolate without end."""
    return ((x - mean) / scale).clamp(-4, 4)


@dataclass(frozen=True)
class Risk:
    """Risk of N knees at H horizons.

    Attributes
    ----------
    fast, any : (N, H), P(grade rises by >= 2, >= 1); fast <= any, neither falls with the horizon
    future : (N, H, 5), P(highest grade read by the horizon)
    """

    fast: Tensor
    any: Tensor
    future: Tensor


def _never_falling(risk: Tensor, horizon_months: Sequence[float]) -> Tensor:
    """Take rounding errors out of an order that holds by construction."""
    order = torch.as_tensor(horizon_months).argsort(stable=True)
    return risk[:, order].cummax(dim=1).values[:, order.argsort()]


@dataclass(frozen=True)
class RiskModel:
    """A fitted risk model.

    Attributes
    ----------
    multistate
        Of the highest grade that will have been read, by a cohort's usual visits; risks are these.
    complete
        The same if every visit had been read: unread visits left out instead of counted as "no rise".
    mean, scale
        (F,) of the covariates among training knees.
    sharpness, bias
        Calibration of the grade's posterior: softmax(sharpness · log p + bias), () and (5,).
    """

    multistate: MultiState
    complete: MultiState
    mean: Tensor
    scale: Tensor
    sharpness: Tensor
    bias: Tensor

    def grade_now(self, grading: Grading, grade: Tensor | None = None) -> Tensor:
        """P(k_0), (N, 5): calibrated posterior, or certainty where `grade` (N,) is not -1.

        Raises
        ------
        UsageError
            A grade outside -1..4, or not one for each knee.
        """
        log_p = grading.now.double().clamp(min=1e-6).log()
        posterior = (self.sharpness * log_p + self.bias).softmax(dim=1)
        if grade is None:
            return posterior
        if grade.shape != (len(posterior),) or bool((grade < UNREAD).any() | (grade >= KL_GRADES).any()):
            raise UsageError(f"grades: expected {len(posterior)} whole numbers from 0 to 4, or -1 if unread")
        certain = F.one_hot(grade.long().clamp(min=0), KL_GRADES).double()
        return torch.where((grade >= 0)[:, None], certain, posterior)

    def predict(
        self,
        grading: Grading,
        horizon_months: Sequence[float],
        *,
        grade: Tensor | None = None,
        complete: bool = False,
    ) -> Risk:
        """Risk at each horizon.

        Parameters
        ----------
        grading
            Of the pictures now, from `Grader`.
        horizon_months
            Months after the picture, > 0.
        grade
            (N,) grades that a reader gave, -1 where none.
        complete
            As if every visit had been read (see `complete`).
        """
        x = standardise(covariates(grading), self.mean, self.scale)
        model = self.complete if complete else self.multistate
        chances = model.transitions(x, horizon_months)
        fast, rises, future = rise_probabilities(self.grade_now(grading, grade), chances)
        rises = _never_falling(rises, horizon_months)
        return Risk(_never_falling(fast, horizon_months).minimum(rises), rises, future)

    def tensors(self) -> dict[str, Tensor]:
        """For `save_part`; keep them in float32."""
        tensors = {name: getattr(self, name) for name in ("mean", "scale", "sharpness", "bias")}
        for name in ("multistate", "complete"):
            part: MultiState = getattr(self, name)
            tensors |= {f"{name}.{key}": tensor for key, tensor in part.tensors().items()}
        return tensors

    def config(self) -> dict[str, Any]:
        """What the tensors are about; JSON-serialisable."""
        return {"covariates": list(COVARIATES)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> RiskModel:
        """The risk model of a model folder.

        Raises
        ------
        WeightsError
            Other covariates than this version computes, or tensors missing.
        """
        if list(config.get("covariates", ())) != list(COVARIATES):
            raise WeightsError("the risk model uses other covariates than this version: install its weights")
        try:
            multistate, complete = (
                MultiState.from_tensors(
                    {field: tensors[f"{name}.{field}"] for field in MultiState.__dataclass_fields__}
                )
                for name in ("multistate", "complete")
            )
            plain = [tensors[name].double() for name in ("mean", "scale", "sharpness", "bias")]
        except KeyError as error:
            raise WeightsError(
                f"the risk model lacks the tensor {error}: restore the model folder"
            ) from error
        return cls(multistate, complete, *plain)
