"""Picture → latent by optimisation: a short refinement of the encoder's code, and the paper's projection.

| symbol | meaning | shape |
|---|---|---|
| x | pictures | (N, C, R, R) in [-1, 1] |
| ws | latents, one a layer | (N, L, D) |
| σ_w | root mean squared distance of w from its mean | () |

Every knee's loss is its own and Adam works element by element, so a knee's result does not depend on which
others are in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from progression.errors import UsageError
from progression.latent.perceptual import Distance, pixel_distance, pyramid
from progression.latent.whiten import Whitening, sample_w
from progression.stylegan2 import Generator


def refine(
    generator: Generator,
    ws0: Tensor,
    images: Tensor,
    *,
    steps: int = 30,
    learning_rate: float = 0.05,
    space: Literal["w+", "w"] = "w+",
    whitening: Whitening | None = None,
    offset_weight: float = 0.02,
    spread_weight: float = 0.02,
    radius_weight: float = 0.1,
    perceptual: Distance = pyramid,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Improve codes by a few tens of Adam steps on all knees at once.

    Minimises, for each knee, with u = (ws - ws0)/σ,

        perceptual + mean (g(ws) - x)² + a·mean u² + b·mean (u_l - ū)² + c·max(0, radius(w̄) - max(1, radius(w̄_0)))²

    where w̄ is the mean over layers. Steps shrink along a cosine. Deterministic.

    Parameters
    ----------
    ws0 : (N, L, D)
        Where to start, the encoder's codes.
    images : (N, C, R, R)
        Targets, in [-1, 1].
    steps : int
        0 returns `ws0`.
    learning_rate : float
        First step's size, in the units of w over its spread σ per coordinate.
    space : "w+" or "w"
        "w" moves all layers alike: only the key changes, the offsets between layers stay.
    whitening : Whitening, optional
        Of the generator's W; without it σ = 1 and the radius is not penalised.
    offset_weight, spread_weight, radius_weight : float
        a, b, c.
    perceptual : Distance
        `pyramid`, which needs no network and makes pictures smooth; or a `SeenDistance`, which keeps what a grader
        sees.
    dtype : torch.dtype
        Precision of the generator's activations, float32 or bfloat16; codes and losses are float32 always.

    Returns
    -------
    Tensor
        (N, L, D), not attached to a graph.
    """
    if ws0.shape[0] != images.shape[0]:
        raise UsageError(f"expected one code a picture, got {len(ws0)} codes and {len(images)} pictures")
    ws0 = ws0.detach().float()
    if steps == 0 or len(ws0) == 0:
        return ws0
    unit = 1.0 if whitening is None else float(whitening.w_std) / math.sqrt(ws0.shape[2])
    bound = None if whitening is None else whitening.radius(ws0.mean(dim=1)).clamp(min=1.0)
    shape = ws0.shape if space == "w+" else (ws0.shape[0], 1, ws0.shape[2])
    u = torch.zeros(shape, device=ws0.device, requires_grad=True)
    adam = torch.optim.Adam([u], lr=learning_rate, betas=(0.9, 0.99))
    towards = perceptual(images)
    with frozen(generator), precision(generator, dtype), torch.enable_grad():
        for step in range(steps):
            adam.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            ws = ws0 + unit * u
            rendered = generator.synthesis(ws, noise_mode="const")
            loss = towards(rendered) + pixel_distance(rendered, images)
            loss = loss + offset_weight * u.square().mean(dim=(1, 2))
            loss = loss + spread_weight * (u - u.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2))
            if whitening is not None and bound is not None:
                excess = F.relu(whitening.radius(ws.mean(dim=1)) - bound)
                loss = loss + radius_weight * excess.square()
            (u.grad,) = torch.autograd.grad(loss.sum(), [u])
            adam.step()
    return (ws0 + unit * u).detach()


