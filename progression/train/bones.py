"""Train the network that sees bones, on films made anew for each step and processed as by other clinics.

    loss = 0.2 cross-entropy(points) + 2 |place of points| + focal(middle) + |log width| + |tilt|
         + cross-entropy(right)

Knees with outlines are set into films (`progression.data.films`), of which windows are taken: mirrored or not,
stretched, at many scales. Each goes through `progression.data.processing`. Outlines are learnt from windows whose knee
has about the size of the finder's closer look (`progression.bones.find`); the rest from all. Points beyond the knee's
own picture, where a film is made up, hardly count. Focal as in CenterNet (Zhou et al. 2019, eq. 1).

AdamW, its rate rising, then falling as one over the root of the step and, over the run's last fourth, to 0; the weights
kept are a moving average. Step s draws from (seed, s). The run folder holds the checkpoint and log; the same call goes
on from it exactly, and one of more steps makes the run longer.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    grid_sample,
    logsigmoid,
    smooth_l1_loss,
)

from progression.bones.find import RIGHT_WITHIN, BoneFinder
from progression.bones.network import SIDE, STRIDE, TILT_UNIT_DEG, BoneNet, Maps
from progression.bones.shape import POINTS, Array, landmark_frame, reverse
from progression.data.contours import Outlined
from progression.data.films import FilmMaker, MadeFilm, Settings, Shown
from progression.data.processing import Processing
from progression.errors import UsageError
from progression.memory import keep_freed_memory
from progression.train.checkpoint import Checkpoints
from progression.train.loop import activation_dtype, changed_fields, ema_beta, update_ema
from progression.train.run_folder import owned
from progression.train.run_log import RunLog
from progression.types import Side

CHECKPOINT = "bones.ckpt"
KNEE_PIXELS = 224
"""Side of the knees that films are made of."""
LOOK = 1.25
"""Side of the square in which outlines are looked for over that of a knee's picture as training tables have it."""
FILM_PIXELS = 224
WINDOWS = 2
"""Of a film, which takes longer to make than a window."""
NEAR = Settings(
    tilt_deg=5.0, askew=0.35, askew_deg=28.0, gamma=(0.8, 1.25), ramp=0.15, noise=(0.0, 0.02), collimated=0.3,
    marked=0.4, inverted=0.0, letter=0.4, near=1.0, whole=0.0,
)  # fmt: skip
"""Films of one knee with what is around it, the other one partly in view or not."""
FAR = replace(NEAR, near=0.0, whole=0.1, askew=0.15, of_pair=(0.12, 0.40), of_one=(0.12, 0.85))
_CLOSE_SHARE = 0.65
_KINDS = ("knees", "implant", "lateral", "other", "empty")
_SHARES = (0.80, 0.08, 0.04, 0.06, 0.02)
_WARM_UP, _STEADY, _FALL = 200, 1000, 0.25
_SPREAD_CELLS, _AROUND_CELLS = 1.3, 2.2
_POINT_CELLS = 0.7
_BEYOND = 0.1
_UNDER_METAL = 0.5
_WRONG_WAY = 0.06
CALIBRATION_FILMS = 200


@dataclass(frozen=True)
class BonesConfig:
    """Length and rate of a run: `steps` of `batch` windows, AdamW's highest `rate` and `decay`, `seed` of all draws."""

    steps: int = 20000
    batch: int = 16
    rate: float = 2e-3
    decay: float = 1e-3
    seed: int = 0
    precision: str = "auto"


@dataclass(frozen=True)
class Targets:
    """What the network should say of N windows: as `Maps`, and where that counts.

    Attributes
    ----------
    points, weights : (N, 74, 2) pixels from the picture's left to its right, and (N, 74) how much each counts
    middle, log_width, tilt, right, near : (N, G, G); `near` is 1 around each knee's middle
    """

    points: Tensor
    weights: Tensor
    middle: Tensor
    log_width: Tensor
    tilt: Tensor
    right: Tensor
    near: Tensor


