"""The outlines of femur and tibia as 74 points: how they are numbered, where a knee stands, and which are likely.

Points 0 to 36 follow the femur from one shaft's edge round the condyles to the other, 37 to 73 the tibia. Tables have
them from the lateral to the medial side. The network has them from the picture's LEFT to its right, which needs no
knowledge of the side: on a right knee both orders are the same, on a left one `reverse` leads from one to the other.
Shapes are (74, 2), x to the right and y down.

    shape of a knee = place(mean + modes · b),  b_k ~ N(0, deviations_k²)

where `place` is a similarity (`Frame`): a point distribution model (Cootes et al. 1995).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]

POINTS = 74
MODES = 40
_LEAST_SPREAD = 0.004
_TOLERANCE = 0.02
"""Spread, in widths of the plateau, at which a point lies half way between where it was seen and the shape."""
FEMUR, TIBIA = slice(0, 37), slice(37, 74)
NOTCH, SPINES, PLATEAU = 18, (53, 57), (47, 63)
"""Roof of the notch, tips of the spines, ends of the tibial plateau."""
_ORDER = np.concatenate([np.arange(36, -1, -1), np.arange(73, 36, -1)])


def reverse(points: npt.NDArray[np.floating]) -> Array:
    """The same outlines (..., 74, 2), numbered from the other side."""
    return np.asarray(points, np.float64)[..., _ORDER, :]


def mirror(points: npt.NDArray[np.floating]) -> Array:
    """Outlines (..., 74, 2) about x = 0 in a mirrored picture, again numbered from the picture's left."""
    return reverse(points) * np.array([-1.0, 1.0])


