"""Bones of a phantom knee in column form: what a ray along the beam meets of each.

A bone is bounded by a front surface y = F(x, z) and a back surface y = B(x, z), so its thickness F - B is
exact and costs one evaluation a pixel instead of a march through a volume. A shell of thickness c, crossed
obliquely, gives c sqrt(1 + |grad F|^2) of cortical bone for each surface, at most the bone's thickness: the
bright line along every edge comes from this and is not drawn.

=========  ==========================================================================================
symbol     meaning, unit
=========  ==========================================================================================
h          half thickness, h = D sqrt((1 - u^6) (1 - max(0, 1 - s/r)^2)); mm
u          position across the bone, -1 at its lateral and 1 at its medial edge at this height
s          depth under the joint surface (femur: height above it); mm
D, r       half depth of the bone and radius of its rounding towards the joint; mm
yaw, tilt  tangents of the beam's angle against the knee, sideways and up or down
=========  ==========================================================================================
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from progression.data.phantom.anatomy import (
    Anatomy,
    Array,
    JointState,
    Outlines,
    look_up,
    sigmoid,
    spread_over_compartments,
)

Texture = Callable[[Array, Array], Array]
"""Relative density of trabecular bone at (x, z) in bone coordinates."""

_PATELLA_BEFORE_MM = 42.0
_FIBULA_BEHIND_MM = 18.0


class Bone(NamedTuple):
    """What a ray meets of one bone: each (R, R) float32, or one number for all rays.

    Attributes
    ----------
    thickness, shell
        Of the whole bone and of its cortical shell; mm.
    density
        Of what is inside the shell, relative.
    plate
        Further dense bone: subchondral plate, sclerosis; mm.
    """

    thickness: Array
    shell: Array
    density: Array | float = 1.0
    plate: Array | float = 0.0


def femur(
    anatomy: Anatomy, shape: Outlines, state: JointState, texture: Texture,
    *, x: Array, z: Array, pitch_mm: float, yaw: float, flexion: float,
) -> Bone:  # fmt: skip
    """Two condyles with the notch between them, widening below a shaft.

    The notch is cut from behind; its roof climbs towards the back, so its walls show above the arch.
    """
    own = z - np.float32(shape.femur_lift) - np.float32(shape.femur_turn) * x
    s = own - look_up(shape.femur_low, x)
    lateral, medial = look_up(shape.femur_lateral, own), look_up(shape.femur_medial, own)
    depth = anatomy.size * (15 + 12 * sigmoid((34 - own) / 5))
    half = _half_depth((2 * x - medial - lateral) / (medial - lateral), s, depth, 17.0 * anatomy.size)
    centre, width = anatomy.notch_mm
    wall = sigmoid((width - 0.12 * s - np.abs(x - centre - 8 * yaw)) / 0.5)
    roof = np.clip(1.1 - s / (12.0 + 2.5 * flexion), 0, 1)
    deep = np.maximum(s, 0)
    cortex = anatomy.cortex_mm * (0.8 + 0.45 * np.exp(-deep / 6) + 0.5 * sigmoid((own - 38) / 4))
    scar = np.exp(-(((own - anatomy.scar_mm[0] + 0.004 * x**2 - 1.5 * np.sin(x / 7)) / 0.7) ** 2))
    sclerosis = spread_over_compartments(x, state.medial_sclerosis, state.lateral_sclerosis)
    dense = spread_over_compartments(x, *anatomy.subchondral_density)
    return Bone(
        *_shell(half, 0.9 * half * wall * roof - half, cortex, pitch_mm),
        density=texture(x, own + 45)
        * (1 + 0.14 * scar + 0.5 * sclerosis * np.exp(-deep / 5) + 0.5 * dense * np.exp(-deep / 10)),
        plate=7 * sclerosis * sigmoid(s / 0.25) * np.exp(-deep / 1.6),
    )


def tibia(
    anatomy: Anatomy, shape: Outlines, state: JointState, texture: Texture,
    *, x: Array, z: Array, pitch_mm: float, tilt: float,
) -> Bone:  # fmt: skip
    """Plateau with its spines, rims and subchondral plate, narrowing to the shaft.

    The beam meets the plate nearly edge-on. Tilted against it, it smears the plate over a height in
    proportion to the tilt while the plate's mass stays the same.
    """
    top = look_up(shape.tibia_top, x)
    s = top - z
    deep = np.maximum(s, 0)
    lateral, medial = look_up(shape.tibia_lateral, z), look_up(shape.tibia_medial, z)
    dish = spread_over_compartments(x, anatomy.dish_mm[1], anatomy.dish_mm[0])
    # Above the plateau's floor there are only the spines and thin rims.
    floor = 0.45 * np.maximum(top, 0) - 0.4 - 0.6 * dish
    depth = anatomy.size * (12 + 8.5 * sigmoid((z + 20) / 6))
    depth = 6 + (depth - 6) * sigmoid((floor - z) / 0.9)
    spines = np.exp(-np.square(np.square(x / (8.5 * anatomy.size))))
    half = _half_depth((2 * x - medial - lateral) / (medial - lateral), s, depth, 2.5 + 5 * spines)
    tubercle = 4.5 * sigmoid((-27 - z) / 1.8) * np.exp(-np.square(np.square((x + 3) / 10))) * (half > 0)

    sclerosis = spread_over_compartments(x, state.medial_sclerosis, state.lateral_sclerosis)
    dense = spread_over_compartments(x, *anatomy.subchondral_density)
    scar = np.exp(-(((z - anatomy.scar_mm[1] - 0.003 * x**2 + 1.2 * np.sin(x / 6)) / 0.6) ** 2))
    plate = 0.7 * anatomy.cortex_mm * (1 + 1.4 * sclerosis)
    smeared = plate + 22 * abs(tilt)
    under = s - 0.5 * dish
    within = sigmoid(under / 0.3) - sigmoid((under - smeared) / 0.5)
    within *= sigmoid((medial - 1 - x) / 0.8) * sigmoid((x - lateral - 1) / 0.8)
    return Bone(
        *_shell(half + tubercle, -half, 0.85 * anatomy.cortex_mm, pitch_mm),
        density=texture(x, z)
        * (0.92 + 0.14 * scar + 0.28 * np.exp(-deep / 8) + 0.6 * sclerosis * np.exp(-deep / 6))
        * (1 + dense * np.exp(-deep / 12)),
        plate=30 * plate / smeared * (0.15 + spread_over_compartments(x, 0.95, 0.8)) * within,
    )


def patella(anatomy: Anatomy, *, x: Array, z: Array, pitch_mm: float, yaw: float, tilt: float) -> Bone:
    """A lens before the femur, shifted by oblique beams more than anything else."""
    centre, height, half_width, half_height = anatomy.patella_mm
    across = (x - _PATELLA_BEFORE_MM * yaw - centre) / half_width
    along = (z - _PATELLA_BEFORE_MM * tilt - height) / half_height
    across, along = across + anatomy.patella_tilt * along, along - anatomy.patella_tilt * across
    across = across * (1 + 0.14 * np.maximum(-along, 0))
    half = 9.5 * _three_quarters(np.maximum(1 - _power(across) - _power(along), 0))
    return Bone(*_shell(half, -half, 0.35 * anatomy.cortex_mm, pitch_mm))


def fibula(anatomy: Anatomy, *, x: Array, z: Array, pitch_mm: float, yaw: float, tilt: float) -> Bone:
    """Head and neck, behind and lateral of the tibia."""
    centre, top, half_width = anatomy.fibula_mm
    across = x + _FIBULA_BEHIND_MM * yaw - centre
    s = top - z - _FIBULA_BEHIND_MM * tilt - 0.25 * across
    width = half_width * (0.62 + 0.38 * sigmoid((14 - s) / 3.5))
    u = (across + 0.12 * np.maximum(s - 10, 0)) / width
    half = 8.0 * np.sqrt(np.maximum(1 - u**2 - np.maximum(1 - s / 9, 0) ** 2, 0))
    return Bone(*_shell(half, -half, 0.6 * anatomy.cortex_mm, pitch_mm), density=0.7)


def soft_tissue(anatomy: Anatomy, *, x: Array, z: Array) -> Array:
    """Path through the leg, mm: muscle, with a layer of fat around it that attenuates less."""
    half_width, half_depth, centre = anatomy.leg_mm
    taper = 1 - 0.10 * np.exp(-(((z + 8) / 22) ** 2))
    outer = (x - centre) / (half_width * taper)
    inner = (x - centre - 1) / ((half_width - anatomy.fat_mm) * taper)
    leg = 2 * half_depth * np.sqrt(np.maximum(1 - outer**2, 0))
    muscle = 2 * (half_depth - anatomy.fat_mm) * np.sqrt(np.maximum(1 - inner**2, 0))
    return np.asarray(0.72 * leg + 0.28 * muscle)


def _power(x: Array) -> Array:
    """|x|^2.5; np.power takes many times as long."""
    return np.asarray(x * x * np.sqrt(np.abs(x)))


def _three_quarters(x: Array) -> Array:
    """x^0.75."""
    root = np.sqrt(x)
    return np.asarray(root * np.sqrt(root))


def _half_depth(u: Array, s: Array, depth_mm: Array, radius_mm: Array | float) -> Array:
    across = np.maximum(1 - (u * u * u) ** 2, 0)
    along = np.maximum(1 - np.square(np.maximum(1 - s / radius_mm, 0)), 0)
    return np.asarray(depth_mm * np.sqrt(across * along))


def _shell(
    front: Array, back: Array, cortex_mm: NDArray[np.floating] | float, pitch_mm: float
) -> tuple[Array, Array]:
    """Thickness of a solid and the part of it that lies in its cortical shell, both mm."""
    thickness = np.maximum(front - back, 0)
    crossed = np.zeros_like(thickness)
    for surface in (front, back):
        down, across = np.gradient(surface, pitch_mm)
        crossed += np.sqrt(1 + down**2 + across**2)
    return thickness, np.minimum(crossed * cortex_mm, thickness)