def project(
    generator: Generator,
    images: Tensor,
    *,
    steps: int = 1000,
    learning_rate: float = 0.1,
    initial_noise: float = 0.05,
    noise_ramp: float = 0.75,
    rampup: float = 0.05,
    rampdown: float = 0.25,
    noise_weight: float = 1e5,
    perceptual: Distance = pyramid,
    seed: int = 0,
) -> Tensor:
    """The projection of arXiv 1912.04958, App. D: one w a picture, from the mean, with the noise maps.

    Adam on w and on every layer's noise map. Noise of deviation `initial_noise`·σ_w·t², with t falling from
    1 to 0 over the first `noise_ramp` of the steps, is added to w so that it explores; the learning rate
    rises over the first `rampup` and falls along a cosine over the last `rampdown`. Noise maps are kept
    from carrying the picture: their autocorrelation is penalised over a pyramid and they are normalised
    after each step.

    The published form measures distance by LPIPS alone; here it is `perceptual` plus pixels, by default the
    pyramid of :mod:`progression.latent.perceptual`, which needs no further network.

    Parameters
    ----------
    images : (N, C, R, R)
        In [-1, 1].
    steps : int
        1,000 in the paper; every ramp is a share of it.
    noise_weight : float
        α of the paper.
    seed : int
        Of the noise.

    Returns
    -------
    Tensor
        ws (N, L, D), all layers alike. The noise maps are dropped, as everything downstream renders with the
        generator's own.
    """
    count, device = images.shape[0], images.device
    samples = sample_w(generator, 10_000, seed=seed)
    w_mean = samples.mean(dim=0)
    sigma = float((samples - w_mean).square().sum(dim=1).mean().sqrt())
    draws = torch.Generator().manual_seed(seed)
    names = [name for name, _ in generator.synthesis.named_buffers() if name.endswith("noise_const")]
    noises = {
        name: torch.randn(1, 1, *buffer.shape, generator=draws)
        .repeat(count, 1, 1, 1)
        .to(device)
        .requires_grad_()
        for name, buffer in generator.synthesis.named_buffers()
        if name in names
    }
    w = w_mean.repeat(count, 1).requires_grad_()
    variables = [w, *noises.values()]
    adam = torch.optim.Adam(variables, lr=learning_rate)
    towards = perceptual(images)
    with frozen(generator), torch.enable_grad():
        for step in range(steps):
            t = step / steps
            adam.param_groups[0]["lr"] = learning_rate * _ramp(t, rampup=rampup, rampdown=rampdown)
            strength = initial_noise * sigma * max(0.0, 1.0 - t / noise_ramp) ** 2
            # one draw for all, so that a knee's result does not depend on its place in the batch
            wandering = w + strength * torch.randn(1, w.shape[1], generator=draws).to(device)
            ws = wandering[:, None].expand(-1, generator.num_ws, -1)
            rendered = torch.func.functional_call(
                generator.synthesis, dict(noises), (ws,), {"noise_mode": "const"}
            )
            loss = towards(rendered) + pixel_distance(rendered, images)
            loss = loss + noise_weight * sum(noise_autocorrelation(noise) for noise in noises.values())
            gradients = torch.autograd.grad(loss.sum(), variables, allow_unused=True)
            for variable, gradient in zip(variables, gradients, strict=True):
                variable.grad = gradient
            adam.step()
            with torch.no_grad():
                for noise in noises.values():
                    noise.sub_(noise.mean(dim=(2, 3), keepdim=True))
                    noise.mul_(noise.square().mean(dim=(2, 3), keepdim=True).rsqrt())
    return w.detach()[:, None].repeat(1, generator.num_ws, 1)


def noise_autocorrelation(noise: Tensor) -> Tensor:
    """How far noise maps (N, 1, r, r) are from white: squared lag-one means, pyramid down to 8², (N,)."""
    total = torch.zeros(noise.shape[0], device=noise.device)
    while True:
        for axis in (2, 3):
            total = total + (noise * noise.roll(1, dims=axis)).mean(dim=(1, 2, 3)).square()
        if noise.shape[2] <= 8:
            return total
        # Averaging four unit normals halves their deviation; doubling restores it.
        noise = 2 * F.avg_pool2d(noise, 2)


def _ramp(t: float, *, rampup: float, rampdown: float) -> float:
    """Share of the learning rate at t in [0, 1): linear up, flat, cosine down."""
    down = min(1.0, (1.0 - t) / rampdown)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, t / rampup)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradients for a module's parameters inside the block; as before after it."""
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def precision(generator: Generator, dtype: torch.dtype) -> Iterator[None]:
    """Run the synthesis network in another precision inside the block."""
    before = generator.synthesis.compute_dtype
    generator.synthesis.compute_dtype = dtype
    try:
        yield
    finally:
        generator.synthesis.compute_dtype = before
