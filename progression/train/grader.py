"""Train the plain grader: K cross-fitted networks, each without one K-th of the subjects.

Each network is fine-tuned from ImageNet on three heads at once (`progression.risk.grader`): the grade now,
the highest grade read by later visits, and whether it rises.  Labels that were not read are left out of the
loss.  Every random draw of a step comes from (seed, fold, step), so a run that was killed at any moment goes
on from its last checkpoint as if nothing had happened.

Files in the run folder: ``fold<i>/`` (checkpoint, log, TensorBoard curves) and ``out_of_fold.npz`` (each
training knee's outputs by the network that did not train on it; participant-level, so it stays here).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from progression.data.dataset import Knees
from progression.data.outcomes import UNREAD, Event, GradeSeries, outcomes
from progression.errors import UsageError
from progression.files import atomic_write
from progression.memory import keep_freed_memory
from progression.risk.efficientnet import EfficientNet, load_imagenet
from progression.risk.grader import (
    FUTURE_MONTHS,
    NUM_OUTPUTS,
    RISE_TARGETS,
    Grader,
    Grading,
    as_grading,
    resize,
    split_outputs,
)
from progression.train.loop import RunLog, load_checkpoint, save_checkpoint
from progression.types import KL_GRADES

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class GraderConfig:
    """How to train.

    Attributes
    ----------
    folds
        Networks; each leaves out its own share of the subjects (one fold: trained on everybody).
    resolutions
        Pixels a side in each epoch; the last one is the grader's input resolution.
    batch_size, learning_rate, weight_decay, warmup
        AdamW; the rate rises linearly over the share `warmup` of the steps, then falls as a cosine.
    frozen_blocks
        The stem and so many first blocks keep their ImageNet weights and norms: they see edges, cost 40 % of
        a step, and need no adapting.
    ema_decay
        Per step, of the averaged weights that are kept.
    softening
        Share of a grade's probability that goes to its neighbours (readers differ by one grade).
    future_weight, rise_weight
        Weights of the other heads beside the grade now.
    checkpoint_steps
        Steps between checkpoints.
    """

    folds: int = 3
    resolutions: tuple[int, ...] = (160, 160, 160, 192, 192, 192, 224, 224)
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup: float = 0.08
    frozen_blocks: int = 3
    ema_decay: float = 0.99
    softening: float = 0.1
    future_weight: float = 0.3
    rise_weight: float = 0.5
    checkpoint_steps: int = 60
    seed: int = 0


PRESETS = {
    "cpu": GraderConfig(),
    "gpu": GraderConfig(folds=5, resolutions=(160,) * 4 + (192,) * 4 + (224,) * 6, batch_size=64),
}
"""`cpu` made the shipped grader (40 minutes on one core with AVX512-BF16)."""


@dataclass(frozen=True)
class Targets:
    """Labels of N knees; -1 where not read or not applicable."""

    now: Tensor
    future: Tensor
    rise: Tensor

    def rows(self, index: Tensor) -> Targets:
        return Targets(self.now[index], self.future[index], self.rise[index])


def make_targets(knees: Knees) -> Targets:
    """Labels of the three heads from the grade series.

    A future grade is the highest read until its month; it needs a reading in the second half of that time.
    """
    series = GradeSeries(knees.subject, knees.side, knees.series_months, knees.grade_series)
    labels = {month: outcomes(series, month) for _, month in RISE_TARGETS}
    events = {event.rise: event.label for event in Event}
    rise = [labels[month][events[step]].astype("float64").fillna(UNREAD) for step, month in RISE_TARGETS]
    future = []
    for month in FUTURE_MONTHS:
        recent = (series.months > month / 2) & (series.months <= month)
        known = (series.grade[:, recent] != UNREAD).any(axis=1)
        highest = series.grade[:, series.months <= month].max(axis=1)
        future.append(np.where(known, highest, UNREAD))
    return Targets(
        torch.as_tensor(knees.grade, dtype=torch.long),
        torch.as_tensor(np.stack(future, axis=1), dtype=torch.long),
        torch.as_tensor(np.stack(rise, axis=1), dtype=torch.float32),
    )


def soften(grades: Tensor, softening: float) -> Tensor:
    """One-hot grades (...) with the share `softening` spread over the adjacent grades, (..., 5)."""
    hot = F.one_hot(grades.clamp(min=0), KL_GRADES).float()
    padded = F.pad(hot, (1, 1))
    near = padded[..., :-2] + padded[..., 2:]
    return (1 - softening) * hot + softening * near / near.sum(dim=-1, keepdim=True)


def grading_loss(outputs: Tensor, targets: Targets, config: GraderConfig) -> Tensor:
    """Mean loss of the heads over what was read."""
    now, future, rise = split_outputs(outputs.float())

    def mean(losses: Tensor, known: Tensor) -> Tensor:
        return (losses * known).sum() / known.sum().clamp(min=1)

    def ordinal(logits: Tensor, grades: Tensor) -> Tensor:
        losses = -(soften(grades, config.softening) * logits.log_softmax(dim=-1)).sum(dim=-1)
        return mean(losses, grades >= 0)

    rise_losses = F.binary_cross_entropy_with_logits(rise, targets.rise.clamp(min=0), reduction="none")
    return (
        ordinal(now, targets.now)
        + config.future_weight * ordinal(future, targets.future)
        + config.rise_weight * mean(rise_losses, targets.rise >= 0)
    )


def augment(x: Tensor, resolution: int) -> Tensor:
    """Another picture of the same knees: position, exposure, sharpness.

    Quarters of the batch pass through lower resolutions, from 96 pixels up, so that small synthetic
    pictures are graded as well as radiographs.
    """
    n, size = len(x), x.shape[-1]

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(n, device=x.device).uniform_(low, high)

    angle, scale, aspect = uniform(-0.2, 0.2), uniform(0.85, 1.1), uniform(0.95, 1.05)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack(
        [
            torch.stack([cos * aspect, -sin, uniform(-0.1, 0.1)], dim=1),
            torch.stack([sin, cos / aspect, uniform(-0.1, 0.1)], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, [n, 1, size, size], align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    parts = []
    for part in x.chunk(4):
        if torch.rand(()) < 0.5:
            part = resize(part, int(torch.randint(min(96, size // 2), size, ())))
        parts.append(resize(part, resolution))
    x = torch.cat(parts)
    gamma, contrast, brightness = uniform(-0.3, 0.3).exp(), uniform(-0.2, 0.2).exp(), uniform(-0.15, 0.15)
    unit = ((x + 1) / 2).clamp(1e-4, 1) ** gamma[:, None, None, None]
    x = (2 * unit - 1) * contrast[:, None, None, None] + brightness[:, None, None, None]
    return (x + torch.randn_like(x) * uniform(0, 0.04)[:, None, None, None]).clamp(-1, 1)


def fold_of(subjects: Array, *, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """The fold in which each knee is left out; both knees of a subject share it."""
    names, inverse = np.unique(subjects, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return np.asarray(order % folds, dtype=np.int64)[inverse]


def cross_fitting(subjects: Array, *, seed: int) -> dict[str, Any]:
    """What says which network saw whom: the seed and a digest of the subjects; stored with the grader."""
    names = "\n".join(sorted({str(name) for name in subjects}))
    return {"seed": seed, "subjects": hashlib.sha256(names.encode()).hexdigest()}


def grade_out_of_fold(grader: Grader, knees: Knees, fitting: Mapping[str, Any] | None) -> Grading:
    """Each training knee by the network of a cross-fitted grader that never saw its subject.

    Parameters
    ----------
    grader
        Of `train_grader`.
    knees
        Those it was trained on, all of them: which fold a subject is in depends on them.
    fitting
        `cross_fitting` of that training, as stored with the grader.

    Raises
    ------
    UsageError
        It was trained on other people, or did not say on whom: nobody could then be called unseen.
    """
    if fitting is None or dict(fitting) != cross_fitting(knees.subject, seed=fitting["seed"]):
        raise UsageError(
            "the grader was trained on other people than the table's, or does not say on whom: give the table and the "
            "split it was trained on"
        )
    fold = fold_of(knees.subject, folds=len(grader.members), seed=fitting["seed"])
    order = [torch.as_tensor(np.flatnonzero(fold == left_out)) for left_out in range(len(grader.members))]
    parts = [
        grade_images(network, knees.images[rows], input_resolution=grader.input_resolution)
        for network, rows in zip(grader.members, order, strict=True)
    ]
    back = torch.cat(order).argsort()
    return Grading(
        *(torch.cat([getattr(part, name) for part in parts])[back] for name in ("now", "future", "rise"))
    )


class _Run:
    """One network's training: state, step, checkpoint."""

    def __init__(self, knees: Knees, rows: Tensor, *, fold: int, config: GraderConfig, device: str,
                 start: Callable[[], EfficientNet]) -> None:  # fmt: skip
        self.images, self.targets, self.rows = knees.images, make_targets(knees), rows
        self.config, self.device, self.fold = config, device, fold
        torch.manual_seed(self._seed(0))
        self.network = start().to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.frozen = nn.ModuleList([self.network.stem, self.network.stem_norm])
        self.frozen.extend(list(self.network.blocks)[: config.frozen_blocks])
        self.frozen.requires_grad_(False)
        self.average = deepcopy(self.network).requires_grad_(False)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        decayed, plain = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
        )
        self.step = 0
        self.epoch_steps = len(rows) // config.batch_size
        self.total_steps = self.epoch_steps * len(config.resolutions)

    def _seed(self, step: int) -> int:
        return (self.config.seed * 1_000_003 + self.fold) * 1_000_003 + step

    def advance(self) -> float:
        """One step; returns the loss."""
        config = self.config
        epoch, position = divmod(self.step, self.epoch_steps)
        order = np.random.default_rng((config.seed, self.fold, epoch)).permutation(len(self.rows))
        batch = order[position * config.batch_size : (position + 1) * config.batch_size]
        index = self.rows[torch.as_tensor(batch)]
        torch.manual_seed(self._seed(1 + self.step))
        progress = (self.step + 1) / self.total_steps
        rate = min(progress / config.warmup, 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate * config.learning_rate
        x = self.images[index][:, None].to(self.device).float() / 127.5 - 1
        x = augment(x, config.resolutions[epoch]).contiguous(memory_format=torch.channels_last)
        self.network.train()
        self.frozen.eval()
        with torch.autocast(self.device.split(":")[0], torch.bfloat16):
            outputs = self.network(x)
        rows = self.targets.rows(index)
        targets = Targets(rows.now.to(self.device), rows.future.to(self.device), rows.rise.to(self.device))
        loss = grading_loss(outputs, targets, config)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.step += 1
        decay = min(config.ema_decay, self.step / (self.step + 10))
        with torch.no_grad():
            pairs = zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True)
            for kept, new in pairs:
                if kept.is_floating_point():
                    kept.lerp_(new, 1 - decay)
                else:
                    kept.copy_(new)
        return float(loss.detach())

    def save(self, path: Path) -> None:
        state = {
            "step": self.step,
            "config": str(self.config),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        save_checkpoint(path, state)

    def load(self, path: Path) -> None:
        state = load_checkpoint(path)
        if state["config"] != str(self.config):
            raise UsageError(
                f"{path} was made with other settings: repeat them, or choose another run folder"
            )
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]


