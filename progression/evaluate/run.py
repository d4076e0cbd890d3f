"""Evaluations of a model folder on a visits table: load both, judge, give the report.

Packages that only some figures need (LPIPS, ImageNet features) may be absent: the figure is then left out,
and `progress` is told which and what to install.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from progression.data.dataset import Knees, load_baselines
from progression.data.visits import read_visits
from progression.errors import DependencyError
from progression.evaluate.extractors import grader_features, imagenet_features, vgg_features
from progression.evaluate.generator import evaluate_generator
from progression.evaluate.grader import ATTACK_STEPS, attacked_probabilities, evaluate_grader
from progression.evaluate.inversion import evaluate_inversion
from progression.latent.invert import refine
from progression.latent.part import EncoderPart, load_generator
from progression.latent.perceptual import SeenDistance, pyramid
from progression.metrics.features import Extractor, batches_of
from progression.metrics.lpips import load_lpips
from progression.metrics.ppl import feature_distance
from progression.risk.grader import Grader, load_grader
from progression.weights import ModelFiles, load_model

STEPS = (0, 20, 60)
"""Refinement steps compared by default: the encoder alone, as a prediction takes it, and two refinements."""
Say = Callable[[str], object]
T = TypeVar("T")


def _quiet(_: str) -> None:
    pass


@dataclass(frozen=True)
class Subjects:
    """A model and the knees to judge it on.

    Attributes
    ----------
    model : name or folder
    table : visits table
    images : folder that the table's pictures are relative to; None is the table's own
    split : of the table
    device : as `progression.engine.choose_device` gives it
    limit : at most so many knees, drawn with a fixed seed; 0 for all
    """

    model: str
    table: Path
    images: Path | None = None
    split: str = "val"
    device: torch.device = torch.device("cpu")  # noqa: RUF009  immutable
    limit: int = 0

    @cached_property
    def files(self) -> ModelFiles:
        """The model's folder."""
        return load_model(self.model)

    def knees(self, split: str | None = None, *, resolution: int | None = None) -> Knees:
        """Baselines of a split, this one's by default, at the model's resolution by default."""
        table = read_visits(self.table)
        wanted = split or self.split
        if self.limit:
            table = _some_knees(table, wanted, self.limit)
        size = resolution or self.files.resolution
        return load_baselines(table, resolution=size, root=self.images, split=wanted)

    def grader(self, part: str = "grader") -> Grader:
        """The model's grader, or another of its parts of that kind, ready for use."""
        return load_grader(self.files, part).to(self.device)

    def about(self) -> dict[str, Any]:
        """What was judged, for the report: names and hashes, no paths."""
        return {
            "model": Path(self.model).name,
            "weights": self.files.hashes(),
            "table": self.table.name,
            "split": self.split,
        }


def run_generator(
    subjects: Subjects,
    *,
    n_samples: int = 2000,
    n_path: int = 1000,
    truncation_psi: float = 1.0,
    n_draws: int = 10,
    seed: int = 0,
    progress: Say = _quiet,
) -> dict[str, Any]:
    """`evaluate_generator` on the ImageNet features of two networks and, where the model has a grader, on the grader's.

    The floor and the search for memorised pictures use the table's split "train", if it has one and it
    is not the split judged.
    """
    generator = load_generator(subjects.files, device=subjects.device)
    wanted = (_available(load, progress, subjects.device) for load in (imagenet_features, vgg_features))
    extractors = [extractor for extractor in wanted if extractor is not None]
    if "grader" in subjects.files.parts:
        extractors.append(grader_features(subjects.grader(), model=subjects.files.name))
    if not extractors:
        raise DependencyError("no features to judge by: pip install 'progression-imaging[evaluate]'")
    distance, distance_name = _path_distance(subjects.device, extractors[0], progress)
    splits = set(read_visits(subjects.table).get("split", []))
    train = subjects.knees("train").images if "train" in splits - {subjects.split} else None
    report = evaluate_generator(
        generator,
        subjects.knees().images,
        extractors=extractors,
        train=train,
        distance=distance,
        distance_name=distance_name,
        n_samples=n_samples,
        n_path=n_path,
        truncation_psi=truncation_psi,
        n_draws=n_draws,
        seed=seed,
        progress=progress,
    )
    return subjects.about() | report


