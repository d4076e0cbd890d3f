"""Train an encoder for a given generator: E(g(w)) ≈ w on samples, g(E(x)) ≈ x on real knees.

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from progression.encoder import Encoder, EncoderConfig
from progression.errors import UsageError, WeightsError
from progression.files import atomic_write
from progression.latent.invert import frozen
from progression.latent.part import EncoderPart, code_figures
from progression.latent.typicality import Typicality
from progression.latent.whiten import Whitening
from progression.stylegan2 import Generator
from progression.train.encoder_losses import EncoderLosses, Features, precision
from progression.weights import ModelFiles

CHECKPOINT = "encoder.pt"
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
    checkpoint_seconds: float = 60.0,
    report: Callable[[str], None] = print,
) -> EncoderPart:
    """Train, or go on training, an encoder for the model's generator.

    The state lies in `run`. The same call goes on from it: with the same generator exactly where it stopped,
    with another one from the weights reached so far, at a fresh schedule.

    Parameters
    ----------
    model
        Has part "generator".
    images : (N, R, R) uint8
        Real knees, model orientation and exposure.
    run
        Folder of checkpoint, TensorBoard curves and sample sheets.
    preset
        Length and weights.
    heldout : (M, R, R) uint8, optional
        Knees not trained on, for the figures that typicality is made of; the last tenth of `images` is set
        aside if absent, so hand in knees in an order in which no subject is on both sides of that cut.
    features
        Whose features reconstructions must keep, such as a grader's.
    seed
        Of everything random.
    report
        Called with one line of progress every few seconds.

    Raises
    ------
    UsageError
        If the pictures do not fit the generator, or the run folder is of another preset.
    """
    generator = load_generator(model, device)
    resolution = generator.img_resolution
    if images.ndim != 3 or images.shape[1:] != (resolution, resolution) or images.dtype != torch.uint8:
        raise UsageError(
            f"expected uint8 pictures (N, {resolution}, {resolution}) as the generator's, "
            f"got {images.dtype} {tuple(images.shape)}"
        )
    if heldout is None:
        cut = max(1, len(images) // 10)
        images, heldout = images[:-cut], images[-cut:]
    if len(images) < preset.batch or len(heldout) < 2:
        raise UsageError(
            f"{len(images)} training and {len(heldout)} held-out pictures: expected at least one batch "
            f"({preset.batch}) and two; use more pictures or a smaller batch"
        )
    digest = model.hashes()["generator"]
    state = _State.open(Path(run), generator, preset, digest=digest, device=device, seed=seed)
    if state.note:
        report(state.note)
    losses = EncoderLosses(
        generator,
        state.whitening,
        weights={name: getattr(preset, name) for name in WEIGHTS},
        features=features,
        bfloat16=preset.bfloat16,
    )
    total = math.ceil(preset.kimg * 1000 / preset.batch)
    started, start_step, saved, told = time.monotonic(), state.step, time.monotonic(), 0.0
    with _curves(Path(run)) as curve, frozen(generator):
        while state.step < total:
            terms = _train_step(state, losses, images, total=total, device=device)
            now = time.monotonic()
            if now - told > 5 or state.step == total:
                told = now
                rate = (state.step - start_step) * preset.batch / max(now - started, 1e-9)
                report(_line(state.step, total, preset.batch, rate, terms))
                for name, value in terms.items():
                    curve(f"encoder/{name}", value, state.step * preset.batch)
            if now - saved > checkpoint_seconds or state.step == total:
                saved = now
                state.save(Path(run))
                _sheet(Path(run), generator, state, kimg=state.step * preset.batch / 1000)
        part = finish(generator, state.average, state.whitening, heldout, device=device)
        error, _ = _figures_of(generator, part.encoder, part.whitening, heldout, device=device)
    report(f"held-out knees: pyramid distance {float(error.median()):.4f} (median)")
    return part


def load_generator(model: ModelFiles, device: torch.device | str) -> Generator:
    """The model's generator, in evaluation mode."""
    generator = Generator(**model.config("generator"))
    try:
        generator.load_state_dict(model.tensors("generator"))
    except RuntimeError as error:
        raise WeightsError(f"the generator of {model.folder} does not fit its configuration") from error
    generator = generator.to(device).eval()
    generator.synthesis.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return generator


