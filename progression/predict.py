"""The whole main path on one page: a radiograph in, its future and its risk out.

    x_0 --encode, refine--> w_0 --displacements of other subjects--> ŵ(T) --render--> x̂_T --grade both--> risk

| symbol | meaning | shape |
|---|---|---|
| x_0 | baseline radiograph, right-sided, exposure normalised | (N, 1, R, R) in [-1, 1] |
| ws_0 | its code, one w a layer; the search key is the mean of the encoder's, before refinement | (N, L, D) |
| ŵ(T) | codes at the horizons: w_0 + mean of the neighbours' scaled displacements (method "paper"), or | (N, H, L, D) |
| | + the bank's grade steps, each by the chance that this knee makes it by T (method "joint") | |
| x̂_T | rendered follow-ups | (N, H, 1, R, R) |

Source: Han et al. 2022 (arXiv 2111.11439), steps 4 to 7; `docs/architecture.md` says what is done otherwise.
Both methods are weights of one objective (`progression.latent.objective`); "joint" is ours (`latent.expected`).
Earlier films of the knee set its pace (`latent.history`), and futures may be spread (`latent.spread`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from progression import __version__
from progression.engine import Engine, choose, load_engine
from progression.errors import NotAKneeError, UsageError
from progression.image import exposure, from_model, read_image, to_model
from progression.latent import appearance
from progression.latent.appearance import Appearance
from progression.latent.bank import Neighbours, TrajectoryBank, check_built_with
from progression.latent.directions import PART as DIRECTIONS
from progression.latent.directions import Directions
from progression.latent.expected import StepEffects, step_chances
from progression.latent.extrapolate import key_of
from progression.latent.history import Past, Visits, joint_of, with_past
from progression.latent.invert import project, refine
from progression.latent.objective import PAPER, Ground, Observed, Weights, grade_probe, solve, spread_of_rates
from progression.latent.part import EncoderPart, load_generator, rebuilt_figures
from progression.latent.perceptual import SeenDistance
from progression.latent.spread import PERCENTILES, change_at, steps_at
from progression.latent.whiten import Whitening
from progression.localise.find import Finder
from progression.localise.places import reader
from progression.risk.forecast import Forecast, RiskModels, Seen
from progression.risk.grader import Grader, concatenate
from progression.risk.model import Risk
from progression.risk.risk import excess, product_risk
from progression.stylegan2 import Generator
from progression.types import (
    EarlierFilm,
    HorizonPrediction,
    Pixels,
    Prediction,
    Radiograph,
    Request,
    Side,
    SpreadPicture,
    check_grade,
    check_horizons,
)
from progression.weights import ModelFiles, load_model

T = TypeVar("T")
NEIGHBOURS = 5
ATYPICAL = 0.01
"""Typicality under which a picture is called unlike the training radiographs, with a warning."""
MISLAID = 0.005
"""Typicality of its layout under which a picture is refused: one knee in four hundred, nearly all that are none."""
OFF_MANIFOLD = 0.001
"""Typicality under which a picture is refused for what the model makes of it."""


@dataclass(frozen=True)
class Code:
    """What inversion gives for N pictures: latents, reconstructions (N, 1, R, R), typicality (N,).

    The search key is the encoder's, as in banks, whatever comes after it.
    """

    key: Tensor
    ws: Tensor
    reconstruction: Tensor
    typicality: Tensor
    mirrored_typicality: Tensor


@dataclass(frozen=True)
class Between:
    """Futures of N knees at H horizons and P percentiles: change in grades (N, H, P), images (N, H, P, 1, R, R)."""

    change: Tensor
    images: Tensor


def load_predictor(
    model: str | Path = "default",
    *,
    device: str = "auto",
    engine: str = "auto",
    bank: str | Path | None = None,
) -> Predictor:
    """Load a model for prediction.

    Parameters
    ----------
    model : name of an installed model, or its folder.
    device : "auto" (a GPU where there is one), "cpu" or "cuda".
    engine : "auto" (OpenVINO on a CPU where the extra `fast` is installed), "torch", "openvino" or "openvino-half";
        `progression.engine` states how far their answers differ.
    bank : folder of a bank built with this model (`progression bank build`); the model's own where absent.

    Raises
    ------
    WeightsError
        If the model or the bank is missing, changed, or does not fit.
    UsageError
        If the device or the engine is unknown or absent.
    DependencyError
        If an engine is asked for that is not installed.
    """
    files = load_model(model)
    name, chosen = choose(engine, device)
    bank_files = files if bank is None else load_model(bank)
    check_built_with(bank_files, files)
    generator, encoder = load_generator(files, device=chosen), EncoderPart.load(files, device=chosen)
    grader = Grader.from_tensors(files.tensors("grader"), files.config("grader")).to(chosen)
    return Predictor(
        files=files,
        device=chosen,
        engine=load_engine(name, generator=generator, encoder=encoder.encoder, grader=grader),
        generator=generator,
        encoder=encoder,
        grader=grader,
        bank=TrajectoryBank.load(bank_files),
        risk=RiskModels.load(files),
        bank_hash=bank_files.hashes()["bank"],
        appearance=Appearance.load(files) if appearance.PART in files.parts else None,
    )


@dataclass(frozen=True)
class Predictor:
    """A loaded model. `load_predictor` makes one. The networks are torch's; `engine` runs them forward."""

    files: ModelFiles
    device: torch.device
    engine: Engine
    generator: Generator
    encoder: EncoderPart
    grader: Grader
    bank: TrajectoryBank
    risk: RiskModels | None
    bank_hash: str
    appearance: Appearance | None = None

    @cached_property
    def finder(self) -> Finder | None:
        """Finds knees in films; None where the model has no part for it."""
        return Finder.load(self.files)

    @property
    def resolution(self) -> int:
        """Side of the rendered pictures, pixels."""
        return self.generator.img_resolution

    def predict(
        self,
        image: str | Path | npt.NDArray[np.generic],
        *,
        side: str | Side | None = None,
        horizon_months: Sequence[int] = (48,),
        grade: int | None = None,
        other: str | Path | npt.NDArray[np.generic] | None = None,
        other_grade: int | None = None,
        name: str | None = None,
        history: Sequence[tuple[str | Path | npt.NDArray[np.generic], float, int | None]] = (),
        **options: Any,
    ) -> Prediction:
        """Predict one knee from a file or an array; see `predict_batch` for the options.

        The side may be left out where the file says it (DICOM, and pictures of ours); both must agree. `other` is the
        person's other knee of the same day, and `other_grade` what a reader called that one; `history` are earlier
        radiographs of this knee: (image, months before this one, KL grade or None).
        """
        read_knee = reader(self.finder, accept_atypical=bool(options.get("accept_atypical")))
        given = Path(str(image).rpartition("::")[2]).stem if isinstance(image, str | Path) else "knee"
        knee = read_knee(image, side=None if side is None else Side.parse(side))
        which = Side.parse(side) if knee.side is None else knee.side
        radiograph = Radiograph(knee.pixels, which, name or given)
        beside = None
        if other is not None:
            beside = Radiograph(read_knee(other, side=which.other).pixels, which.other, "other knee")
        films = [
            EarlierFilm(read_knee(film, side=which).pixels, months, read) for film, months, read in history
        ]
        made = self.predict_batch(
            [radiograph],
            horizon_months=horizon_months,
            grades=[grade],
            others=[beside],
            other_grades=[other_grade],
            histories=[films],
            **options,
        )[0]
        return replace(made, warnings=(*knee.notes, *made.warnings))

    @torch.no_grad()
    def predict_batch(
        self,
        radiographs: Sequence[Radiograph],
        *,
        horizon_months: Sequence[int] = (48,),
        grades: Sequence[int | None] | None = None,
        others: Sequence[Radiograph | None] | None = None,
        other_grades: Sequence[int | None] | None = None,
        subjects: Sequence[str | None] | None = None,
        histories: Sequence[Sequence[EarlierFilm]] | None = None,
        refine_steps: int | None = None,
        inversion: str = "encoder",
        method: str = "joint",
        seed: int = 0,
        spread: bool = False,
        weights: Weights | None = None,
        render: bool = True,
        accept_atypical: bool = False,
    ) -> list[Prediction]:
        """Predict several knees at once; a knee's numbers do not depend on the others.

        Parameters
        ----------
        radiographs : N knees.
        horizon_months : whole months from 1 to 96.
        grades : baseline KL grades that a reader gave, None where there is none; used by `risk_*`.
        others : the same people's other knees of the same day, None where there is none; used by `risk_*`, where the
            model has a part `risk_pair`; left out, with a warning, where it would be refused. A knee that is asked
            about and also another's other is graded once.
        other_grades : what a reader called those.
        subjects : whose knees these are, where the bank may hold knees of the same people: those are passed over.
        histories : earlier films of each knee, in any order, none where there are none (`progression.latent.history`).
        refine_steps : optimisation steps on the encoder's code; none by default.
        inversion : "encoder", or "projection" for the paper's 1,000 steps from the mean latent.
        method : "joint", which needs a risk part and a bank with grades, or "paper".
        seed : of the projection's noise; the default path draws nothing.
        spread : whether each horizon carries futures at percentiles of the change (`progression.latent.spread`).
        weights : of the objective's terms (`progression.latent.objective`) in place of the method's: "joint" is the
            expected change alone, "paper" the neighbours alone. The term `own` is not served here.
        render : whether the predictions carry follow-up pictures.
        accept_atypical : predict pictures that are unlike the training radiographs as well, with a warning.

        Raises
        ------
        NotAKneeError
            For the first picture that is unlike them, unless `accept_atypical`.
        UsageError
            For an argument out of range.
        """
        request = Request(
            horizon_months=check_horizons(horizon_months),
            refine_steps=refine_steps,
            inversion=inversion,
            method=method,
            seed=seed,
            spread=spread,
            accept_atypical=accept_atypical,
        )
        self.check_method(method)
        months = request.horizon_months
        read = _one_each(grades, radiographs, "grades")
        beside = _one_each(others, radiographs, "other knees")
        beside_read = _one_each(other_grades, radiographs, "grades of the other knee")
        earlier = [films or () for films in _one_each(histories, radiographs, "histories")]
        if not radiographs:
            return []
        x0 = self._pictures(radiographs, self.resolution)
        code = self._invert(x0, request)
        laid_out = self._laid_out(radiographs)
        reasons = self._reasons_to_refuse(radiographs, code.typicality.tolist(), laid_out)
        for radiograph, reason in zip(radiographs, reasons, strict=True):
            if reason and not accept_atypical:
                which = f"{radiograph.name}: " if len(radiographs) > 1 else ""
                raise NotAKneeError(
                    f"{which}refused, {reason}; expected one knee from the front, upright, the joint in the middle "
                    "(--accept-atypical predicts it all the same)"
                )
        beside, unlike = self._knees_among(beside, accept_atypical=accept_atypical)
        seen = self._see(radiographs, read, beside, beside_read)
        now = seen.grading
        neighbours = self.bank.search(code.key, k=min(NEIGHBOURS, len(self.bank)), exclude_subject=subjects)
        past = self._past(radiographs, seen, earlier)
        forecast = None
        if self.risk:
            forecast = with_past(self.risk, seen, months, past) if past else self.risk.forecast(seen, months)
        terms = weights or (Weights() if method == "joint" else PAPER)
        change = self._change(code.key, months, terms, forecast, neighbours, subjects)
        futures_ws = code.ws[:, None] + change[:, :, None, :]
        futures = self._render(futures_ws.flatten(0, 1)).unflatten(0, futures_ws.shape[:2])
        p_future = self.engine.grade(futures.flatten(0, 1)).now.unflatten(0, futures.shape[:2])
        product = torch.stack(product_risk(now.now, p_future), dim=-1)
        beyond = self._excess(self.engine.grade(code.reconstruction).now, p_future)
        between = self._spread(code, seen, months, past, subjects) if request.spread else None
        # without a risk part the product's running maximum over the horizons asked for
        risk = (
            torch.stack([forecast.risk.fast, forecast.risk.any], dim=-1)
            if forecast
            else torch.cummax(product, dim=1).values
        )
        provenance = self._provenance(request) | {"objective": asdict(terms)}
        predictions = []
        for i, radiograph in enumerate(radiographs):
            shown = partial(from_model, side=radiograph.side, exposure=exposure(radiograph.pixels))
            horizons = tuple(
                HorizonPrediction(
                    horizon_months=month,
                    image=shown(futures[i, h]) if render else None,
                    risk_fast=float(risk[i, h, 0]),
                    risk_any=float(risk[i, h, 1]),
                    risk_fast_product=float(product[i, h, 0]),
                    risk_any_product=float(product[i, h, 1]),
                    kl_future=tuple(p_future[i, h].tolist()),
                    risk_fast_excess=float(beyond[i, h, 0]),
                    risk_any_excess=float(beyond[i, h, 1]),
                    **(_sureness(forecast.risk, i, h) if forecast else {}),
                    spread=tuple(
                        SpreadPicture(
                            percentile, float(between.change[i, h, p]), shown(image) if render else None
                        )
                        for p, (percentile, image) in enumerate(
                            zip(PERCENTILES, between.images[i, h], strict=True)
                        )
                    )
                    if between
                    else (),
                )
                for h, month in enumerate(months)
            )
            predictions.append(
                Prediction(
                    name=radiograph.name,
                    side=radiograph.side,
                    horizons=horizons,
                    baseline=shown(x0[i]),
                    reconstruction=shown(code.reconstruction[i]),
                    kl_now=tuple(now.now[i].tolist()),
                    typicality=float(code.typicality[i]),
                    neighbour_distances=tuple(neighbours.distance[i].tolist()),
                    other_knee=forecast is not None and bool(forecast.with_other[i]),
                    warnings=self._warnings(
                        min(float(code.typicality[i]), laid_out[i]),
                        float(code.mirrored_typicality[i]),
                        read[i],
                        reasons[i],
                    )
                    + unlike[i],
                    provenance=provenance
                    | {"grade_read": read[i], "other_grade_read": beside_read[i]}
                    | _told(earlier[i], past, i),
                )
            )
        return predictions

    def _past(
        self, radiographs: Sequence[Radiograph], seen: Seen, earlier: Sequence[Sequence[EarlierFilm]]
    ) -> Past | None:
        """What earlier films say of each knee; None where no knee has any."""
        if not any(earlier):
            return None
        if self.risk is None:
            raise UsageError(
                f"earlier films need to know what was to be expected, and model {self.files.name} has no risk part: "
                "train one (progression train risk), or predict from one film"
            )
        now, visits = seen.grading, []
        for i, (radiograph, films) in enumerate(zip(radiographs, earlier, strict=True)):
            past = sorted(films, key=lambda film: -film.months_before)
            gradings = [now.rows(torch.tensor([i]))]
            if past:
                given = [Radiograph(film.pixels, radiograph.side, radiograph.name) for film in past]
                graded = self.engine.grade(self._pictures(given, self.grader.input_resolution))
                gradings.insert(0, graded.cpu())
            visits.append(
                Visits(
                    grading=concatenate(gradings),
                    months=[-film.months_before for film in past] + [0.0],
                    read=[*_grades([film.grade for film in past]).tolist(), int(seen.grade[i])],
                )
            )
        return Past.of(self.risk.alone, visits)

    def _spread(
        self,
        code: Code,
        seen: Seen,
        months: Sequence[int],
        past: Past | None,
        subjects: Sequence[str | None] | None,
    ) -> Between:
        """Futures at the percentiles of the change."""
        assert self.risk is not None  # `check_method` saw to it
        joint = joint_of(self.risk, seen, months, past=past)
        change = change_at(joint, PERCENTILES, variability=self.steps.variability)
        made = steps_at(joint, change, variability=self.steps.variability).float()
        looks = self.steps.steps(code.key.cpu(), subject=subjects)
        # row by row: a product over the batch would round with its size
        moves = torch.stack([share @ look for share, look in zip(made, looks, strict=True)]).to(self.device)
        ws = code.ws[:, None, None] + moves[:, :, :, None, :]
        images = self._render(ws.flatten(0, 2)).unflatten(0, ws.shape[:3])
        return Between(change, images)

    def check_method(self, method: str) -> None:
        """Refuse a method that this model and bank cannot serve, before any knee is looked at.

        Raises
        ------
        UsageError
            For "joint" without a risk part, or with a bank whose grades were not read.
        """
        if method != "joint":
            return
        if self.risk is None:
            raise UsageError(
                f"method joint needs to know how likely each grade is to rise, and model {self.files.name} has no "
                "risk part: train one (progression train risk), or use --method paper"
            )
        _ = self.steps

    def _pictures(self, radiographs: Sequence[Radiograph], resolution: int) -> Tensor:
        views = [to_model(r.pixels, side=r.side, resolution=resolution) for r in radiographs]
        return torch.stack(views).to(self.device)

    def _invert(self, x: Tensor, request: Request) -> Code:
        """Latents, and how knee-like the pictures are as shown and mirrored (from the encoder's own code)."""
        both = torch.cat([x, x.flip(3)])
        ws = self.engine.encode(both)
        rebuilt = self.engine.render(ws)
        typicality = self.encoder.typicality(*rebuilt_figures(rebuilt, self.encoder.whitening, ws, both))
        found, mirrored = typicality.split(len(x))
        ws, reconstruction = ws[: len(x)], rebuilt[: len(x)].clamp(-1, 1)
        key = key_of(ws)
        if request.inversion == "projection":
            ws = project(self.generator, x, seed=request.seed)
            reconstruction = self._render(ws)
        elif request.steps:
            ws = refine(
                self.generator,
                ws,
                x,
                steps=request.steps,
                whitening=self.encoder.whitening,
                perceptual=self.likeness,
                dtype=self.likeness.dtype,
            )
            reconstruction = self._render(ws)
        return Code(key, ws, reconstruction, found, mirrored)

    def _laid_out(self, radiographs: Sequence[Radiograph]) -> list[float]:
        """Share of knees that are laid out as oddly as each picture; 1 for a model that cannot tell."""
        if self.appearance is None:
            return [1.0] * len(radiographs)
        return [float(one) for one in self.appearance(self._pictures(radiographs, appearance.RESOLUTION))]

    def _knees_among(
        self, others: Sequence[Radiograph | None], *, accept_atypical: bool
    ) -> tuple[list[Radiograph | None], list[tuple[str, ...]]]:
        """The other knees that are laid out like knees, and a warning for each that is left out."""
        kept: list[Radiograph | None] = list(others)
        told: list[tuple[str, ...]] = [()] * len(kept)
        for i, other in enumerate(others):
            if other is None or accept_atypical:
                continue
            layout = self._laid_out([other])
            reason = self._reasons_to_refuse([other], [1.0], layout)[0]
            if reason:
                kept[i], told[i] = None, (f"other knee left out: {reason}",)
        return kept, told

    def _reasons_to_refuse(
        self, radiographs: Sequence[Radiograph], drawn: Sequence[float], laid_out: Sequence[float]
    ) -> list[str]:
        """Why each picture is no knee that the model knows; empty where it is one."""
        found = []
        for radiograph, drawing, layout in zip(radiographs, drawn, laid_out, strict=True):
            reason = ""
            if layout < MISLAID:
                reason = (
                    f"it is not laid out like the training radiographs (share of knees as odd: {layout:.4f})"
                )
            if drawing < OFF_MANIFOLD:
                reason = f"the model cannot draw it (typicality {drawing:.4f})"
            if reason and self.appearance is not None:
                reason = self.appearance.turned(self._pictures([radiograph], appearance.RESOLUTION)) or reason
            found.append(reason)
        return found

    def _change(
        self,
        key: Tensor,
        months: Sequence[int],
        weights: Weights,
        forecast: Forecast | None,
        neighbours: Neighbours,
        subjects: Sequence[str | None] | None,
    ) -> Tensor:
        """(N, H, D): the change that makes the objective least."""
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
        return change.to(self.device)

    @cached_property
    def ground(self) -> Ground:
        """What the objective's terms beside the data stand on, learnt from the bank when first asked for.

        The directions are the model's own; without such a part the term `kept` has nothing to stand on.
        """
        probe = grade_probe(self.bank.w, self.bank.grade_series[:, 0].long())
        whitening = Whitening.fit(self.bank.w)
        if DIRECTIONS not in self.files.parts:
            return Ground(whitening, probe=probe)
        found = Directions.load(self.files)
        kept = torch.tensor([name != "grade" for name in found.names])
        return Ground(whitening, found.effect, kept, probe)

    @cached_property
    def directions(self) -> Directions:
        """Where codes go with more of one attribute, read when first asked for.

        Raises
        ------
        WeightsError
            If the model has no directions, or those of another generator or encoder.
        """
        return Directions.load(self.files, device=self.device)

    @torch.no_grad()
    def edit(
        self, image: str | Path | npt.NDArray[np.generic], *, side: str | Side, **amounts: float
    ) -> Pixels:
        """A knee as it would be rendered with more or less of some attributes, (R, R) float32 in [0, 1].

        `predictor.edit("knee.png", side="left", grade=1)`. Oriented and exposed as the radiograph, so an edit of the
        exposure only changes what lies within it. A rendering: compare it with the reconstruction, not the radiograph.

        Parameters
        ----------
        image, side : as `predict` takes them
        amounts : by the attribute's name, in its own units (`progression.latent.attributes`)

        Raises
        ------
        WeightsError
            If the model has no directions.
        UsageError
            If there is no such attribute.
        """
        radiograph = Radiograph(read_image(image), Side.parse(side), "knee")
        ws = self.engine.encode(self._pictures([radiograph], self.resolution))
        edited = self._render(self.directions.edit(ws, **amounts))[0]
        return from_model(edited, side=radiograph.side, exposure=exposure(radiograph.pixels))

    @cached_property
    def likeness(self) -> SeenDistance:
        """What refinement goes by, through the grader's first network; made when first asked for.

        In bfloat16 where the engine was asked for half precision, as is then the refinement's rendering.
        """
        dtype = torch.float32 if self.engine.precision == "float32" else torch.bfloat16
        return SeenDistance.of(self.generator, self.grader, dtype=dtype)

    @cached_property
    def steps(self) -> StepEffects:
        """How grade steps look in W, learnt from the bank when first asked for."""
        return StepEffects.fit(self.bank)

    def _see(
        self,
        radiographs: Sequence[Radiograph],
        grades: Sequence[int | None],
        others: Sequence[Radiograph | None],
        other_grades: Sequence[int | None],
    ) -> Seen:
        """Grade the knees and the people's other knees, each picture once."""
        pictures = {_picture(r): r for r in (*radiographs, *others) if r is not None}
        place = {key: position for position, key in enumerate(pictures)}
        x = self._pictures(list(pictures.values()), self.grader.input_resolution)
        return Seen(
            networks=[grading.cpu() for grading in self.engine.grade_each(x)],
            knee=torch.tensor([place[_picture(r)] for r in radiographs]),
            grade=_grades(grades),
            other=torch.tensor([-1 if r is None else place[_picture(r)] for r in others]),
            other_grade=_grades(other_grades),
        )

    def _render(self, ws: Tensor) -> Tensor:
        return self.engine.render(ws).clamp(-1, 1)

    @staticmethod
    def _excess(p_rebuilt: Tensor, p_future: Tensor) -> Tensor:
        """(N, H, 2) fast and any: the product between two synthetic pictures, above that for no change."""
        changed = product_risk(p_rebuilt, p_future)
        unchanged = product_risk(p_rebuilt, p_rebuilt[:, None])
        return torch.stack([excess(r, r0) for r, r0 in zip(changed, unchanged, strict=True)], dim=-1)

    def _warnings(
        self, typicality: float, mirrored: float, grade: int | None, reason: str
    ) -> tuple[str, ...]:
        found = [f"accepted although {reason}: do not rely on this"] if reason else []
        if typicality < ATYPICAL and not reason:
            found.append(
                f"unlike the training radiographs (typicality {typicality:.3f}): do not rely on this"
            )
        if mirrored > 0.05 and mirrored > 10 * typicality:
            found.append("looks more like a knee of the other side: check --side")
        if grade == 4:
            found.append("grade 4 is the highest: it cannot rise")
        elif grade == 3:
            found.append("grade 3 cannot rise by two")
        return tuple(found)

    def _provenance(self, request: Request) -> dict[str, Any]:
        return {
            "versions": {"progression": __version__, "torch": torch.__version__, "numpy": np.__version__},
            "model": self.files.name,
            "weights_sha256": self.files.hashes() | {"bank": self.bank_hash},
            "device": self.device.type,
            "engine": self.engine.provenance(),
            "seed": request.seed,
            "arguments": asdict(request)
            | {"refine_steps": request.steps, "neighbours": min(NEIGHBOURS, len(self.bank))},
        }


