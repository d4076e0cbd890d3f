"""From a grading to the risk: image features drive the multi-state model, the grade's posterior starts it.

One model serves both settings.  With x the covariates of a picture and P(T | x) the multi-state model's
transition matrix,

    image only:           risk(T) = Σ_i P(k_0 = i | picture) · P(rise by T | k_0 = i, x)
    image + read grade:   the same with P(k_0 = i) = 1 for the grade that was read.

So a knee that looks worse than its reading has a high risk given that reading: x holds what the picture looks
like, and i what a reader called it. Where the person's other knee was seen too, a second model (part `risk_pair`) has
it in x: whoever has one bad knee is likely to get another.

How sure the risk is: the model was fitted again to people drawn with replacement, B times, and each of the grader's K
networks graded the picture. With R_b the risk by fit b on the gradings of network b mod K, drawn toward the mean of
all by 1/√K (what is used is the mean of K, whose variance is a K-th),

    interval = logit⁻¹(logit R ± 1.645 · sd_b logit R_b),

what other training people and another training would have said nine times in ten. It is no interval of the event, nor
of this knee's own chance: what the picture does not show, or the networks do not see in it, is not in it, and outcomes
tell the mean chance of knees that look alike, never how far each is from it. On phantoms, whose own chances are known,
it holds that mean in nearly all knees (not for rises of two within 24 months), and the own chance of one in ten
(`benchmarks/interval_coverage.py`, `docs/phantom.md`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from progression.errors import UsageError, WeightsError
from progression.risk.conformal import grade_sets, level_at
from progression.risk.covariates import (
    COVARIATES,
    OtherKnee,
    certainty,
    check_grades,
    covariates,
    names,
    standardise,
)
from progression.risk.grader import Grading
from progression.risk.multistate import MultiState, rise_probabilities
from progression.types import KL_GRADES

INTERVAL_SDS = 1.645
"""Half the width of a 90 % interval, in standard deviations."""
_CHAINS = ("multistate", "complete", "resampled")
_PLAIN = ("mean", "scale", "sharpness", "bias", "set_months", "set_levels")
_OPTIONAL = ("resampled", "set_months", "set_levels")


@dataclass(frozen=True)
class Risk:
    """Risk of N knees at H horizons.

    Attributes
    ----------
    fast, any : (N, H), P(grade rises by >= 2, >= 1); fast <= any, neither falls with the horizon
    future : (N, H, 5), P(highest grade read by the horizon)
    fast_interval, any_interval : (N, H, 2), how sure the risk is (module docstring); None where the model cannot tell
    grade_set : (N, H, 5) bool, grades that hold the future one nine times in ten (`conformal`); None likewise, and
        all False for a knee of which it is not known
    """

    fast: Tensor
    any: Tensor
    future: Tensor
    fast_interval: Tensor | None = None
    any_interval: Tensor | None = None
    grade_set: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[tuple[Tensor, Risk]]) -> Risk:
        """Of all knees, from the rows of each part and its risks; what a part lacks, the whole lacks."""
        order = torch.cat([rows for rows, _ in parts]).argsort()
        fields: dict[str, Any] = {}
        for name in cls.__dataclass_fields__:
            values = [getattr(risk, name) for _, risk in parts]
            fields[name] = None if any(v is None for v in values) else torch.cat(values)[order]
        return cls(**fields)


@dataclass(frozen=True)
class Refits:
    """Refits that go with one network: which of the B, their models, and the grading drawn toward that network's."""

    index: Tensor
    chain: MultiState
    grading: Grading


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
    resampled
        `multistate` fitted to people drawn with replacement, B of them stacked; None: risks have no interval.
    set_months, set_levels
        (V,) and (6, V), levels of the sets of future grades: image only by the grade started from, 0 to 4, and with the
        read grade; None: no sets. (2, V) of earlier versions have one level for the image only.
    """

    multistate: MultiState
    complete: MultiState
    mean: Tensor
    scale: Tensor
    sharpness: Tensor
    bias: Tensor
    resampled: MultiState | None = None
    set_months: Tensor | None = None
    set_levels: Tensor | None = None

    @property
    def sees_other_knee(self) -> bool:
        """Whether it needs the person's other knee."""
        return len(self.mean) > len(COVARIATES)

    def grade_now(self, grading: Grading, grade: Tensor | None = None) -> Tensor:
        """P(k_0), (N, 5): calibrated posterior, or certainty where `grade` (N,) is not -1.

        Raises
        ------
        UsageError
            A grade outside -1..4, or not one for each knee.
        """
        log_p = grading.now.double().clamp(min=1e-6).log()
        posterior = (self.sharpness * log_p + self.bias).softmax(dim=-1)
        if grade is None:
            return posterior
        read = check_grades(grade, len(posterior)) >= 0
        return torch.where(read[:, None], certainty(grade), posterior)

    def predict(
        self,
        grading: Grading,
        horizon_months: Sequence[float],
        *,
        grade: Tensor | None = None,
        other: OtherKnee | None = None,
        networks: Sequence[Grading] = (),
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
        other
            The other knee of the same people; needed by, and only by, a model that `sees_other_knee`.
        networks
            Gradings by the grader's networks alone, whose disagreement widens the intervals.
        complete
            As if every visit had been read (see `complete`); without intervals and sets.

        Raises
        ------
        UsageError
            Wrong grades; the other knee is missing, or not wanted.
        """
        if (other is not None) != self.sees_other_knee:
            need = "needs" if self.sees_other_knee else "takes no"
            raise UsageError(
                f"this risk model {need} other knee: use part risk_pair where there is one, else risk"
            )
        chain = self.complete if complete else self.multistate
        fast, rises, future = self._risks(chain, grading, other, horizon_months, grade)
        rises = _never_falling(rises, horizon_months)
        fast = _never_falling(fast, horizon_months).minimum(rises)
        if complete:
            return Risk(fast, rises, future)
        return Risk(
            fast,
            rises,
            future,
            *self._intervals((fast, rises), grading, networks, other, horizon_months, grade),
            self.grade_sets(future, horizon_months, grade),
        )

    def _risks(
        self,
        chain: MultiState,
        grading: Grading,
        other: OtherKnee | None,
        horizon_months: Sequence[float],
        grade: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = standardise(covariates(grading, other), self.mean, self.scale)
        return rise_probabilities(self.grade_now(grading, grade), chain.transitions(x, horizon_months))

    def _intervals(
        self,
        risks: tuple[Tensor, Tensor],
        grading: Grading,
        networks: Sequence[Grading],
        other: OtherKnee | None,
        horizon_months: Sequence[float],
        grade: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Of fast and any, each (N, H, 2)."""
        draws = [
            self._risks(refit.chain, refit.grading, other, horizon_months, grade)[:2]
            for refit in self.refits(grading, networks)
        ]
        if not draws:
            return None, None
        fast, rises = (
            interval(risk, torch.cat(drawn))
            for risk, drawn in zip(risks, zip(*draws, strict=True), strict=True)
        )
        return fast, rises

    def refits(self, grading: Grading, networks: Sequence[Grading] = ()) -> Iterator[Refits]:
        """The refits by the network whose view of the pictures each goes with; none where the model has none.

        Parameters
        ----------
        grading, networks
            Of pictures of one knee each, or of the visits of one knee: by all networks, and by each alone.
        """
        if self.resampled is None:
            return
        share = len(networks) ** -0.5 if networks else 0.0
        seen = [_between(grading, network, share) for network in networks] or [grading]
        for i, one in enumerate(seen):
            index = torch.arange(i, len(self.resampled.clock), len(seen))
            yield Refits(index, self.resampled.some(index), one)

    def grade_sets(
        self, future: Tensor, horizon_months: Sequence[float], grade: Tensor | None
    ) -> Tensor | None:
        """Sets (N, H, 5) of the future grades whose probabilities are `future`; None where the model has no levels."""
        if self.set_months is None or self.set_levels is None:
            return None
        months = torch.as_tensor(horizon_months, dtype=torch.float64)
        *by_start, read = level_at(self.set_months, self.set_levels, months)
        # what became grade k came from one of 0 to k
        alone = torch.stack(by_start).expand(KL_GRADES, -1).cummax(dim=0).values.T
        known = torch.zeros(len(future), dtype=torch.bool) if grade is None else grade >= 0
        return grade_sets(future, torch.where(known[:, None, None], read[:, None], alone))

    def tensors(self) -> dict[str, Tensor]:
        """For `save_part`; keep them in float32."""
        tensors = {name: getattr(self, name) for name in _PLAIN if getattr(self, name) is not None}
        for name in _CHAINS:
            part: MultiState | None = getattr(self, name)
            if part is not None:
                tensors |= {f"{name}.{key}": tensor for key, tensor in part.tensors().items()}
        return tensors

    def config(self) -> dict[str, Any]:
        """What the tensors are about; JSON-serialisable."""
        return {"covariates": list(names(other=self.sees_other_knee))}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> RiskModel:
        """The risk model of a model folder.

        Raises
        ------
        WeightsError
            Other covariates than this version computes, or tensors missing.
        """
        if list(config.get("covariates", ())) not in [list(names(other=other)) for other in (False, True)]:
            raise WeightsError("the risk model uses other covariates than this version: install its weights")
        there = {name.partition(".")[0] for name in tensors}
        wanted = [name for name in (*_CHAINS, *_PLAIN) if name in there or name not in _OPTIONAL]
        fields: dict[str, Any] = {}
        try:
            for name in wanted:
                if name in _CHAINS:
                    own = {field: tensors[f"{name}.{field}"] for field in MultiState.__dataclass_fields__}
                    fields[name] = MultiState.from_tensors(own)
                else:
                    fields[name] = tensors[name].double()
        except KeyError as error:
            raise WeightsError(
                f"the risk model lacks the tensor {error}: restore the model folder"
            ) from error
        return cls(**fields)


def _between(mean: Grading, one: Grading, share: float) -> Grading:
    """A grading `share` of the way from the mean to one network's."""
    heads = ("now", "future", "rise")
    return Grading(*(torch.lerp(getattr(mean, h), getattr(one, h), share) for h in heads))


def interval(risk: Tensor, drawn: Tensor) -> Tensor:
    """Interval (N, H, 2) of risks (N, H), from what B refits say (B, N, H); module docstring."""
    reach = INTERVAL_SDS * _logit(drawn).std(dim=0)
    bounds = torch.stack([_logit(risk) - reach, _logit(risk) + reach], dim=-1).sigmoid()
    return torch.where(risk[..., None] > 0, bounds, 0.0)


def _logit(p: Tensor) -> Tensor:
    return p.clamp(1e-9, 1 - 1e-9).logit()
