"""Train generator and encoder together: knees are rendered from random codes and from their own.

With b = E(x) the code of a knee, v = f(z), m the maps and p the grade probabilities of one of the grader's networks,
and n the maps that the judge looks at (`progression.train.judge`; the same ones, or those of a network trained on
ImageNet), generator and encoder minimise

    L = λ_a·adversarial(g(v), g(b))
      + λ_p·pyramid(g(b), x) + λ_2·mean (g(b) - x)² + λ_m·Σ_l mean |m_l(g(b)) - m_l(x)|
      + λ_n·Σ_l mean |n_l(g(b)) - n_l(x)|
      + λ_g·KL(p(x) ‖ p(g(b)))
      + λ_w·mean (E(g(v)) - v)²/σ²       for the encoder: g(v) and v are given
      + λ_s·SW²(f(z'), {b})/σ²           for the mapping network: the codes {b} of recent knees are given

σ is the deviation of this step's mapped z, a coordinate. SW is the sliced 2-Wasserstein distance: it draws mapped z to
where knees are coded, so that samples and codes share one region of W and what a code renders was judged. The judge's
heads d_l minimise the hinge loss Σ_l max(0, 1 - d_l(x)) + max(0, 1 + d_l(g)), g and E maximise Σ_l d_l(g); pictures are
first moved by some pixels, a knee and its reconstruction alike. Means over pixels have tiny gradients: λ_p and λ_2 make
up for it at 128² (the gradient of a mean goes with 1/R²). Every `path_interval` steps the generator also takes a path
length step. Samples have random noise, reconstructions the constant one.

Several processes or micro-batches (`progression.train.distributed`) change no number but by rounding, with one
exception: with micro-batches, the encoder's batch norm sees one at a time.

It starts from a generator that draws knees already; from nothing, the judge wins and samples never become knees.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from progression.encoder import Encoder
from progression.engine.fold import fold_batch_norms
from progression.errors import UsageError
from progression.latent.perceptual import pixel_distance, pyramid_distance
from progression.risk.efficientnet import EfficientNet, load_imagenet
from progression.risk.grader import Grader
from progression.risk.maps import FrozenMaps, map_distance
from progression.stylegan2 import Generator
from progression.stylegan2.losses import path_lengths
from progression.train.distributed import Part, Team, share_statistics
from progression.train.judge import Judge, hinge_generator, hinge_judge
from progression.train.loop import (
    PRECISIONS,
    activation_dtype,
    batch_indices,
    ema_beta,
    held,
    picked,
    update_ema,
)
from progression.train.mapping import mapping_of
from progression.train.path import path_gradients
from progression.train.replay import Replayed

TERMS = ("adversarial", "pyramid", "pixel", "maps", "look", "grade", "latent", "sliced")
SIGHTS = ("grader", "imagenet")
GRADIENT_NORM = 5.0
REFERENCE = 256


@dataclass(frozen=True)
class JointConfig:
    """A run.

    Attributes
    ----------
    kimg : length, thousands of real pictures seen; as many samples are rendered beside them
    batch : real pictures a step, and samples a step, of all processes and micro-batches together
    accumulate : micro-batches of a step, to save memory
    resolution : of generator and encoder, pixels a side, None as they come; the generator is enlarged without
        changing a picture (`progression.train.grow`), the encoder looks at pictures pooled to what it knows
    width, max_width : of the encoder, where the run starts without one
    channel_base, channel_max : of the generator, None as it comes; it is widened without changing a picture
        (`progression.train.grow`)
    z_dim : None to train the mapping network that is there. Else it has that many z and is not trained, but made from
        the remembered codes (`progression.train.mapping`), anew every `remap_kimg`, at the end from all knees' codes
    synthesis_rate, mapping_rate, encoder_rate, judge_rate : of Adam; each falls along a half cosine to 0 over the
        last share `falling` of the run. The mapping network's weights count a hundredth (its `lr_multiplier`),
        hence its higher rate
    ema_half_life_kimg : of the running mean of generator and encoder, which is what is kept
    warmup_kimg : the judge learns alone for so long
    codes, mapped, slices : codes remembered; codes and mapped z compared a step; directions of the comparison
    shift : pictures are moved by up to so many pixels before they are judged
    jitter : real pictures are turned (radians), scaled (logarithm) and moved (share of half a side) by up to so much,
        so that the encoder does not learn them by heart; it falls as the rates do
    path_interval, path_weight : path length regularisation (arXiv 1912.04958 App. B)
    sight : what the judge looks through: "grader", its first network, or "imagenet", EfficientNet-lite0
    detail : whether a head of the judge looks at the pixels' fine detail
    adversarial, pyramid, pixel, maps, look, grade, latent, sliced : λ; look is λ_n, which adds to λ_m where n is m
    precision : of activations: "bfloat16", "float32", or "auto" (bfloat16 but on GPUs that only emulate it)
    replay : record a step on a GPU once and replay it (`progression.train.replay`); one process only
    measure_kimg : thousands of pictures between two measurements on held-out ones, 0 for none
    measure_pictures : most held-out pictures measured on, with as many samples
    """

    kimg: float = 45.0
    batch: int = 8
    accumulate: int = 1
    resolution: int | None = None
    width: int = 24
    max_width: int = 256
    channel_base: int | None = None
    channel_max: int | None = None
    z_dim: int | None = None
    remap_kimg: float = 1.0
    synthesis_rate: float = 2e-3
    mapping_rate: float = 2e-2
    encoder_rate: float = 1.5e-3
    judge_rate: float = 1e-3
    falling: float = 0.4
    ema_half_life_kimg: float = 2.0
    warmup_kimg: float = 0.5
    codes: int = 1024
    mapped: int = 256
    slices: int = 128
    shift: int = 8
    jitter: float = 0.0
    path_interval: int = 16
    path_weight: float = 2.0
    sight: str = "grader"
    detail: bool = False
    adversarial: float = 0.5
    pyramid: float = 40.0
    pixel: float = 400.0
    maps: float = 1.5
    look: float = 0.0
    grade: float = 0.3
    latent: float = 0.1
    sliced: float = 30.0
    precision: str = "bfloat16"
    replay: bool = False
    snapshot_kimg: float = 1.0
    measure_kimg: float = 5.0
    measure_pictures: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("kimg", "batch", "accumulate", "codes", "mapped", "slices", "snapshot_kimg",
                     "ema_half_life_kimg", "measure_pictures", "remap_kimg", "channel_base", "channel_max",
                     "z_dim"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"{name} {value}: expected more than 0")
        if not 0 <= self.falling <= 1:
            raise UsageError(f"falling {self.falling}: expected a share of the run, 0 to 1")
        if not 0 <= self.jitter < 0.5:
            raise UsageError(f"jitter {self.jitter}: expected 0 or more, less than a half")
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision {self.precision}: expected {' or '.join(PRECISIONS)}")
        if self.sight not in SIGHTS:
            raise UsageError(f"sight {self.sight}: expected {' or '.join(SIGHTS)}")


@dataclass(frozen=True)
class Shown:
    """Real pictures and fakes (samples first), as moved, and the judge's maps of them."""

    real: Tensor
    fake: Tensor
    real_maps: list[Tensor]
    fake_maps: list[Tensor]


