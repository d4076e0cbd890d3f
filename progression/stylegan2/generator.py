"""The StyleGAN2 generator: mapping network f: z → w and skip synthesis network g: w → image.

Parameter names equal the official implementation's, so that its checkpoints load with `strict=True`.
Source: arXiv 1912.04958 (Fig. 2, Fig. 7), arXiv 2006.06676 App. C.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from progression.stylegan2.ops import (
    LEAKY_GAIN,
    LEAKY_SLOPE,
    FullyConnected,
    modulated_conv2d,
    normalize_second_moment,
    setup_filter,
    upsample2d,
)

NoiseMode = Literal["random", "const", "none"]
RESAMPLE_TAPS = (1, 3, 3, 1)


def channels_at(resolution: int, *, channel_base: int, channel_max: int) -> int:
    """Feature maps at a resolution: channel_base / resolution, at most channel_max."""
    return min(channel_base // resolution, channel_max)


class MappingNetwork(nn.Module):
    """z (N, z_dim) and label c (N, c_dim) → w, repeated for every synthesis layer.

    `num_ws=None` returns (N, w_dim); otherwise (N, num_ws, w_dim). `w_avg_beta` is the decay of the running
    mean of w used by truncation; None keeps no mean.
    """

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        *,
        num_layers: int = 8,
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.995,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers, self.w_avg_beta = num_layers, w_avg_beta
        if c_dim:
            self.embed = FullyConnected(c_dim, w_dim)
        in_features = z_dim + (w_dim if c_dim else 0)
        for i in range(num_layers):
            layer = FullyConnected(in_features, w_dim, activation="lrelu", lr_multiplier=lr_multiplier)
            self.add_module(f"fc{i}", layer)
            in_features = w_dim
        if w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        *,
        update_w_avg: bool = False,
    ) -> Tensor:
        parts = []
        if self.z_dim:
            if z is None or z.ndim != 2 or z.shape[1] != self.z_dim:
                raise ValueError(f"z must be (N, {self.z_dim}), got {None if z is None else tuple(z.shape)}")
            parts.append(normalize_second_moment(z.float()))
        if self.c_dim:
            if c is None or c.ndim != 2 or c.shape[1] != self.c_dim:
                raise ValueError(f"c must be (N, {self.c_dim}), got {None if c is None else tuple(c.shape)}")
            parts.append(normalize_second_moment(self.embed(c.float())))
        w = torch.cat(parts, dim=1)
        for i in range(self.num_layers):
            w = getattr(self, f"fc{i}")(w)
        if update_w_avg and self.w_avg_beta is not None:
            self.w_avg.copy_(w.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))
        if self.num_ws is not None:
            w = w[:, None].repeat(1, self.num_ws, 1)
        if truncation_psi != 1:
            cut = None if self.num_ws is None else truncation_cutoff
            if self.num_ws is None or cut is None:
                w = self.w_avg.lerp(w, truncation_psi)
            else:
                w = torch.cat([self.w_avg.lerp(w[:, :cut], truncation_psi), w[:, cut:]], dim=1)
        return w


class SynthesisLayer(nn.Module):
    """Modulated 3×3 convolution, noise, bias, leaky ReLU; optionally doubling the resolution."""

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, resolution: int, *, up: bool) -> None:
        super().__init__()
        self.resolution, self.up = resolution, up
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", setup_filter(RESAMPLE_TAPS))

    def forward(
        self,
        x: Tensor,
        w: Tensor,
        *,
        noise_mode: NoiseMode,
        clamp: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        # √2·lrelu(v) = lrelu(√2·v): the gain goes into demodulation, noise strength and bias.
        bias, strength = self.bias * LEAKY_GAIN, self.noise_strength * LEAKY_GAIN
        # projection puts one map a picture in place of the one that all share
        shared = noise_mode == "const" and self.noise_const.ndim == 2
        if shared:
            # adding both at once is a pass over x the less
            bias = bias[:, None, None] + self.noise_const * strength
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            bias=bias,
            up=self.up,
            gain=LEAKY_GAIN,
            resample_filter=self.resample_filter,
        )
        if noise_mode == "const" and not shared:
            x = x + (self.noise_const * strength).to(x.dtype)
        elif noise_mode == "random":
            shape = (x.shape[0], 1, self.resolution, self.resolution)
            x = x + (torch.randn(shape, device=x.device, generator=generator) * strength).to(x.dtype)
        elif noise_mode not in ("none", "const"):
            raise ValueError(f"noise_mode must be random, const or none, got {noise_mode!r}")
        x = F.leaky_relu(x, LEAKY_SLOPE, inplace=True)
        return x if clamp is None else x.clamp(-clamp, clamp)


class ToImage(nn.Module):
    """Modulated 1×1 convolution to image channels, without demodulation ("tRGB" of the paper)."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1.0 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor, *, clamp: float | None = None) -> Tensor:
        styles = self.affine(w) * self.weight_gain
        x = modulated_conv2d(x, self.weight, styles, bias=self.bias, demodulate=False)
        return x if clamp is None else x.clamp(-clamp, clamp)


