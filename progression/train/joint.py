"""Train generator and encoder together: the run. What is minimised stands in `progression.train.joint_trainer`.

Files of a run: `joint.pt` (exact state), `samples_<kimg>.png`, `log.jsonl`, TensorBoard curves.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from progression.encoder import Encoder, EncoderConfig
from progression.errors import UsageError
from progression.latent.part import load_generator, read_encoder
from progression.latent.whiten import Whitening
from progression.risk.grader import Grader
from progression.stylegan2 import Generator
from progression.train.allocator import keep_freed_memory
from progression.train.encoder import checked, finish
from progression.train.joint_trainer import JointConfig, JointTrainer
from progression.train.loop import RunLog, load_checkpoint, save_checkpoint
from progression.train.sheet import save_sheet
from progression.weights import ModelFiles, save_part

CHECKPOINT = "joint.pt"

PRESETS = {
    "cpu": JointConfig(),
    "gpu": JointConfig(kimg=2000, batch=32, snapshot_kimg=20, ema_half_life_kimg=10, warmup_kimg=2, shift=16),
}


def train_joint(
    model: ModelFiles,
    images: Tensor,
    heldout: Tensor,
    *,
    run: Path,
    save: Path,
    config: JointConfig,
    device: str = "cpu",
    minutes: float | None = None,
) -> bool:
    """Train, or go on training, in folder `run`; at the end write parts "generator" and "encoder" to `save`.

    Parameters
    ----------
    model
        Has parts "generator" and "grader"; its encoder, if it has one without offsets, is where the run starts.
    images : (K, R, R) uint8
        Model pictures of the training split.
    heldout : (M, R, R) uint8
        Knees not trained on, for the figures that typicality is made of.
    save
        Model folder. Nothing is written before the run has ended: the two parts belong together.
    minutes
        Stop (resumably) after this wall time.

    Returns
    -------
    bool
        Whether the run has ended.

    Raises
    ------
    UsageError
        The pictures do not fit the generator, or the run folder is of another configuration.
    """
    run.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    generator = load_generator(model, device=device)
    images, heldout = checked(images, heldout, resolution=generator.img_resolution, batch=config.batch)
    if config.shift >= generator.img_resolution:
        raise UsageError(f"shift {config.shift}: expected less than {generator.img_resolution} pixels")
    torch.manual_seed(config.seed)
    grader = Grader.from_tensors(model.tensors("grader"), model.config("grader"))
    trainer = JointTrainer(config, generator, _encoder(model, generator), grader, images, device=device)
    made_of = {"grader": model.hashes()["grader"], "pictures": digest(images)}
    if (run / CHECKPOINT).exists():
        state = load_checkpoint(run / CHECKPOINT)
        changed = {k for k, v in asdict(config).items() if state["config"].get(k) != v}
        changed |= {name for name, value in made_of.items() if state[name] != value}
        if changed:
            raise UsageError(
                f"{run} was trained with other {', '.join(sorted(changed))}: choose another --out"
            )
        trainer.load_state_dict(state)
    log = RunLog(run, total=config.kimg, unit="kimg", done=trainer.seen_images / 1000)
    sums: dict[str, list[Tensor]] = {}
    end = time.monotonic() + 60 * minutes if minutes is not None else math.inf
    due = trainer.seen_images + 1000 * config.snapshot_kimg
    while trainer.seen_images < 1000 * config.kimg:
        for key, value in trainer.step().items():
            sums.setdefault(key, []).append(value)
        over = time.monotonic() > end
        if over or trainer.seen_images >= min(due, 1000 * config.kimg):
            kimg = trainer.seen_images / 1000
            log.write(kimg, {key: float(torch.stack(values).mean()) for key, values in sums.items()})
            sums.clear()
            save_checkpoint(run / CHECKPOINT, trainer.state_dict() | made_of)
            log.image("samples", save_samples(run / f"samples_{kimg:07.2f}.png", trainer), kimg)
            due += 1000 * config.snapshot_kimg
        if over:
            return False
    write_parts(trainer, heldout, save, model.name)
    return True


def digest(images: Tensor) -> str:
    """SHA-256 of pictures."""
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()


def write_parts(trainer: JointTrainer, heldout: Tensor, folder: Path, name: str) -> None:
    """The averaged generator and encoder, with the statistics of W and of held-out knees' codes."""
    average, encoder = trainer.average, trainer.average_encoder
    save_part(
        folder,
        "generator",
        average.state_dict(),
        average.config(),
        name=name,
        resolution=average.img_resolution,
    )
    part = finish(average, encoder, Whitening.of(average), heldout)
    part.save(folder, training={"joint": True, **asdict(trainer.config)})


@torch.no_grad()
def save_samples(path: Path, trainer: JointTrainer) -> Tensor:
    """Two rows of samples and two of the same samples encoded and rendered again; a fixed seed."""
    z = torch.randn(16, trainer.average.z_dim, generator=torch.Generator().manual_seed(1)).to(trainer.device)
    samples = trainer.average(z, noise_mode="const")
    again = trainer.average.synthesis(trainer.average_encoder(samples), noise_mode="const")
    return save_sheet(path, torch.cat([samples, again])[:, 0].unflatten(0, (4, 8)))


def _encoder(model: ModelFiles, generator: Generator) -> Encoder:
    """The model's encoder without its offsets, or a new one that codes every knee as the mean of W."""
    if "encoder" in model.parts:
        given = read_encoder(model)
        shape = EncoderConfig(**given.config())
        wanted = (generator.img_resolution, generator.num_ws, generator.w_dim)
        if (shape.resolution, shape.num_ws, shape.w_dim) != wanted:
            raise UsageError(
                f"{model.folder} holds an encoder of another shape than its generator: remove it"
            )
        encoder = Encoder(replace(shape, offset_rank=0))
        encoder.load_state_dict({k: v for k, v in given.state_dict().items() if k in encoder.state_dict()})
        return encoder
    encoder = Encoder(
        EncoderConfig(
            generator.img_resolution, generator.num_ws, generator.w_dim, generator.img_channels, offset_rank=0
        )
    )
    encoder.w_mean.copy_(Whitening.of(generator).w_mean)
    return encoder
