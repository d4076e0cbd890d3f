"""What an encoder is trained to do: the terms of L in :mod:`progression.train.encoder`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from progression.encoder import Encoder
from progression.latent.invert import precision
from progression.latent.perceptual import pixel_distance, pyramid_distance
from progression.latent.whiten import Whitening
from progression.stylegan2 import Generator

Features = Callable[[Tensor], Tensor]
"""Pictures (N, C, R, R) → features (N, F), differentiable."""


class EncoderLosses:
    """The terms of L for one batch of samples and one of real knees.

    Parameters
    ----------
    generator, whitening : what the codes are for
    weights : λ of every term, by name
    features : whose features reconstructions must keep, such as a grader's
    bfloat16 : run the networks in bfloat16
    """

    def __init__(
        self,
        generator: Generator,
        whitening: Whitening,
        *,
        weights: Mapping[str, float],
        features: Features | None = None,
        bfloat16: bool = False,
    ) -> None:
        self.generator, self.whitening = generator, whitening
        self.weights, self.features, self.bfloat16 = weights, features, bfloat16
        self.unit = float(whitening.w_std) / math.sqrt(len(whitening.w_mean))

    def __call__(self, encoder: Encoder, z: Tensor, real: Tensor) -> tuple[Tensor, dict[str, float]]:
        """L and its unweighted terms, for z (N, z_dim) and knees (M, C, R, R) in [-1, 1]."""
        count, device = len(z), real.device.type
        with precision(self.generator, torch.bfloat16 if self.bfloat16 else torch.float32):
            with torch.no_grad():
                w = self.generator.mapping(z, None)
                samples = self.generator.synthesis(w, noise_mode="const")
            both = torch.cat([samples, real]).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device, torch.bfloat16, enabled=self.bfloat16):
                base, offsets = encoder.split(both)
            found = self.generator.synthesis((base[:, None] + offsets)[count:], noise_mode="const")
        away, apart = (base[:count] - w[:, 0]) / self.unit, offsets / self.unit
        terms = {
            "latent": away.square().mean() + apart[:count].square().mean(),
            "pyramid": pyramid_distance(found, real).mean(),
            "pixel": pixel_distance(found, real).mean(),
            "offset": apart[count:].square().mean(),
            "radius": (self.whitening.radius(base[count:]) - 1).clamp(min=0).square().mean(),
        }
        if self.features is not None:
            with torch.autocast(device, torch.bfloat16, enabled=self.bfloat16):
                with torch.no_grad():
                    wanted = self.features(real).float()
                got = self.features(found).float()
            spread = wanted.var(dim=0).mean().clamp(min=1e-8)
            terms["feature"] = (got - wanted).square().mean() / spread
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        return loss, {name: float(term.detach()) for name, term in terms.items()}
