"""Whether a picture is laid out as knees are, whatever a network makes of it.

Statistics of the picture alone, v: mean grey in cells of a grid, and the log of the mean absolute detail of each octave
in them. How they go together in knees is a Gaussian along r principal axes and round beyond them
(probabilistic PCA, Tipping & Bishop 1999), with v standardised:

    d² = Σ_i c_i² / λ_i + (‖v‖² - ‖c‖²) / λ_rest,    c = axes · v

and a picture's typicality is the share of knees, each left out of its own fit with all knees of its fold of people,
that are at least as far. No network takes part, so it stays true when encoder or grader are trained anew, and it sees
what they were taught to ignore: a blurred knee is reconstructed well, as is one of the other side.

| symbol | meaning | shape |
|---|---|---|
| x | model picture at 128 pixels | (N, 1, 128, 128) in [-1, 1] |
| v | 8×8 cells × 4 octaves of detail, 8×8 cells of grey; standardised, held within ±50 | (N, 320) |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from progression.data.splits import subject_folds
from progression.errors import UsageError, WeightsError
from progression.latent.typicality import LEVELS, survival
from progression.weights import ModelFiles, save_part

PART = "typicality"
RESOLUTION = 128
GRID = 8
OCTAVES = 4
AXES = 16
FOLDS = 5
FEWEST = 100
"""Knees; below that, one in a hundred cannot be told."""
USUAL = 0.05
"""Typicality above which a picture is a usual knee."""
_LEAST_DETAIL = 1e-3
_FAR = 50.0

ORIENTATIONS: Mapping[str, str] = {
    "mirrored": "it looks like a knee of the other side (check --side)",
    "upside down": "it looks like a knee upside down",
    "turned by half": "it looks like a knee turned by half",
    "turned left": "it looks like a knee turned by a quarter",
    "turned right": "it looks like a knee turned by a quarter",
}


def reoriented(x: Tensor) -> dict[str, Tensor]:
    """Pictures (N, 1, R, R) as they would be had they been turned or mirrored on the way, by `ORIENTATIONS`."""
    return {
        "mirrored": x.flip(3),
        "upside down": x.flip(2),
        "turned by half": x.flip(2, 3),
        "turned left": x.rot90(1, (2, 3)),
        "turned right": x.rot90(-1, (2, 3)),
    }


def statistics(x: Tensor) -> Tensor:
    """v before standardising, (N, 320) float32.

    Raises
    ------
    UsageError
        If pictures are not (N, 1, 128, 128).
    """
    if x.shape[1:] != (1, RESOLUTION, RESOLUTION):
        raise UsageError(
            f"expected pictures (N, 1, {RESOLUTION}, {RESOLUTION}), got {tuple(x.shape)}: resize them"
        )
    found, level = [], x.float()
    for _ in range(OCTAVES):
        low = F.avg_pool2d(level, 2)
        detail = (level - F.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)).abs()
        found.append((F.adaptive_avg_pool2d(detail, GRID) + _LEAST_DETAIL).log().flatten(1))
        level = low
    return torch.cat([*found, F.adaptive_avg_pool2d(level, GRID).flatten(1)], dim=1)


@dataclass(frozen=True)
class Appearance:
    """What knees look like.

    Attributes
    ----------
    mean, scale : (F,) of the statistics
    axes, variance : (r, F) orthonormal and (r,), of the standardised statistics
    rest : (), mean variance beyond the axes
    distance : (Q,), ascending quantiles of d² over knees, each by a fit without its fold
    """

    mean: Tensor
    scale: Tensor
    axes: Tensor
    variance: Tensor
    rest: Tensor
    distance: Tensor

    @classmethod
    def fit(cls, v: Tensor, subject: npt.NDArray[np.str_], *, axes: int = AXES, seed: int = 0) -> Appearance:
        """From the `statistics` (N, F) of knees and whose they are (N,).

        Raises
        ------
        UsageError
            Fewer than 100 knees, or all of so few people that a fold has none to be fitted on.
        """
        if len(v) < FEWEST or len(v) != len(subject):
            raise UsageError(
                f"expected {FEWEST} knees or more and whose each is, got {len(v)} and {len(subject)}"
            )
        fold = torch.from_numpy(subject_folds(subject.tolist(), folds=FOLDS, seed=seed))
        distance = torch.zeros(len(v))
        for k in range(FOLDS):
            if int((fold != k).sum()) <= axes + 1:
                raise UsageError("too few people: expected knees of at least five, in folds of their own")
            distance[fold == k] = cls._of(v[fold != k], axes).squared_distance(v[fold == k])
        levels = torch.linspace(0, 1, LEVELS)
        return cls._of(v, axes, distance.quantile(levels))

    @classmethod
    def _of(cls, v: Tensor, count: int, quantiles: Tensor | None = None) -> Appearance:
        mean, scale = v.mean(dim=0), v.std(dim=0) + 1e-6
        _, size, axes = torch.linalg.svd(((v - mean) / scale).double(), full_matrices=False)
        variance = size.square() / (len(v) - 1)
        rest = (variance[count:].sum() / (v.shape[1] - count)).clamp(min=1e-6)
        nothing = torch.zeros(LEVELS)
        return cls(
            mean,
            scale,
            axes[:count].float(),
            variance[:count].float(),
            rest.float(),
            nothing if quantiles is None else quantiles,
        )

    def squared_distance(self, v: Tensor) -> Tensor:
        """d² (N,) of statistics (N, F)."""
        z = ((v - self.mean) / self.scale).clamp(-_FAR, _FAR)
        c = z @ self.axes.T
        beyond = (z.square().sum(dim=1) - c.square().sum(dim=1)).clamp(min=0)
        return (c.square() / self.variance).sum(dim=1) + beyond / self.rest

    def __call__(self, x: Tensor) -> Tensor:
        """Typicality (N,) in [0, 1] of pictures (N, 1, 128, 128), on the CPU."""
        return survival(self.squared_distance(statistics(x.cpu())), self.distance)

    def turned(self, x: Tensor) -> str:
        """What was done to a picture (1, 1, 128, 128) that is a usual knee once it is undone; else empty."""
        found = {name: float(self(one)[0]) for name, one in reoriented(x).items()}
        best = max(found, key=found.__getitem__)
        return ORIENTATIONS[best] if found[best] > USUAL else ""

    def save(self, folder: str | Path) -> Path:
        """Write part "typicality" of a model folder."""
        tensors = {name: tensor.contiguous() for name, tensor in vars(self).items()}
        return save_part(folder, PART, tensors, {"resolution": RESOLUTION}, dtype="float32")

    @classmethod
    def load(cls, files: ModelFiles) -> Appearance:
        """Read part "typicality" of a model.

        Raises
        ------
        WeightsError
            If it lacks a tensor, or is of another version.
        """
        tensors = files.tensors(PART)
        try:
            found = cls(**{name: tensors[name] for name in cls.__dataclass_fields__})
        except KeyError as error:
            raise WeightsError(f"part {PART} lacks the tensor {error}: restore the model folder") from error
        if found.mean.shape != ((OCTAVES + 1) * GRID**2,):
            raise WeightsError(
                f"part {PART} is of another version: progression train typicality fits it anew"
            )
        return found
