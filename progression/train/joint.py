"""Train generator and encoder together: the run. What is minimised stands in `progression.train.joint_trainer`.

Files of a run: `joint.pt` (exact state; `joint.previous.pt` is the one before), `snapshot/` (portable, half precision:
`--transfer` goes on from it), `best/` (the snapshot of the lowest FID on held-out knees, with the statistics that a
prediction takes), `samples_<kimg>.png`, `log.jsonl`, TensorBoard curves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from progression.encoder import Encoder, EncoderConfig
from progression.errors import UsageError
from progression.latent.part import encode_keys, load_generator, read_encoder
from progression.latent.whiten import Whitening
from progression.memory import keep_freed_memory
from progression.metrics.features import Extractor
from progression.risk.grader import Grader
from progression.stylegan2 import Generator
from progression.train.checkpoint import Checkpoints
from progression.train.encoder import checked, finish
from progression.train.grow import enlarge, widen
from progression.train.joint_trainer import JointConfig, JointTrainer
from progression.train.loop import changed_fields, run_steps
from progression.train.mapping import lies_above_0, mapping_of, move
from progression.train.measure import HeldOut, tell_best
from progression.train.run_folder import owned
from progression.train.run_log import RunLog
from progression.train.sheet import save_sheet
from progression.train.snapshot import save_joint_snapshot, take_over_joint
from progression.weights import ModelFiles, save_part

CHECKPOINT = "joint.pt"

WIDE = JointConfig(
    kimg=27,
    channel_base=4096,
    channel_max=128,
    z_dim=256,
    codes=4096,
    synthesis_rate=1e-3,
    encoder_rate=8e-4,
    judge_rate=2e-3,
    falling=0.5,
    warmup_kimg=1,
    sight="imagenet",
    detail=True,
    adversarial=1.5,
    pyramid=8,
    pixel=30,
    maps=1.5,
    look=1,
    grade=1.0,
    sliced=0,
    snapshot_kimg=2,
    measure_kimg=6,
)
"""Of "cpu-widen", from which those at twice the resolution go on."""

PRESETS = {
    "cpu": JointConfig(),
    # Goes on from a model that "cpu" made, whose reconstructions are too smooth: the judge weighs more against pixels.
    "cpu-sharpen": JointConfig(
        kimg=28,
        synthesis_rate=1e-3,
        mapping_rate=1e-2,
        encoder_rate=8e-4,
        falling=0.6,
        warmup_kimg=1,
        adversarial=0.7,
        pyramid=20,
        pixel=100,
        maps=3,
        grade=0.5,
        snapshot_kimg=2,
    ),
    # Goes on from that: twice as wide, z mapped to where knees are coded, a judge that sees more than grades and weighs
    # more still.
    "cpu-widen": WIDE,
    # Goes on from that at twice the resolution.
    "cpu-enlarge": replace(
        WIDE,
        kimg=30,
        resolution=256,
        falling=0.6,
        shift=32,
        jitter=0.05,
        snapshot_kimg=1,
        measure_kimg=10,
    ),
    # Goes on from "cpu-widen" on a large GPU, at twice the resolution.
    "gpu": replace(
        WIDE,
        kimg=100,
        batch=32,
        resolution=256,
        channel_max=256,
        remap_kimg=2,
        synthesis_rate=1.5e-3,
        encoder_rate=1.2e-3,
        falling=0.6,
        ema_half_life_kimg=5,
        warmup_kimg=2,
        shift=32,
        jitter=0.05,
        snapshot_kimg=10,
        measure_kimg=60,
        measure_pictures=826,
        precision="auto",
    ),
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
    transfer: ModelFiles | None = None,
    minutes: float | None = None,
    extractors: Mapping[str, Extractor] | None = None,
) -> bool:
    """Train, or go on training, in folder `run`; at the end write parts "generator" and "encoder" to `save`.

    Parameters
    ----------
    model
        Has parts "generator" and "grader"; its encoder, if it has one, is where the run starts, without its offsets.
    images : (K, R, R) uint8
        Model pictures of the training split.
    heldout : (M, R, R) uint8
        Knees not trained on, for the figures that typicality is made of; every `measure_kimg` some are measured on.
    save
        Model folder. Nothing is written before the run has ended: the two parts belong together.
    transfer
        Another run's snapshot to go on from, where nothing has been trained in `run` yet: its generator and encoder
        take the place of the model's.
    minutes
        Stop (resumably) after this wall time.
    extractors
        Features to measure on beside the grader's, by a short name.

    Returns
    -------
    bool
        Whether the run has ended.

    Raises
    ------
    UsageError
        The pictures do not fit the generator, the run folder is of another configuration, or processes cannot share
        the batch evenly.
    OutputError
        Another process owns the run folder, or a file cannot be written: the same call then goes on once it can.
    WeightsError
        The checkpoint is damaged, or training diverged.
    """
    with owned(run, device):
        keep_freed_memory()
        start = transfer or model
        generator = load_generator(start, device=device)
        resolution = config.resolution or generator.img_resolution
        images, heldout = checked(images, heldout, resolution=resolution, batch=config.batch)
        if config.shift >= resolution:
            raise UsageError(f"shift {config.shift}: expected less than {resolution} pixels")
        if config.z_dim and len(images) <= 2 * config.z_dim:
            raise UsageError(
                f"{len(images)} pictures are too few for a z_dim of {config.z_dim}: expected more than twice as many"
            )
        torch.manual_seed(config.seed)
        grader = Grader.from_tensors(model.tensors("grader"), model.config("grader"))
        encoder = starting_encoder(start, generator, config)
        generator = reshaped(generator, encoder.to(device), images, config)
        trainer = JointTrainer(config, generator, encoder, grader, images, device=device)
        made_of = {"grader": model.hashes()["grader"], "pictures": digest(images)}
        checkpoints = Checkpoints(run / CHECKPOINT)
        if (state := checkpoints.load()) is not None:
            changed = changed_fields(state["config"], config)
            changed |= {name for name, value in made_of.items() if state[name] != value}
            if changed:
                raise UsageError(
                    f"{run} was trained with other {', '.join(sorted(changed))}: choose another --out"
                )
            trainer.load_state_dict(state)
        elif transfer is not None:
            take_over_joint(trainer, transfer)
        measure = HeldOut.of(
            heldout,
            {"grader": _grader_features(grader.to(trainer.device), model.name), **(extractors or {})},
            most=config.measure_pictures,
            every_kimg=config.measure_kimg,
            device=trainer.device,
        )
        saved = trainer.seen_images

        def keep(log: RunLog) -> None:
            nonlocal saved
            if config.z_dim and trainer.seen_images >= 1000 * config.kimg:
                codes = encode_keys(trainer.average_encoder, images)
                made = mapping_of(codes, z_dim=config.z_dim, num_ws=generator.num_ws)
                trainer.average.mapping.load_state_dict(made.state_dict())
            kimg = trainer.seen_images / 1000
            # the snapshot first: it refuses NaN; the checkpoint last: killed before it, a run comes past here again
            save_joint_snapshot(run / "snapshot", trainer, name=model.name)
            if measure is not None and measure.is_due(trainer.seen_images, saved, 1000 * config.kimg):
                figures = measure.figures(trainer.average, trainer.average_encoder)
                log.figures(kimg, figures)
                measure.keep_if_best(
                    run,
                    figures,
                    kimg,
                    finish=lambda folder: write_parts(trainer, heldout, folder, model.name),
                )
            log.image("samples", save_samples(run / f"samples_{kimg:07.2f}.png", trainer), kimg)
            checkpoints.save(trainer.state_dict() | made_of)
            saved = trainer.seen_images

        ended = run_steps(
            trainer,
            run,
            total_kimg=config.kimg,
            snapshot_kimg=config.snapshot_kimg,
            minutes=minutes,
            save=keep,
        )
        if trainer.team.leads and ended:
            write_parts(trainer, heldout, save, model.name)
            tell_best(run)
        return ended


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


def _grader_features(grader: Grader, model: str) -> Extractor:
    """Features of the networks that training does not look through; of the one network, if there is no other."""
    others = grader.members[1:] or grader.members
    which = "all but the one of the loss" if grader.members[1:] else "the one of the loss"
    features = Grader(others, input_resolution=grader.input_resolution).features
    return Extractor(f"grader of {model} ({len(others)} networks, {which})", features)


def reshaped(generator: Generator, encoder: Encoder, images: Tensor, config: JointConfig) -> Generator:
    """The generator as large as the run wants it and, for another z_dim, W moved to where its mapping will be made."""
    base, most = config.channel_base or generator.channel_base, config.channel_max or generator.channel_max
    if (base, most) != (generator.channel_base, generator.channel_max):
        generator = widen(generator, channel_base=base, channel_max=most)
    while generator.img_resolution < (config.resolution or 0):
        generator = enlarge(generator)
    if generator.img_resolution != (config.resolution or generator.img_resolution):
        raise UsageError(
            f"resolution {config.resolution}: expected that of the generator or a power of two above it, "
            f"not below {generator.img_resolution}"
        )
    if config.z_dim is None:
        return generator
    codes = encode_keys(encoder.eval(), images)
    if float(codes.std(dim=0).max()) == 0:
        raise UsageError(
            f"z_dim {config.z_dim}: the mapping network is made from knees' codes, so the model needs an encoder"
        )
    if (generator.z_dim, generator.mapping_layers) == (config.z_dim, 2) and lies_above_0(codes):
        return generator
    again = Generator(**(generator.config() | {"z_dim": config.z_dim, "mapping_layers": 2})).cpu()
    again.synthesis.load_state_dict(generator.synthesis.state_dict())
    shift = move(again.synthesis, codes)
    encoder.w_mean += shift.to(encoder.w_mean.device)
    return again.to(next(generator.parameters()).device)


def starting_encoder(model: ModelFiles, generator: Generator, config: JointConfig) -> Encoder:
    """The model's encoder without its offsets, or a new one that codes every knee as the mean of W.

    It is made for the run's resolution, if that is above the generator's.
    """
    resolution = max(generator.img_resolution, config.resolution or 0)
    larger = resolution // generator.img_resolution
    num_ws = generator.num_ws + 2 * (larger.bit_length() - 1)
    if "encoder" in model.parts:
        given = read_encoder(model)
        shape = EncoderConfig(**given.config())
        wanted = (generator.img_resolution, generator.num_ws, generator.w_dim)
        if (shape.resolution, shape.num_ws, shape.w_dim) != wanted:
            raise UsageError(
                f"{model.folder} holds an encoder of another shape than its generator: remove it"
            )
        pool = shape.pool * larger
        encoder = Encoder(replace(shape, resolution=resolution, num_ws=num_ws, pool=pool, offset_rank=0))
        encoder.load_state_dict({k: v for k, v in given.state_dict().items() if k in encoder.state_dict()})
        return encoder
    encoder = Encoder(
        EncoderConfig(
            resolution,
            num_ws,
            generator.w_dim,
            generator.img_channels,
            config.width,
            config.max_width,
            offset_rank=0,
        )
    )
    encoder.w_mean.copy_(Whitening.of(generator).w_mean)
    return encoder
