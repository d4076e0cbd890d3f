"""What the benchmark of risk looks at, made once and kept under a work folder: gradings, features, codes, follow-ups.

All of it is of single participants, so the folder must lie outside the project. A file's name holds a digest of the
table and of the parts of the model that it depends on: another model, or another table, finds nothing and makes its
own. Stopped, the same command goes on. After a change to how a risk model is trained delete risk-without-*.npz.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from progression.data.dataset import Knees, load_baselines
from progression.data.visits import read_visits
from progression.engine import CPU_BATCH, Engine, choose, load_engine
from progression.errors import UsageError
from progression.evaluate.extractors import imagenet_features
from progression.files import atomic_write, sha256
from progression.latent.bank import TrajectoryBank
from progression.latent.expected import StepEffects, step_chances
from progression.latent.extrapolate import key_of, offset
from progression.latent.part import EncoderPart, from_bytes, load_generator
from progression.risk.grader import Grader, Grading, mean_grading
from progression.risk.model import RiskModel
from progression.stylegan2 import Generator
from progression.train.grader import fold_of, grade_images, grade_out_of_fold
from progression.train.risk import RiskConfig, choose_penalty, fit_risk, pairs
from progression.types import KL_GRADES
from progression.weights import ModelFiles, load_model

HORIZONS = (12, 24, 48, 96)
RISKS = ("risk", "risk_pair")
"""Parts of the model that predict; each is fitted anew without each fold of subjects."""
FOLLOWUPS = ("joint", "paper")
"""Methods of `progression predict` whose rendered follow-ups are graded."""
LEAVABLE = ("features", "codes", "followups", "followups-train")
"""Sources that can be left out, with the methods that need them."""
NEIGHBOURS = 5
FOLDS = 5
COMPONENTS = 256
"""Of the ImageNet features; found on all training knees, without any outcome."""
CHUNK = 256
"""Knees whose follow-ups are kept at a time."""
PROJECT = Path(__file__).resolve().parents[1]
Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sample:
    """N knees and all that a method may look at.

    Attributes
    ----------
    knees : grades and whose they are; without the pictures
    grading : of the pictures now, by networks that never saw the subject
    features : (N, C) leading principal components of the scaled ImageNet features of all training knees
    code : (N, D) the encoder's
    followups : method → (N, H, 5) grades that rendered follow-ups show at `HORIZONS`
    other : (N,) row of the person's other knee, -1 where there is none
    """

    knees: Knees
    grading: Grading
    features: Tensor
    code: Tensor
    followups: dict[str, Tensor]
    other: Rows

    def __len__(self) -> int:
        return len(self.knees)

    def take(self, rows: Rows) -> Sample:
        """Some knees; both of a person, or the other one is forgotten."""
        index = torch.as_tensor(rows)
        knees = self.knees.select(rows)
        return Sample(
            knees,
            self.grading.rows(index),
            self.features[index],
            self.code[index],
            {method: grades[index] for method, grades in self.followups.items()},
            knees.other_knee,
        )


@dataclass(frozen=True, eq=False)
class Task:
    """Knees to learn from, knees of other people that are asked about, and the model's own risk parts for these.

    `risk` and `risk_pair` were fitted on `fitted`: the shipped parts where those are all training knees, or else anew.
    """

    fitted: Sample
    asked: Sample
    risk: RiskModel
    risk_pair: RiskModel


def left_out_in(knees: Knees) -> Rows:
    """(N,) the fold in which each training knee is asked about."""
    return fold_of(knees.subject, folds=FOLDS, seed=RiskConfig().seed + 1)


def check_outside(work: Path) -> None:
    """Refuse a folder inside the project.

    Raises
    ------
    UsageError
        It lies there.
    """
    if work.resolve().is_relative_to(PROJECT):
        raise UsageError(
            f"--work {work}: holds participants' codes and gradings; choose a folder outside {PROJECT}"
        )


@dataclass(frozen=True)
class Sources:
    """Where everything comes from, and where it is kept; `without` some of `LEAVABLE`."""

    table: Path
    images: Path | None
    model: str
    work: Path
    engine: str = "auto"
    without: frozenset[str] = frozenset()
    say: Callable[[str], None] = print

    def task(self) -> Task:
        """All training knees, and the validation knees."""
        return Task(self.sample("train"), self.sample("val"), *self._shipped.values())

    def folds(self) -> Iterator[tuple[Rows, Task]]:
        """Rows of the training knees that are asked about, and the task of predicting them from the others."""
        sample = self.sample("train")
        for left_out, (inside, outside) in enumerate(self._splits(sample.knees)):
            models = (self._fold_risk(left_out, part) for part in RISKS)
            yield outside, Task(sample.take(inside), sample.take(outside), *models)

    def sample(self, split: str) -> Sample:
        """Every knee of a split."""
        knees, grading = self._graded[split]
        none = torch.zeros(len(knees), 0)
        features = self._components(split) if self.has("features", split) else none
        code = key_of(self._codes(split)) if self.has("codes", split) else none
        followups = {
            method: self._followups(split, method) for method in FOLLOWUPS if self.has(method, split)
        }
        return Sample(knees, grading, features, code, followups, knees.other_knee)

    def has(self, need: str, split: str) -> bool:
        """Whether what a method needs ("" nothing) is not left out."""
        names = {"followups", f"followups-{split}"} if need in FOLLOWUPS else {need}
        return not names & self.without

    def _components(self, split: str) -> Tensor:
        mean, scale, axes = self._principal
        return ((self._features(split) - mean) / scale) @ axes

    @property
    def hashes(self) -> dict[str, str]:
        """Of the model's parts."""
        return self._files.hashes()

    @cached_property
    def digest(self) -> str:
        """Of the table and the whole model."""
        return self._digest(tuple(sorted(self.hashes)))

    def _digest(self, parts: tuple[str, ...]) -> str:
        key = "\n".join([self._table_digest, *(f"{part} {self.hashes[part]}" for part in parts)])
        return hashlib.sha256(key.encode()).hexdigest()[:10]

    @cached_property
    def _files(self) -> ModelFiles:
        return load_model(self.model)

    @cached_property
    def _shipped(self) -> dict[str, RiskModel]:
        return {
            part: RiskModel.from_tensors(self._files.tensors(part), self._files.config(part))
            for part in RISKS
        }

    @cached_property
    def _grader(self) -> Grader:
        return Grader.from_tensors(self._files.tensors("grader"), self._files.config("grader")).eval()

    @cached_property
    def _graded(self) -> dict[str, tuple[Knees, Grading]]:
        return {split: self._gradings(split) for split in ("train", "val")}

    def _kept(
        self, name: str, split: str, parts: tuple[str, ...], make: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Arrays of a source, made if they are not in the work folder."""
        path = self.work / f"{name}-{split}-{self._digest(parts)}.npz"
        if not path.is_file():
            self.say(f"{name}, {split}: making {path.name}")
            arrays = make()
            with atomic_write(path) as temporary, open(temporary, "wb") as stream:
                np.savez(stream, **arrays)
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}

    @cached_property
    def _table_digest(self) -> str:
        return sha256(self.table)

    def _pictures(self, split: str, resolution: int) -> Knees:
        return load_baselines(read_visits(self.table), resolution=resolution, root=self.images, split=split)

    def _gradings(self, split: str) -> tuple[Knees, Grading]:
        """Knees of the training split by networks that never saw the subject, others by all networks."""

        def make() -> dict[str, Any]:
            knees = self._pictures(split, self._grader.input_resolution)
            if split == "train":
                grading = grade_out_of_fold(
                    self._grader, knees, self._files.config("grader").get("cross_fitting")
                )
            else:
                grading = grade_images(
                    self._grader, knees.images, input_resolution=self._grader.input_resolution
                )
            found = {field.name: getattr(grading, field.name).numpy() for field in fields(Grading)}
            whose = {"subject": knees.subject, "side": knees.side, "grade": knees.grade}
            return found | whose | {"series": knees.grade_series, "months": knees.series_months}

        kept = self._kept("gradings", split, ("grader",), make)
        knees = Knees(
            torch.zeros(len(kept["subject"]), 0, 0, dtype=torch.uint8),
            *(kept[name] for name in ("subject", "side", "grade", "series", "months")),
        )
        return knees, Grading(*(torch.from_numpy(kept[field.name]) for field in fields(Grading)))

    @cached_property
    def _principal(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and deviation of the training knees' features, and their leading axes (F, C) after scaling."""
        seen = self._features("train")
        mean, scale = seen.mean(dim=0), seen.std(dim=0).clamp(min=1e-3)
        scaled = (seen - mean) / scale
        variance, axes = torch.linalg.eigh(scaled.T @ scaled)
        kept = axes.flip(1)[:, :COMPONENTS]
        share = float(variance.flip(0)[:COMPONENTS].sum() / variance.sum())
        self.say(f"{kept.shape[1]} components of {len(axes)} ImageNet features: {share:.1%} of the variance")
        return mean, scale, kept

    def _features(self, split: str) -> Tensor:
        def make() -> dict[str, Any]:
            look = imagenet_features().features
            with torch.inference_mode():
                parts = [
                    look(from_bytes(part)) for part in self._pictures(split, 224).images.split(CPU_BATCH)
                ]
            return {"features": torch.cat(parts).numpy()}

        return torch.from_numpy(self._kept("imagenet", split, (), make)["features"])

    def _codes(self, split: str) -> Tensor:
        """(N, L or 1, D), one where all layers are alike."""

        def make() -> dict[str, Any]:
            encoder = EncoderPart.load(self._files).encoder
            with torch.inference_mode():
                pictures = self._pictures(split, self._files.resolution).images
                ws = torch.cat([encoder(from_bytes(part)) for part in pictures.split(64)])
            return {"ws": (ws[:, :1] if bool((ws == ws[:, :1]).all()) else ws).numpy()}

        return torch.from_numpy(self._kept("codes", split, ("encoder",), make)["ws"])

    def _splits(self, knees: Knees) -> Iterator[tuple[Rows, Rows]]:
        fold = left_out_in(knees)
        for left_out in range(FOLDS):
            yield np.flatnonzero(fold != left_out), np.flatnonzero(fold == left_out)

    def _fold_risk(self, left_out: int, part: str) -> RiskModel:
        """A risk part, penalty chosen anew, of the training knees without a fold of subjects."""
        knees, grading = self._graded["train"]
        inside, _ = list(self._splits(knees))[left_out]

        def make() -> dict[str, Any]:
            fitted, seen, other = knees.select(inside), grading.rows(torch.as_tensor(inside)), None
            if part == "risk_pair":
                fitted, seen, other = pairs(fitted, seen)
            penalty = choose_penalty(fitted, seen, RiskConfig(), other=other)
            model = fit_risk(fitted, seen, penalty=penalty, config=RiskConfig(), other=other)
            return {name: tensor.numpy() for name, tensor in model.tensors().items()}

        kept = self._kept(f"{part}-without-{left_out}", "train", ("grader",), make)
        tensors = {name: torch.from_numpy(array) for name, array in kept.items()}
        return RiskModel.from_tensors(tensors, self._shipped[part].config())

    def _chances(self, split: str) -> Tensor:
        """(N, H, 4) that the grade makes each step, from the picture alone, by models that never saw the subject."""
        knees, grading = self._graded[split]
        if split != "train":
            shipped = self._shipped["risk"]
            return step_chances(shipped.grade_now(grading), shipped.predict(grading, HORIZONS).future)
        chances = torch.zeros(len(knees), len(HORIZONS), 4, dtype=torch.float64)
        for left_out, (_, outside) in enumerate(self._splits(knees)):
            model, part = self._fold_risk(left_out, "risk"), grading.rows(torch.as_tensor(outside))
            future = model.predict(part, HORIZONS).future
            chances[torch.as_tensor(outside)] = step_chances(model.grade_now(part), future)
        return chances

    def _followups(self, split: str, method: str) -> Tensor:
        """(N, H, 5) grades of rendered follow-ups, by the networks that graded the picture now."""
        parts = ("generator", "encoder", "bank", "grader", *(("risk",) if method == "joint" else ()))
        knees, _ = self._graded[split]
        chunks = torch.arange(len(knees)).split(CHUNK)
        found = []
        for i, rows in enumerate(chunks):

            def make(rows: Tensor = rows) -> dict[str, Any]:
                return {"now": self._render_and_grade(split, method, rows).numpy()}

            found.append(
                self._kept(f"followups-{method}-{self.engine}-{i:02d}of{len(chunks)}", split, parts, make)[
                    "now"
                ]
            )
        return torch.from_numpy(np.concatenate(found))

    def _render_and_grade(self, split: str, method: str, rows: Tensor) -> Tensor:
        ws = self._codes(split)[rows].expand(-1, self._generator.num_ws, -1)
        change = self._change(split, method, rows, key_of(ws))
        with torch.inference_mode():
            pictures = (
                self._engines[0].render((ws[:, None] + change[:, :, None, :]).flatten(0, 1)).clamp(-1, 1)
            )
            if split != "train":
                graded = mean_grading([engine.grade(pictures) for engine in self._engines]).now
            else:
                graded = torch.zeros(len(pictures), KL_GRADES)
                left_out = self._grader_fold[rows.numpy()].repeat(len(HORIZONS))
                for fold, engine in enumerate(self._engines):
                    unseen = torch.as_tensor(left_out == fold)
                    if bool(unseen.any()):
                        graded[unseen] = engine.grade(pictures[unseen]).now
        return graded.unflatten(0, (len(rows), len(HORIZONS)))

    def _change(self, split: str, method: str, rows: Tensor, key: Tensor) -> Tensor:
        """(n, H, D): as `progression predict` moves codes."""
        if method == "joint":
            return self._steps.displacement_at(key, self._chances(split)[rows])
        near = self._bank.search(key, k=min(NEIGHBOURS, len(self._bank)))
        return offset(*self._bank.trajectories(near), HORIZONS)

    @property
    def _grader_fold(self) -> Rows:
        """The grader's network that never saw each training knee's subject, (N,)."""
        knees, _ = self._graded["train"]
        seed = self._files.config("grader")["cross_fitting"]["seed"]
        return fold_of(knees.subject, folds=len(self._engines), seed=seed)

    @cached_property
    def _generator(self) -> Generator:
        return load_generator(self._files)

    @cached_property
    def _bank(self) -> TrajectoryBank:
        return TrajectoryBank.load(self._files)

    @cached_property
    def _steps(self) -> StepEffects:
        return StepEffects.fit(self._bank)

    @cached_property
    def _engines(self) -> list[Engine]:
        """One engine a network of the grader."""
        name, _ = choose(self.engine, "cpu")
        encoder = EncoderPart.load(self._files).encoder
        grader = Grader.from_tensors(self._files.tensors("grader"), self._files.config("grader")).eval()
        return [
            load_engine(
                name,
                generator=self._generator,
                encoder=encoder,
                grader=Grader([network], input_resolution=grader.input_resolution).eval(),
            )
            for network in grader.members
        ]
