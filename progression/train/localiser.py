"""Train the network that finds knees in films, on films that `progression.data.films` makes anew for each step.

    loss = focal(heat) + 0.2 |offset| + |log side| + 0.2 |tilt| + 0.5 cross-entropy(kind)

focal as in CenterNet (Zhou et al. 2019, eq. 1: α 2, β 4), the others in cells around each knee's middle. AdamW, rate
rising over 100 steps and falling to 0 along a cosine. Step s draws its films from (seed, s), so that a run can be
repeated; it takes minutes, and one that is stopped starts anew.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from progression.data.films import KINDS, FilmMaker, MadeFilm
from progression.localise.find import Finder, fitted
from progression.localise.network import SIDE, STRIDE, TILT_UNIT_DEG, Cells, KneeFinder
from progression.quality import measure
from progression.types import Pixels

KNEE_PIXELS = 128
"""Side of the knees that films are made of."""
_WARM_UP = 100
_RARE = 0.001
_SPREAD_CELLS = 1.3


@dataclass(frozen=True)
class LocaliserConfig:
    """Length and rate of a run: `steps` of `batch` films, AdamW's highest `rate` and `decay`, `seed` of all draws."""

    steps: int = 1000
    batch: int = 32
    rate: float = 2e-3
    decay: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Targets:
    """What cells should say: as `Cells`, and `near` (N, G, G), 1 around each knee's middle; kind (N,) int64."""

    heat: Tensor
    offset: Tensor
    log_side: Tensor
    tilt: Tensor
    near: Tensor
    kind: Tensor


def targets(films: Sequence[MadeFilm]) -> Targets:
    """Targets of films made for the network."""
    grid = SIDE // STRIDE
    n = len(films)
    y, x = np.mgrid[:grid, :grid] + 0.5
    heat, log_side, tilt, near = (np.zeros((n, grid, grid), np.float32) for _ in range(4))
    offset = np.zeros((n, 2, grid, grid), np.float32)
    for i, film in enumerate(films):
        height, width = film.pixels.shape
        scale = SIDE / max(height, width)
        left, top = (SIDE - scale * width) / 2, (SIDE - scale * height) / 2
        for knee in film.knees:
            cx, cy = (knee.centre[0] * scale + left) / STRIDE, (knee.centre[1] * scale + top) / STRIDE
            squared = (x - cx) ** 2 + (y - cy) ** 2
            heat[i] = np.maximum(heat[i], np.exp(-squared / (2 * _SPREAD_CELLS**2)))
            around = squared < 2.2**2
            near[i][around] = 1
            offset[i, 0][around], offset[i, 1][around] = (cx - x)[around], (cy - y)[around]
            log_side[i][around] = math.log(knee.side_px / max(height, width))
            tilt[i][around] = knee.tilt_deg / TILT_UNIT_DEG
    kind = torch.tensor([KINDS.index(film.kind) for film in films])
    maps = [torch.from_numpy(one) for one in (heat, offset, log_side, tilt, near)]
    return Targets(maps[0], maps[1], maps[2], maps[3], maps[4], kind)


def loss(cells: Cells, of: Targets) -> Tensor:
    """See the module."""
    at_middle = (of.heat > 0.85).float()
    chance = cells.heat.sigmoid()
    focal = -(
        at_middle * (1 - chance).square() * logsigmoid(cells.heat)
        + (1 - at_middle) * (1 - of.heat) ** 4 * chance.square() * logsigmoid(-cells.heat)
    ).sum() / at_middle.sum().clamp(min=1)
    count = of.near.sum().clamp(min=1)

    def apart(said: Tensor, true: Tensor) -> Tensor:
        return ((said - true).abs() * of.near).sum() / count

    offset = apart(cells.offset[:, 0], of.offset[:, 0]) + apart(cells.offset[:, 1], of.offset[:, 1])
    return (
        focal
        + 0.2 * offset
        + apart(cells.log_side, of.log_side)
        + 0.2 * apart(cells.tilt, of.tilt)
        + 0.5 * cross_entropy(cells.kind, of.kind)
    )


def batch(maker: FilmMaker, config: LocaliserConfig, step: int) -> tuple[Tensor, Targets]:
    """Films (B, 1, 192, 192) of a step, and their targets."""
    rng = np.random.default_rng((config.seed, step))
    films = [maker.film(rng, longer_px=SIDE) for _ in range(config.batch)]
    return torch.stack([fitted(film.pixels) for film in films]), targets(films)


def train_localiser(
    knees: Tensor, *, config: LocaliserConfig, progress: Callable[[str], None] = lambda text: None
) -> Finder:
    """Train on knees (N, R, R) uint8, all shown as right ones; minutes on one core."""
    torch.manual_seed(config.seed)
    network, maker = KneeFinder(kinds=len(KINDS)), FilmMaker(knees)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=config.decay)
    mean = 0.0
    for step in range(config.steps):
        rate = config.rate * min((step + 1) / _WARM_UP, 0.5 * (1 + math.cos(math.pi * step / config.steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        x, of = batch(maker, config, step)
        found = loss(network(x), of)
        optimiser.zero_grad(set_to_none=True)
        found.backward()
        optimiser.step()
        mean = 0.95 * mean + 0.05 * found.item() if step else found.item()
        if (step + 1) % 100 == 0:
            progress(f"step {step + 1} of {config.steps}: loss {mean:.3f}")
    return Finder(network.eval().requires_grad_(False), KINDS)


def usual(finder: Finder, pictures: Iterable[Pixels]) -> dict[str, tuple[float, float]]:
    """Range that all but one picture in a thousand keep at either end, of every figure of `progression.quality`."""
    figures = [asdict(measure(picture, finder)) for picture in pictures]
    known = {name: [one[name] for one in figures if not math.isnan(one[name])] for name in figures[0]}
    return {
        name: (float(np.quantile(values, _RARE)), float(np.quantile(values, 1 - _RARE)))
        for name, values in known.items()
        if values  # a network that finds no knee leaves some out
    }