@dataclass(frozen=True)
class Frame:
    """Where a knee stands in a picture.

    Attributes
    ----------
    x, y : middle of the joint, half way from the notch's roof to the spines, pixels
    width : of the tibial plateau, pixels
    tilt_deg : clockwise
    """

    x: float
    y: float
    width: float
    tilt_deg: float

    def _turn(self) -> Array:
        angle = math.radians(self.tilt_deg)
        return self.width * np.array(
            [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
        )

    def put(self, shape: npt.NDArray[np.floating]) -> Array:
        """Points (..., 2) in widths of the plateau about the joint's middle, to the picture's pixels."""
        placed: Array = shape @ self._turn() + np.array([self.x, self.y])
        return placed

    def take(self, points: npt.NDArray[np.floating]) -> Array:
        """The way back."""
        taken: Array = (points - np.array([self.x, self.y])) @ np.linalg.inv(self._turn())
        return taken


def landmark_frame(points: npt.NDArray[np.floating]) -> Frame:
    """Where outlines stand, by the ends of the plateau, the notch and the spines alone."""
    left, right = points[PLATEAU[0]], points[PLATEAU[1]]
    middle = (points[NOTCH] + (points[SPINES[0]] + points[SPINES[1]]) / 2) / 2
    across = right - left
    return Frame(
        float(middle[0]),
        float(middle[1]),
        float(np.hypot(*across)),
        math.degrees(math.atan2(across[1], across[0])),
    )


def fitted_frame(points: npt.NDArray[np.floating], mean: Array, weights: Array | None = None) -> Frame:
    """The frame that brings a mean shape nearest to outlines (weighted least squares)."""
    weight = np.ones(POINTS) if weights is None else weights
    weight = weight / weight.sum()
    z, m = points[:, 0] + 1j * points[:, 1], mean[:, 0] + 1j * mean[:, 1]
    about_z, about_m = (weight * z).sum(), (weight * m).sum()
    turn = (weight * (m - about_m).conj() * (z - about_z)).sum() / (weight * abs(m - about_m) ** 2).sum()
    origin = about_z - turn * about_m
    return Frame(
        float(origin.real),
        float(origin.imag),
        float(abs(turn)),
        math.degrees(math.atan2(turn.imag, turn.real)),
    )


@dataclass(frozen=True)
class Agreed:
    """Outlines after shape and picture have been weighed against each other.

    Attributes
    ----------
    points : (74, 2) pixels, from the picture's left to its right
    frame : where the knee stands
    unlikely : root mean square of the modes' coefficients in their deviations, about 0.3 to 1.2 for knees
    """

    points: Array
    frame: Frame
    unlikely: float


@dataclass(frozen=True)
class ShapeModel:
    """How outlines vary, as of right knees: in widths of the plateau about the joint's middle.

    Attributes
    ----------
    mean : (74, 2)
    modes : (K, 74, 2), orthonormal
    deviations : (K,)
    rest : standard deviation of a coordinate that K modes leave
    """

    mean: Array
    modes: Array
    deviations: Array
    rest: float

    @classmethod
    def fit(cls, points: npt.NDArray[np.floating], *, modes: int = MODES) -> ShapeModel:
        """Of N right knees' outlines (N, 74, 2) in any similarity."""
        taken = np.stack([landmark_frame(one).take(one) for one in points])
        mean = np.median(taken, 0)
        for _ in range(3):
            frames = [fitted_frame(one, mean) for one in points]
            taken = np.stack([frame.take(one) for frame, one in zip(frames, points, strict=True)])
            mean = np.median(taken, 0)
            mean = landmark_frame(mean).take(mean)
        about = (taken - mean).reshape(len(taken), -1)
        _, singular, across = np.linalg.svd(about, full_matrices=False)
        deviations = singular / math.sqrt(len(taken))
        kept = min(modes, len(deviations))
        rest = math.sqrt(float((deviations[kept:] ** 2).sum()) / about.shape[1])
        return cls(mean, across[:kept].reshape(kept, POINTS, 2), deviations[:kept], rest)

    def mirrored(self) -> ShapeModel:
        """Of left knees as they stand, numbered from the picture's left as well."""
        return ShapeModel(mirror(self.mean), mirror(self.modes), self.deviations, self.rest)

    def agree(
        self,
        points: npt.NDArray[np.floating],
        spread: npt.NDArray[np.floating],
        seen: npt.NDArray[np.bool_],
    ) -> Agreed:
        """Weigh places that were seen against the shapes that are likely.

        Parameters
        ----------
        points : (74, 2) pixels.
        spread : (74,) standard deviation of each, pixels.
        seen : (74,); the others' places are the shape's alone.

        Returns
        -------
        Agreed
            A point that was seen sharply stays where it was seen.
        """
        variance = np.maximum(np.asarray(spread, float), 1e-3) ** 2
        shape = self.mean
        coefficients = np.zeros(len(self.deviations))
        modes = self.modes.reshape(len(self.modes), -1)
        weights = np.where(seen, 1 / variance, 0.0)
        for _ in range(3):
            frame = fitted_frame(points, shape, weights)
            noise = variance / frame.width**2 + self.rest**2 + _LEAST_SPREAD**2
            weights = np.where(seen, 1 / noise, 0.0)
            twice = np.repeat(weights, 2)
            off = (frame.take(points) - self.mean).reshape(-1)
            normal = (modes * twice) @ modes.T + np.diag(1 / np.maximum(self.deviations, 1e-6) ** 2)
            coefficients = np.linalg.solve(normal, (modes * twice) @ off)
            shape = self.mean + np.tensordot(coefficients, self.modes, 1)
        placed = frame.put(shape)
        trust = np.where(seen, _TOLERANCE**2 / (_TOLERANCE**2 + variance / frame.width**2), 0.0)[:, None]
        agreed = trust * points + (1 - trust) * placed
        standing = landmark_frame(frame.put(shape))
        scaled = coefficients / np.maximum(self.deviations, 1e-6)
        return Agreed(agreed, standing, float(np.sqrt(np.mean(scaled**2))))

    def tensors(self) -> dict[str, Tensor]:
        """For a part of a model."""
        arrays = {"mean": self.mean, "modes": self.modes, "deviations": self.deviations}
        return {f"shape.{name}": torch.from_numpy(value).float() for name, value in arrays.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], *, rest: float) -> ShapeModel:
        """The way back."""
        mean, modes, deviations = (
            tensors[f"shape.{name}"].double().numpy() for name in ("mean", "modes", "deviations")
        )
        return cls(mean, modes, deviations, rest)