def grade_images(
    model: Grader | EfficientNet, images: Tensor, *, input_resolution: int, batch_size: int = 32
) -> Grading:
    """Grade uint8 pictures (N, R, R), batch by batch, on the model's device."""
    device = next(model.parameters()).device
    gradings = []
    with torch.no_grad():
        for part in images.split(batch_size):
            x = resize(part[:, None].to(device).float() / 127.5 - 1, input_resolution)
            answer = model(x)
            gradings.append(answer if isinstance(answer, Grading) else as_grading(answer))
    return Grading(
        torch.cat([grading.now for grading in gradings]).cpu(),
        torch.cat([grading.future for grading in gradings]).cpu(),
        torch.cat([grading.rise for grading in gradings]).cpu(),
    )


def train_grader(
    knees: Knees,
    run_folder: Path,
    *,
    config: GraderConfig = PRESETS["cpu"],
    device: str = "cpu",
    start: Callable[[], EfficientNet] | None = None,
) -> Grader:
    """Train, or go on training, the cross-fitted grader.

    Parameters
    ----------
    knees
        Training knees, at 224 pixels or more for the presets.
    run_folder
        Checkpoints, logs and out-of-fold outputs; the same call with the same folder resumes.
    device
        "cpu", "cuda" or "cuda:<i>".
    start
        Makes the network to fine-tune; by default EfficientNet-lite0 with ImageNet weights.

    Returns
    -------
    Grader
        Mean of the averaged networks, on the CPU; `save_part(folder, "grader", grader.state_dict(),
        grader.config())` ships it.

    Raises
    ------
    UsageError
        The run folder holds a run of other settings, or a fold has fewer knees than a batch.
    """
    keep_freed_memory()
    start = start or (lambda: load_imagenet(1, NUM_OUTPUTS))
    resolution = config.resolutions[-1]
    folds = fold_of(knees.subject, folds=config.folds, seed=config.seed)
    fewest = len(folds) - (int(np.bincount(folds).max()) if config.folds > 1 else 0)
    if fewest < config.batch_size:
        raise UsageError(
            f"{fewest} knees to train a fold on, expected at least one batch ({config.batch_size}): use more "
            "knees or a smaller batch"
        )
    networks: list[EfficientNet] = []
    for fold in range(config.folds):
        rows = np.flatnonzero(folds != fold) if config.folds > 1 else np.arange(len(folds))
        run = _Run(knees, torch.as_tensor(rows), fold=fold, config=config, device=device, start=start)
        _train_fold(run, run_folder / f"fold{fold}")
        networks.append(run.average.eval())
    grader = Grader(networks, input_resolution=resolution).eval().requires_grad_(False)
    left_out = grade_out_of_fold(grader, knees, cross_fitting(knees.subject, seed=config.seed))
    outputs = {name: getattr(left_out, name).numpy() for name in ("now", "future", "rise")}
    with atomic_write(run_folder / "out_of_fold.npz") as temporary:
        np.savez(temporary, fold=folds, subject=knees.subject, side=knees.side, **outputs)
    return grader.to("cpu")


def _train_fold(run: _Run, folder: Path) -> None:
    """Bring one network to its last step, from its checkpoint if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "grader.ckpt"
    if checkpoint.is_file():
        run.load(checkpoint)
    kimg = run.config.batch_size / 1000
    log = RunLog(folder, total=run.total_steps * kimg, unit="kimg", done=run.step * kimg)
    losses: list[float] = []
    while run.step < run.total_steps:
        losses.append(run.advance())
        if run.step % run.config.checkpoint_steps == 0 or run.step == run.total_steps:
            run.save(checkpoint)
            log.write(run.step * kimg, {"loss": float(np.mean(losses))})
            losses.clear()
