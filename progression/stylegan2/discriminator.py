"""The residual StyleGAN2 discriminator (arXiv 1912.04958 Fig. 7c; label projection, arXiv 1802.05637)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from progression.stylegan2.generator import RESAMPLE_TAPS, MappingNetwork, channels_at
from progression.stylegan2.ops import LEAKY_GAIN, LEAKY_SLOPE, FullyConnected, convolve_down, setup_filter


class Convolution(nn.Module):
    """Equalised convolution, optionally halving the size, with optional bias and leaky ReLU."""

    resample_filter: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, down: bool = False, activate: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if activate else None
        self.register_buffer("resample_filter", setup_filter(RESAMPLE_TAPS))
        self.weight_gain = 1.0 / math.sqrt(in_channels * kernel * kernel)
        self.down = down

    def forward(self, x: Tensor, *, gain: float = 1.0, clamp: float | None = None) -> Tensor:
        # gain·lrelu(v) = lrelu(gain·v): the gains go into the small weight and not over the large activations.
        if self.bias is not None:
            gain *= LEAKY_GAIN
        w = (self.weight * (self.weight_gain * gain)).to(x.dtype)
        bias = None if self.bias is None else (self.bias * gain).to(x.dtype)
        if self.down:
            x = convolve_down(x, w, self.resample_filter, bias=bias)
        else:
            x = F.conv2d(x, w, bias, padding=w.shape[2] // 2)
        if bias is None:
            return x
        x = F.leaky_relu(x, LEAKY_SLOPE, inplace=True)
        return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)


class DiscriminatorBlock(nn.Module):
    """Two convolutions and a skip, halving the size; sum scaled to keep the variance."""

    resample_filter: Tensor

    def __init__(self, in_channels: int, out_channels: int, *, img_channels: int | None) -> None:
        super().__init__()
        self.register_buffer("resample_filter", setup_filter(RESAMPLE_TAPS))
        if img_channels is not None:
            self.fromrgb = Convolution(img_channels, in_channels, 1)
        self.conv0 = Convolution(in_channels, in_channels, 3)
        self.conv1 = Convolution(in_channels, out_channels, 3, down=True)
        self.skip = Convolution(in_channels, out_channels, 1, down=True, activate=False)
        self.first = img_channels is not None

    def forward(self, x: Tensor, *, clamp: float | None = None) -> Tensor:
        if self.first:
            # A one-channel picture fits every layout; say which one the wide activations shall have.
            x = self.fromrgb(x, clamp=clamp).contiguous(memory_format=torch.channels_last)
        skip = self.skip(x, gain=math.sqrt(0.5))
        x = self.conv1(self.conv0(x, clamp=clamp), gain=math.sqrt(0.5), clamp=clamp)
        return x + skip


def minibatch_std(x: Tensor, *, group_size: int) -> Tensor:
    """Append one map: the standard deviation within groups of samples, averaged over features and pixels.

    Progressive GAN §3 (arXiv 1710.10196). Sample i belongs to group i mod (N / group). N must be a multiple of
    min(group_size, N).
    """
    n, _, h, w = x.shape
    g = min(group_size, n)
    if n % g:
        raise ValueError(f"batch of {n} is not a multiple of the minibatch-std group of {g}")
    y = x.float().reshape(g, n // g, -1)
    y = (y.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=1)  # (N/g,)
    y = y.repeat(g).reshape(n, 1, 1, 1).expand(n, 1, h, w)
    return torch.cat([x, y.to(x.dtype)], dim=1)


class DiscriminatorEpilogue(nn.Module):
    """4×4 features → logit, projected on the label embedding where there is one."""

    resample_filter: Tensor

    def __init__(self, in_channels: int, *, cmap_dim: int, mbstd_group_size: int) -> None:
        super().__init__()
        self.mbstd_group_size = mbstd_group_size
        self.conv = Convolution(in_channels + 1, in_channels, 3)
        self.fc = FullyConnected(in_channels * 16, in_channels, activation="lrelu")
        self.out = FullyConnected(in_channels, cmap_dim or 1)

    def forward(self, x: Tensor, cmap: Tensor | None) -> Tensor:
        x = minibatch_std(x.float(), group_size=self.mbstd_group_size)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if cmap is not None:
            x = (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(cmap.shape[1])
        return x


class Discriminator(nn.Module):
    """image (N, img_channels, R, R), label (N, c_dim) → logit (N, 1), positive for real."""

    def __init__(
        self,
        c_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 16384,
        channel_max: int = 512,
        mbstd_group_size: int = 4,
    ) -> None:
        super().__init__()
        self.c_dim, self.img_resolution, self.img_channels = c_dim, img_resolution, img_channels
        self.channel_base, self.channel_max = channel_base, channel_max
        self.mbstd_group_size = mbstd_group_size
        self.compute_dtype = torch.float32

        def channels(r: int) -> int:
            return channels_at(r, channel_base=channel_base, channel_max=channel_max)

        self.block_resolutions = [2**i for i in range(img_resolution.bit_length() - 1, 2, -1)]
        for r in self.block_resolutions:
            first = img_channels if r == img_resolution else None
            self.add_module(f"b{r}", DiscriminatorBlock(channels(r), channels(r // 2), img_channels=first))
        cmap_dim = channels(4) if c_dim else 0
        if c_dim:
            self.mapping = MappingNetwork(0, c_dim, cmap_dim, None, w_avg_beta=None)
        self.b4 = DiscriminatorEpilogue(channels(4), cmap_dim=cmap_dim, mbstd_group_size=mbstd_group_size)

    def config(self) -> dict[str, int]:
        """Constructor arguments, as stored beside the weights."""
        names = ["c_dim", "img_resolution", "img_channels", "channel_base", "channel_max", "mbstd_group_size"]
        return {name: getattr(self, name) for name in names}

    def features(self, image: Tensor) -> list[Tensor]:
        """Activations after each block, fine to coarse, the last one (N, C, 4, 4)."""
        expected = (self.img_channels, self.img_resolution, self.img_resolution)
        if image.ndim != 4 or image.shape[1:] != expected:
            raise ValueError(f"image must be (N, {', '.join(map(str, expected))}), got {tuple(image.shape)}")
        clamp = 256.0 if self.compute_dtype == torch.float16 else None
        maps = [image.to(self.compute_dtype)]
        for r in self.block_resolutions:
            maps.append(getattr(self, f"b{r}")(maps[-1], clamp=clamp))
        return maps[1:]

    def head(self, features: Tensor, c: Tensor | None = None) -> Tensor:
        """Logit (N, 1) of the coarsest activations."""
        cmap = self.mapping(None, c) if self.c_dim else None
        logit: Tensor = self.b4(features, cmap)
        return logit

    def forward(self, image: Tensor, c: Tensor | None = None) -> Tensor:
        return self.head(self.features(image)[-1], c)
