"""Train the generator: StyleGAN2-ADA (arXiv 1912.04958, 2006.06676).

    L_D = −log σ(D(x)) − log(1 − σ(D(G(z)))) + γ/2 ‖∇D(x)‖²             (R1, every r1_interval steps)
    L_G = −log σ(D(G(z))) + λ_path (‖J_wᵀy‖ − a)²                       (every path_interval steps)

Every random draw comes from generators whose state is in the checkpoint and batches are a function of the
image count, so that a killed run continues as if it had never stopped.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from progression.errors import UsageError
from progression.stylegan2 import Discriminator, Generator
from progression.stylegan2.ada import AdaptiveAugmentation
from progression.stylegan2.losses import (
    discriminator_loss,
    generator_loss,
    path_length_penalty,
    path_lengths,
    r1_penalty,
)
from progression.train.allocator import keep_freed_memory
from progression.train.loop import (
    RunLog,
    batch_indices,
    ema_beta,
    load_checkpoint,
    preset_of,
    save_checkpoint,
    tensors_to,
    update_ema,
)
from progression.train.snapshot import save_samples, save_snapshot, take_over
from progression.weights import load_model


@dataclass(frozen=True)
class GanConfig:
    """A run, as reproduced by one command.

    Attributes
    ----------
    resolution : side of the pictures, pixels; a power of two, 8 or more
    total_kimg : real images shown before the run ends, in thousands
    batch : real images a step
    r1_gamma : γ of R1; the rule 0.0002·R²/batch of StyleGAN2-ADA is used where it is None
    path_interval : steps between path-length steps, 0 for none
    ada_target : r_t that the augmentation strength aims at; None for no augmentation
    compute_dtype : precision of activations, "float32" or "bfloat16"

    Raises
    ------
    UsageError
        For a value out of its range.
    """

    resolution: int = 128
    total_kimg: float = 100.0
    batch: int = 16
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 2
    channel_base: int = 2048
    channel_max: int = 128
    mbstd_group_size: int = 4
    learning_rate: float = 0.0025
    r1_gamma: float | None = None
    r1_interval: int = 16
    path_weight: float = 2.0
    path_interval: int = 8
    style_mixing: float = 0.5
    ema_half_life_kimg: float = 5.0
    ema_rampup: float | None = 0.1
    ada_target: float | None = None
    compute_dtype: str = "bfloat16"
    snapshot_kimg: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        whole = ("batch", "z_dim", "w_dim", "mapping_layers", "channel_base", "channel_max",
                 "mbstd_group_size", "r1_interval")  # fmt: skip
        ranges = (
            ("a power of two, 8 or more", ("resolution",), lambda v: v >= 8 and v & (v - 1) == 0),
            ("1 or more", whole, lambda v: v >= 1),
            ("above 0", ("total_kimg", "snapshot_kimg", "learning_rate", "ema_half_life_kimg"), lambda v: v > 0),
            ("0 or more", ("r1_gamma", "path_weight", "path_interval", "ema_rampup", "seed"), lambda v: v >= 0),
            ("from 0 to 1", ("style_mixing", "ada_target"), lambda v: 0 <= v <= 1),
            ("float32 or bfloat16", ("compute_dtype",), lambda v: v in ("float32", "bfloat16")),
        )  # fmt: skip
        for expected, names, fits in ranges:
            for name in names:
                if (value := getattr(self, name)) is not None and not fits(value):
                    raise UsageError(f"GAN training: {name} is {value}, expected {expected}")

    @property
    def gamma(self) -> float:
        """R1 weight γ."""
        return 0.0002 * self.resolution**2 / self.batch if self.r1_gamma is None else self.r1_gamma


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
    ),
}
"""`cpu` (128²) starts from the snapshot of `cpu-64`; the two are what a CPU does in some hours."""


class GanTrainer:
    """The networks, their optimisers and one training step.

    Parameters
    ----------
    images : (K, R, R) uint8 model pictures, x = images / 127.5 − 1.
    """

    def __init__(self, config: GanConfig, images: Tensor, *, device: torch.device | str = "cpu") -> None:
        if images.dtype != torch.uint8 or images.shape[1:] != (config.resolution,) * 2:
            raise UsageError(
                f"expected uint8 pictures of {config.resolution}² pixels, got {images.dtype} {tuple(images.shape)}"
            )
        if len(images) < config.batch:
            raise UsageError(
                f"{len(images)} training pictures for a batch of {config.batch}: give more pictures"
            )
        self.config, self.images, self.device = config, images, torch.device(device)
        torch.manual_seed(config.seed)
        self.generator = Generator(
            config.z_dim,
            0,
            config.w_dim,
            config.resolution,
            1,
            config.mapping_layers,
            config.channel_base,
            config.channel_max,
        )
        self.discriminator = Discriminator(
            0, config.resolution, 1, config.channel_base, config.channel_max, config.mbstd_group_size
        )
        for network in (self.generator, self.discriminator):
            network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._set_precision()
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        # Adam's correction for lazy regularisation (arXiv 1912.04958 App. B) makes up for its extra steps. The path
        # penalty has a step of its own. R1 is part of the discriminator's main step here, so none would be due there;
        # its ratio (16/17 at interval 16) is kept because the shipped weights were trained with it.
        r1_ratio = config.r1_interval / (config.r1_interval + 1)
        path_ratio = config.path_interval / (config.path_interval + 1) if config.path_interval else 1.0
        self.optimizers = {
            "generator": self._adam(self.generator, path_ratio),
            "discriminator": self._adam(self.discriminator, r1_ratio),
        }
        self.rng = torch.Generator(self.device).manual_seed(config.seed)
        self.host_rng = torch.Generator().manual_seed(config.seed + 1)  # choices that the host must know
        self.seen_images = 0
        self.path_mean = torch.zeros([], device=self.device)
        self.augment: nn.Module | None = None
        self.ada: AdaptiveAugmentation | None = None
        if config.ada_target is not None:
            self.ada = AdaptiveAugmentation(target=config.ada_target)
            self.augment = self.ada.pipeline.to(self.device)

    # ---- one step -------------------------------------------------------------------------------------------

    def step(self) -> dict[str, Tensor]:
        """Train on one batch; returns scalars (detached)."""
        config = self.config
        index = batch_indices(len(self.images), config.batch, position=self.seen_images, seed=config.seed)
        real = self.images[index].to(self.device)[:, None].float() / 127.5 - 1
        turn = self.seen_images // config.batch
        scalars = self._generator_step()
        if config.path_interval and turn % config.path_interval == 0:
            scalars |= self._path_step()
        scalars |= self._discriminator_step(real, regularise=turn % config.r1_interval == 0)
        self.seen_images += config.batch
        beta = ema_beta(
            config.batch,
            half_life_kimg=config.ema_half_life_kimg,
            seen_images=self.seen_images,
            rampup=config.ema_rampup,
        )
        update_ema(self.average, self.generator, beta)
        return scalars

    def _generator_step(self) -> dict[str, Tensor]:
        self.discriminator.requires_grad_(False)
        self.optimizers["generator"].zero_grad(set_to_none=True)
        fakes = self._render(self._sample(self.config.batch, update_w_avg=True))
        loss = generator_loss(self.discriminator(self._augment(fakes)))
        loss.backward()
        self.optimizers["generator"].step()
        self.discriminator.requires_grad_(True)
        return {"loss_g": loss.detach()}

    def _path_step(self) -> dict[str, Tensor]:
        config = self.config
        self.optimizers["generator"].zero_grad(set_to_none=True)
        ws = self._sample(max(1, config.batch // 2))
        fakes = self._render(ws)
        noise = torch.randn(fakes.shape, device=self.device, generator=self.rng)
        lengths = path_lengths(fakes, ws, noise)
        penalty, self.path_mean = path_length_penalty(lengths, self.path_mean)
        (penalty * config.path_weight * config.path_interval).backward()
        self.optimizers["generator"].step()
        return {"path_length": self.path_mean, "path_penalty": penalty.detach()}

    def _discriminator_step(self, real: Tensor, *, regularise: bool) -> dict[str, Tensor]:
        config = self.config
        self.optimizers["discriminator"].zero_grad(set_to_none=True)
        with torch.no_grad():
            fakes = self._augment(self._render(self._sample(config.batch)))
        shown = self._augment(real).detach().requires_grad_(regularise)
        real_logits = self.discriminator(shown)
        loss = discriminator_loss(real_logits, self.discriminator(fakes))
        scalars = {"loss_d": loss.detach(), "sign_real": real_logits.detach().sign().mean()}
        if regularise:
            # with respect to the augmented picture, which is what D sees
            penalty = r1_penalty(shown, real_logits).mean()
            scalars["r1"] = penalty.detach()
            loss = loss + penalty * (config.gamma / 2 * config.r1_interval)
        loss.backward()
        self.optimizers["discriminator"].step()
        if self.ada is not None:
            self.ada.update(real_logits.detach())
            scalars["augment_p"] = torch.tensor(self.ada.p)
        return scalars

    def _sample(self, count: int, *, update_w_avg: bool = False) -> Tensor:
        """f(z) for fresh z, with style mixing: (count, L, w_dim)."""
        z = torch.randn(count, self.config.z_dim, device=self.device, generator=self.rng)
        ws: Tensor = self.generator.mapping(z, update_w_avg=update_w_avg)
        if self.config.style_mixing > 0:
            draws = torch.rand(2, generator=self.host_rng)
            other = torch.randn(z.shape, device=self.device, generator=self.rng)
            if draws[0] < self.config.style_mixing:
                cut = 1 + int(draws[1] * (ws.shape[1] - 1))
                ws = torch.cat([ws[:, :cut], self.generator.mapping(other)[:, cut:]], dim=1)
        return ws

    def _render(self, ws: Tensor) -> Tensor:
        image: Tensor = self.generator.synthesis(ws, noise_mode="random", generator=self.rng)
        return image

    def _augment(self, x: Tensor) -> Tensor:
        return x if self.augment is None else self.augment(x, generator=self.host_rng)

    # ---- state ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs."""
        return {
            "config": asdict(self.config),
            "seen_images": self.seen_images,
            "networks": {name: net.state_dict() for name, net in self.networks().items()},
            "average": self.average.state_dict(),
            "optimizers": {name: adam.state_dict() for name, adam in self.optimizers.items()},
            "rng": self.rng.get_state(),
            "host_rng": self.host_rng.get_state(),
            "path_mean": self.path_mean,
            "ada": self.ada.state_dict() if self.ada is not None else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()` of a run with the same configuration."""
        for name, net in self.networks().items():
            net.load_state_dict(state["networks"][name])
        self.average.load_state_dict(state["average"])
        for name, adam in self.optimizers.items():
            adam.load_state_dict(state["optimizers"][name])
        self.rng.set_state(state["rng"].cpu())
        self.host_rng.set_state(state["host_rng"])
        self.seen_images = int(state["seen_images"])
        self.path_mean = tensors_to(state["path_mean"], self.device)
        if self.ada is not None:
            self.ada.load_state_dict(state["ada"])

    def networks(self) -> dict[str, nn.Module]:
        """What is trained, by name."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    def _set_precision(self) -> None:
        dtype = getattr(torch, self.config.compute_dtype)
        self.generator.synthesis.compute_dtype = self.discriminator.compute_dtype = dtype

    def _adam(self, network: nn.Module, ratio: float) -> torch.optim.Adam:
        """Adam with rate and decay corrected by `ratio`."""
        rate = self.config.learning_rate * ratio
        return torch.optim.Adam(network.parameters(), lr=rate, betas=(0.0, 0.99**ratio), eps=1e-8)


def train_gan(
    images: Tensor,
    out: Path,
    *,
    config: GanConfig,
    device: str = "cpu",
    transfer: Path | None = None,
    minutes: float | None = None,
) -> Path:
    """Train, or go on training, in folder `out`; returns the folder of the model's newest snapshot.

    Files: `checkpoint.pt` (exact state, rewritten every `snapshot_kimg`), `snapshot/` (the portable model folder:
    averaged generator, discriminator, half precision), `samples_<kimg>.png`, `log.jsonl`.

    Parameters
    ----------
    images : (K, R, R) uint8 model pictures of the training split.
    transfer : model folder with parts to start from, where nothing has been trained in `out` yet.
    minutes : stop (resumably) after this wall time.
    """
    out.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    trainer = GanTrainer(config, images, device=device)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        state = load_checkpoint(checkpoint)
        changed = {k for k, v in asdict(config).items() if state["config"].get(k) != v} - {"total_kimg"}
        if changed:
            raise UsageError(
                f"{out} was trained with other {', '.join(sorted(changed))}: choose another --out"
            )
        trainer.load_state_dict(state)
    elif transfer is not None:
        taken = take_over(trainer, load_model(transfer))
        print("tensors taken over: " + ", ".join(f"{k} {v}" for k, v in taken.items()))
    total = int(config.total_kimg * 1000)
    log = RunLog(out, total=config.total_kimg, unit="kimg", done=trainer.seen_images / 1000)
    sums: dict[str, list[Tensor]] = {}
    end = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    due = trainer.seen_images + int(config.snapshot_kimg * 1000)
    while trainer.seen_images < total:
        for key, value in trainer.step().items():
            sums.setdefault(key, []).append(value)
        late = time.monotonic() > end
        if trainer.seen_images >= due or trainer.seen_images >= total or late:
            kimg = trainer.seen_images / 1000
            log.write(kimg, {k: float(torch.stack(v).mean()) for k, v in sums.items()})
            sums.clear()
            # the snapshot first: it refuses NaN, and a kill between the two repeats steps but loses none
            save_snapshot(out / "snapshot", trainer)
            save_checkpoint(checkpoint, trainer.state_dict())
            log.image("samples", save_samples(out / f"samples_{kimg:07.2f}.png", trainer), kimg)
            due += int(config.snapshot_kimg * 1000)
        if late:
            break
    return out / "snapshot"


def with_overrides(preset: str, **changes: Any) -> GanConfig:
    """A preset with some fields changed; None leaves a field as it is.

    Raises
    ------
    UsageError
        For an unknown preset, or a value out of its range.
    """
    return replace(preset_of(PRESETS, preset), **{k: v for k, v in changes.items() if v is not None})
