"""One step of the generator's training: StyleGAN2-ADA (arXiv 1912.04958, 2006.06676).

    L_D = −log σ(D(x)) − log(1 − σ(D(G(z)))) + γ/2 ‖∇D(x)‖²             (R1, every r1_interval steps)
    L_G = −log σ(D(G(z))) + λ_path (‖J_wᵀy‖ − a)²                       (every path_interval steps)

or, with the loss "r3gan" (arXiv 2501.05441), of which only the loss is taken, not its networks,

    L_D = −log σ(D(x) − D(G(z))) + γ/2 (‖∇D(x)‖² + ‖∇D(G(z))‖²)         (R1 + R2, every r1_interval steps)
    L_G = −log σ(D(G(z)) − D(x)) + λ_path (‖J_wᵀy‖ − a)²

where D's level is free, so that the augmentation's r_t is E[sign(D(x) − D(G(z)))]. (The paper's penalties are in every
step: r1_interval 1.)

Every random draw comes from generators whose state is in the checkpoint and batches are a function of the
image count, so that a killed run continues as if it had never stopped. Several processes or micro-batches
(`progression.train.distributed`) change no number but by rounding.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from progression.errors import UsageError
from progression.stylegan2 import Discriminator, Generator
from progression.stylegan2.ada import AdaptiveAugmentation
from progression.stylegan2.losses import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    path_lengths,
    relativistic_loss,
)
from progression.train.distributed import Part, Team
from progression.train.loop import (
    PRECISIONS,
    activation_dtype,
    batch_indices,
    ema_beta,
    held,
    picked,
    tensors_to,
    update_ema,
)
from progression.train.path import path_gradients

LOSSES = ("logistic", "r3gan")


@dataclass(frozen=True)
class GanConfig:
    """A run, as reproduced by one command.

    Attributes
    ----------
    resolution : side of the pictures, pixels; a power of two, 8 or more
    total_kimg : real images shown before the run ends, in thousands
    batch : real images a step, of all processes and micro-batches together
    accumulate : micro-batches of a step, to save memory
    loss : "logistic" or "r3gan"
    r1_gamma : γ of R1 (and R2); the rule 0.0002·R²/batch of StyleGAN2-ADA is used where it is None
    path_interval : steps between path-length steps, 0 for none
    ada_target : r_t that the augmentation strength aims at; None for no augmentation
    precision : of activations: "bfloat16", "float32", or "auto" (bfloat16 but on GPUs that only emulate it)
    measure_kimg : thousands of images between two measurements on held-out pictures, 0 for none
    measure_pictures : most held-out pictures measured on, with as many samples

    Raises
    ------
    UsageError
        For a value out of its range.
    """

    resolution: int = 128
    total_kimg: float = 100.0
    batch: int = 16
    accumulate: int = 1
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 2
    channel_base: int = 2048
    channel_max: int = 128
    mbstd_group_size: int = 4
    learning_rate: float = 0.0025
    loss: str = "logistic"
    r1_gamma: float | None = None
    r1_interval: int = 16
    path_weight: float = 2.0
    path_interval: int = 8
    style_mixing: float = 0.5
    ema_half_life_kimg: float = 5.0
    ema_rampup: float | None = 0.1
    ada_target: float | None = None
    precision: str = "bfloat16"
    snapshot_kimg: float = 2.0
    measure_kimg: float = 10.0
    measure_pictures: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        whole = ("batch", "accumulate", "z_dim", "w_dim", "mapping_layers", "channel_base", "channel_max",
                 "mbstd_group_size", "r1_interval", "measure_pictures")  # fmt: skip
        ranges = (
            ("a power of two, 8 or more", ("resolution",), lambda v: v >= 8 and v & (v - 1) == 0),
            ("1 or more", whole, lambda v: v >= 1),
            ("above 0", ("total_kimg", "snapshot_kimg", "learning_rate", "ema_half_life_kimg"), lambda v: v > 0),
            ("0 or more", ("r1_gamma", "path_weight", "path_interval", "ema_rampup", "measure_kimg", "seed"),
             lambda v: v >= 0),
            ("from 0 to 1", ("style_mixing", "ada_target"), lambda v: 0 <= v <= 1),
            (" or ".join(PRECISIONS), ("precision",), lambda v: v in PRECISIONS),
            (" or ".join(LOSSES), ("loss",), lambda v: v in LOSSES),
        )  # fmt: skip
        for expected, names, fits in ranges:
            for name in names:
                if (value := getattr(self, name)) is not None and not fits(value):
                    raise UsageError(f"GAN training: {name} is {value}, expected {expected}")

    @property
    def gamma(self) -> float:
        """R1 weight γ."""
        return 0.0002 * self.resolution**2 / self.batch if self.r1_gamma is None else self.r1_gamma


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
        self.config, self.device, self.team = config, torch.device(device), Team.here(config.accumulate)
        self.team.check(config.batch, groups_of=min(config.mbstd_group_size, config.batch))
        if config.path_interval:
            self.team.check(self.path_batch)
        self.images = held(images, self.device)
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
        # its ratio (16/17 at interval 16) is kept because the shipped weights were trained with it; a penalty in every
        # step is not lazy and has none.
        r1_ratio = config.r1_interval / (config.r1_interval + 1) if config.r1_interval > 1 else 1.0
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

    @property
    def path_batch(self) -> int:
        """Pictures of a path length step."""
        return max(1, self.config.batch // 2)

    # ---- one step -------------------------------------------------------------------------------------------

    def step(self) -> dict[str, Tensor]:
        """Train on one batch; returns scalars (detached)."""
        config = self.config
        index = batch_indices(len(self.images), config.batch, position=self.seen_images, seed=config.seed)
        turn = self.seen_images // config.batch
        scalars = self._generator_step(index)
        if config.path_interval and turn % config.path_interval == 0:
            scalars |= self._path_step()
        scalars |= self._discriminator_step(index, regularise=turn % config.r1_interval == 0)
        self.seen_images += config.batch
        beta = ema_beta(
            config.batch,
            half_life_kimg=config.ema_half_life_kimg,
            seen_images=self.seen_images,
            rampup=config.ema_rampup,
        )
        update_ema(self.average, self.generator, beta)
        return scalars

    def _generator_step(self, index: Tensor) -> dict[str, Tensor]:
        self.discriminator.requires_grad_(False)
        self.optimizers["generator"].zero_grad(set_to_none=True)

        def loss_of(part: Part) -> tuple[Tensor, dict[str, Tensor]]:
            ws = self._sample(self.config.batch, part, update_w_avg=part.is_first)
            logits = self.discriminator(self._augment(self._render(ws, part), part))
            if self.config.loss == "r3gan":
                with torch.no_grad():
                    real_logits = self.discriminator(self._shown(index, part))
                loss = relativistic_loss(logits, real_logits)
            else:
                loss = generator_loss(logits)
            return loss, {"loss_g": loss}

        rounds = self.team.rounds(self.rng, self.host_rng)
        scalars = rounds.backward(loss_of, self.generator.parameters())
        self.optimizers["generator"].step()
        self.discriminator.requires_grad_(True)
        return scalars

    def _path_step(self) -> dict[str, Tensor]:
        config = self.config
        self.optimizers["generator"].zero_grad(set_to_none=True)

        def lengths_of(part: Part) -> Tensor:
            ws = self._sample(self.path_batch, part)
            fakes = self._render(ws, part)
            with part.draws():
                noise = torch.randn(fakes.shape, device=self.device, generator=self.rng)
            return path_lengths(fakes, ws, noise)

        penalty, self.path_mean = path_gradients(
            self.team.rounds(self.rng, self.host_rng),
            lengths_of,
            self.path_mean,
            weight=config.path_weight * config.path_interval,
            parameters=self.generator.parameters(),
        )
        self.optimizers["generator"].step()
        return {"path_length": self.path_mean, "path_penalty": penalty}

    def _discriminator_step(self, index: Tensor, *, regularise: bool) -> dict[str, Tensor]:
        config = self.config
        self.optimizers["discriminator"].zero_grad(set_to_none=True)
        relativistic = config.loss == "r3gan"
        told: list[Tensor] = []

        def loss_of(part: Part) -> tuple[Tensor, dict[str, Tensor]]:
            with torch.no_grad():
                fakes = self._augment(self._render(self._sample(config.batch, part), part), part)
            fakes.requires_grad_(regularise and relativistic)
            shown = self._shown(index, part).requires_grad_(regularise)
            logits, fake_logits = self.discriminator(shown), self.discriminator(fakes)
            loss = (relativistic_loss if relativistic else discriminator_loss)(logits, fake_logits)
            believed = (logits - fake_logits if relativistic else logits).detach()
            told.append(believed)
            scalars = {"loss_d": loss, "sign_real": believed.sign().mean()}
            if regularise:
                # with respect to the augmented picture, which is what D sees
                scalars["r1"] = gradient_penalty(shown, logits).mean()
                penalty = scalars["r1"]
                if relativistic:
                    scalars["r2"] = gradient_penalty(fakes, fake_logits).mean()
                    penalty = penalty + scalars["r2"]
                loss = loss + penalty * (config.gamma / 2 * config.r1_interval)
            return loss, scalars

        rounds = self.team.rounds(self.rng, self.host_rng)
        scalars = rounds.backward(loss_of, self.discriminator.parameters())
        self.optimizers["discriminator"].step()
        if self.ada is not None:
            self.ada.update(self.team.gather(told))
            scalars["augment_p"] = torch.tensor(self.ada.p)
        return scalars

    def _sample(self, count: int, part: Part, *, update_w_avg: bool = False) -> Tensor:
        """A part of f(z) for `count` fresh z, with style mixing: (count / P, L, w_dim)."""
        z = torch.randn(count, self.config.z_dim, device=self.device, generator=self.rng)
        # the whole batch is mapped: that costs little, and the running mean of w sees all of it
        ws: Tensor = self.generator.mapping(z, update_w_avg=update_w_avg)
        if self.config.style_mixing > 0:
            draws = torch.rand(2, generator=self.host_rng)
            other = torch.randn(z.shape, device=self.device, generator=self.rng)
            if draws[0] < self.config.style_mixing:
                cut = 1 + int(draws[1] * (ws.shape[1] - 1))
                ws = torch.cat([ws[:, :cut], self.generator.mapping(other)[:, cut:]], dim=1)
        return part.of(ws)

    def _render(self, ws: Tensor, part: Part) -> Tensor:
        with part.draws():
            image: Tensor = self.generator.synthesis(ws, noise_mode="random", generator=self.rng)
        return image

    def _shown(self, index: Tensor, part: Part) -> Tensor:
        """A part of the batch's real pictures, as D sees them."""
        return self._augment(picked(self.images, part.of(index), self.device), part).detach()

    def _augment(self, x: Tensor, part: Part) -> Tensor:
        with part.draws():
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
        dtype = activation_dtype(self.config.precision, self.device)
        self.generator.synthesis.compute_dtype = self.discriminator.compute_dtype = dtype

    def _adam(self, network: nn.Module, ratio: float) -> torch.optim.Adam:
        """Adam with rate and decay corrected by `ratio`."""
        rate = self.config.learning_rate * ratio
        return torch.optim.Adam(network.parameters(), lr=rate, betas=(0.0, 0.99**ratio), eps=1e-8)
