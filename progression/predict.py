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
Method "joint" is ours, in its first version (`progression.latent.expected`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from progression import __version__
from progression.engine import Engine, choose, load_engine
from progression.errors import UsageError
from progression.film import read_knee
from progression.image import exposure, from_model, read_image, to_model
from progression.latent.bank import Neighbours, TrajectoryBank, check_built_with
from progression.latent.directions import Directions
from progression.latent.expected import StepEffects, step_chances
from progression.latent.extrapolate import key_of, offset
from progression.latent.invert import project, refine
from progression.latent.part import EncoderPart, load_generator, rebuilt_figures
from progression.latent.perceptual import SeenDistance
from progression.risk.grader import Grader, Grading
from progression.risk.model import Risk, RiskModel
from progression.risk.risk import excess, product_risk
from progression.stylegan2 import Generator
from progression.types import (
    HorizonPrediction,
    Pixels,
    Prediction,
    Radiograph,
    Request,
    Side,
    check_grade,
    check_horizons,
)
from progression.weights import ModelFiles, load_model

NEIGHBOURS = 5
ATYPICAL = 0.01
"""Typicality under which a picture is called unlike the training radiographs."""


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
        risk=RiskModel.from_tensors(files.tensors("risk"), files.config("risk"))
        if "risk" in files.parts
        else None,
        bank_hash=bank_files.hashes()["bank"],
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
    risk: RiskModel | None
    bank_hash: str

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
        name: str | None = None,
        **options: Any,
    ) -> Prediction:
        """Predict one knee from a file or an array; see `predict_batch` for the options.

        The side may be left out where the file says it (DICOM, and pictures of ours); both must agree.
        """
        given = Path(str(image).rpartition("::")[2]).stem if isinstance(image, str | Path) else "knee"
        knee = read_knee(image, side=None if side is None else Side.parse(side))
        radiograph = Radiograph(
            knee.pixels, Side.parse(side) if knee.side is None else knee.side, name or given
        )
        made = self.predict_batch([radiograph], horizon_months=horizon_months, grades=[grade], **options)[0]
        return replace(made, warnings=(*knee.notes, *made.warnings))

    @torch.no_grad()
    def predict_batch(
        self,
        radiographs: Sequence[Radiograph],
        *,
        horizon_months: Sequence[int] = (48,),
        grades: Sequence[int | None] | None = None,
        subjects: Sequence[str | None] | None = None,
        refine_steps: int | None = None,
        inversion: str = "encoder",
        method: str = "joint",
        seed: int = 0,
        render: bool = True,
    ) -> list[Prediction]:
        """Predict several knees at once; a knee's numbers do not depend on the others.

        Parameters
        ----------
        radiographs : N knees.
        horizon_months : whole months from 1 to 96.
        grades : baseline KL grades that a reader gave, None where there is none; used by `risk_*`.
        subjects : whose knees these are, where the bank may hold knees of the same people: those are passed over.
        refine_steps : optimisation steps on the encoder's code; none by default.
        inversion : "encoder", or "projection" for the paper's 1,000 steps from the mean latent.
        method : "joint", which needs a risk part and a bank with grades, or "paper".
        seed : of the projection's noise; the default path draws nothing.
        render : whether the predictions carry follow-up pictures.

        Raises
        ------
        UsageError
            For an argument out of range.
        """
        request = Request(
            horizon_months=check_horizons(horizon_months),
            refine_steps=refine_steps,
            inversion=inversion,
            method=method,
            seed=seed,
        )
        self.check_method(method)
        months = request.horizon_months
        given = [None] * len(radiographs) if grades is None else grades
        read = [None if grade is None else check_grade(grade) for grade in given]
        if len(read) != len(radiographs):
            raise UsageError(
                f"{len(read)} grades for {len(radiographs)} knees: give one a knee, None if unread"
            )
        if not radiographs:
            return []
        x0 = self._pictures(radiographs, self.resolution)
        code = self._invert(x0, request)
        now = self.engine.grade(self._pictures(radiographs, self.grader.input_resolution))
        neighbours = self.bank.search(code.key, k=min(NEIGHBOURS, len(self.bank)), exclude_subject=subjects)
        forecast = self._forecast(now, months, read)
        if method == "joint":
            assert forecast is not None  # `check_method` saw to it
            change = self._expected_change(code.key, *forecast, subjects)
        else:
            change = self._borrowed_change(neighbours, months)
        futures_ws = code.ws[:, None] + change[:, :, None, :]
        futures = self._render(futures_ws.flatten(0, 1)).unflatten(0, futures_ws.shape[:2])
        p_future = self.engine.grade(futures.flatten(0, 1)).now.unflatten(0, futures.shape[:2])
        product = torch.stack(product_risk(now.now, p_future), dim=-1)
        beyond = self._excess(self.engine.grade(code.reconstruction).now, p_future)
        # without a risk part the product's running maximum over the horizons asked for
        risk = (
            torch.stack([forecast[1].fast, forecast[1].any], dim=-1)
            if forecast
            else torch.cummax(product, dim=1).values
        )
        provenance = self._provenance(request)
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
                    warnings=self._warnings(
                        float(code.typicality[i]), float(code.mirrored_typicality[i]), read[i]
                    ),
                    provenance=provenance | {"grade_read": read[i]},
                )
            )
        return predictions

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

    def _borrowed_change(self, neighbours: Neighbours, months: Sequence[int]) -> Tensor:
        """(N, H, D): the neighbours' displacements, scaled to the horizons."""
        displacement, interval_months = (t.to(self.device) for t in self.bank.trajectories(neighbours))
        return offset(displacement, interval_months, months)

    def _expected_change(
        self, key: Tensor, p_now: Tensor, risk: Risk, subjects: Sequence[str | None] | None
    ) -> Tensor:
        """(N, H, D): what the grade's steps look like to the whole bank, each by this knee's chance of it."""
        chances = step_chances(p_now, risk.future)
        return self.steps.displacement_at(key.cpu(), chances, subject=subjects).to(self.device)

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

    def _forecast(
        self, now: Grading, months: Sequence[int], grades: Sequence[int | None]
    ) -> tuple[Tensor, Risk] | None:
        """P(k_0) (N, 5) and the multi-state model's risk at the horizons; None without a risk part."""
        if self.risk is None:
            return None
        grading = Grading(*(t.cpu() for t in (now.now, now.future, now.rise)))
        read = torch.tensor([-1 if g is None else g for g in grades])
        return self.risk.grade_now(grading, read), self.risk.predict(grading, months, grade=read)

    def _render(self, ws: Tensor) -> Tensor:
        return self.engine.render(ws).clamp(-1, 1)

    @staticmethod
    def _excess(p_rebuilt: Tensor, p_future: Tensor) -> Tensor:
        """(N, H, 2) fast and any: the product between two synthetic pictures, above that for no change."""
        changed = product_risk(p_rebuilt, p_future)
        unchanged = product_risk(p_rebuilt, p_rebuilt[:, None])
        return torch.stack([excess(r, r0) for r, r0 in zip(changed, unchanged, strict=True)], dim=-1)

    def _warnings(self, typicality: float, mirrored: float, grade: int | None) -> tuple[str, ...]:
        found = []
        if typicality < ATYPICAL:
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
