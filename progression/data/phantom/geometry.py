"""A phantom knee in one pose: path lengths along the beam.

Frame: x to the right in the picture, which is medial (a right knee); y along the beam, towards the kneecap;
z up, from the floor of the tibial plateau; mm.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from progression.data.phantom import bones
from progression.data.phantom.anatomy import (
    Anatomy,
    Array,
    JointState,
    Outlines,
    diseased_outlines,
    healthy_outlines,
)
from progression.types import FIELD_MM

JOINT_LINE = 0.605
"""Height of the joint line in the picture, as a fraction from the top."""

_TEXTURE_MM = 0.24
_TEXTURE_SIZE = 512  # a power of two, so that indices wrap by masking


@dataclass(frozen=True)
class Pose:
    """How one film was taken, as far as it moves shadows: lengths in mm, angles in degrees."""

    shift_mm: tuple[float, float] = (0.0, 0.0)
    in_plane_deg: float = 0.0
    beam_deg: float = 0.0
    rotation_deg: float = 0.0
    magnification: float = 1.0
    flexion: float = 0.0


@dataclass(frozen=True)
class Projection:
    """Path lengths along the beam, each (R, R) float32 in mm; bone is weighted by its density."""

    soft: Array
    trabecular: Array
    cortical: Array

    def attenuation(self) -> Array:
        """-log of the transmitted fraction (Beer-Lambert), with coefficients for about 65 kV, 1/mm."""
        return 0.0190 * self.soft + 0.0115 * self.trabecular + 0.050 * self.cortical


class Knee:
    """A knee that can be put into any state of disease and seen from any pose."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy

    @cached_property
    def _healthy(self) -> Outlines:
        return healthy_outlines(self.anatomy)

    def project(self, state: JointState, pose: Pose, resolution: int) -> Projection:
        """Path lengths through the knee for an R x R picture of `FIELD_MM`, fibula at the left edge."""
        a = self.anatomy
        shape = diseased_outlines(self._healthy, state, size=a.size)
        x, z = _grid(pose, resolution)
        pitch = FIELD_MM / resolution / pose.magnification
        yaw, tilt = (float(np.tan(np.radians(angle))) for angle in (pose.rotation_deg, pose.beam_deg))
        slope = float(np.tan(np.radians(a.plateau_slope_deg)))
        met = (
            bones.femur(
                a, shape, state, self._texture, x=x, z=z, pitch_mm=pitch, yaw=yaw, flexion=pose.flexion
            ),
            bones.tibia(a, shape, state, self._texture, x=x, z=z, pitch_mm=pitch, tilt=tilt + slope),
            bones.patella(a, x=x, z=z, pitch_mm=pitch, yaw=yaw, tilt=tilt),
            bones.fibula(a, x=x, z=z, pitch_mm=pitch, yaw=yaw, tilt=tilt),
        )
        inside = sum((bone.thickness - bone.shell) * bone.density for bone in met)
        return Projection(
            soft=bones.soft_tissue(a, x=x, z=z),
            trabecular=np.maximum(a.trabecular_density * inside, 0),
            cortical=np.maximum(sum(bone.shell + bone.plate for bone in met), 0),
        )

    @cached_property
    def _texture_field(self) -> Array:
        """Relative density of trabecular bone over (z, x) in bone coordinates, periodic."""
        a, n = self.anatomy, _TEXTURE_SIZE
        rng = np.random.default_rng(a.texture_seed)

        def field(sigma_z_mm: float, sigma_x_mm: float) -> Array:
            noise = rng.standard_normal((n, n), dtype=np.float32)
            sigma = (sigma_z_mm / _TEXTURE_MM, sigma_x_mm / _TEXTURE_MM)
            smooth = gaussian_filter(noise, sigma, mode="wrap", truncate=3)
            return np.asarray(smooth / smooth.std())

        def slow() -> Array:
            noise = rng.standard_normal((n // 8, n // 8), dtype=np.float32)
            smooth = gaussian_filter(noise, (2.6, 2.0), mode="wrap")
            return np.asarray(zoom(smooth / smooth.std(), 8, order=1, mode="grid-wrap", grid_mode=True))

        coarse = a.texture_coarseness
        struts = field(1.9 * coarse, 0.24 * coarse)
        upright = 0.8 * struts + 0.5 * field(0.3 * coarse, 0.26 * coarse)
        # Between the spines the struts lean to both sides: the same field, sheared.
        row, column = np.ogrid[:n, :n]
        leaning = struts[row, (column + row // 2) % n] + struts[row, (column - row // 2 + n // 2) % n]
        middle = np.exp(-(((column - n / 2) * _TEXTURE_MM / 13) ** 2))
        grain = (1 - 0.7 * middle) * upright + 0.35 * middle * leaning
        # Level lines of a slow field: faint curved bands, as struts and old scars leave them.
        bands = sum(np.exp(-((slow() / 0.09) ** 2)) for _ in range(2))
        uneven = slow()
        return np.asarray(1 + a.texture_contrast * grain + 0.05 * uneven + 0.09 * bands, dtype=np.float32)

    def _texture(self, x: Array, z: Array) -> Array:
        """Bilinear look-up in the texture field."""
        field, n = self._texture_field.ravel(), _TEXTURE_SIZE
        column, row = x / np.float32(_TEXTURE_MM) + n // 2, z / np.float32(_TEXTURE_MM) + n // 2
        left, top = np.floor(column), np.floor(row)
        right_share, low_share = column - left, row - top
        left, top = left.astype(np.int32), top.astype(np.int32)
        upper, lower = (top & (n - 1)) * n, ((top + 1) & (n - 1)) * n
        here, beside = left & (n - 1), (left + 1) & (n - 1)
        above = field[upper + here] * (1 - right_share) + field[upper + beside] * right_share
        below = field[lower + here] * (1 - right_share) + field[lower + beside] * right_share
        return np.asarray(above * (1 - low_share) + below * low_share)


def _grid(pose: Pose, resolution: int) -> tuple[Array, Array]:
    """Position of every pixel in the knee's frame."""
    axis = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution
    x = ((axis - 0.5) * FIELD_MM - pose.shift_mm[0]) / pose.magnification
    z = ((JOINT_LINE - axis) * FIELD_MM - pose.shift_mm[1]) / pose.magnification
    turn = float(np.radians(pose.in_plane_deg))
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    across, up = x[None, :] * cos - z[:, None] * sin, x[None, :] * sin + z[:, None] * cos
    return across.astype(np.float32), up.astype(np.float32)
