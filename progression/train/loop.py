"""What every training shares: presets, pictures, the run itself, moving averages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from progression.errors import UsageError
from progression.latent.part import from_bytes
from progression.train.distributed import Team
from progression.train.run_log import RunLog

Config = TypeVar("Config")


def preset_of(presets: Mapping[str, Config], name: str) -> Config:
    """The configuration of that name.

    Raises
    ------
    UsageError
        There is none.
    """
    if name not in presets:
        raise UsageError(f"unknown preset {name!r}: expected one of {', '.join(presets)}")
    return presets[name]


PRECISIONS = ("bfloat16", "float32", "auto")


def activation_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Type of activations for one of `PRECISIONS`; "auto" is bfloat16 on CPUs and on GPUs that do not emulate it.

    float16 is not offered: gradients of gradients (R1, path length) leave its range, and each would need a loss scale
    of its own, to save a GPU that is too old for bfloat16 the half of its time.
    """
    if precision == "auto":
        able = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if able else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def changed_fields(saved: Mapping[str, Any], config: Any) -> set[str]:
    """Fields of a configuration (a dataclass) that a run was not started with.

    A field that did not exist then counts as its default: what runs did before there was a choice. How snapshots are
    measured changes no weights and may change.
    """
    now = asdict(config)
    kept = [f for f in fields(config) if not f.name.startswith("measure_")]
    return {f.name for f in kept if saved.get(f.name, f.default) != now[f.name]}


def tensors_to(value: Any, device: torch.device) -> Any:
    """Move every tensor in a tree of dicts and lists to a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {k: tensors_to(v, device) for k, v in value.items()}
    return [tensors_to(v, device) for v in value] if isinstance(value, list) else value


def ema_beta(batch: int, *, half_life_kimg: float, seen_images: int, rampup: float | None) -> float:
    """Decay a step for a half-life in thousands of images, shortened at the start to `rampup` × images seen."""
    half_life = half_life_kimg * 1000
    if rampup is not None:
        half_life = min(half_life, seen_images * rampup)
    return float(0.5 ** (batch / max(half_life, 1e-8)))


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, beta: float) -> None:
    """average ← β·average + (1 − β)·model for parameters; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - beta)
    if buffers := list(average.buffers()):
        torch._foreach_copy_(buffers, list(model.buffers()))


def batch_indices(count: int, batch: int, *, position: int, seed: int) -> Tensor:
    """Indices of the batch that starts at image number `position` of an endless stream of seeded shuffles.

    A function of its arguments alone, so that a resumed run sees the batches that an unbroken one sees.
    """
    parts = []
    while batch > 0:
        epoch, offset = divmod(position, count)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(hash((seed, epoch)) % 2**62))
        part = order[offset : offset + batch]
        parts.append(part)
        position += len(part)
        batch -= len(part)
    return torch.cat(parts)


def held(images: Tensor, device: torch.device) -> Tensor:
    """Pictures (N, R, R) uint8 where batches are best taken from: on a GPU if they fill a quarter of what is free."""
    if device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] / 4:
        return images.to(device)
    return images


def picked(images: Tensor, index: Tensor, device: torch.device) -> Tensor:
    """Pictures (n, 1, R, R) float32 in [-1, 1] of a batch; copied to a GPU, if need be, while it computes."""
    chosen = images[index.to(images.device)]
    if device.type == "cuda" and not chosen.is_cuda:
        chosen = chosen.pin_memory().to(device, non_blocking=True)
    return from_bytes(chosen, device)


class Trainer(Protocol):
    """What `run_steps` runs."""

    team: Team
    device: torch.device
    seen_images: int

    def step(self) -> dict[str, Tensor]:
        """Train on one batch; returns scalars."""


def run_steps(
    trainer: Trainer,
    folder: Path,
    *,
    total_kimg: float,
    snapshot_kimg: float,
    minutes: float | None,
    save: Callable[[RunLog], None],
) -> bool:
    """Step until `total_kimg`, or until `minutes` of wall time are over; returns whether the run has ended.

    Past every multiple of `snapshot_kimg`, and before it returns, means of the scalars go to the log in `folder` and
    `save` is called; both in the first process alone.
    """
    team, total, interval = trainer.team, 1000 * total_kimg, 1000 * snapshot_kimg
    sums: dict[str, list[Tensor]] = {}
    end = time.monotonic() + 60 * minutes if minutes is not None else None
    late = False
    leading = (
        RunLog(folder, total=total_kimg, unit="kimg", done=trainer.seen_images / 1000) if team.leads else None
    )
    with leading or nullcontext() as log:
        while trainer.seen_images < total and not late:
            before = trainer.seen_images
            for key, value in trainer.step().items():
                sums.setdefault(key, []).append(value)
            late = end is not None and team.any(time.monotonic() > end, trainer.device)
            # a function of the image count alone, so that a resumed run keeps to it
            if late or trainer.seen_images >= total or trainer.seen_images // interval > before // interval:
                means = {key: float(torch.stack(values).mean()) for key, values in sums.items()}
                means = team.mean(means, trainer.device)
                sums.clear()
                if log is not None:
                    log.write(trainer.seen_images / 1000, means)
                    save(log)
    return trainer.seen_images >= total
