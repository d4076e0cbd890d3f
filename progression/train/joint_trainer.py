"""Train generator and encoder together: knees are rendered from random codes and from their own.

With b = E(x) the code of a knee, v = f(z), and m the maps and p the grade probabilities of a frozen network
(`progression.train.judge`), generator and encoder minimise

    L = λ_a·adversarial(g(v), g(b))
      + λ_p·pyramid(g(b), x) + λ_2·mean (g(b) - x)² + λ_m·Σ_l mean |m_l(g(b)) - m_l(x)|
      + λ_g·KL(p(x) ‖ p(g(b)))
      + λ_w·mean (E(g(v)) - v)²/σ²       for the encoder: g(v) and v are given
      + λ_s·SW²(f(z'), {b})/σ²           for the mapping network: the codes {b} of recent knees are given

σ is the deviation of this step's mapped z, a coordinate. SW is the sliced 2-Wasserstein distance: it draws mapped z to
where knees are coded, so that samples and codes share one region of W and what a code renders was judged. The judge's
heads d_l minimise the hinge loss Σ_l max(0, 1 - d_l(x)) + max(0, 1 + d_l(g)), g and E maximise Σ_l d_l(g); pictures are
first moved by some pixels, a knee and its reconstruction alike. Means over pixels have tiny gradients: λ_p and λ_2 make
up for it at 128² (the gradient of a mean goes with 1/R²). Every `path_interval` steps the generator also takes a path
length step. Samples have random noise, reconstructions the constant one.

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
from progression.errors import UsageError
from progression.latent.part import from_bytes
from progression.latent.perceptual import pixel_distance, pyramid_distance
from progression.risk.grader import Grader
from progression.stylegan2 import Generator
from progression.stylegan2.losses import path_length_penalty, path_lengths
from progression.train.judge import FrozenMaps, Judge, hinge_generator, hinge_judge, map_distance
from progression.train.loop import batch_indices, ema_beta, tensors_to, update_ema

TERMS = ("adversarial", "pyramid", "pixel", "maps", "grade", "latent", "sliced")
GRADIENT_NORM = 5.0
REFERENCE = 256


@dataclass(frozen=True)
class JointConfig:
    """A run.

    Attributes
    ----------
    kimg : length, thousands of real pictures seen; as many samples are rendered beside them
    batch : real pictures a step, and samples a step
    synthesis_rate, mapping_rate, encoder_rate, judge_rate : of Adam; each falls along a half cosine to 0 over the
        last share `falling` of the run. The mapping network's weights count a hundredth (its `lr_multiplier`),
        hence its higher rate
    ema_half_life_kimg : of the running mean of generator and encoder, which is what is kept
    warmup_kimg : the judge learns alone for so long
    codes, mapped, slices : codes remembered; codes and mapped z compared a step; directions of the comparison
    shift : pictures are moved by up to so many pixels before they are judged
    path_interval, path_weight : path length regularisation (arXiv 1912.04958 App. B)
    adversarial, pyramid, pixel, maps, grade, latent, sliced : λ
    """

    kimg: float = 45.0
    batch: int = 8
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
    path_interval: int = 16
    path_weight: float = 2.0
    adversarial: float = 0.5
    pyramid: float = 40.0
    pixel: float = 400.0
    maps: float = 1.5
    grade: float = 0.3
    latent: float = 0.1
    sliced: float = 30.0
    bfloat16: bool = True
    snapshot_kimg: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("kimg", "batch", "codes", "mapped", "slices", "snapshot_kimg", "ema_half_life_kimg"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} {getattr(self, name)}: expected more than 0")
        if not 0 <= self.falling <= 1:
            raise UsageError(f"falling {self.falling}: expected a share of the run, 0 to 1")


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
        self.config, self.images, self.device = config, images, torch.device(device)
        torch.manual_seed(config.seed)
        self.generator = generator.train().requires_grad_(True).to(device)
        self.encoder = encoder.train().requires_grad_(True).to(device)
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.average_encoder = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        if config.bfloat16:
            self.generator.synthesis.compute_dtype = torch.bfloat16
        some = batch_indices(len(images), min(REFERENCE, len(images)), position=0, seed=config.seed)
        self.maps = FrozenMaps(copy.deepcopy(grader.members[0]).to(device), self._pictures(some))
        self.judge = Judge(self.maps.channels).to(device)
        for network in (self.maps, self.judge):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rates: dict[str, list[tuple[nn.Module, float]]] = {
            "generator": [
                (self.generator.synthesis, config.synthesis_rate),
                (self.generator.mapping, config.mapping_rate),
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

    def step(self) -> dict[str, Tensor]:
        """Train on one batch; returns scalars (detached)."""
        config = self.config
        index = batch_indices(len(self.images), config.batch, position=self.seen_images, seed=config.seed)
        real = self._pictures(index)
        turn = self.seen_images // config.batch
        self._set_rates()
        terms, codes, real_maps, fake_maps = self._terms(real)
        loss = torch.stack([getattr(config, name) * terms[name] for name in TERMS]).sum()
        for name in ("generator", "encoder"):
            self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.encoder.parameters(), GRADIENT_NORM)
        for name in ("generator", "encoder"):
            self.optimizers[name].step()
        scalars = {name: term.detach() for name, term in terms.items()}
        scalars["judge"] = self._judge_step(real_maps, fake_maps)
        if config.path_interval and turn % config.path_interval == 0:
            scalars["path_length"] = self._path_step()
        self.codes = torch.cat([self.codes[config.batch :], codes.detach()])
        self.seen_images += config.batch
        half_life = config.ema_half_life_kimg
        beta = ema_beta(config.batch, half_life_kimg=half_life, seen_images=self.seen_images, rampup=0.2)
        update_ema(self.average, self.generator, beta)
        update_ema(self.average_encoder, self.encoder, beta)
        return scalars

    def _terms(self, real: Tensor) -> tuple[dict[str, Tensor], Tensor, list[Tensor], list[Tensor]]:
        """Terms of L, the codes of `real`, and the maps of real pictures and of fakes (samples first)."""
        config, count = self.config, len(real)
        z = torch.randn(config.mapped + count, self.generator.z_dim, device=self.device, generator=self.rng)
        mapped = self.generator.mapping(z, update_w_avg=True)[:, 0]
        unit = (mapped - mapped.mean(dim=0)).detach().square().mean().sqrt()
        v = mapped[:count]
        samples = self._render(v, "random")
        with self._autocast():
            both = torch.cat([real, samples.detach()]).contiguous(memory_format=torch.channels_last)
            codes, again = self.encoder.split(both)[0].split(count)
        found = self._render(codes, "const")
        moves = torch.randint(
            2 * config.shift + 1, (2, count, 2), generator=self.rng, device=self.device
        ).tolist()
        shown = shifted(real, moves[1], config.shift)
        fakes = torch.cat([shifted(samples, moves[0], config.shift), shifted(found, moves[1], config.shift)])
        self.judge.requires_grad_(False)
        with self._autocast():
            with torch.no_grad():
                real_maps, real_grade = self.maps(shown)
            fake_maps, fake_grade = self.maps(fakes)
            adversarial = hinge_generator(self.judge(fake_maps))
        recent = torch.randint(len(self.codes), (config.mapped,), device=self.device, generator=self.rng)
        sliced = sliced_distance(mapped[count:], self.codes[recent], slices=config.slices, generator=self.rng)
        terms = {
            "adversarial": adversarial * (self.seen_images >= 1000 * config.warmup_kimg),
            "pyramid": pyramid_distance(found, real).mean(),
            "pixel": pixel_distance(found, real).mean(),
            "maps": map_distance([m[count:] for m in fake_maps], real_maps).mean(),
            "grade": F.kl_div(fake_grade[count:], real_grade, log_target=True, reduction="batchmean"),
            "latent": ((again - v.detach()) / unit).square().mean(),
            # not before the memory holds this run's codes
            "sliced": sliced / unit.square() * (self.seen_images >= len(self.codes)),
        }
        return terms, codes, real_maps, [m.detach() for m in fake_maps]

    def _judge_step(self, real_maps: list[Tensor], fake_maps: list[Tensor]) -> Tensor:
        self.judge.heads.requires_grad_(True)
        self.optimizers["judge"].zero_grad(set_to_none=True)
        count = self.config.batch
        with self._autocast():
            logits = self.judge([torch.cat(pair) for pair in zip(real_maps, fake_maps, strict=True)])
        loss = hinge_judge([d[:count] for d in logits], [d[count:] for d in logits])
        loss.backward()
        self.optimizers["judge"].step()
        return loss.detach()

    def _path_step(self) -> Tensor:
        config = self.config
        self.optimizers["generator"].zero_grad(set_to_none=True)
        z = torch.randn(
            max(1, config.batch // 2), self.generator.z_dim, device=self.device, generator=self.rng
        )
        ws = self.generator.mapping(z)
        fakes = self.generator.synthesis(ws, noise_mode="random", generator=self.rng)
        noise = torch.randn(fakes.shape, device=self.device, generator=self.rng)
        penalty, self.path_mean = path_length_penalty(path_lengths(fakes, ws, noise), self.path_mean)
        (penalty * config.path_weight * config.path_interval).backward()
        self.optimizers["generator"].step()
        return self.path_mean

    def _render(self, w: Tensor, noise_mode: Any) -> Tensor:
        ws = w[:, None].expand(-1, self.generator.num_ws, -1)
        image: Tensor = self.generator.synthesis(ws, noise_mode=noise_mode, generator=self.rng)
        return image

    def _set_rates(self) -> None:
        config = self.config
        left = 1 - self.seen_images / (1000 * config.kimg)
        share = min(1.0, left / config.falling) if config.falling else 1.0
        for adam in self.optimizers.values():
            for group in adam.param_groups:
                group["lr"] = group["full"] * (0.5 - 0.5 * math.cos(math.pi * share))

    def _pictures(self, index: Tensor) -> Tensor:
        return from_bytes(self.images[index], self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16)

    # ---- state ----------------------------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        """All that a checkpoint holds, by name."""
        return {
            "generator": self.generator,
            "encoder": self.encoder,
            "judge": self.judge,
            "maps": self.maps,
            "average": self.average,
            "average_encoder": self.average_encoder,
        }

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs."""
        return {
            "config": asdict(self.config),
            "seen_images": self.seen_images,
            "networks": {name: network.state_dict() for name, network in self.networks().items()},
            "optimizers": {name: adam.state_dict() for name, adam in self.optimizers.items()},
            "rng": self.rng.get_state(),
            "path_mean": self.path_mean,
            "codes": self.codes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()` of a run with the same configuration."""
        for name, network in self.networks().items():
            network.load_state_dict(state["networks"][name])
        for name, adam in self.optimizers.items():
            adam.load_state_dict(state["optimizers"][name])
        self.rng.set_state(state["rng"].cpu())
        self.seen_images = int(state["seen_images"])
        self.path_mean, self.codes = (tensors_to(state[name], self.device) for name in ("path_mean", "codes"))


def shifted(images: Tensor, moves: list[list[int]], most: int) -> Tensor:
    """Pictures through a window moved by (down, right) - `most` pixels, edges mirrored; `moves` 0 to 2·most."""
    side = images.shape[-1]
    padded = F.pad(images, (most,) * 4, mode="reflect")
    moved = [p[:, y : y + side, x : x + side] for p, (y, x) in zip(padded, moves, strict=True)]
    return torch.stack(moved).contiguous(memory_format=torch.channels_last)


def sliced_distance(samples: Tensor, others: Tensor, *, slices: int, generator: torch.Generator) -> Tensor:
    """Squared sliced 2-Wasserstein distance of two sets (N, D) of one size, over random unit directions."""
    directions = torch.randn(samples.shape[1], slices, device=samples.device, generator=generator)
    directions = F.normalize(directions, dim=0)
    a, b = ((x @ directions).sort(dim=0).values for x in (samples, others))
    return (a - b).square().mean()
