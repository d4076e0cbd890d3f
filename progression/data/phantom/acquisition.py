"""From path lengths to a film: beam, detector and the processing that a workstation applies.

Radiographs of one knee differ between visits in more than disease: pose and beam angle (`geometry.Pose`),
dose, focal blur, scanner, window. Here a subject has a *style* (its clinic's scanner) that mostly stays and
sometimes changes, and every visit jitters around it.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter, zoom

from progression.data.phantom.anatomy import Array
from progression.data.phantom.geometry import Pose, Projection
from progression.types import FIELD_MM

_SCANNER_CHANGES = 0.12
"""Probability that a visit is taken on another scanner than the one before."""


_USUAL_TURN_DEG = -1.6
"""The medial plateau stands a little lower than the lateral one."""


@dataclass(frozen=True)
class Style:
    """A scanner and its processing.

    Attributes
    ----------
    equalise
        How much of the slow change of density over the picture is taken out, 0 (film) to 0.55.
    detail
        Gain of detail finer than about 8 mm.
    sharpen
        Unsharp masking at 0.5 mm.
    blur_mm
        Focal spot and detector.
    photons
        Per mm^2 behind 2.3 attenuation lengths; noise follows from it.
    gamma
        Of the tone curve; above 1 darkens the middle.
    window
        Attenuation percentiles that become black and white.
    scatter
        Fraction of scattered light, which veils the contrast.
    """

    equalise: float
    detail: float
    sharpen: float
    blur_mm: float
    photons: float
    gamma: float
    window: tuple[float, float]
    scatter: float


@dataclass(frozen=True)
class Acquisition:
    """Everything about a film that is neither anatomy nor disease."""

    pose: Pose
    style: Style
    beads: bool
    plate_edge_mm: float | None
    folds: int
    noise_seed: int


def sample_style(rng: np.random.Generator) -> Style:
    """Draw a scanner: a third of them plain films, the rest processed digital pictures."""
    plain = rng.random() < 0.33
    return Style(
        equalise=float(rng.uniform(0.0, 0.3) if plain else rng.uniform(0.25, 0.55)),
        detail=float(rng.uniform(0.9, 1.1) if plain else rng.uniform(1.2, 1.9)),
        sharpen=float(rng.uniform(0.0, 0.2) if plain else rng.uniform(0.2, 0.7)),
        blur_mm=float(rng.uniform(0.22, 0.42) if plain else rng.uniform(0.16, 0.26)),
        photons=float(10 ** rng.uniform(4.4, 5.1)),
        gamma=float(np.exp(rng.normal(-0.1 if plain else 0.0, 0.18))),
        window=(float(rng.uniform(0.0, 2.0)), float(rng.uniform(97.5, 100.0))),
        scatter=float(rng.uniform(0.25, 0.5) if plain else rng.uniform(0.1, 0.35)),
    )


def sample_pose(rng: np.random.Generator) -> Pose:
    """Draw how a knee stands and how the beam meets it, within what a trained technician achieves."""
    return Pose(
        shift_mm=(float(rng.normal(-0.6, 1.2)), float(rng.normal(0, 2.2))),
        in_plane_deg=float(rng.normal(_USUAL_TURN_DEG, 1.2)),
        beam_deg=float(rng.normal(0, 1.6)),
        rotation_deg=float(rng.normal(0, 2.5)),
        magnification=float(np.exp(rng.normal(0, 0.012))),
        flexion=float(np.clip(rng.normal(0, 1), -2, 2)),
    )


def sample_acquisitions(rng: np.random.Generator, visits: int) -> list[Acquisition]:
    """Films of one knee: a habit of standing and a scanner that persist, and what differs each time."""
    style, habit = sample_style(rng), sample_pose(rng)
    films = []
    for visit in range(visits):
        if visit and rng.random() < _SCANNER_CHANGES:
            style = sample_style(rng)
        today = sample_pose(rng)
        pose = Pose(
            shift_mm=(
                habit.shift_mm[0] + 0.6 * today.shift_mm[0],
                habit.shift_mm[1] + 0.6 * today.shift_mm[1],
            ),
            in_plane_deg=habit.in_plane_deg + 0.6 * (today.in_plane_deg - _USUAL_TURN_DEG),
            beam_deg=habit.beam_deg + 0.6 * today.beam_deg,
            rotation_deg=habit.rotation_deg + 0.6 * today.rotation_deg,
            magnification=habit.magnification * today.magnification**0.5,
            flexion=float(np.clip(habit.flexion + 0.5 * today.flexion, -2, 2)),
        )
        films.append(Acquisition(
            pose=pose,
            style=replace(
                style,
                gamma=style.gamma * float(np.exp(rng.normal(0, 0.05))),
                photons=style.photons * float(np.exp(rng.normal(0, 0.15))),
            ),
            beads=bool(rng.random() < 0.10),
            plate_edge_mm=float(rng.uniform(36, 44)) if rng.random() < 0.08 else None,
            folds=int(rng.poisson(0.5)),
            noise_seed=int(rng.integers(2**31)),
        ))  # fmt: skip
    return films


def _slow(picture: Array, width_px: float) -> Array:
    """Blur with a standard deviation of about `width_px`, by boxes and so at a cost that does not grow."""
    size = max(3, round(width_px * 2))
    for _ in range(3):
        picture = uniform_filter(picture, size, mode="nearest")
    return picture


def _foreign(film: Acquisition, resolution: int, rng: np.random.Generator) -> Array:
    """Attenuation of what is in the beam beside the knee: positioning frame, its beads, skin folds."""
    axis = ((np.arange(resolution, dtype=np.float32) + 0.5) / resolution - 0.5) * FIELD_MM
    x, z = axis[None, :], -axis[:, None]
    extra = np.zeros((resolution, resolution), dtype=np.float32)
    if film.plate_edge_mm is not None:
        extra += 0.06 * (1 + np.tanh((x - film.plate_edge_mm) / 0.3))
    if film.beads:
        column = rng.choice([-1, 1]) * rng.uniform(38, 43)
        for height in np.arange(rng.uniform(-44, -34), 45, rng.uniform(14, 22)):
            extra += 0.9 * np.exp(-((((x - column) ** 2 + (z - height) ** 2) / 1.1**2) ** 2))
    for _ in range(film.folds):
        angle, offset = rng.uniform(-0.9, 0.9), rng.uniform(-40, 40)
        across = z * np.cos(angle) - x * np.sin(angle) - offset + rng.uniform(0.0005, 0.002) * x**2
        extra += rng.uniform(0.008, 0.03) * np.exp(-((across / rng.uniform(0.3, 0.6)) ** 2))
    return extra


def expose(projection: Projection, film: Acquisition) -> Array:
    """Expose and process a film.

    Beer-Lambert gives the transmitted light I = exp(-L) (1 - f) + f <exp(-L)>, with f the scattered
    fraction; counting it adds noise of standard deviation sqrt(N I) per pixel; the logarithm of the counts
    is then equalised, sharpened, windowed and bent.

    Returns
    -------
    (R, R) float32 in [0, 1], bone bright
    """
    style, rng = film.style, np.random.default_rng(film.noise_seed)
    attenuation = projection.attenuation()
    resolution = attenuation.shape[0]
    per_mm = resolution / FIELD_MM
    attenuation = attenuation + _foreign(film, resolution, rng)
    unevenness = rng.normal(size=(9, 9)).astype(np.float32)
    attenuation += 0.05 * zoom(unevenness, resolution / 9, order=1, grid_mode=True, mode="nearest")
    light = gaussian_filter(np.exp(-attenuation), style.blur_mm * per_mm)
    light = (1 - style.scatter) * light + style.scatter * _slow(light, 14 * per_mm)

    counts = style.photons * np.exp(2.3) / per_mm**2
    noise = gaussian_filter(rng.normal(size=light.shape).astype(np.float32), 0.12 * per_mm)
    noise *= 1 / max(float(noise.std()), 1e-6)
    light = light + np.sqrt(light / counts) * noise
    seen = -np.log(np.maximum(light, 1e-4))

    base = _slow(seen, 8 * per_mm)
    fine = seen - gaussian_filter(seen, 0.5 * per_mm)
    level = float(base.mean())
    seen = level + (1 - style.equalise) * (base - level) + style.detail * (seen - base) + style.sharpen * fine
    low, high = np.percentile(seen, style.window)
    tone = np.clip((seen - low) / (high - low), 0, 1) ** style.gamma
    return np.asarray(tone, dtype=np.float32)