class SynthesisBlock(nn.Module):
    """One resolution: one or two layers and a contribution to the image."""

    resample_filter: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, resolution: int, img_channels: int
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.register_buffer("resample_filter", setup_filter(RESAMPLE_TAPS))
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, up=True)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, up=False)
        self.torgb = ToImage(out_channels, img_channels, w_dim)
        self.num_conv = 1 if in_channels == 0 else 2

    def forward(
        self,
        x: Tensor | None,
        image: Tensor | None,
        ws: Tensor,
        *,
        dtype: torch.dtype,
        noise_mode: NoiseMode,
        clamp: float | None,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = {"noise_mode": noise_mode, "clamp": clamp, "generator": generator}
        if x is None:
            x = self.const.to(dtype).expand(ws.shape[0], -1, -1, -1)
        else:
            x = self.conv0(x.to(dtype), ws[:, 0], **options)
        x = self.conv1(x, ws[:, self.num_conv - 1], **options)
        y = self.torgb(x, ws[:, self.num_conv], clamp=clamp).float()
        return x, y if image is None else y + upsample2d(image, self.resample_filter)


class SynthesisNetwork(nn.Module):
    """ws (N, num_ws, w_dim) → image (N, img_channels, R, R), roughly in [-1, 1].

    `compute_dtype` (float32, bfloat16, float16) is the precision of the activations; the image is always
    accumulated in float32. float16 clamps activations to ±256 (arXiv 2006.06676 App. B).
    """

    def __init__(
        self, w_dim: int, img_resolution: int, img_channels: int, *, channel_base: int, channel_max: int
    ) -> None:
        super().__init__()
        if img_resolution < 4 or img_resolution & (img_resolution - 1):
            raise ValueError(f"img_resolution must be a power of two of at least 4, got {img_resolution}")
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        self.compute_dtype = torch.float32
        self.block_resolutions = [2**i for i in range(2, img_resolution.bit_length())]
        self.num_ws = 2 * len(self.block_resolutions)
        in_channels = 0
        for r in self.block_resolutions:
            out_channels = channels_at(r, channel_base=channel_base, channel_max=channel_max)
            self.add_module(f"b{r}", SynthesisBlock(in_channels, out_channels, w_dim, r, img_channels))
            in_channels = out_channels

    def forward(
        self, ws: Tensor, noise_mode: NoiseMode = "random", *, generator: torch.Generator | None = None
    ) -> Tensor:
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must be (N, {self.num_ws}, {self.w_dim}), got {tuple(ws.shape)}")
        ws = ws.float()
        x: Tensor | None = None
        image: Tensor | None = None
        i = 0
        for r in self.block_resolutions:
            block = getattr(self, f"b{r}")
            x, image = block(
                x,
                image,
                ws[:, i : i + block.num_conv + 1],
                dtype=self.compute_dtype,
                noise_mode=noise_mode,
                clamp=256.0 if self.compute_dtype == torch.float16 else None,
                generator=generator,
            )
            i += block.num_conv  # tRGB shares its w with the next block's first layer
        assert image is not None
        return image


class Generator(nn.Module):
    """G = g∘f.

    Parameters
    ----------
    z_dim, c_dim, w_dim : sizes of the Gaussian input, the label and the intermediate latent.
    img_resolution : power of two, at least 4.
    channel_base, channel_max : feature maps at resolution r are min(channel_base / r, channel_max).
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        mapping_layers: int = 8,
        channel_base: int = 16384,
        channel_max: int = 512,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.mapping_layers, self.channel_base, self.channel_max = mapping_layers, channel_base, channel_max
        self.synthesis = SynthesisNetwork(
            w_dim, img_resolution, img_channels, channel_base=channel_base, channel_max=channel_max
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, num_layers=mapping_layers)

    def config(self) -> dict[str, int]:
        """Constructor arguments, as stored beside the weights."""
        names = ["z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"]
        names += ["mapping_layers", "channel_base", "channel_max"]
        return {name: getattr(self, name) for name in names}

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        noise_mode: NoiseMode = "const",
    ) -> Tensor:
        image: Tensor = self.synthesis(self.mapping(z, c, truncation_psi), noise_mode=noise_mode)
        return image
