"""Train an encoder for a given generator: E(g(w)) ≈ w on samples, g(E(x)) ≈ x on real knees.

For a generator that must stay as it is. Where it may change too, `progression.train.joint` gives better codes.

With E(x) = (b, o), base and offsets, σ the spread of w a coordinate and f optional features (a grader's),

    L = λ_w·[mean (b - w)²/σ² + mean o²/σ²]                                    on x = g(w), known w
      + λ_p·pyramid(g(b + o), x) + λ_2·mean (g(b + o) - x)² + λ_f·mean (f(g(b + o)) - f(x))²   on real x
      + λ_o·mean o²/σ² + λ_r·max(0, radius(b) - 1)²                            on real x

The last two keep codes where displacements mean the same for all knees (the distortion/editability
trade-off of e4e, arXiv 2102.02766). What is kept is a running mean of the weights.

Everything random in step i comes from (seed, i) alone, so a run that was killed goes on exactly.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from progression.encoder import Encoder, EncoderConfig
from progression.errors import UsageError
from progression.latent.invert import frozen, precision
from progression.latent.part import EncoderPart, code_figures, from_bytes, load_generator, read_encoder
from progression.latent.typicality import Typicality
from progression.latent.whiten import Whitening
from progression.memory import keep_freed_memory
from progression.stylegan2 import Generator
from progression.train.checkpoint import Checkpoints
from progression.train.encoder_losses import EncoderLosses, Features
from progression.train.loop import batch_indices, ema_beta, tensors_to, update_ema
from progression.train.run_folder import owned
from progression.train.run_log import RunLog
from progression.train.sheet import save_sheet
from progression.weights import ModelFiles

CHECKPOINT = "encoder.pt"
GRADIENT_NORM = 5.0
WEIGHTS = ("latent", "pyramid", "pixel", "feature", "offset", "radius")


@dataclass(frozen=True)
class EncoderTraining:
    """How an encoder is trained.

    Attributes
    ----------
    kimg : length, thousands of real pictures seen (as many samples are seen beside them)
    batch : real pictures a step, and samples a step
    learning_rate : of Adam; rises over the first `warmup_kimg`, then falls along a half cosine to 0
    ema_kimg : half-life of the running mean of the weights, at most a twentieth of what was seen so far
    width, max_width : of the encoder
    bfloat16 : run networks in bfloat16 where that is safe
    latent, pyramid, pixel, feature, offset, radius : λ_w, λ_p, λ_2, λ_f, λ_o, λ_r
    """

    kimg: float
    batch: int
    learning_rate: float = 2e-3
    warmup_kimg: float = 1.0
    ema_kimg: float = 2.0
    width: int = 24
    max_width: int = 256
    bfloat16: bool = True
    latent: float = 0.5
    pyramid: float = 1.0
    pixel: float = 2.0
    feature: float = 0.2
    offset: float = 0.02
    radius: float = 0.1


PRESETS = {
    # 128², channel base 2048: about half an hour on one core.
    "cpu": EncoderTraining(kimg=30, batch=8),
    # 256²: a few minutes on one large GPU.
    "gpu": EncoderTraining(kimg=1000, batch=64, warmup_kimg=10, ema_kimg=20, width=32, max_width=384),
}


def train_encoder(
    model: ModelFiles,
    images: Tensor,
    *,
    run: str | Path,
    preset: EncoderTraining,
    heldout: Tensor | None = None,
    features: Features | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    log_seconds: float = 10.0,
    checkpoint_seconds: float = 120.0,
) -> EncoderPart:
    """Train, or go on training, an encoder for the model's generator.

    The state lies in `run`, and the same call goes on from it exactly. A new run, or one whose generator
    has changed since, starts from the model's own encoder; if it has none, from the weights that the run has
    reached; else from scratch.

    Parameters
    ----------
    model
        Has part "generator".
    images : (N, R, R) uint8
        Real knees, model orientation and exposure.
    run
        Folder of checkpoint, curves and sample sheets.
    preset
        Length and weights.
    heldout : (M, R, R) uint8, optional
        Knees not trained on, for the figures that typicality is made of; the last tenth of `images` is set
        aside if absent, so hand in knees in an order in which no subject is on both sides of that cut.
    features
        Whose features reconstructions must keep, such as a grader's.
    seed
        Of everything random.

    Raises
    ------
    UsageError
        If the pictures do not fit the generator, or the run folder is of another preset.
    OutputError
        If another process owns the run folder, or a file cannot be written: the same call then goes on once it can.
    WeightsError
        If the checkpoint is damaged.
    """
    run = Path(run)
    with owned(run):
        generator = load_generator(model, device=device)
        images, heldout = checked(images, heldout, resolution=generator.img_resolution, batch=preset.batch)
        keep_freed_memory()
        checkpoints = Checkpoints(run / CHECKPOINT)
        state = _State.open(checkpoints, run, model, generator, preset, device=device, seed=seed)
        losses = EncoderLosses(
            generator,
            state.whitening,
            weights={name: getattr(preset, name) for name in WEIGHTS},
            features=features,
            bfloat16=preset.bfloat16,
        )
        total = math.ceil(preset.kimg * 1000 / preset.batch)
        told = saved = time.monotonic()
        with frozen(generator), RunLog(run, total=preset.kimg, unit="kimg", done=state.seen / 1000) as log:
            while state.step < total:
                terms = state.advance(losses, images, total=total)
                last = state.step == total
                if last or time.monotonic() - told > log_seconds:
                    told = time.monotonic()
                    log.write(state.seen / 1000, {f"encoder/{name}": value for name, value in terms.items()})
                if last or time.monotonic() - saved > checkpoint_seconds:
                    saved = time.monotonic()
                    write_sheet(run / f"sheet-{state.seen / 1000:07.1f}.png", generator, state.average)
                    checkpoints.save(state.to_save())
            return finish(generator, state.average, state.whitening, heldout)


def finish(generator: Generator, encoder: Encoder, whitening: Whitening, heldout: Tensor) -> EncoderPart:
    """The part to ship: the encoder with typicality measured on held-out knees (M, R, R) uint8."""
    encoder = copy.deepcopy(encoder).eval().requires_grad_(False)
    found = []
    # in full precision, as users will have it
    with torch.no_grad(), precision(generator, torch.float32):
        for part in heldout.split(64):
            x = from_bytes(part, encoder.w_mean.device)
            found.append(code_figures(generator, whitening, encoder(x), x))
    error, radius = (torch.cat(figure).cpu() for figure in zip(*found, strict=True))
    return EncoderPart(encoder, whitening, Typicality.fit(error, radius))


@torch.no_grad()
def write_sheet(path: Path, generator: Generator, encoder: Encoder) -> None:
    """Eight samples over their reconstructions; synthetic pictures only, so that the sheet may be shown."""
    z = torch.randn(8, generator.z_dim, generator=torch.Generator().manual_seed(0))
    samples = generator.synthesis(generator.mapping(z.to(encoder.w_mean.device), None), noise_mode="const")
    again = generator.synthesis(encoder(samples), noise_mode="const")
    save_sheet(path, torch.stack([samples[:, 0], again[:, 0]]))


@dataclass
class _State:
    """All that a run needs to go on."""

    encoder: Encoder
    average: Encoder
    adam: torch.optim.Adam
    whitening: Whitening
    preset: EncoderTraining
    generator_hash: str
    seed: int
    step: int = 0

    @property
    def seen(self) -> int:
        """Real pictures so far."""
        return self.step * self.preset.batch

    @classmethod
    def open(
        cls,
        checkpoints: Checkpoints,
        run: Path,
        model: ModelFiles,
        generator: Generator,
        preset: EncoderTraining,
        *,
        device: torch.device | str,
        seed: int,
    ) -> _State:
        saved = checkpoints.load()
        generator_hash = model.hashes()["generator"]
        resumed = saved is not None and saved["generator_hash"] == generator_hash
        torch.manual_seed(seed)
        if saved is not None and (resumed or "encoder" not in model.parts):
            encoder = Encoder(EncoderConfig(**saved["config"]))
            encoder.load_state_dict(saved["encoder" if resumed else "average"])
        elif "encoder" in model.parts:
            encoder = read_encoder(model)
        else:
            encoder = Encoder(_shape(generator, preset))
        if encoder.config()["resolution"] != generator.img_resolution:
            raise UsageError(
                f"{run} or {model.folder} holds an encoder for {encoder.config()['resolution']} pixels, the "
                f"generator has {generator.img_resolution}: choose another run folder or remove that encoder"
            )
        whitening = Whitening.of(generator)
        if not resumed:
            encoder.w_mean.copy_(whitening.w_mean)
        encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        adam = torch.optim.Adam(encoder.parameters(), lr=preset.learning_rate, betas=(0.9, 0.99))
        average = copy.deepcopy(encoder).eval().requires_grad_(False)
        state = cls(encoder, average, adam, whitening, preset, generator_hash, seed)
        if saved is not None and resumed:
            state._resume(saved, run, torch.device(device))
        return state

    def _resume(self, saved: dict[str, Any], run: Path, device: torch.device) -> None:
        before = replace(EncoderTraining(**saved["preset"]), kimg=self.preset.kimg)
        if saved["seed"] != self.seed or before != self.preset:
            raise UsageError(
                f"{run} was started with other options or another seed: choose another run folder"
            )
        self.average.load_state_dict(saved["average"])
        self.adam.load_state_dict(tensors_to(saved["adam"], device))
        self.step = int(saved["step"])

    def to_save(self) -> dict[str, Any]:
        """What the checkpoint holds."""
        return {
            "config": self.encoder.config(),
            "encoder": self.encoder.state_dict(),
            "average": self.average.state_dict(),
            "adam": self.adam.state_dict(),
            "preset": asdict(self.preset),
            "generator_hash": self.generator_hash,
            "seed": self.seed,
            "step": self.step,
        }

    def advance(self, losses: EncoderLosses, images: Tensor, *, total: int) -> dict[str, float]:
        """One step of Adam; returns L and its terms."""
        preset, device = self.preset, self.encoder.w_mean.device
        draws = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        z = torch.randn(preset.batch, losses.generator.z_dim, generator=draws).to(device)
        rows = batch_indices(len(images), preset.batch, position=self.seen, seed=self.seed)
        warm = min(1.0, (self.seen + preset.batch) / (preset.warmup_kimg * 1000))
        fall = 0.5 + 0.5 * math.cos(math.pi * self.step / total)
        self.adam.param_groups[0]["lr"] = preset.learning_rate * warm * fall
        self.encoder.train()
        loss, terms = losses(self.encoder, z, from_bytes(images[rows], device))
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), GRADIENT_NORM)
        self.adam.step()
        self.step += 1
        beta = ema_beta(preset.batch, half_life_kimg=preset.ema_kimg, seen_images=self.seen, rampup=0.05)
        update_ema(self.average, self.encoder, beta)
        return {"loss": float(loss.detach()), **terms}


def _shape(generator: Generator, preset: EncoderTraining) -> EncoderConfig:
    return EncoderConfig(
        resolution=generator.img_resolution,
        num_ws=generator.num_ws,
        w_dim=generator.w_dim,
        img_channels=generator.img_channels,
        width=preset.width,
        max_width=preset.max_width,
    )


def checked(images: Tensor, heldout: Tensor | None, *, resolution: int, batch: int) -> tuple[Tensor, Tensor]:
    """Training and held-out pictures, or an error if they do not fit."""
    if images.ndim != 3 or images.shape[1:] != (resolution, resolution) or images.dtype != torch.uint8:
        raise UsageError(
            f"expected uint8 pictures (N, {resolution}, {resolution}) as the generator's, "
            f"got {images.dtype} {tuple(images.shape)}"
        )
    if heldout is None:
        cut = max(1, len(images) // 10)
        images, heldout = images[:-cut], images[-cut:]
    if len(images) < batch or len(heldout) < 2:
        raise UsageError(
            f"{len(images)} training and {len(heldout)} held-out pictures: expected at least one batch "
            f"({batch}) and two; use more pictures or a smaller batch"
        )
    return images, heldout