@dataclass(frozen=True)
class Told:
    """What a step is told, in tensors that stay in place.

    Attributes
    ----------
    index : (batch,) of the pictures
    moves : (2, batch, 2) whole pixels from 0 to 2·shift, of samples and of knees
    share : of the full rates
    judging : 1 once the judge has learned alone, before that 0
    remembering : 1 once the memory holds this run's codes, before that 0
    """

    index: Tensor
    moves: Tensor
    share: Tensor
    judging: Tensor
    remembering: Tensor

    @classmethod
    def of(cls, config: JointConfig, pictures: torch.device, device: torch.device) -> Told:
        """For batches of pictures that lie on one device and are computed with on another."""
        index = torch.zeros(config.batch, dtype=torch.long, device=pictures)
        moves = torch.zeros(2, config.batch, 2, dtype=torch.long, device=device)
        return cls(index, moves, *(torch.zeros([], device=device) for _ in range(3)))

    def tell(self, seen: int, config: JointConfig, *, count: int, share: float) -> None:
        """Of the batch after `seen` pictures, out of `count`."""
        # drawn on the CPU: a GPU would have to be waited for
        order = torch.Generator().manual_seed(hash((config.seed, seen)) % 2**62)
        moves = torch.randint(2 * config.shift + 1, (2, config.batch, 2), generator=order)
        index = batch_indices(count, config.batch, position=seen, seed=config.seed)
        for tensor, value in ((self.index, index), (self.moves, moves)):
            tensor.copy_(value.pin_memory() if tensor.is_cuda else value, non_blocking=True)
        self.share.fill_(share)
        self.judging.fill_(seen >= 1000 * config.warmup_kimg)
        self.remembering.fill_(seen >= config.codes)


