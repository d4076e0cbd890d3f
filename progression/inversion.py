"""x_0 → w_0: the encoder's code, or what an optimisation makes of it, and how knee-like the picture is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from progression.engine import Engine
from progression.latent.extrapolate import key_of
from progression.latent.invert import project, refine
from progression.latent.part import EncoderPart, rebuilt_figures
from progression.latent.perceptual import SeenDistance
from progression.risk.grader import Grader
from progression.stylegan2 import Generator
from progression.types import Request


@dataclass(frozen=True)
class Code:
    """What inversion gives for N pictures: latents, reconstructions (N, 1, R, R), typicality (N,).

    The search key is the encoder's, as in banks, whatever comes after it.
    """

    key: Tensor
    ws: Tensor
    reconstruction: Tensor
    typicality: Tensor
    mirrored_typicality: Tensor


@dataclass(frozen=True)
class Inversion:
    """The networks that inversion needs."""

    engine: Engine
    generator: Generator
    encoder: EncoderPart
    grader: Grader

    def __call__(self, x: Tensor, request: Request) -> Code:
        """Latents, and how knee-like the pictures are as shown and mirrored (from the encoder's own code)."""
        both = torch.cat([x, x.flip(3)])
        ws = self.engine.encode(both)
        rebuilt = self.engine.render(ws)
        typicality = self.encoder.typicality(*rebuilt_figures(rebuilt, self.encoder.whitening, ws, both))
        found, mirrored = typicality.split(len(x))
        ws, reconstruction = ws[: len(x)], rebuilt[: len(x)].clamp(-1, 1)
        key = key_of(ws)
        if request.inversion == "projection":
            ws = project(self.generator, x, seed=request.seed)
            reconstruction = self.engine.render(ws).clamp(-1, 1)
        elif request.steps:
            ws = refine(
                self.generator,
                ws,
                x,
                steps=request.steps,
                whitening=self.encoder.whitening,
                perceptual=self.likeness,
                dtype=self.likeness.dtype,
            )
            reconstruction = self.engine.render(ws).clamp(-1, 1)
        return Code(key, ws, reconstruction, found, mirrored)

    @cached_property
    def likeness(self) -> SeenDistance:
        """What refinement goes by, through the grader's first network; made when first asked for.

        In bfloat16 where the engine was asked for half precision, as is then the refinement's rendering.
        """
        dtype = torch.float32 if self.engine.precision == "float32" else torch.bfloat16
        return SeenDistance.of(self.generator, self.grader, dtype=dtype)
