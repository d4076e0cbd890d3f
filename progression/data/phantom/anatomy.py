"""Anatomy and disease of a phantom knee as outlines of its bones.

The outlines are the bones' shadows: four edges over z and two joint surfaces over x, tabulated. `bones`
gives them depth. Frame: x in the picture, medial (a right knee) is positive; z up; both mm.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter1d

Array = NDArray[np.float32]

_GRID_MM = 0.25
_AXIS = np.arange(-90.0, 90.0 + _GRID_MM, _GRID_MM)
_MEDIAL = (_AXIS >= 15) & (_AXIS <= 30)
_LATERAL = (_AXIS >= -30) & (_AXIS <= -15)

# What one standard deviation of a sign comes to; means first where there are two.
_VARUS_DEG = (2.5, 4.5)
_FLARE = 0.04
_SPINES = 0.10
_NOTCH_MM = 1.0
_DENSE = ((0.35, 0.28), (0.15, 0.12))  # in the compartment that narrows, and in the other
_GIRTH_MM = 4.5
_FAT_MM = 3.5


class Sites(NamedTuple):
    """One number for each margin at which osteophytes grow: femoral and tibial, medial and lateral."""

    femur_medial: float
    femur_lateral: float
    tibia_medial: float
    tibia_lateral: float


NO_SPURS = Sites(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class JointState:
    """What disease has done to a knee by one visit; everything that it changes in the picture.

    Attributes
    ----------
    medial_space_mm, lateral_space_mm
        Smallest distance of femur and tibia in each compartment.
    osteophyte_mm
        Length of the spur at each margin.
    medial_sclerosis, lateral_sclerosis
        Thickening of the subchondral plate, 0 (none) to 1 (severe).
    attrition_mm
        Bone lost from the plateau of the narrower compartment.
    """

    medial_space_mm: float
    lateral_space_mm: float
    osteophyte_mm: Sites = NO_SPURS
    medial_sclerosis: float = 0.0
    lateral_sclerosis: float = 0.0
    attrition_mm: float = 0.0


@dataclass(frozen=True)
class Anatomy:
    """What stays the same over all visits of a knee. Lengths in mm, angles in degrees.

    The four edges and two joint surfaces are control points, at the positions of the mean knee below.

    Attributes
    ----------
    size
        Scale of the outlines; 1 is a plateau about 74 mm wide.
    femur_axis_deg, tibia_axis_deg
        Lean of the shafts: the femur's upwards to lateral, the tibia's downwards to medial.
    notch_mm, patella_mm, fibula_mm
        Notch: centre, half width. Patella: x, z, half width, half height. Fibula: x, top, half width.
    cortex_mm, trabecular_density, texture_contrast, texture_coarseness
        Bone: thickness of cortex, and its inside relative to the mean knee.
    subchondral_density
        Medial and lateral: how much denser than the rest the bone is under the joint's surfaces, relative.
    plateau_slope_deg, dish_mm
        Slope of the plateau against the usual beam; lateral and medial depth of its floor under the rims.
    scar_mm
        Height of the growth plates' scars in femur and tibia.
    leg_mm, fat_mm
        Half width, half depth and centre of the leg; thickness of the fat around it.
    """

    size: float
    femur_edge_lateral: NDArray[np.float64]
    femur_edge_medial: NDArray[np.float64]
    tibia_edge_lateral: NDArray[np.float64]
    tibia_edge_medial: NDArray[np.float64]
    femur_surface: NDArray[np.float64]
    tibia_surface: NDArray[np.float64]
    femur_axis_deg: float
    tibia_axis_deg: float
    notch_mm: tuple[float, float]
    patella_mm: tuple[float, float, float, float]
    patella_tilt: float
    fibula_mm: tuple[float, float, float]
    cortex_mm: float
    trabecular_density: float
    texture_contrast: float
    texture_coarseness: float
    subchondral_density: tuple[float, float]
    plateau_slope_deg: float
    dish_mm: tuple[float, float]
    scar_mm: tuple[float, float]
    leg_mm: tuple[float, float, float]
    fat_mm: float
    texture_seed: int


# Control points of a mean knee, (position, value) in mm. Edges run over z, surfaces over x.
_FEMUR_Z = np.array([-4, 0, 3, 6, 10, 14, 19, 24, 29, 34, 40, 48, 58, 75.0])
_FEMUR_LATERAL = -np.array([30.5, 34.6, 36.9, 37.4, 36.2, 36.8, 39.0, 40.2, 40.2, 38.0, 33.5, 27, 21.5, 17.5])
_FEMUR_MEDIAL = np.array([31, 35, 36.9, 37.7, 38.0, 38, 38.6, 40, 41.2, 40.4, 35.5, 28, 22, 17.5])
_TIBIA_Z = np.array([-70, -50, -38, -28, -20, -13, -7, -3, 0, 4.0])
_TIBIA_LATERAL = -np.array([16, 20, 25, 29.5, 33, 35.6, 37, 37.2, 36.8, 36])
_TIBIA_MEDIAL = np.array([15, 19, 24, 28.8, 32.6, 35.2, 36.6, 37, 36.8, 36])
_FEMUR_X = np.array([-46, -36, -31, -25, -19, -14, -10, -6.5, -3, 0, 3, 6.5, 10, 14, 19, 25, 31, 36, 46.0])
_FEMUR_LOW = np.array(
    [3.5, 1.2, 0.3, 0, 0.9, 3.0, 6.4, 10.2, 12.4, 13, 12.4, 9.6, 5.6, 2.4, 0.5, 0, 0.2, 1.0, 3.5]
)
_TIBIA_X = np.array([-46, -37, -30, -23, -16, -11, -7.5, -5, -2, 1.5, 4.8, 7.5, 11, 16, 23, 30, 37, 46.0])
_TIBIA_TOP = np.array(
    [-0.8, -0.2, 0.1, 0.2, 0.9, 2.6, 5.4, 7.8, 6.6, 7.0, 9.6, 7.6, 4.0, 1.2, -0.3, 0.1, 0.9, 1.0]
)


class Signs(NamedTuple):
    """What the baseline film shows of the rate to come; each standard normal over the cohort.

    All are risk factors of real knees, and drawn so wide that pictures of 64 pixels show them.

    Attributes
    ----------
    malalignment
        Of the leg, towards the compartment that narrows more.
    shape
        Bone ends broad for their shafts, the notch narrow between them, the spines high.
    soft_tissue
        Girth of the leg and its layer of fat.
    bone_formation
        Dense bone under the joint's surfaces, stout trabeculae, osteophytes and sclerosis ahead of their stage.
    """

    malalignment: float = 0.0
    shape: float = 0.0
    soft_tissue: float = 0.0
    bone_formation: float = 0.0

    @property
    def visible(self) -> float:
        """Their weighted sum, again standard normal."""
        weights = np.array([0.5, 0.4, 0.5, 0.6])
        return float(weights @ np.array(self) / np.sqrt(weights @ weights))


NO_SIGNS = Signs()


def sample_anatomy(rng: np.random.Generator, *, signs: Signs = NO_SIGNS, medial: bool = True) -> Anatomy:
    """Draw a knee that shows the signs; `medial` says which compartment narrows more."""

    def wobble(base: NDArray[np.float64], spread: float, smooth: float = 1.0) -> NDArray[np.float64]:
        noise = gaussian_filter1d(rng.normal(size=base.size), smooth) * np.sqrt(2.0 * smooth * np.sqrt(np.pi))
        return base + spread * noise

    notch_depth = rng.normal(1.0, 0.13)
    spines = rng.normal(1.0, 0.16)
    slope = rng.normal(0.0, 0.012)
    spines += _SPINES * signs.shape
    varus_deg = (_VARUS_DEG[0] + _VARUS_DEG[1] * signs.malalignment) * (1 if medial else -1)
    # Broad near the joint only, or it would be no more than a large knee.
    femur_broad = 1 + _FLARE * signs.shape * sigmoid((36 - _FEMUR_Z) / 4)
    tibia_broad = 1 + _FLARE * signs.shape * sigmoid((_TIBIA_Z + 20) / 4)
    narrowed, other = (float(np.clip(mean + gain * signs.bone_formation, 0, 1.5)) for mean, gain in _DENSE)
    size = float(np.clip(rng.normal(0.985, 0.055), 0.85, 1.12))
    flare = rng.normal(1.0, 0.022, size=2)
    femur_low = wobble(_FEMUR_LOW * np.where(np.abs(_FEMUR_X) < 17, notch_depth, 1.0), 0.3)
    tibia_top = (
        wobble(_TIBIA_TOP * np.where(np.abs(_TIBIA_X) < 12, spines, 1.0), 0.3)
        + (slope - np.tan(np.radians(0.25 * varus_deg))) * _TIBIA_X
    )

    def normal(mean: float, spread: float, low: float = -np.inf, high: float = np.inf) -> float:
        return float(np.clip(rng.normal(mean, spread), low, high))

    return Anatomy(
        size=size,
        femur_edge_lateral=wobble(_FEMUR_LATERAL * flare[0] * femur_broad, 0.8, 0.8),
        femur_edge_medial=wobble(_FEMUR_MEDIAL * flare[0] * femur_broad, 0.7, 0.8),
        tibia_edge_lateral=wobble(_TIBIA_LATERAL * flare[1] * tibia_broad, 0.7),
        tibia_edge_medial=wobble(_TIBIA_MEDIAL * flare[1] * tibia_broad, 0.7),
        femur_surface=femur_low,
        tibia_surface=tibia_top,
        femur_axis_deg=normal(5.5, 1.2) - 0.5 * varus_deg,
        tibia_axis_deg=normal(1.0, 1.0) + 0.5 * varus_deg,
        notch_mm=(normal(0.0, 1.2), normal(10.5, 0.7) - _NOTCH_MM * signs.shape),
        patella_mm=(normal(-3.0, 3.2), normal(37.0, 5.0), normal(21.5, 1.5), normal(18.0, 1.8)),
        patella_tilt=normal(0.0, 0.15),
        fibula_mm=(normal(-35.5, 2.6), normal(-12.5, 2.8), normal(10.0, 0.8)),
        cortex_mm=normal(0.95, 0.12, 0.6, 1.3),
        trabecular_density=normal(1.0, 0.1, 0.7, 1.3),
        texture_contrast=float(
            np.clip(0.075 * np.exp(0.40 * signs.bone_formation + normal(0, 0.1)), 0.03, 0.15)
        ),
        texture_coarseness=float(np.clip(np.exp(0.12 * signs.bone_formation + normal(0, 0.06)), 0.6, 1.7)),
        subchondral_density=(narrowed, other) if medial else (other, narrowed),
        plateau_slope_deg=normal(0.0, 1.8),
        dish_mm=(normal(1.0, 0.4, 0.2, 2.0), normal(1.5, 0.5, 0.4, 3.0)),
        scar_mm=(normal(27.0, 2.5), normal(-14.0, 2.0)),
        leg_mm=(
            normal(55.5, 2.0) + _GIRTH_MM * signs.soft_tissue,
            normal(57.0, 3.0) + _GIRTH_MM * signs.soft_tissue,
            normal(-4.5, 1.5),
        ),
        fat_mm=float(np.clip(9.0 + _FAT_MM * signs.soft_tissue + normal(0, 1.0), 2.5, 20.0)),
        texture_seed=int(rng.integers(2**31)),
    )


def sigmoid(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * np.tanh(0.5 * x) + 0.5)


def spread_over_compartments(x: NDArray[np.floating], medial: float, lateral: float) -> NDArray[np.floating]:
    """A value for each compartment, spread over x: most in the middle of the loaded surface."""
    return np.asarray(medial * np.exp(-(((x - 23) / 9.5) ** 2)) + lateral * np.exp(-(((x + 23) / 9.5) ** 2)))


def _spur(position: NDArray[np.float64], length_mm: float, towards_joint: float) -> NDArray[np.float64]:
    """Profile along an edge of a spur: steep on the side of the joint, drawn out away from it."""
    width = np.where(position * towards_joint > 0, 0.9 + 0.12 * length_mm, 2.0 + 0.75 * length_mm)
    return np.asarray(length_mm * np.exp(-(np.abs(position / width) ** 1.4)))


@dataclass(frozen=True)
class Outlines:
    """Edges and joint surfaces of one knee in one state, tabulated every `_GRID_MM` over `_AXIS`.

    `femur_turn` (radians) and `femur_lift` (mm) put the femur on the tibia: z = z_femur + lift + turn x.
    """

    femur_lateral: NDArray[np.float64]
    femur_medial: NDArray[np.float64]
    tibia_lateral: NDArray[np.float64]
    tibia_medial: NDArray[np.float64]
    femur_low: NDArray[np.float64]
    tibia_top: NDArray[np.float64]
    femur_turn: float
    femur_lift: float

    def spaces_mm(self) -> tuple[float, float]:
        """Smallest medial and lateral joint space, measured between the two surfaces."""
        gap = self.femur_low + self.femur_lift + self.femur_turn * _AXIS - self.tibia_top
        return float(gap[_MEDIAL].min()), float(gap[_LATERAL].min())


def healthy_outlines(anatomy: Anatomy) -> Outlines:
    """Outlines of the bones without disease; the femur is not yet put on the tibia."""
    size = anatomy.size

    def table(positions: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        at = np.clip(_AXIS / size, positions[0], positions[-1])
        return np.asarray(PchipInterpolator(positions, values)(at) * size)

    # Fine roughness of the bone, the same at every visit.
    rough = np.random.default_rng(anatomy.texture_seed).normal(size=(6, _AXIS.size))
    correlation = 1.6 / _GRID_MM
    rough = gaussian_filter1d(rough, correlation, axis=1) * np.sqrt(2 * np.sqrt(np.pi) * correlation)
    rough *= np.array([0.28, 0.28, 0.28, 0.28, 0.12, 0.12])[:, None]
    lean_femur, lean_tibia = np.tan(np.radians([anatomy.femur_axis_deg, anatomy.tibia_axis_deg]))
    femur_axis = -lean_femur * np.maximum(_AXIS - 10, 0)
    tibia_axis = -lean_tibia * np.minimum(_AXIS + 5, 0)
    return Outlines(
        femur_lateral=table(_FEMUR_Z, anatomy.femur_edge_lateral) + femur_axis + rough[0],
        femur_medial=table(_FEMUR_Z, anatomy.femur_edge_medial) + femur_axis + rough[1],
        tibia_lateral=table(_TIBIA_Z, anatomy.tibia_edge_lateral) + tibia_axis + rough[2],
        tibia_medial=table(_TIBIA_Z, anatomy.tibia_edge_medial) + tibia_axis + rough[3],
        femur_low=table(_FEMUR_X, anatomy.femur_surface) + rough[4],
        tibia_top=table(_TIBIA_X, anatomy.tibia_surface) + rough[5],
        femur_turn=0.0,
        femur_lift=0.0,
    )


def diseased_outlines(healthy: Outlines, state: JointState, *, size: float) -> Outlines:
    """Outlines with spurs and attrition, the femur on the tibia so that both joint spaces are as stated."""
    spur, edge = state.osteophyte_mm, 36.0 * size

    def lip(centre: float, length: float) -> NDArray[np.float64]:
        return np.asarray(0.30 * length * sigmoid((_AXIS - centre) * np.sign(centre) / 1.6))

    narrow_medial = state.medial_space_mm <= state.lateral_space_mm
    outwards = _AXIS if narrow_medial else -_AXIS
    tibia_top = healthy.tibia_top - state.attrition_mm * sigmoid((outwards - 15) / 2.5)
    tibia_top += lip(edge, spur.tibia_medial) + lip(-edge, spur.tibia_lateral)
    sharpening = 0.35 * max(spur.tibia_medial, spur.tibia_lateral)
    for peak in (4.8, -5.0):
        tibia_top += sharpening * np.exp(-(((_AXIS - peak * size) / 1.8) ** 2))
    shape = replace(
        healthy,
        femur_lateral=healthy.femur_lateral - _spur(_AXIS - 2.5, spur.femur_lateral, -1),
        femur_medial=healthy.femur_medial + _spur(_AXIS - 2.5, spur.femur_medial, -1),
        tibia_lateral=healthy.tibia_lateral - _spur(_AXIS + 1.5, spur.tibia_lateral, 1),
        tibia_medial=healthy.tibia_medial + _spur(_AXIS + 1.5, spur.tibia_medial, 1),
        femur_low=healthy.femur_low - lip(edge, spur.femur_medial) - lip(-edge, spur.femur_lateral),
        tibia_top=tibia_top,
    )
    # The narrowest place moves a little as the femur turns, hence a few corrections instead of one.
    for _ in range(8):
        medial, lateral = shape.spaces_mm()
        need_m, need_l = state.medial_space_mm - medial, state.lateral_space_mm - lateral
        shape = replace(
            shape,
            femur_turn=shape.femur_turn + (need_m - need_l) / 46.0,
            femur_lift=shape.femur_lift + (need_m + need_l) / 2.0,
        )
    return shape


def look_up(table: NDArray[np.float64], position: Array) -> Array:
    """Value of an outline at positions in mm."""
    at = np.clip((position - np.float32(_AXIS[0])) / np.float32(_GRID_MM), 0, _AXIS.size - 2)
    below = np.floor(at)
    index = below.astype(np.int32)
    value, step = table.astype(np.float32), np.diff(table).astype(np.float32)
    return np.asarray(value[index] + (at - below) * step[index])
