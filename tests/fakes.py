"""A predictor that needs no weights, and pictures that could be knees."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL.PngImagePlugin import PngInfo

from progression.errors import NotAKneeError, ProgressionError, UsageError
from progression.image import LATERALITY, exposure, from_model, to_model
from progression.localise.find import Finder
from progression.report.mark import to_grey8
from progression.types import METHODS, EarlierFilm, HorizonPrediction, Pixels, Prediction, Radiograph, Side

RESOLUTION = 64


def knee(size: int = 96, seed: int = 0) -> Pixels:
    """A bright shaft with a dark gap across it, a small bright fibula at the left, soft tissue and noise."""
    y, x = np.mgrid[0:size, 0:size] / size
    shaft = 0.65 * np.exp(-(((x - 0.5) / 0.33) ** 6))
    gap = 0.4 * np.exp(-(((y - 0.5) / 0.04) ** 2)) * (np.abs(x - 0.5) < 0.35)
    fibula = 0.5 * np.exp(-(((x - 0.12) / 0.05) ** 2)) * (y > 0.7)
    noise = 0.02 * np.random.default_rng(seed).standard_normal((size, size))
    return np.clip(0.15 + shaft - gap + fibula + noise, 0, 1).astype(np.float32)


def save_knee(path: Path, *, size: int = 96, seed: int = 0, side: Side | None = None) -> Path:
    """`knee` as an 8-bit grey picture; the format goes by the suffix, and a PNG may say its side."""
    info = PngInfo()
    if side is not None:
        info.add_text(LATERALITY, side.value[0].upper())
    options = {"pnginfo": info} if path.suffix.lower() == ".png" else {}
    to_grey8(knee(size, seed)).save(path, **options)
    return path


def prediction(
    radiograph: Radiograph,
    horizon_months: Sequence[int] = (48,),
    *,
    render: bool = True,
    seed: int = 0,
    grade: int | None = None,
) -> Prediction:
    """A made-up prediction whose numbers depend on the pixels and the horizon."""
    x = to_model(radiograph.pixels, side=radiograph.side, resolution=RESOLUTION)
    reference = exposure(radiograph.pixels)
    baseline = from_model(x, side=radiograph.side, exposure=reference)
    mean = float(baseline.mean())
    horizons = tuple(
        HorizonPrediction(
            horizon_months=months,
            image=np.clip(baseline + 0.1 * months / 96, 0, 1).astype(np.float32) if render else None,
            risk_fast=0.3 * mean * months / 96,
            risk_any=0.6 * mean * months / 96,
            risk_fast_product=0.1,
            risk_any_product=0.2,
            kl_future=(0.1, 0.2, 0.3, 0.3, 0.1),
            risk_fast_interval=(0.01, 0.4),
            risk_any_interval=(0.02, 0.7),
            kl_read=(0.5, 0.2, 0.1, 0.1, 0.1),
            kl_set=(0, 1),
        )
        for months in horizon_months
    )
    return Prediction(
        name=radiograph.name,
        side=radiograph.side,
        horizons=horizons,
        baseline=baseline,
        reconstruction=np.clip(0.9 * baseline, 0, 1).astype(np.float32),
        kl_now=(0.3, 0.3, 0.2, 0.15, 0.05),
        typicality=0.9,
        neighbour_distances=(0.5, 0.6),
        warnings=(f"grey mean {mean:.6f}",),
        provenance={
            "versions": {"progression": "0"},
            "weights": {"generator": "0" * 64},
            "seed": seed,
            "grade_read": grade,
            "kl_start": (0.55, 0.2, 0.1, 0.1, 0.05),
            "arguments": {"model": "/home/somebody/models/mine", "horizon_months": list(horizon_months)},
        },
    )


@dataclass
class FakePredictor:
    """Has `predict_batch` of the real one, and remembers how it was called."""

    resolution: int = RESOLUTION
    fail_on: str | None = None
    refused_subject: str | None = None
    no_knees: tuple[str, ...] = ()
    finder: Finder | None = None
    calls: list[dict[str, object]] = field(default_factory=list)

    def check_method(self, method: str) -> None:
        assert method in METHODS

    def predict_batch(
        self,
        radiographs: Sequence[Radiograph],
        *,
        horizon_months: Sequence[int],
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
        render: bool = True,
        accept_atypical: bool = False,
    ) -> list[Prediction]:
        self.calls.append(
            {
                "names": [radiograph.name for radiograph in radiographs],
                "sides": [radiograph.side for radiograph in radiographs],
                "horizon_months": tuple(horizon_months),
                "grades": list(grades or []),
                "others": [None if other is None else other.pixels for other in others or []],
                "other_sides": [None if other is None else other.side for other in others or []],
                "other_grades": list(other_grades or []),
                "subjects": list(subjects or []),
                "histories": [list(one) for one in histories or []],
                "refine_steps": refine_steps,
                "inversion": inversion,
                "method": method,
                "seed": seed,
                "spread": spread,
                "render": render,
                "accept_atypical": accept_atypical,
            }
        )
        if any(radiograph.name == self.fail_on for radiograph in radiographs):
            raise ProgressionError("the code did not converge; try --refine-steps 0")
        refused = {i: "refused, it is none" for i, one in enumerate(radiographs) if one.name in self.no_knees}
        if refused:
            raise NotAKneeError("one of them: refused, it is none", refused)
        if self.refused_subject is not None and self.refused_subject in (subjects or []):
            raise UsageError("5 neighbours asked for: expected 1 to 3")
        return [
            prediction(radiograph, horizon_months, render=render, seed=seed, grade=grade)
            for radiograph, grade in zip(radiographs, grades or [None] * len(radiographs), strict=True)
        ]


def radiograph(name: str = "example", side: Side = Side.RIGHT) -> Radiograph:
    """`knee` with a name and a side."""
    return Radiograph(knee(), side, name)