class JointTrainer:
    """The networks, their optimisers and one training step.

    Parameters
    ----------
    generator, encoder : where to start; the encoder without offsets
    grader : its first network looks at the pictures, frozen
    images : (K, R, R) uint8 model pictures
    """

    def __init__(
        self,
        config: JointConfig,
        generator: Generator,
        encoder: Encoder,
        grader: Grader,
        images: Tensor,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.device, self.team = config, torch.device(device), Team.here(config.accumulate)
        self.team.check(config.batch)
        if config.path_interval:
            self.team.check(self.path_batch)
        self.images = held(images, self.device)
        self.dtype = activation_dtype(config.precision, self.device)
        torch.manual_seed(config.seed)
        self.generator = generator.train().requires_grad_(True).to(device)
        self.encoder = encoder.train().requires_grad_(True).to(device)
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.average_encoder = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        share_statistics(self.encoder, self.team)
        self.generator.synthesis.compute_dtype = self.dtype
        some = batch_indices(len(images), min(REFERENCE, len(images)), position=0, seed=config.seed)
        reference = self._pictures(some)
        self.maps = self.sight = self._frozen(copy.deepcopy(grader.members[0]), reference)
        if config.sight == "imagenet":
            self.sight = self._frozen(load_imagenet(generator.img_channels), reference)
        self.judge = Judge(self.sight.channels, reference if config.detail else None).to(device)
        for network in (self.maps, self.sight, self.judge):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rates: dict[str, list[tuple[nn.Module, float]]] = {
            "generator": [
                (self.generator.synthesis, config.synthesis_rate),
                (self.generator.mapping, config.mapping_rate if config.z_dim is None else 0.0),
            ],
            "encoder": [(self.encoder, config.encoder_rate)],
            "judge": [(self.judge.heads, config.judge_rate)],
        }
        self.optimizers = {
            name: torch.optim.Adam(
                [{"params": list(part.parameters()), "lr": rate, "full": rate} for part, rate in groups],
                betas=(0.5, 0.99) if name == "encoder" else (0.0, 0.99),
                eps=1e-8,
            )
            for name, groups in rates.items()
        }
        self.rng = torch.Generator(self.device).manual_seed(config.seed)
        self.seen_images = 0
        self.path_mean = torch.zeros([], device=self.device)
        some = batch_indices(len(images), config.codes, position=0, seed=config.seed)
        with torch.no_grad():
            self.codes = torch.cat([self.average_encoder.split(self._pictures(i))[0] for i in some.split(64)])
        if config.z_dim:
            self._remap()
        self.told = Told.of(config, self.images.device, self.device)
        self.replays = config.replay and self.images.is_cuda and self.team.parts == 1
        self._update, self._path_step = self._update_all, self._regularise
        if self.replays:
            self._update, self._path_step = (
                Replayed(f, [self.rng]) for f in (self._update_all, self._regularise)
            )

    def _frozen(self, network: EfficientNet, reference: Tensor) -> FrozenMaps:
        """What a network sees, its norms folded into its convolutions: a quarter less to do."""
        fold_batch_norms(network.eval())
        return FrozenMaps(network.to(self.device), reference)

    @property
    def path_batch(self) -> int:
        """Pictures of a path length step."""
        return max(1, self.config.batch // 2)

    def step(self) -> dict[str, Tensor]:
        """Train on one batch; returns scalars (detached)."""
        config = self.config
        if self.replays and not torch.is_tensor(self.optimizers["judge"].param_groups[0]["lr"]):
            self._stay()
        turn = self.seen_images // config.batch
        self._set_rates()
        self.told.tell(self.seen_images, config, count=len(self.images), share=self._falling())
        scalars = self._update()
        if config.path_interval and turn % config.path_interval == 0:
            scalars |= self._path_step()
        self.seen_images += config.batch
        if config.z_dim and self.seen_images % (1000 * config.remap_kimg) < config.batch:
            self._remap()
        half_life = config.ema_half_life_kimg
        beta = ema_beta(config.batch, half_life_kimg=half_life, seen_images=self.seen_images, rampup=0.2)
        update_ema(self.average, self.generator, beta)
        update_ema(self.average_encoder, self.encoder, beta)
        return scalars

    def _update_all(self) -> dict[str, Tensor]:
        """Generator and encoder, then the judge, one step of Adam each."""
        config = self.config
        for name in ("generator", "encoder"):
            self.optimizers[name].zero_grad(set_to_none=True)
        codes: list[Tensor] = []
        shown: list[Shown] = []

        def loss_of(part: Part) -> tuple[Tensor, dict[str, Tensor]]:
            real = self._moved(self._pictures(part.of(self.told.index)), part)
            terms, found, judged = self._terms(real, part)
            codes.append(found)
            shown.append(judged)
            return torch.stack([getattr(config, name) * terms[name] for name in TERMS]).sum(), terms

        trained = [*self.generator.parameters(), *self.encoder.parameters()]
        scalars = self.team.rounds(self.rng).backward(loss_of, trained)
        nn.utils.clip_grad_norm_(self.encoder.parameters(), GRADIENT_NORM)
        for name in ("generator", "encoder"):
            self.optimizers[name].step()
        scalars |= self._judge_step(shown)
        self.codes.copy_(torch.cat([self.codes[config.batch :], self.team.gather(codes)]))
        return scalars

    def _terms(self, real: Tensor, part: Part) -> tuple[dict[str, Tensor], Tensor, Shown]:
        """Terms of L and the codes of a part's pictures `real`, and what the judge is shown of these and of fakes.

        All z are mapped, whatever the part: that costs little, and σ and SW are of all of them.
        """
        config, count = self.config, len(real)
        z = torch.randn(
            config.mapped + config.batch, self.generator.z_dim, device=self.device, generator=self.rng
        )
        mapped = self.generator.mapping(z, update_w_avg=part.is_first)[:, 0]
        unit = (mapped - mapped.mean(dim=0)).detach().square().mean().sqrt()
        v = part.of(mapped[: config.batch])
        with part.draws():
            samples = self._render(v, "random")
        with self._autocast():
            both = torch.cat([real, samples.detach()]).contiguous(memory_format=torch.channels_last)
            codes, again = self.encoder.split(both)[0].split(count)
        found = self._render(codes, "const")
        moves = [part.of(move) for move in self.told.moves]
        shown = shifted(real, moves[1], config.shift)
        fakes = torch.cat([shifted(samples, moves[0], config.shift), shifted(found, moves[1], config.shift)])
        self.judge.requires_grad_(False)
        with self._autocast():
            with torch.no_grad():
                real_seen = self.sight(shown)
                real_maps = real_seen if self.maps is self.sight else self.maps(shown)
                real_grade = self.maps.grade(real_maps)
            fake_seen = self.sight(fakes)
            found_seen = [m[count:] for m in fake_seen]
            found_maps = found_seen if self.maps is self.sight else self.maps(fakes[count:])
            adversarial = hinge_generator(self._judged(fake_seen, fakes, is_first=part.is_first))
            found_grade = self.maps.grade(found_maps)
        recent = torch.randint(len(self.codes), (config.mapped,), device=self.device, generator=self.rng)
        sliced = sliced_distance(
            mapped[config.batch :], self.codes[recent], slices=config.slices, generator=self.rng
        )
        terms = {
            "adversarial": adversarial * self.told.judging,
            "pyramid": pyramid_distance(found, real).mean(),
            "pixel": pixel_distance(found, real).mean(),
            "maps": map_distance(found_maps, real_maps).mean(),
            "look": map_distance(found_seen, real_seen).mean(),
            "grade": F.kl_div(found_grade, real_grade, log_target=True, reduction="batchmean"),
            "latent": ((again - v.detach()) / unit).square().mean(),
            "sliced": sliced / unit.square() * self.told.remembering,
        }
        return terms, codes, Shown(shown, fakes.detach(), real_seen, [m.detach() for m in fake_seen])

    def _judged(self, maps: list[Tensor], pictures: Tensor, *, is_first: bool) -> list[Tensor]:
        """The judge's logits. Spectral norms take one step of their power iteration a batch, in its first part."""
        self.judge.train(is_first)
        logits: list[Tensor] = self.judge(maps, pictures)
        return logits

    def _judge_step(self, parts: list[Shown]) -> dict[str, Tensor]:
        """Train the heads on what they were shown."""
        self.judge.heads.requires_grad_(True)
        self.optimizers["judge"].zero_grad(set_to_none=True)

        def loss_of(part: Part) -> tuple[Tensor, dict[str, Tensor]]:
            shown = parts[part.go]
            count = len(shown.real)
            with self._autocast():
                maps = [torch.cat(pair) for pair in zip(shown.real_maps, shown.fake_maps, strict=True)]
                logits = self._judged(maps, torch.cat([shown.real, shown.fake]), is_first=part.is_first)
            loss = hinge_judge([d[:count] for d in logits], [d[count:] for d in logits])
            return loss, {"judge": loss}

        scalars = self.team.rounds().backward(loss_of, self.judge.heads.parameters())
        self.optimizers["judge"].step()
        return scalars

    def _regularise(self) -> dict[str, Tensor]:
        """Path lengths."""
        config = self.config
        self.optimizers["generator"].zero_grad(set_to_none=True)

        def lengths_of(part: Part) -> Tensor:
            size = (self.path_batch, self.generator.z_dim)
            z = part.of(torch.randn(size, device=self.device, generator=self.rng))
            ws = self.generator.mapping(z)
            with part.draws():
                fakes = self.generator.synthesis(ws, noise_mode="random", generator=self.rng)
                noise = torch.randn(fakes.shape, device=self.device, generator=self.rng)
            return path_lengths(fakes, ws, noise)

        _, mean = path_gradients(
            self.team.rounds(self.rng),
            lengths_of,
            self.path_mean,
            weight=config.path_weight * config.path_interval,
            parameters=self.generator.parameters(),
        )
        self.optimizers["generator"].step()
        self.path_mean.copy_(mean)
        return {"path_length": self.path_mean.clone()}

    def _render(self, w: Tensor, noise_mode: Any) -> Tensor:
        ws = w[:, None].expand(-1, self.generator.num_ws, -1)
        image: Tensor = self.generator.synthesis(ws, noise_mode=noise_mode, generator=self.rng)
        return image

    def _remap(self) -> None:
        made = mapping_of(self.codes, z_dim=self.generator.z_dim, num_ws=self.generator.num_ws).state_dict()
        for generator in (self.generator, self.average):
            generator.mapping.load_state_dict(made)

    def _moved(self, real: Tensor, part: Part) -> Tensor:
        """A part's pictures, jittered."""
        if not self.config.jitter:
            return real
        draws = torch.rand(self.config.batch, 4, device=self.device, generator=self.rng)
        return jittered(real, part.of((2 * draws - 1) * self.config.jitter * self.told.share))

    def _falling(self) -> float:
        """Share of the full rates at this moment: 1, then along a half cosine to 0."""
        left = 1 - self.seen_images / (1000 * self.config.kimg)
        share = min(1.0, left / self.config.falling) if self.config.falling else 1.0
        return 0.5 - 0.5 * math.cos(math.pi * share)

    def _set_rates(self) -> None:
        share = self._falling()
        for adam in self.optimizers.values():
            for group in adam.param_groups:
                if self.replays:
                    group["lr"].fill_(group["full"] * share)
                else:
                    group["lr"] = group["full"] * share

    def _stay(self) -> None:
        """Keep on the device, and in place, what Adam counts and multiplies with: a recorded step reads it there."""
        for adam in self.optimizers.values():
            for group in adam.param_groups:
                group["capturable"], group["foreach"] = True, True
                group["lr"] = torch.tensor(group["full"], device=self.device)
            for state in adam.state.values():
                state["step"] = state["step"].to(self.device, torch.float32)

    def _pictures(self, index: Tensor) -> Tensor:
        return picked(self.images, index, self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    # ---- state ----------------------------------------------------------------------------------------------

    def trained(self) -> dict[str, nn.Module]:
        """What has an optimiser, by name."""
        return {"generator": self.generator, "encoder": self.encoder, "judge": self.judge}

    def networks(self) -> dict[str, nn.Module]:
        """All that a checkpoint holds, by name; not the frozen networks, which grader and package give again."""
        return self.trained() | {"average": self.average, "average_encoder": self.average_encoder}

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs beside the grader and the pictures."""
        return {
            "config": asdict(self.config),
            "seen_images": self.seen_images,
            "networks": {name: network.state_dict() for name, network in self.networks().items()},
            "optimizers": {name: adam.state_dict() for name, adam in self.optimizers.items()},
            "rng": self.rng.get_state(),
            "path_mean": self.path_mean,
            "codes": self.codes,
            # another machine might round these differently
            "scales": [maps.scales() for maps in (self.maps, self.sight)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()` of a run with the same configuration, grader and pictures."""
        for name, network in self.networks().items():
            network.load_state_dict(state["networks"][name])
        for name, adam in self.optimizers.items():
            adam.load_state_dict(state["optimizers"][name])
        if self.replays:
            self._stay()
        for maps, scales in zip((self.maps, self.sight), state["scales"], strict=True):
            maps.load_state_dict(scales, strict=False)
        self.rng.set_state(state["rng"].cpu())
        self.seen_images = int(state["seen_images"])
        for name in ("path_mean", "codes"):
            getattr(self, name).copy_(state[name])


def shifted(images: Tensor, moves: Tensor, most: int) -> Tensor:
    """Pictures (N, C, R, R) through a window moved by `moves` - `most` pixels, edges mirrored.

    `moves` (N, 2) are whole, down and right, 0 to 2·most. All windows are gathered at once: a slice a
    picture would be a kernel a picture on a GPU.
    """
    n, channels, side, _ = images.shape
    padded = F.pad(images, (most,) * 4, mode="reflect")
    y, x = (
        moves[:, axis, None].to(images.device) + torch.arange(side, device=images.device) for axis in (0, 1)
    )
    rows = padded.gather(2, y[:, None, :, None].expand(n, channels, side, padded.shape[3]))
    moved = rows.gather(3, x[:, None, None, :].expand(n, channels, side, side))
    return moved.contiguous(memory_format=torch.channels_last)


def jittered(images: Tensor, amounts: Tensor) -> Tensor:
    """Pictures (N, C, R, R) turned, scaled and moved by `amounts` (N, 4): radians, logarithm, shares of half a side."""
    angle, scale = amounts[:, 0], amounts[:, 1].exp()
    cos, sin = scale * angle.cos(), scale * angle.sin()
    turn = torch.stack([cos, -sin, sin, cos], dim=1).unflatten(1, (2, 2))
    grid = F.affine_grid(
        torch.cat([turn, amounts[:, 2:, None]], dim=2), list(images.shape), align_corners=False
    )
    moved = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return moved.clamp(-1, 1)


def sliced_distance(samples: Tensor, others: Tensor, *, slices: int, generator: torch.Generator) -> Tensor:
    """Squared sliced 2-Wasserstein distance of two sets (N, D) of one size, over random unit directions."""
    directions = torch.randn(samples.shape[1], slices, device=samples.device, generator=generator)
    directions = F.normalize(directions, dim=0)
    a, b = ((x @ directions).sort(dim=0).values for x in (samples, others))
    return (a - b).square().mean()