def run_inversion(
    subjects: Subjects,
    *,
    steps: Sequence[int] = STEPS,
    n_draws: int = 1000,
    seed: int = 0,
    progress: Say = _quiet,
) -> dict[str, Any]:
    """`evaluate_inversion` of the model's encoder and `refine`, as a prediction takes it; grades where it has a grader.

    Both x and g(w) are graded at the model's resolution, so that only the inversion lies between them.
    """
    generator = load_generator(subjects.files, device=subjects.device)
    part = EncoderPart.load(subjects.files, device=subjects.device)
    grader = subjects.grader() if "grader" in subjects.files.parts else None
    knees = subjects.knees()
    likeness = pyramid if grader is None else SeenDistance.of(generator, grader)

    def invert(x: Tensor, n_steps: int) -> Tensor:
        with torch.no_grad():
            ws = part.encoder(x)
        return refine(generator, ws, x, steps=n_steps, whitening=part.whitening, perceptual=likeness)

    report = evaluate_inversion(
        knees.images.to(subjects.device),
        invert,
        lambda ws: generator.synthesis(ws, noise_mode="const"),
        subject=knees.subject,
        read=knees.grade,
        steps=steps,
        lpips=_available(load_lpips, progress, "alex", device=subjects.device),
        grade=None if grader is None else grader.each,
        n_draws=n_draws,
        seed=seed,
        progress=progress,
    )
    return subjects.about() | report


def run_grader(
    subjects: Subjects,
    *,
    part: str = "grader",
    attack_epsilons: Sequence[float] = (),
    n_draws: int = 1000,
    seed: int = 0,
    progress: Say = _quiet,
) -> dict[str, Any]:
    """`evaluate_grader` of the model's grader on the split's baseline pictures, at the grader's resolution.

    Parameters
    ----------
    part
        "grader", or "grader_robust" where the model has it.
    attack_epsilons
        Also its agreement on pictures changed against it, by so many grey levels of 255.
    """
    grader = subjects.grader(part)
    knees = subjects.knees(resolution=grader.input_resolution)
    progress(f"grading {len(knees)} knees")
    with torch.inference_mode():
        batches = batches_of(knees.images, device=subjects.device)
        probability = torch.cat([grader.probabilities(x).cpu() for x in batches])
    report = evaluate_grader(probability.numpy(), knees.grade, knees.subject, n_draws=n_draws, seed=seed)
    attacked = []
    for epsilon in attack_epsilons:
        progress(f"attacking by {epsilon:g} of 255 grey levels")
        chances = attacked_probabilities(grader, knees.images, knees.grade, epsilon=epsilon, seed=seed)
        found = evaluate_grader(chances, knees.grade, knees.subject, n_draws=n_draws, seed=seed)
        figures = ("accuracy", "accuracy_people", "quadratic_kappa", "quadratic_kappa_people")
        attacked.append({"epsilon": epsilon, "steps": ATTACK_STEPS} | {name: found[name] for name in figures})
    return subjects.about() | {"part": part} | report | ({"attacked": attacked} if attacked else {})


def _some_knees(table: pd.DataFrame, split: str, limit: int) -> pd.DataFrame:
    """Visits of at most `limit` knees of a split, drawn with a fixed seed."""
    knee = pd.MultiIndex.from_frame(table[["subject", "side"]])
    known = knee[(table["split"] == split).to_numpy()].unique() if "split" in table else knee.unique()
    if len(known) <= limit:
        return table
    return table[knee.isin(known[np.random.default_rng(0).choice(len(known), limit, replace=False)])]


def _available(load: Callable[..., T], progress: Say, *args: Any, **options: Any) -> T | None:
    try:
        return load(*args, **options)
    except DependencyError as error:
        progress(f"left out: {error}")
        return None


def _path_distance(
    device: torch.device, extractor: Extractor, progress: Say
) -> tuple[Callable[[Tensor, Tensor], Tensor], str]:
    lpips = _available(load_lpips, progress, "vgg", device=device)
    if lpips is not None:
        return lpips, "LPIPS VGG-16"
    return feature_distance(extractor), f"squared relative distance of {extractor.name}"
