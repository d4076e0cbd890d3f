"""Train the generator alone: the run. What is minimised stands in `progression.train.gan_trainer`.

Files of a run: `checkpoint.pt` (exact state, rewritten every `snapshot_kimg`; `checkpoint.previous.pt` is the one
before), `snapshot/` (the portable model folder: averaged generator, discriminator, half precision),
`samples_<kimg>.png`, `log.jsonl`, TensorBoard curves; with held-out pictures and extractors also `best/`, the snapshot
of the lowest FID on the first extractor's features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from progression.errors import UsageError
from progression.memory import keep_freed_memory
from progression.metrics.features import Extractor
from progression.train.checkpoint import Checkpoints
from progression.train.gan_trainer import GanConfig, GanTrainer
from progression.train.loop import changed_fields, preset_of, run_steps
from progression.train.measure import HeldOut, tell_best
from progression.train.run_folder import owned
from progression.train.run_log import RunLog
from progression.train.snapshot import save_samples, save_snapshot, take_over
from progression.weights import load_model

CHECKPOINT = "checkpoint.pt"

PRESETS = {
    "cpu-64": GanConfig(resolution=64, total_kimg=30, r1_gamma=0.2, path_interval=0),
    "cpu": GanConfig(total_kimg=70),
    "gpu": GanConfig(
        resolution=256,
        total_kimg=1000,
        batch=32,
        channel_base=8192,
        channel_max=320,
        path_interval=4,
        style_mixing=0.9,
        ada_target=0.6,
        snapshot_kimg=20,
        measure_kimg=40,
        measure_pictures=2000,
        precision="auto",
    ),
}
"""`cpu` (128²) starts from the snapshot of `cpu-64`; the two are what a CPU does in some hours."""


def train_gan(
    images: Tensor,
    out: Path,
    *,
    config: GanConfig,
    device: str = "cpu",
    transfer: Path | None = None,
    minutes: float | None = None,
    heldout: Tensor | None = None,
    extractors: Mapping[str, Extractor] | None = None,
) -> Path:
    """Train, or go on training, in folder `out`; returns the folder of the model's newest snapshot.

    Parameters
    ----------
    images : (K, R, R) uint8 model pictures of the training split.
    transfer : model folder with parts to start from, where nothing has been trained in `out` yet.
    minutes : stop (resumably) after this wall time.
    heldout : (M, R, R) uint8 pictures not trained on, measured on every `measure_kimg`.
    extractors : features to measure on, by a short name.

    Raises
    ------
    UsageError
        The pictures do not fit, `out` is of another configuration, or processes cannot share the batch evenly.
    OutputError
        Another process owns `out`, or a file cannot be written: the same call then goes on once it can.
    WeightsError
        The checkpoint is damaged, or training diverged.
    """
    with owned(out, device):
        keep_freed_memory()
        trainer = GanTrainer(config, images, device=device)
        checkpoints = Checkpoints(out / CHECKPOINT)
        if (state := checkpoints.load()) is not None:
            if changed := changed_fields(state["config"], config) - {"total_kimg", "accumulate"}:
                raise UsageError(
                    f"{out} was trained with other {', '.join(sorted(changed))}: choose another --out"
                )
            trainer.load_state_dict(state)
        elif transfer is not None:
            taken = take_over(trainer, load_model(transfer))
            print("tensors taken over: " + ", ".join(f"{k} {v}" for k, v in taken.items()))
        measure = HeldOut.of(
            heldout,
            extractors or {},
            most=config.measure_pictures,
            every_kimg=config.measure_kimg,
            device=trainer.device,
        )
        saved = trainer.seen_images

        def keep(log: RunLog) -> None:
            nonlocal saved
            kimg = trainer.seen_images / 1000
            # the snapshot first: it refuses NaN; the checkpoint last: killed before it, a run comes past here again
            save_snapshot(out / "snapshot", trainer)
            if measure is not None and measure.is_due(trainer.seen_images, saved, 1000 * config.total_kimg):
                figures = measure.figures(trainer.average)
                log.figures(kimg, figures)
                measure.keep_if_best(out, figures, kimg)
            log.image("samples", save_samples(out / f"samples_{kimg:07.2f}.png", trainer), kimg)
            checkpoints.save(trainer.state_dict())
            saved = trainer.seen_images

        run_steps(
            trainer,
            out,
            total_kimg=config.total_kimg,
            snapshot_kimg=config.snapshot_kimg,
            minutes=minutes,
            save=keep,
        )
        if trainer.team.leads:
            tell_best(out)
        return out / "snapshot"


def with_overrides(preset: str, **changes: Any) -> GanConfig:
    """A preset with some fields changed; None leaves a field as it is.

    Raises
    ------
    UsageError
        For an unknown preset, or a value out of its range.
    """
    return replace(preset_of(PRESETS, preset), **{k: v for k, v in changes.items() if v is not None})
