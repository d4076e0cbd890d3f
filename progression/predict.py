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
Earlier films of the knee set its pace (`latent.history`), and futures may be spread (`latent.spread`). Beside the path:
`asked` (what comes in), `inversion`, `refusal` (what is no knee), `sight` (what the grader sees), `change`, `answer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from warnings import warn

import numpy as np
import torch
from torch import Tensor

from progression.answer import Between, Found, answers, provenance
from progression.asked import Asked, pictures
from progression.change import Change
from progression.engine import Engine, choose, load_engine
from progression.errors import UsageError, WeightsError
from progression.image import Picture, as_source, exposure, from_model
from progression.inversion import Code, Inversion
from progression.knees import read_knees
from progression.latent import appearance
from progression.latent.appearance import Appearance
from progression.latent.bank import TrajectoryBank, check_built_with
from progression.latent.directions import Directions
from progression.latent.expected import StepEffects
from progression.latent.history import Past, Visits, joint_of, with_past
from progression.latent.objective import PAPER, Weights
from progression.latent.part import EncoderPart, load_generator
from progression.latent.perceptual import SeenDistance
from progression.localise.find import Finder
from progression.localise.places import reader
from progression.refusal import Gate
from progression.risk.forecast import Forecast, RiskModels, Seen
from progression.risk.grader import Grader
from progression.sight import look_back, see
from progression.stylegan2 import Generator
from progression.types import EarlierFilm, Pixels, Prediction, Radiograph, Request, Side, check_horizons
from progression.weights import ModelFiles, load_model

NEIGHBOURS = 5


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
    bank_files = files if bank is None else load_model(bank, option="--bank")
    check_built_with(bank_files, files)
    generator, encoder = load_generator(files, device=chosen), EncoderPart.load(files, device=chosen)
    grader = Grader.from_tensors(files.tensors("grader"), files.config("grader")).to(chosen)
    found_bank = TrajectoryBank.load(bank_files)
    _check_sizes(files, generator, encoder, found_bank)
    return Predictor(
        files=files,
        device=chosen,
        engine=load_engine(name, generator=generator, encoder=encoder.encoder, grader=grader),
        generator=generator,
        encoder=encoder,
        grader=grader,
        bank=found_bank,
        risk=RiskModels.load(files),
        bank_hash=bank_files.hashes()["bank"],
        appearance=Appearance.load(files) if appearance.PART in files.parts else None,
    )


def _check_sizes(files: ModelFiles, generator: Generator, encoder: EncoderPart, bank: TrajectoryBank) -> None:
    """WeightsError unless the parts speak of pictures and codes of one size."""
    config, drawn = encoder.encoder.config(), (generator.num_ws, generator.w_dim, generator.img_channels, 0)
    seen = (config["num_ws"], config["w_dim"], config["img_channels"], generator.c_dim)
    sizes = {files.resolution, generator.img_resolution, config["resolution"]}
    if drawn != seen or len(sizes) != 1 or bank.w.shape[1] != generator.w_dim or generator.img_channels != 1:
        raise WeightsError(
            f"the parts of model {files.folder} are of different sizes: expected a generator, an encoder and a bank "
            "that were made together; restore the folder"
        )


@dataclass(frozen=True, eq=False, repr=False)
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

    def __repr__(self) -> str:
        parts = ", ".join(self.files.parts)
        return (
            f"<Predictor {self.files.name}: {self.resolution} x {self.resolution} pixels; {parts}; bank of "
            f"{len(self.bank):,} rows; engine {self.engine.name} ({self.engine.precision}) on {self.device}>"
        )

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
        image: Picture,
        *,
        side: str | Side | None = None,
        horizon_months: int | Sequence[int] = (48,),
        grade: int | None = None,
        other: Picture | None = None,
        other_grade: int | None = None,
        name: str | None = None,
        subject: str | None = None,
        history: Sequence[tuple[Picture, float, int | None]] = (),
        refine_steps: int | None = None,
        inversion: str = "encoder",
        method: str = "joint",
        seed: int = 0,
        spread: bool = False,
        weights: Weights | None = None,
        render: bool = True,
        accept_atypical: bool = False,
    ) -> Prediction:
        """Predict one knee.

        Parameters
        ----------
        image : path of a DICOM, PNG, JPEG, WebP, TIFF, NIfTI or `.npy` file, an array or tensor (H, W), or a picture of
            Pillow's (`progression.image.read_image`); one knee, or a film, in which knees are found.
        side : may be left out where the file says it (DICOM, PNG with a text `Laterality`); both must agree. Needed
            with a film of both knees: the other knee in it then informs the risk, as on the command line.
        horizon_months : whole months from 1 to 96, one or several.
        grade : KL grade that a reader gave, None if unread.
        other : the person's other knee of the same day, in place of one that the film shows beside this one.
        other_grade : what a reader called the other knee.
        name : for outputs; by default the file's without suffix.
        subject : whose knee it is, where the bank may hold knees of the same person: those are passed over.
        history : earlier radiographs of this knee: (image, months before this one, KL grade or None).
        refine_steps, inversion, method, seed, spread, weights, render, accept_atypical : as `predict_batch` takes them.

        Raises
        ------
        ImageError
            If a picture cannot be read, or is refused: FilmRefusedError, NotARadiographError, NotAKneeError.
        UsageError
            For an argument of the wrong kind or out of range, or a side that is not known or contradicted.
        """
        source, asked = as_source(image), None if side is None else Side.parse(side)
        read_knee = reader(self.finder, accept_atypical=accept_atypical)
        knee, in_view = read_knees(source, self.finder, side=asked, accept_atypical=accept_atypical)
        which = Side.parse(side) if knee.side is None else knee.side
        if name is None:
            name = "knee" if isinstance(source, np.ndarray) else Path(str(source).rpartition("::")[2]).stem
        radiograph = Radiograph(knee.pixels, which, name)
        if other is not None:
            in_view = read_knee(as_source(other), side=which.other)
        beside = None if in_view is None else Radiograph(in_view.pixels, which.other, "other knee")
        films = [
            EarlierFilm(read_knee(as_source(film), side=which).pixels, months, read)
            for film, months, read in history
        ]
        made = self.predict_batch(
            [radiograph],
            horizon_months=horizon_months,
            grades=[grade],
            others=[beside],
            other_grades=[other_grade],
            subjects=[subject],
            histories=[films],
            refine_steps=refine_steps,
            inversion=inversion,
            method=method,
            seed=seed,
            spread=spread,
            weights=weights,
            render=render,
            accept_atypical=accept_atypical,
        )[0]
        return replace(made, warnings=(*knee.notes, *made.warnings))

    @torch.no_grad()
    def predict_batch(
        self,
        radiographs: Sequence[Radiograph],
        *,
        horizon_months: int | Sequence[int] = (48,),
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
        asked = Asked.of(
            radiographs, grades=grades, others=others, other_grades=other_grades, histories=histories
        )
        if not radiographs:
            return []
        months, terms = request.horizon_months, weights or (Weights() if method == "joint" else PAPER)
        # x_0 → w_0
        x0 = self._pictures(radiographs, self.resolution)
        code = self.inversion(x0, request)
        asked, warnings = Gate(self.appearance, self.device).admit(
            asked,
            typicality=code.typicality,
            mirrored=code.mirrored_typicality,
            accept_atypical=accept_atypical,
        )
        # what is to be expected of these knees
        seen, past, forecast = self.foresee(asked, months)
        # w_0 → ŵ(T) → x̂_T
        neighbours = self.bank.search(code.key, k=min(NEIGHBOURS, len(self.bank)), exclude_subject=subjects)
        change = self.change.expected(
            code.key, months, weights=terms, forecast=forecast, neighbours=neighbours, subjects=subjects
        )
        futures = self._render(code.ws[:, None] + change[:, :, None, :])
        between = None
        if spread and self.risk:
            between = self._between(code, joint_of(self.risk, seen, months, past=past), subjects)
        # grade both
        p_future = self.engine.grade(futures.flatten(0, 1)).now.unflatten(0, futures.shape[:2])
        found = Found(
            baseline=x0,
            reconstruction=code.reconstruction,
            typicality=code.typicality,
            futures=futures,
            p_now=seen.grading.now,
            p_rebuilt=self.engine.grade(code.reconstruction).now,
            p_future=p_future,
            neighbours=neighbours,
            forecast=forecast,
            past=past,
            between=between,
        )
        origin = provenance(
            request,
            files=self.files,
            bank_hash=self.bank_hash,
            device=self.device,
            engine=self.engine,
            neighbours=min(NEIGHBOURS, len(self.bank)),
        )
        return answers(
            found,
            asked,
            months,
            warnings=warnings,
            provenance=origin | {"objective": asdict(terms)},
            render=render,
        )

    def look(self, asked: Asked) -> tuple[Seen, list[Visits]]:
        """What the grader sees of the knees now, and at all visits (empty where no knee has an earlier film)."""
        views = partial(self._pictures, resolution=self.grader.input_resolution)
        seen = see(asked, views, self.engine)
        return seen, look_back(asked, seen, views, self.engine) if any(asked.histories) else []

    def foresee(self, asked: Asked, months: Sequence[int]) -> tuple[Seen, Past | None, Forecast | None]:
        """What the grader sees, what earlier films say, and the forecast, None without a risk part."""
        seen, visits = self.look(asked)
        if visits:
            risk = self._risk_part(
                "earlier films need to know what was to be expected", "predict from one film"
            )
            past = Past.of(risk.alone, visits)
            return seen, past, with_past(risk, seen, months, past)
        return seen, None, self.risk.forecast(seen, months) if self.risk else None

    def _between(self, code: Code, joint: Tensor, subjects: Sequence[str | None] | None) -> Between:
        """Futures at the percentiles of the change."""
        change, moves = self.change.between(code.key, joint, subjects=subjects)
        return Between(change, self._render(code.ws[:, None, None] + moves[:, :, :, None, :]))

    def check_method(self, method: str) -> None:
        """Refuse a method that this model and bank cannot serve, before any knee is looked at.

        Raises
        ------
        UsageError
            For "joint" without a risk part, or with a bank whose grades were not read.
        """
        if method == "joint":
            self._risk_part(
                "method joint needs to know how likely each grade is to rise", "use --method paper"
            )
            _ = self.steps

    def _risk_part(self, need: str, otherwise: str) -> RiskModels:
        if self.risk is None:
            raise UsageError(
                f"{need}, and model {self.files.name} has no risk part: train one (progression train risk), "
                f"or {otherwise}"
            )
        return self.risk

    def _pictures(self, radiographs: Sequence[Radiograph], resolution: int) -> Tensor:
        return pictures(radiographs, resolution, self.device)

    @cached_property
    def inversion(self) -> Inversion:
        """How radiographs become codes."""
        return Inversion(self.engine, self.generator, self.encoder, self.grader)

    @cached_property
    def change(self) -> Change:
        """How codes change."""
        return Change(self.bank, self.files)

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
        self,
        image: Picture,
        *,
        side: str | Side | None = None,
        accept_atypical: bool = False,
        **amounts: float,
    ) -> Pixels:
        """A knee as it would be rendered with more or less of some attributes, (R, R) float32 in [0, 1].

        `predictor.edit("knee.png", side="left", grade=1)`. Oriented and exposed as the radiograph, so an edit of the
        exposure only changes what lies within it. A rendering: compare it with the reconstruction, not the radiograph.

        What `predict` would say of the picture in its warnings is warned of (UserWarning).

        Parameters
        ----------
        image, side, accept_atypical : as `predict` takes them
        amounts : by the attribute's name, in its own units (`progression.latent.attributes`), as far as
            `progression.latent.directions.REACH` deviations of the knees that the directions were learnt from

        Raises
        ------
        WeightsError
            If the model has no directions.
        ImageError
            As `predict`.
        UsageError
            If there is no such attribute, or an amount is out of range; and as `predict`.
        """
        asked = None if side is None else Side.parse(side)
        knee, _ = read_knees(as_source(image), self.finder, side=asked, accept_atypical=accept_atypical)
        radiograph = Radiograph(knee.pixels, Side.parse(side) if knee.side is None else knee.side, "knee")
        code = self.inversion(self._pictures([radiograph], self.resolution), Request())
        _, (told,) = Gate(self.appearance, self.device).admit(
            Asked.of([radiograph]),
            typicality=code.typicality,
            mirrored=code.mirrored_typicality,
            accept_atypical=accept_atypical,
        )
        for text in (*knee.notes, *told):
            warn(text, stacklevel=2)
        edited = self._render(self.directions.edit(code.ws, **amounts))[0]
        return from_model(edited, side=radiograph.side, exposure=exposure(radiograph.pixels))

    @property
    def likeness(self) -> SeenDistance:
        """What refinement goes by."""
        return self.inversion.likeness

    @property
    def steps(self) -> StepEffects:
        """How grade steps look in W, learnt from the bank when first asked for."""
        return self.change.steps

    def _render(self, ws: Tensor) -> Tensor:
        """Codes (..., L, D) as pictures (..., 1, R, R)."""
        return self.engine.render(ws.flatten(0, -3)).clamp(-1, 1).unflatten(0, ws.shape[:-2])