def on_film(points: Array, shown: Shown) -> Array:
    """Outlines of a knee shown as a right one, in shares of its picture, as they lie on a film; from left to right."""
    place = points - 0.5
    if shown.side is Side.LEFT:
        place = reverse(place * [-1, 1])
    angle = math.radians(shown.tilt_deg)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    found: Array = shown.side_px * place @ turn + np.array(shown.centre)
    return found


@dataclass(frozen=True)
class Window:
    """A window of SIDE pixels on a film: film = centre + (window - SIDE / 2) * step, `step` (x, y) in film's pixels."""

    centre: tuple[float, float]
    step: tuple[float, float]

    def of(self, points: Array) -> Array:
        """Points (..., 2) of the film in the window; numbered anew where it mirrors."""
        placed: Array = (points - np.array(self.centre)) / np.array(self.step) + SIDE / 2
        return reverse(placed) if self.step[0] < 0 else placed


def window(rng: np.random.Generator, film: MadeFilm, focus: Shown | None) -> Window:
    """A window on a film; close to a knee, if one is given."""
    height, width = film.pixels.shape
    if focus is not None:
        finer = SIDE / LOOK / focus.side_px * math.exp(rng.uniform(math.log(0.6), math.log(1.35)))
        centre = np.array(focus.centre) + rng.normal(0, 0.06, 2) * SIDE / finer
    else:
        finer = math.exp(rng.uniform(math.log(0.5), math.log(1.2)))
        centre = np.array([width, height]) * (0.5 + rng.uniform(-0.25, 0.25, 2))
    aspect = math.exp(float(np.clip(rng.normal(0, 0.06), -0.15, 0.15)) / 2)
    mirrored = -1 if rng.random() < 0.5 else 1
    return Window((float(centre[0]), float(centre[1])), (mirrored / finer * aspect, 1 / finer / aspect))


def windowed(films: list[MadeFilm], windows: list[Window]) -> Tensor:
    """What windows show of their films, (N, 1, SIDE, SIDE); black beyond the film."""
    canvas = torch.zeros(len(films), 1, FILM_PIXELS, FILM_PIXELS)
    for row, film in zip(canvas, films, strict=True):
        row[0, : film.pixels.shape[0], : film.pixels.shape[1]] = torch.from_numpy(film.pixels)
    at = torch.arange(SIDE) + 0.5 - SIDE / 2
    x, y = (
        torch.stack([one.centre[axis] + at * one.step[axis] for one in windows]) * (2 / FILM_PIXELS) - 1
        for axis in (0, 1)
    )
    grid = torch.stack([x[:, None].expand(-1, SIDE, -1), y[:, :, None].expand(-1, -1, SIDE)], -1)
    return grid_sample(canvas, grid, align_corners=False)


def batch(
    knees: Outlined, makers: tuple[FilmMaker, FilmMaker], config: BonesConfig, step: int
) -> tuple[Tensor, Targets]:
    """Windows (B, 1, SIDE, SIDE) of a step, and their targets; `makers` draw near and far films."""
    rng = np.random.default_rng((config.seed, step))
    films, windows, close = [], [], []
    for place in range(config.batch):
        if place % WINDOWS == 0:
            kind, near = str(rng.choice(_KINDS, p=_SHARES)), bool(rng.random() < _CLOSE_SHARE)
            film = makers[0 if near else 1].film(rng, longer_px=FILM_PIXELS, kind=kind)
            focus = min(film.knees, key=lambda k: math.dist(k.centre, (FILM_PIXELS / 2,) * 2), default=None)
            focus = focus if near else None
            if rng.random() < _WRONG_WAY:  # no knee that is to be found: neither lying nor upside down
                turned = np.rot90(film.pixels, int(rng.integers(1, 4))).copy()
                film, focus = replace(film, pixels=turned, knees=(), rows=()), None
        films.append(film)
        windows.append(window(rng, film, focus))
        close.append(focus)
    x = Processing(int(rng.integers(2**62)))(windowed(films, windows))
    return x, targets(knees, films, windows, close)


