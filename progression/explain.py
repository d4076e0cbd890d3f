"""Why a prediction is what it is: neighbours, what drives the risk, what the change is made of, where networks look.

Everything is read off the models that made the prediction; no second model imitates them.

    log rate from grade i to j in an era = a + Σ_f x_f w_f + log θ   one driver a covariate, exact; θ of earlier films
    predicted change in W = Σ_j p_j(T) B_j(w)                       one term a grade step, exact
    risk had a reader said k: the same picture, P(k_0 = k) = 1      what if
    ∂ score / ∂ pixels, and Grad-CAM                                `progression.risk.saliency`

Where the person's other knee was seen too, all of it is of the model of both knees: its drivers are of one knee or the
other, and the risk has a gradient on both pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from progression.asked import Asked, pictures
from progression.image import exposure, from_model, to_model
from progression.latent.expected import step_chances
from progression.latent.extrapolate import key_of
from progression.latent.history import Past, Visits, forecast_of, joint_grades, rises, risk_of
from progression.predict import NEIGHBOURS, Predictor
from progression.report.explanation import (
    GRADIENT,
    OTHER_KNEE,
    RADIOGRAPH,
    RISE,
    Driver,
    EarlierTerms,
    Explanation,
    NeighbourSeen,
    SaliencyMap,
    StepTerm,
    TransitionTerms,
    VisitSeen,
    WhatIf,
)
from progression.report.figures import difference
from progression.risk.covariates import OtherKnee, covariates, names, standardise
from progression.risk.forecast import Forecast, Part, RiskModels, Seen
from progression.risk.grader import FUTURE_MONTHS, RISE_TARGETS, Grader, Grading
from progression.risk.model import Risk, RiskModel
from progression.risk.multistate import TRANSITIONS
from progression.risk.saliency import SAMPLES, Score, expected_grade, grad_cam, gradient, risk_score
from progression.types import KL_GRADES, EarlierFilm, Pixels, Prediction, Radiograph, Side

BAND = (0.4, 0.6)
"""Rows around the joint, as shares of the height: pictures are cut with the joint in the middle."""

_NOW, _FORESEEN, _WORSE = (
    "what it looks like now",
    "the rise that the networks foresee",
    "looks worse than its grade",
)
_WORDS: dict[str, tuple[str, str]] = {
    **{f"log_p_grade{grade}": (f"how much it looks like grade {grade}", _NOW) for grade in range(KL_GRADES)},
    "grade_spread": ("how unsure its grade is", _NOW),
    **{f"expected_rise_{month}m": (f"rise foreseen by {month} months", _FORESEEN) for month in FUTURE_MONTHS},
    **{
        f"logit_rise{step}_{month}m": (f"odds of a rise by {step} in {month} months", _FORESEEN)
        for step, month in RISE_TARGETS
    },
    "looks_worse_by": ("how much worse it looks than its grade", _WORSE),
    **{
        f"other_p_grade{grade}": (f"how much the other knee looks like grade {grade}", OTHER_KNEE)
        for grade in range(1, KL_GRADES)
    },
    "other_looks_worse_by": ("how much worse the other knee looks than this one", OTHER_KNEE),
    "other_read_worse_by": ("how much worse the other knee was read than it looks", OTHER_KNEE),
}


def explain(
    predictor: Predictor,
    radiograph: Radiograph,
    *,
    horizon_months: Sequence[int] = (48,),
    grade: int | None = None,
    other: Radiograph | None = None,
    other_grade: int | None = None,
    history: Sequence[EarlierFilm] = (),
    subject: str | None = None,
    accept_atypical: bool = False,
    samples: int = SAMPLES,
) -> Explanation:
    """Explain one knee's prediction (method "joint", without refinement) at its last horizon.

    Parameters
    ----------
    horizon_months, grade, accept_atypical : as `Predictor.predict` takes them
    other, other_grade : the person's other knee of the same day; the risk is told without and with it
    history : earlier films of this knee; the risk is told without and with them
    subject : whose knee it is, where the bank may hold knees of the same person
    samples : of the smoothed gradient

    Raises
    ------
    UsageError
        If the model has no risk part, or the bank no grades: then there is nothing to take apart.
    NotAKneeError
        If the picture is refused.
    """
    predictor.check_method("joint")
    (prediction,) = predictor.predict_batch(
        [radiograph],
        horizon_months=horizon_months,
        grades=[grade],
        others=[other],
        other_grades=[other_grade],
        subjects=[subject],
        histories=[history],
        accept_atypical=accept_atypical,
    )
    assert predictor.risk is not None  # `check_method` saw to it
    beside = other if prediction.other_knee else None
    asked = Asked.of(
        [radiograph], grades=[grade], others=[beside], other_grades=[other_grade], histories=[history]
    )
    with torch.no_grad():
        seen, visits = predictor.look(asked)
    months = [horizon.horizon_months for horizon in prediction.horizons]
    known = _Known(predictor.risk, seen, visits, months)
    forecast = known.forecast()
    start = int(forecast.now.argmax())
    shown = _Shown(predictor, radiograph, subject)
    terms, follow_up = shown.step_terms(prediction, step_chances(forecast.now, forecast.risk.future)[0, -1])
    maps = saliency_maps(
        predictor.grader,
        {RADIOGRAPH: shown.x, "follow-up": follow_up},
        {"expected grade": expected_grade, RISE: risk_score(known.foretell, step=1)},
        side=radiograph.side,
        samples=samples,
    )
    if beside is not None:
        at = pictures([beside], predictor.grader.input_resolution, predictor.device)
        by_other = {RISE: risk_score(known.foretell_by_other, step=1)}
        maps += saliency_maps(predictor.grader, {OTHER_KNEE: at}, by_other, side=beside.side, samples=samples)
    return Explanation(
        prediction=prediction,
        grade_read=grade,
        start_grade=start,
        saliency=maps,
        neighbours=shown.neighbours(),
        transitions=transition_terms(
            known.part.model,
            known.part.grading,
            start=start,
            until_months=months[-1],
            other=known.part.other,
            pace=1.0 if known.past is None else float(known.past.pace[0]),
        ),
        step_terms=terms,
        what_if=tuple(known.read_as(one) for one in (None, *range(KL_GRADES))),
        without_other=None if beside is None else replace(known, seen=_alone(seen)).read_as(grade),
        earlier=known.earlier_terms(),
        without_earlier=replace(known, visits=[]).read_as(grade) if visits else None,
        other_knee=None if beside is None else _as_shown(beside, predictor.resolution),
    )


@dataclass(frozen=True)
class _Known:
    """What is known of one knee, and the forecasts that all or some of it leads to."""

    models: RiskModels
    seen: Seen
    visits: Sequence[Visits]
    months: Sequence[int]

    @cached_property
    def part(self) -> Part:
        """The model that uses most of it, and what that takes."""
        (part,) = self.models.parts(self.seen)
        return part

    @cached_property
    def past(self) -> Past | None:
        return Past.of(self.models.alone, self.visits) if self.visits else None

    def forecast(self) -> Forecast:
        return forecast_of(self.models, self.seen, self.visits, self.months)

    def read_as(self, grade: int | None) -> WhatIf:
        """The risk had a reader called it so."""
        read = -1 if grade is None else grade
        visits = [replace(one, read=[*one.read[:-1], read]) for one in self.visits]
        risk = (
            replace(self, seen=replace(self.seen, grade=torch.tensor([read])), visits=visits).forecast().risk
        )
        return WhatIf(grade, tuple(risk.any[0].tolist()), tuple(risk.fast[0].tolist()))

    def foretell(self, grading: Grading) -> Risk:
        """The risk by another grading of this knee, at the pace that was found."""
        return self._risk(grading, self.part.other)

    def foretell_by_other(self, grading: Grading) -> Risk:
        """The risk by another grading of the other knee."""
        assert self.part.other is not None
        return self._risk(self.part.grading, replace(self.part.other, grading=grading))

    def _risk(self, grading: Grading, other: OtherKnee | None) -> Risk:
        part = self.part
        joint = joint_grades(part.model, grading, part.grade, self.months, other=other, past=self.past)
        return risk_of(joint)

    def earlier_terms(self) -> EarlierTerms | None:
        """How the pace came about."""
        if not self.visits:
            return None
        (visits,), past = self.visits, self.past
        assert past is not None
        risk, scale = self.models.alone, torch.arange(KL_GRADES, dtype=torch.float64)
        looks = risk.grade_now(visits.grading) @ scale
        rise, expected = rises(risk, visits)
        lowest = int(past.lowest[0])
        return EarlierTerms(
            visits=tuple(
                VisitSeen(visits.months[-1] - month, None if read < 0 else read, float(look))
                for month, read, look in zip(visits.months, visits.read, looks, strict=True)
            ),
            rise=rise,
            expected=float(expected),
            pace=float(past.pace[0]),
            lowest_grade=None if lowest < 0 else lowest,
        )


def _alone(seen: Seen) -> Seen:
    nobody = torch.full_like(seen.other, -1)
    return replace(seen, other=nobody, other_grade=nobody)


def _as_shown(radiograph: Radiograph, resolution: int) -> Pixels:
    """A radiograph as its prediction would show it."""
    x = to_model(radiograph.pixels, side=radiograph.side, resolution=resolution)
    return from_model(x, side=radiograph.side, exposure=exposure(radiograph.pixels))


def transition_terms(
    risk: RiskModel,
    grading: Grading,
    *,
    start: int,
    until_months: float,
    other: OtherKnee | None = None,
    pace: float = 1.0,
) -> tuple[TransitionTerms, ...]:
    """The rates out of grade `start` of one picture, taken apart, in every era that begins before `until_months`.

    `other` is the person's other knee, for a model that sees it, and `pace` what earlier films made of the rates.
    """
    x = standardise(covariates(grading, other), risk.mean, risk.scale)[0, start]
    model, found = risk.multistate, []
    for era, (since, until) in enumerate(zip(model.era_months[:-1], model.era_months[1:], strict=True)):
        if float(since) >= until_months:
            break
        terms = x[:, None] * model.weights[era]
        for column, (i, j) in enumerate(TRANSITIONS):
            if i != start:
                continue
            drivers = tuple(
                Driver(name, *_words(name), float(value), float(term))
                for name, value, term in zip(names(other=other is not None), x, terms[:, column], strict=True)
            )
            intercept = float(model.intercepts[era, column])
            found.append(
                TransitionTerms(i, j, float(since), float(until), intercept, drivers, log_pace=math.log(pace))
            )
    return tuple(found)


def _words(covariate: str) -> tuple[str, str]:
    """A covariate in plain words, and its group; one that is new to this page is called by its name."""
    return _WORDS.get(covariate, (covariate.replace("_", " "), "other things seen"))


def saliency_maps(
    grader: Grader,
    pictures: dict[str, Tensor],
    scores: dict[str, Score],
    *,
    side: Side,
    samples: int = SAMPLES,
) -> tuple[SaliencyMap, ...]:
    """Smoothed gradients of every score on the first picture, Grad-CAM of the first score on all.

    The model's pictures (1, 1, R, R) show every knee as a right one; maps are turned back to the knee's own side.
    """
    found = []
    (first, x), *_ = pictures.items()
    for name, score in scores.items():
        found.append((first, name, GRADIENT, gradient(grader, x, score, samples=samples).abs()))
    for picture, at in pictures.items():
        name, score = next(iter(scores.items()))
        found.append((picture, name, "Grad-CAM", grad_cam(grader, at, score)))
    return tuple(_map(picture, name, method, values[0], side) for picture, name, method, values in found)


def _map(picture: str, score: str, method: str, values: Tensor, side: Side) -> SaliencyMap:
    top, bottom = (round(share * len(values)) for share in BAND)
    mean = float(values.mean())
    total = float(values.sum())
    share = float(values[top:bottom].sum()) / total if total > 0 else 0.0
    # the few brightest pixels of a gradient would leave all others dark
    ceiling = max(float(values.flatten().quantile(0.995)), 1e-12)
    own = values.flip(1) if side is Side.LEFT else values
    scaled = (own / ceiling).clamp(0, 1).cpu().numpy().astype(np.float32)
    return SaliencyMap(picture, score, method, scaled, share, (bottom - top) / len(values), mean)


class _Shown:
    """One radiograph's code, and renderings of codes in its orientation and exposure."""

    def __init__(self, predictor: Predictor, radiograph: Radiograph, subject: str | None) -> None:
        self.predictor, self.radiograph, self.subject = predictor, radiograph, [subject]
        small, self.x = (
            to_model(radiograph.pixels, side=radiograph.side, resolution=size)[None].to(predictor.device)
            for size in (predictor.resolution, predictor.grader.input_resolution)
        )
        with torch.no_grad():
            self.ws = predictor.engine.encode(small)
        self.key = key_of(self.ws)

    def pixels(self, rendered: Tensor) -> Pixels:
        return from_model(rendered, side=self.radiograph.side, exposure=exposure(self.radiograph.pixels))

    @torch.no_grad()
    def render(self, ws: Tensor) -> Tensor:
        return self.predictor.engine.render(ws).clamp(-1, 1)

    def neighbours(self) -> tuple[NeighbourSeen, ...]:
        bank = self.predictor.bank
        near = bank.search(self.key, k=min(NEIGHBOURS, len(bank)), exclude_subject=self.subject)
        rows = near.index[0].tolist()
        rendered = self.render(bank.w[rows].to(self.ws)[:, None].expand(-1, self.ws.shape[1], -1))
        found = []
        for row, distance, picture in zip(rows, near.distance[0].tolist(), rendered, strict=True):
            read = bank.grade_series[row] >= 0
            grades, months = bank.grade_series[row][read], bank.series_months[read]
            found.append(
                NeighbourSeen(
                    distance=distance,
                    kind=str(bank.kind[row]),
                    rendering=self.pixels(picture),
                    grades=tuple(grades.tolist()),
                    months=tuple(months.tolist()),
                )
            )
        return tuple(found)

    def step_terms(self, prediction: Prediction, chances: Tensor) -> tuple[tuple[StepTerm, ...], Tensor]:
        """The terms, each rendered by itself, and the follow-up that they make together, (1, 1, R, R)."""
        effects = self.predictor.steps.steps(self.key.cpu(), subject=self.subject)[0].float()
        shares = (chances[:, None].float() * effects).to(self.ws)
        moves = torch.cat([torch.zeros_like(shares[:1]), shares, shares.sum(dim=0, keepdim=True)])
        rendered = self.render(self.ws + moves[:, None, :])
        with torch.no_grad():
            seen = self.predictor.engine.grade(rendered).expected_grade
        before = self.pixels(rendered[0])
        changes = [difference(self.pixels(one), before, prediction.baseline) for one in rendered[1:-1]]
        terms = tuple(
            StepTerm(
                start=step,
                chance=float(chances[step]),
                length=float(effects[step].norm()),
                seen_grade=float(seen[step + 1] - seen[0]),
                grey=float(np.abs(change).mean()),
            )
            for step, change in enumerate(changes)
        )
        return terms, rendered[-1:]