def finish(
    generator: Generator,
    encoder: Encoder,
    whitening: Whitening,
    heldout: Tensor,
    *,
    device: torch.device | str = "cpu",
) -> EncoderPart:
    """The part to ship: the encoder with typicality measured on held-out knees (M, R, R) uint8."""
    encoder = copy.deepcopy(encoder).eval().requires_grad_(False)
    error, radius = _figures_of(generator, encoder, whitening, heldout, device=device)
    return EncoderPart(encoder, whitening, Typicality.fit(error, radius))


def _figures_of(
    generator: Generator,
    encoder: Encoder,
    whitening: Whitening,
    images: Tensor,
    *,
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """Reconstruction errors and whitened radii (M,), in full precision, as users will get them."""
    found = []
    with torch.no_grad(), precision(generator, torch.float32):
        for part in images.split(64):
            x = to_range(part, device)
            found.append(code_figures(generator, whitening, encoder(x), x))
    errors, radii = zip(*found, strict=True)
    return torch.cat(errors).cpu(), torch.cat(radii).cpu()


def to_range(images: Tensor, device: torch.device | str) -> Tensor:
    """Quantised pictures (N, R, R) uint8 → (N, 1, R, R) float32 in [-1, 1]."""
    return images[:, None].to(device).float() / 127.5 - 1


@dataclass
class _State:
    """All that a run needs to go on."""

    encoder: Encoder
    average: Encoder
    adam: torch.optim.Adam
    whitening: Whitening
    preset: EncoderTraining
    digest: str
    seed: int
    step: int = 0
    note: str = ""

    @classmethod
    def open(
        cls,
        run: Path,
        generator: Generator,
        preset: EncoderTraining,
        *,
        digest: str,
        device: torch.device | str,
        seed: int,
    ) -> _State:
        whitening = Whitening.of(generator)
        torch.manual_seed(seed)
        encoder = Encoder(
            EncoderConfig(
                resolution=generator.img_resolution,
                num_ws=generator.num_ws,
                w_dim=generator.w_dim,
                img_channels=generator.img_channels,
                width=preset.width,
                max_width=preset.max_width,
            )
        )
        encoder = encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        encoder.w_mean.copy_(whitening.w_mean)
        state = cls(
            encoder,
            copy.deepcopy(encoder).requires_grad_(False),
            torch.optim.Adam(encoder.parameters(), lr=preset.learning_rate, betas=(0.9, 0.99)),
            whitening,
            preset,
            digest,
            seed,
        )
        if (run / CHECKPOINT).is_file():
            state._resume(torch.load(run / CHECKPOINT, map_location=device, weights_only=True), run)
        return state

    def _resume(self, saved: dict[str, Any], run: Path) -> None:
        if saved["config"] != self.encoder.config():
            raise UsageError(
                f"{run} holds an encoder of another shape (resolution or width): choose another run folder"
            )
        self.encoder.load_state_dict(saved["encoder"])
        if saved["digest"] != self.digest:
            # The best that the old run has is its average; whatever moved with the generator is found again.
            self.encoder.load_state_dict(saved["average"])
            self.encoder.w_mean.copy_(self.whitening.w_mean)
            self.average.load_state_dict(self.encoder.state_dict())
            self.note = "the generator has changed: going on from the encoder reached so far, schedule from 0"
            return
        if saved["seed"] != self.seed or replace(EncoderTraining(**saved["preset"]), kimg=0) != replace(
            self.preset, kimg=0
        ):
            raise UsageError(
                f"{run} was started with other options or another seed: choose another run folder"
            )
        self.average.load_state_dict(saved["average"])
        self.adam.load_state_dict(saved["adam"])
        self.step = int(saved["step"])
        self.note = f"going on at {self.step * self.preset.batch / 1000:.1f} kimg"

    def save(self, run: Path) -> None:
        content = {
            "config": self.encoder.config(),
            "encoder": self.encoder.state_dict(),
            "average": self.average.state_dict(),
            "adam": self.adam.state_dict(),
            "preset": asdict(self.preset),
            "digest": self.digest,
            "seed": self.seed,
            "step": self.step,
        }
        with atomic_write(run / CHECKPOINT) as temporary:
            torch.save(content, temporary)

    @torch.no_grad()
    def update_average(self) -> None:
        seen = self.step * self.preset.batch
        half_life = min(self.preset.ema_kimg * 1000, seen / 20)
        decay = 0.5 ** (self.preset.batch / max(half_life, 1e-8))
        for mean, value in zip(self.average.parameters(), self.encoder.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
        for kept, latest in zip(self.average.buffers(), self.encoder.buffers(), strict=True):
            kept.copy_(latest)


def _train_step(
    state: _State, losses: EncoderLosses, images: Tensor, *, total: int, device: torch.device | str
) -> dict[str, float]:
    preset = state.preset
    draws = torch.Generator().manual_seed(state.seed * 1_000_003 + state.step)
    z = torch.randn(preset.batch, losses.generator.z_dim, generator=draws).to(device)
    real = to_range(images[batch_rows(state.step, preset.batch, len(images), seed=state.seed)], device)
    warm = min(1.0, (state.step + 1) * preset.batch / (preset.warmup_kimg * 1000))
    fall = 0.5 + 0.5 * math.cos(math.pi * state.step / total)
    state.adam.param_groups[0]["lr"] = preset.learning_rate * warm * fall
    state.encoder.train()
    loss, terms = losses(state.encoder, z, real)
    state.adam.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(state.encoder.parameters(), 5.0)
    state.adam.step()
    state.step += 1
    state.update_average()
    return {"loss": float(loss.detach()), **terms}


def batch_rows(step: int, batch: int, count: int, *, seed: int) -> Tensor:
    """Rows of a step's batch; every epoch is a fresh permutation without its last incomplete batch."""
    epoch, place = divmod(step, count // batch)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 7919 + epoch))
    return order[place * batch : (place + 1) * batch]


@contextmanager
def _curves(run: Path) -> Iterator[Callable[[str, float, int], object]]:
    """TensorBoard's scalar writer, or nothing where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield lambda name, value, step: None
        return
    with SummaryWriter(str(run)) as writer:
        yield writer.add_scalar


def _line(step: int, total: int, batch: int, rate: float, terms: dict[str, float]) -> str:
    left = (total - step) * batch / max(rate, 1e-9)
    figures = " ".join(f"{name} {value:.4f}" for name, value in terms.items())
    return (
        f"{step * batch / 1000:.2f}/{total * batch / 1000:.0f} kimg, {rate:.1f} img/s, "
        f"{left / 60:.0f} min left: {figures}"
    )


@torch.no_grad()
def _sheet(run: Path, generator: Generator, state: _State, *, kimg: float) -> None:
    """Eight samples over their reconstructions; synthetic pictures only, so that the sheet may be shown."""
    from PIL import Image

    z = torch.randn(8, generator.z_dim, generator=torch.Generator().manual_seed(0))
    ws = generator.mapping(z.to(state.encoder.w_mean.device), None)
    samples = generator.synthesis(ws, noise_mode="const")
    again = generator.synthesis(state.average.eval()(samples), noise_mode="const")
    rows = [torch.cat(list(picture[:, 0]), dim=1) for picture in (samples, again)]
    grey = ((torch.cat(rows) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    with atomic_write(run / f"sheet-{kimg:07.1f}.png") as temporary:
        Image.fromarray(grey).save(temporary)