def _one_each(
    given: Sequence[T | None] | None, radiographs: Sequence[Radiograph], what: str
) -> Sequence[T | None]:
    """One a knee, None where there is none; UsageError for another number."""
    found = [None] * len(radiographs) if given is None else list(given)
    if len(found) != len(radiographs):
        raise UsageError(
            f"{len(found)} {what} for {len(radiographs)} knees: give one a knee, None if there is none"
        )
    return found


def _picture(radiograph: Radiograph) -> tuple[int, Side]:
    """What tells one picture from another within a call."""
    return id(radiograph.pixels), radiograph.side


def _grades(grades: Sequence[int | None]) -> Tensor:
    """-1 where unread; UsageError for what is no grade."""
    return torch.tensor([-1 if grade is None else check_grade(grade) for grade in grades])


def _sureness(risk: Risk, knee: int, horizon: int) -> dict[str, Any]:
    """Fields of a `HorizonPrediction`: what is expected to be read, and how sure that is."""
    found: dict[str, Any] = {"kl_read": tuple(risk.future[knee, horizon].tolist())}
    for event, interval in (("fast", risk.fast_interval), ("any", risk.any_interval)):
        if interval is not None:
            found[f"risk_{event}_interval"] = tuple(interval[knee, horizon].tolist())
    if risk.grade_set is not None:
        found["kl_set"] = tuple(risk.grade_set[knee, horizon].nonzero()[:, 0].tolist())
    return found


def _told(films: Sequence[EarlierFilm], past: Past | None, i: int) -> dict[str, Any]:
    """For the provenance: the earlier films of knee i, and the pace that they gave."""
    if past is None or not films:
        return {}
    told = [{"months_before": film.months_before, "grade_read": film.grade} for film in films]
    return {"history": told, "pace": float(past.pace[i])}