def targets(
    knees: Outlined, films: list[MadeFilm], windows: list[Window], close: list[Shown | None]
) -> Targets:
    """Targets of windows; `close` has the knee whose outlines a window is for."""
    n, grid = len(films), SIDE // STRIDE
    y, x = np.mgrid[:grid, :grid] + 0.5
    middle, log_width, tilt, right, near = (np.zeros((n, grid, grid), np.float32) for _ in range(5))
    points, weights = np.zeros((n, POINTS, 2), np.float32), np.zeros((n, POINTS), np.float32)
    for i, (film, view) in enumerate(zip(films, windows, strict=True)):
        for row, shown in zip(film.rows, film.knees, strict=True):
            share = knees.points[row].astype(np.float64)
            placed = view.of(on_film(share, shown))
            frame = landmark_frame(placed)
            squared = (x - frame.x / STRIDE) ** 2 + (y - frame.y / STRIDE) ** 2
            middle[i] = np.maximum(middle[i], np.exp(-squared / (2 * _SPREAD_CELLS**2)))
            around = squared < _AROUND_CELLS**2
            near[i][around], log_width[i][around] = 1, math.log(frame.width / SIDE)
            tilt[i][around] = frame.tilt_deg / TILT_UNIT_DEG
            mirrored = (shown.side is Side.LEFT) != (view.step[0] < 0)
            right[i][around] = float(not mirrored)
            if shown is close[i]:
                points[i] = placed
                known = ((share > -0.02) & (share < 1.02)).all(-1)
                known = reverse(np.stack([known, known], -1))[:, 0] if mirrored else known
                inside = ((placed > -1) & (placed < SIDE + 1)).all(-1)
                weights[i] = (
                    inside * np.where(known, 1.0, _BEYOND) * (_UNDER_METAL if film.metal is not None else 1)
                )
    made = [torch.from_numpy(one) for one in (points, weights, middle, log_width, tilt, right, near)]
    return Targets(*made)


def losses(maps: Maps, of: Targets) -> dict[str, Tensor]:
    """The terms of the module's loss, weighted."""
    count = of.near.sum().clamp(min=1)

    def apart(said: Tensor, true: Tensor) -> Tensor:
        return ((said - true).abs() * of.near).sum() / count

    found = {
        "middle": _focal(maps.middle, of.middle),
        "width": apart(maps.log_width, of.log_width),
        "tilt": apart(maps.tilt, of.tilt),
        "right": (binary_cross_entropy_with_logits(maps.right, of.right, reduction="none") * of.near).sum()
        / count,
    }
    close = of.weights.sum(1) > 0
    if close.any():
        maps = Maps(
            maps.points[close], *(one[close] for one in (maps.middle, maps.log_width, maps.tilt, maps.right))
        )
        points, weights = of.points[close], of.weights[close]
        weights = weights / weights.sum()
        places, _ = maps.places()
        off = smooth_l1_loss(places / STRIDE, points / STRIDE, reduction="none", beta=0.5).sum(-1)
        n, k, rows, columns = maps.points.shape
        log_chance = maps.points.flatten(2).log_softmax(-1).view(n, k, rows, columns)
        across, down = (_bell(points[..., axis] / STRIDE, size) for axis, size in ((0, columns), (1, rows)))
        entropy = -torch.einsum("nkrc,nkr,nkc->nk", log_chance, down, across)
        found |= {"place": 2 * (off * weights).sum(), "points": 0.2 * (entropy * weights).sum()}
    return found


def _bell(at: Tensor, cells: int) -> Tensor:
    """How a point's chance should lie over cells along one axis, (N, K, cells)."""
    off = torch.arange(cells) + 0.5 - at[..., None]
    return (-off.square() / (2 * _POINT_CELLS**2)).softmax(-1)


def _focal(logit: Tensor, near: Tensor) -> Tensor:
    chance, there = logit.sigmoid(), (near > 0.85).float()
    terms = there * (1 - chance).square() * logsigmoid(logit) + (1 - there) * (
        1 - near
    ) ** 4 * chance.square() * logsigmoid(-logit)
    return -terms.sum() / there.sum().clamp(min=0.25 * len(logit))


def _rate(config: BonesConfig, step: int) -> float:
    fall = min(1.0, (1 - step / config.steps) / _FALL)
    return config.rate * min((step + 1) / _WARM_UP, math.sqrt(_STEADY / max(step, _STEADY))) * fall


