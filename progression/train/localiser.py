"""Train the network that finds knees in films, on films that `progression.data.films` makes anew for each step.

    loss = focal(heat) + 0.5 |offset| + |log side| + 2 |tilt| + 0.5 cross-entropy(kind)
         + cross-entropy(metal) / 10 + cross-entropy(any metal) + focal(letters)

focal as in CenterNet (Zhou et al. 2019, eq. 1: α 2, β 4); offset, side and tilt in cells around each knee's middle;
metal summed over a film's cells, of which metal fills some 10. AdamW, rate rising over 100 steps and falling to 0 along
a cosine. Step s draws its films from (seed, s), so that a run can be repeated. The run folder holds its checkpoint and
log; the same call goes on from it exactly.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid, max_pool2d

from progression.data.films import FilmMaker, MadeFilm
from progression.errors import UsageError
from progression.localise.find import KINDS, METAL, Finder, fitted
from progression.localise.network import LETTERS, SIDE, STRIDE, TILT_UNIT_DEG, Cells, KneeFinder
from progression.memory import keep_freed_memory
from progression.quality import measure
from progression.train.checkpoint import Checkpoints
from progression.train.loop import changed_fields
from progression.train.run_folder import owned
from progression.train.run_log import RunLog
from progression.types import Pixels

CHECKPOINT = "localiser.ckpt"
KNEE_PIXELS = 128
"""Side of the knees that films are made of."""
_WARM_UP = 100
_RARE = 0.001
_SPREAD_CELLS = 1.3
_METAL_CELLS = 10


@dataclass(frozen=True)
class LocaliserConfig:
    """Length and rate of a run: `steps` of `batch` films, AdamW's highest `rate` and `decay`, `seed` of all draws."""

    steps: int = 3000
    batch: int = 16
    rate: float = 2e-3
    decay: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Targets:
    """What cells should say: as `Cells`, and `near` (N, G, G), 1 around each knee's middle.

    `metal` (N, G, G) is in [0, 1]; `kind` (N,) int64, with implants among the knees; `any_metal` (N,) 0 or 1.
    """

    heat: Tensor
    offset: Tensor
    log_side: Tensor
    tilt: Tensor
    metal: Tensor
    letters: Tensor
    near: Tensor
    kind: Tensor
    any_metal: Tensor


def targets(films: Sequence[MadeFilm]) -> Targets:
    """Targets of films made for the network."""
    grid = SIDE // STRIDE
    n = len(films)
    y, x = np.mgrid[:grid, :grid] + 0.5
    heat, log_side, tilt, near = (np.zeros((n, grid, grid), np.float32) for _ in range(4))
    offset = np.zeros((n, 2, grid, grid), np.float32)
    letters = np.zeros((n, len(LETTERS), grid, grid), np.float32)
    metal = torch.zeros(n, grid, grid)
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
        for letter in film.letters:
            cx, cy = (letter.centre[0] * scale + left) / STRIDE, (letter.centre[1] * scale + top) / STRIDE
            of = letters[i, LETTERS.index(letter.says)]
            np.maximum(of, np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * _SPREAD_CELLS**2)), out=of)
        if film.metal is not None:
            metal[i] = max_pool2d(fitted(film.metal, exposed=False)[None], STRIDE)[0, 0]
    kind = torch.tensor([KINDS.index("knees" if film.kind == METAL else film.kind) for film in films])
    any_metal = (metal.flatten(1).amax(1) > 0.5).float()
    maps = [torch.from_numpy(one) for one in (heat, offset, log_side, tilt)]
    return Targets(
        maps[0],
        maps[1],
        maps[2],
        maps[3],
        metal,
        torch.from_numpy(letters),
        torch.from_numpy(near),
        kind,
        any_metal,
    )


