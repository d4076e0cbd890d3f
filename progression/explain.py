"""Why a prediction is what it is: neighbours, what drives the risk, what the change is made of, where networks look.

Everything is read off the models that made the prediction; no second model imitates them.

    log rate from grade i to j in an era = a + Σ_f x_f w_f          one driver a covariate, exact
    predicted change in W = Σ_j p_j(T) B_j(w)                       one term a grade step, exact
    risk had a reader said k: the same picture, P(k_0 = k) = 1      what if
    ∂ score / ∂ pixels, and Grad-CAM                                `progression.risk.saliency`
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from progression.asked import Asked
from progression.image import exposure, from_model, to_model
from progression.latent.expected import step_chances
from progression.latent.extrapolate import key_of
from progression.predict import NEIGHBOURS, Predictor
from progression.report.explanation import (
    RADIOGRAPH,
    Driver,
    Explanation,
    NeighbourSeen,
    SaliencyMap,
    StepTerm,
    TransitionTerms,
    WhatIf,
)
from progression.report.figures import difference
from progression.risk.covariates import COVARIATES, covariates, standardise
from progression.risk.grader import FUTURE_MONTHS, RISE_TARGETS, Grader, Grading
from progression.risk.model import RiskModel
from progression.risk.multistate import TRANSITIONS
from progression.risk.saliency import SAMPLES, Score, expected_grade, grad_cam, gradient, risk_score
from progression.types import KL_GRADES, Pixels, Prediction, Radiograph, Side

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
}


def explain(
    predictor: Predictor,
    radiograph: Radiograph,
    *,
    horizon_months: Sequence[int] = (48,),
    grade: int | None = None,
    other: Radiograph | None = None,
    other_grade: int | None = None,
    subject: str | None = None,
    accept_atypical: bool = False,
    samples: int = SAMPLES,
) -> Explanation:
    """Explain one knee's prediction (method "joint", without refinement) at its last horizon.

    Parameters
    ----------
    horizon_months, grade, accept_atypical : as `Predictor.predict` takes them
    other, other_grade : the person's other knee of the same day; the risk is told without and with it. Drivers,
        readings and maps are those of this knee's own risk model
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
        accept_atypical=accept_atypical,
    )
    assert predictor.risk is not None  # `check_method` saw to it
    risk = predictor.risk.alone
    months = [horizon.horizon_months for horizon in prediction.horizons]
    shown = _Shown(predictor, radiograph, subject)
    grading = shown.grading
    read = torch.tensor([-1 if grade is None else grade])
    p_now = risk.grade_now(grading, read)
    start = int(p_now.argmax())
    alone = risk.predict(grading, months, grade=read)
    chances = step_chances(p_now, alone.future)[0, -1]
    if prediction.other_knee:
        asked = Asked.of([radiograph], grades=[grade], others=[other], other_grades=[other_grade])
        with torch.no_grad():
            forecast = predictor.foresee(asked, months)[2]
        assert forecast is not None
        chances = step_chances(forecast.now, forecast.risk.future)[0, -1]
    terms, follow_up = shown.step_terms(prediction, chances)
    return Explanation(
        prediction=prediction,
        grade_read=grade,
        start_grade=start,
        saliency=saliency_maps(
            predictor.grader,
            {RADIOGRAPH: shown.x, "follow-up": follow_up},
            {
                "expected grade": expected_grade,
                "chance of a rise": risk_score(risk, step=1, months=months[-1], grade=[grade]),
            },
            side=radiograph.side,
            samples=samples,
        ),
        neighbours=shown.neighbours(),
        transitions=transition_terms(risk, grading, start=start, until_months=months[-1]),
        step_terms=terms,
        what_if=what_if(risk, grading, months),
        without_other=WhatIf(grade, tuple(alone.any[0].tolist()), tuple(alone.fast[0].tolist()))
        if prediction.other_knee
        else None,
    )


def transition_terms(
    risk: RiskModel, grading: Grading, *, start: int, until_months: float
) -> tuple[TransitionTerms, ...]:
    """The rates out of grade `start` of one picture, taken apart, in every era that begins before `until_months`."""
    x = standardise(covariates(grading), risk.mean, risk.scale)[0, start]
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
                for name, value, term in zip(COVARIATES, x, terms[:, column], strict=True)
            )
            intercept = float(model.intercepts[era, column])
            found.append(TransitionTerms(i, j, float(since), float(until), intercept, drivers))
    return tuple(found)


def _words(covariate: str) -> tuple[str, str]:
    """A covariate in plain words, and its group; one that is new to this page is called by its name."""
    return _WORDS.get(covariate, (covariate.replace("_", " "), "other things seen"))


def what_if(risk: RiskModel, grading: Grading, months: Sequence[int]) -> tuple[WhatIf, ...]:
    """One picture's risk for the image alone, and for every grade that a reader might have given."""
    found = []
    for grade in (None, *range(KL_GRADES)):
        read = torch.tensor([-1 if grade is None else grade])
        given = risk.predict(grading, months, grade=read)
        found.append(WhatIf(grade, tuple(given.any[0].tolist()), tuple(given.fast[0].tolist())))
    return tuple(found)


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
        found.append((first, name, "gradient", gradient(grader, x, score, samples=samples).abs()))
    for picture, at in pictures.items():
        name, score = next(iter(scores.items()))
        found.append((picture, name, "Grad-CAM", grad_cam(grader, at, score)))
    return tuple(_map(picture, name, method, values[0], side) for picture, name, method, values in found)


def _map(picture: str, score: str, method: str, values: Tensor, side: Side) -> SaliencyMap:
    top, bottom = (round(share * len(values)) for share in BAND)
    total = float(values.sum())
    share = float(values[top:bottom].sum()) / total if total > 0 else 0.0
    # the few brightest pixels of a gradient would leave all others dark
    ceiling = max(float(values.flatten().quantile(0.995)), 1e-12)
    own = values.flip(1) if side is Side.LEFT else values
    scaled = (own / ceiling).clamp(0, 1).cpu().numpy().astype(np.float32)
    return SaliencyMap(picture, score, method, scaled, share, (bottom - top) / len(values))


class _Shown:
    """One radiograph's code and grading, and renderings of codes in its orientation and exposure."""

    def __init__(self, predictor: Predictor, radiograph: Radiograph, subject: str | None) -> None:
        self.predictor, self.radiograph, self.subject = predictor, radiograph, [subject]
        small, self.x = (
            to_model(radiograph.pixels, side=radiograph.side, resolution=size)[None].to(predictor.device)
            for size in (predictor.resolution, predictor.grader.input_resolution)
        )
        with torch.no_grad():
            self.ws = predictor.engine.encode(small)
            now = predictor.engine.grade(self.x)
        self.grading = Grading(now.now.cpu(), now.future.cpu(), now.rise.cpu())
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