def train_bones(
    knees: Outlined, run: str | Path, *, config: BonesConfig, checkpoint_seconds: float = 60.0
) -> BoneNet:
    """Train, or go on training; the state lies in the folder `run`, and the same call goes on from it exactly.

    Returns
    -------
    BoneNet
        The moving average, for use.

    Raises
    ------
    UsageError
        If the run folder is of another configuration.
    OutputError
        If another process trains there, or it cannot be written.
    WeightsError
        If the checkpoint is damaged.
    """
    with owned(Path(run)):
        return _train(knees, Path(run), config, checkpoint_seconds)


def _train(knees: Outlined, run: Path, config: BonesConfig, checkpoint_seconds: float) -> BoneNet:
    """`train_bones` in its run folder."""
    keep_freed_memory()
    torch.manual_seed(config.seed)
    network = BoneNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).requires_grad_(False)
    makers = (FilmMaker(knees.images, settings=NEAR), FilmMaker(knees.images, settings=FAR))
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=config.decay)
    begin, checkpoints = 0, Checkpoints(run / CHECKPOINT)
    if (saved := checkpoints.load()) is not None:
        if changed := changed_fields(saved["config"], config) - {"steps"}:
            raise UsageError(
                f"{run} holds a run with another {', '.join(sorted(changed))}: give the same or another folder"
            )
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        begin = saved["step"]
    kind = activation_dtype(config.precision, torch.device("cpu"))
    kept, sums, since = time.monotonic(), dict[str, float](), 0
    with RunLog(run, total=config.steps, unit="steps", done=begin) as log:
        for step in range(begin, config.steps):
            for group in optimiser.param_groups:
                group["lr"] = _rate(config, step)
            x, of = batch(knees, makers, config, step)
            with torch.autocast("cpu", dtype=kind, enabled=kind is not torch.float32):
                maps = network(x)
            found = losses(maps, of)
            optimiser.zero_grad(set_to_none=True)
            torch.stack(list(found.values())).sum().backward()
            optimiser.step()
            beta = ema_beta(
                config.batch, half_life_kimg=6.0, seen_images=config.batch * (step + 1), rampup=0.1
            )
            update_ema(average, network, beta)
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value.item()
            since += 1
            if step + 1 == config.steps or time.monotonic() - kept > checkpoint_seconds:
                log.write(step + 1, {name: value / since for name, value in sums.items()})
                state = {"network": network.state_dict(), "average": average.state_dict()}
                state |= {"optimiser": optimiser.state_dict(), "step": step + 1, "config": asdict(config)}
                checkpoints.save(state)
                kept, sums, since = time.monotonic(), {}, 0
    return average.eval()


def calibrate(finder: BoneFinder, knees: Outlined, *, films: int, seed: int = 0) -> BoneFinder:
    """The finder with odds that its outlines are right, fitted on made films of knees that it did not learn from."""
    rng, signs, right = np.random.default_rng(seed), list[tuple[float, ...]](), list[bool]()
    processing = Processing(seed)
    makers = (FilmMaker(knees.images, settings=NEAR), FilmMaker(knees.images, settings=FAR))
    for number in range(films):
        film = makers[number % 2].film(
            rng, longer_px=2 * FILM_PIXELS, kind=str(rng.choice(_KINDS, p=_SHARES))
        )
        pixels = processing(torch.from_numpy(film.pixels)[None, None])[0, 0].numpy()
        shown = [
            on_film(knees.points[row].astype(np.float64), knee)
            for row, knee in zip(film.rows, film.knees, strict=True)
        ]
        for bones in finder(pixels):
            points = bones.points if bones.right >= 0.5 else reverse(bones.points)
            off = [
                float(np.median(np.hypot(*(points - true).T))) / landmark_frame(true).width for true in shown
            ]
            signs.append(bones.signs)
            right.append(min(off, default=math.inf) < RIGHT_WITHIN)
    if len(set(right)) < 2:
        return finder
    fitted = LogisticRegression(C=10.0).fit(np.array(signs), np.array(right))
    return replace(finder, odds=(float(fitted.intercept_[0]), *fitted.coef_[0].tolist()))