def loss(cells: Cells, of: Targets) -> Tensor:
    """See the module."""
    count = of.near.sum().clamp(min=1)

    def apart(said: Tensor, true: Tensor) -> Tensor:
        return ((said - true).abs() * of.near).sum() / count

    offset = apart(cells.offset[:, 0], of.offset[:, 0]) + apart(cells.offset[:, 1], of.offset[:, 1])
    return (
        _focal(cells.heat, of.heat, of.heat > 0.85)
        + 0.5 * offset
        + apart(cells.log_side, of.log_side)
        + 2 * apart(cells.tilt, of.tilt)
        + 0.5 * cross_entropy(cells.kind, of.kind)
        + binary_cross_entropy_with_logits(cells.metal, of.metal, reduction="sum")
        / (_METAL_CELLS * len(of.kind))
        + binary_cross_entropy_with_logits(cells.any_metal(), of.any_metal)
        + _focal(cells.letters, of.letters, of.letters > 0.85)
    )


def _focal(logit: Tensor, near: Tensor, there: Tensor) -> Tensor:
    """Cells that are `there` should say so, the others not, unless they are `near` (0 to 1).

    A mean over the former, of which each film counts for a fourth at least, so that batches with few weigh no more.
    """
    at, chance = there.float(), logit.sigmoid()
    terms = at * (1 - chance).square() * logsigmoid(logit) + (1 - at) * (
        1 - near
    ) ** 4 * chance.square() * logsigmoid(-logit)
    return -terms.sum() / at.sum().clamp(min=0.25 * len(logit))


def batch(maker: FilmMaker, config: LocaliserConfig, step: int) -> tuple[Tensor, Targets]:
    """Films (B, 1, 192, 192) of a step, and their targets."""
    rng = np.random.default_rng((config.seed, step))
    films = [maker.film(rng, longer_px=SIDE) for _ in range(config.batch)]
    return torch.stack([fitted(film.pixels) for film in films]), targets(films)


def train_localiser(
    knees: Tensor,
    run: str | Path,
    *,
    config: LocaliserConfig,
    start: Finder | None = None,
    checkpoint_seconds: float = 60.0,
) -> Finder:
    """Train, or go on training; the state lies in the folder `run`, and the same call goes on from it exactly.

    Parameters
    ----------
    knees : (N, R, R) uint8, all shown as right ones.
    start : whose weights a new run starts from.

    Raises
    ------
    UsageError
        If the run folder is of another configuration.
    OutputError
        If another process owns the run folder, or a file cannot be written: the same call then goes on once it can.
    WeightsError
        If the checkpoint is damaged.
    """
    run = Path(run)
    with owned(run):
        keep_freed_memory()
        torch.manual_seed(config.seed)
        network = KneeFinder(kinds=len(KINDS)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        maker = FilmMaker(knees)
        optimiser = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=config.decay)
        if start is not None:
            network.load_state_dict(start.network.state_dict())
        begin, checkpoints = 0, Checkpoints(run / CHECKPOINT)
        if (saved := checkpoints.load()) is not None:
            if changed := changed_fields(saved["config"], config):
                raise UsageError(
                    f"{run} holds a run with another {', '.join(sorted(changed))}: give the same or another folder"
                )
            network.load_state_dict(saved["network"])
            optimiser.load_state_dict(saved["optimiser"])
            begin = saved["step"]
        kept, since = time.monotonic(), []
        with RunLog(run, total=config.steps, unit="steps", done=begin) as log:
            for step in range(begin, config.steps):
                rate = config.rate * min(
                    (step + 1) / _WARM_UP, 0.5 * (1 + math.cos(math.pi * step / config.steps))
                )
                for group in optimiser.param_groups:
                    group["lr"] = rate
                x, of = batch(maker, config, step)
                found = loss(network(x.contiguous(memory_format=torch.channels_last)), of)
                optimiser.zero_grad(set_to_none=True)
                found.backward()
                optimiser.step()
                since.append(found.item())
                if step + 1 == config.steps or time.monotonic() - kept > checkpoint_seconds:
                    log.write(step + 1, {"loss": float(np.mean(since))})
                    state = {
                        "network": network.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "step": step + 1,
                    }
                    checkpoints.save({**state, "config": asdict(config)})
                    kept, since = time.monotonic(), []
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
