"""Image → latent: one base w a knee and a small offset a layer (after e4e, arXiv 2102.02766).

    ws_l = w_mean + base(x) + offset_l(x),   l = 1 … L,   Σ_l offset_l = 0

With `offset_rank` 0, as in the model `default`, the offsets are 0. `base` is what knees are compared by and the mean
over layers; offsets let the reconstruction come nearer where one w cannot. Penalising them in training keeps codes
where W's displacements still mean the same.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from progression.errors import UsageError

MAP_SIDE = 4


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of an encoder.

    Attributes
    ----------
    resolution : side of the square input, pixels; a power of two, at least 16
    num_ws, w_dim : layers and width of the generator's latents
    img_channels : image channels
    width : feature maps after the first stage
    max_width : most feature maps anywhere
    hidden : width of the base head
    offset_rank : width of the bottleneck through which a layer's offset goes; 0 for one w a knee, no offsets
    pool : pictures are averaged over so many pixels a side before anything else: one w holds no fine detail
    """

    resolution: int
    num_ws: int
    w_dim: int = 512
    img_channels: int = 1
    width: int = 24
    max_width: int = 256
    hidden: int = 512
    offset_rank: int = 32
    pool: int = 1

    def __post_init__(self) -> None:
        if self.resolution < 16 or self.resolution & (self.resolution - 1):
            raise UsageError(f"encoder resolution {self.resolution}: expected a power of two, at least 16")
        if self.pool < 1 or self.pool & (self.pool - 1) or self.resolution // self.pool < 16:
            raise UsageError(
                f"encoder pool {self.pool}: expected a power of two that leaves 16 pixels or more of {self.resolution}"
            )
        if self.offset_rank < 0:
            raise UsageError(f"offset_rank {self.offset_rank}: expected 0 (no offsets) or more")


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, the first halving the picture, beside an averaging shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)
        self.norm0 = nn.BatchNorm2d(out_channels)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm0(self.conv0(x)), inplace=True)
        y = self.norm1(self.conv1(y))
        return F.relu(y + self.shortcut(F.avg_pool2d(x, 2)), inplace=True)


class Encoder(nn.Module):
    """Image (N, C, R, R) in [-1, 1] → ws (N, L, w_dim).

    Light on purpose: under 10 ms for a 128² picture on one CPU thread. Untrained it returns `w_mean` for
    every picture.
    """

    w_mean: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self._config = config
        sides, channels = [config.resolution // config.pool // 2], [config.width]
        self.stem = nn.Conv2d(config.img_channels, config.width, 5, stride=2, padding=2, bias=False)
        self.stem_norm = nn.BatchNorm2d(config.width)
        self.blocks = nn.ModuleList()
        while sides[-1] > MAP_SIDE:
            sides.append(sides[-1] // 2)
            channels.append(min(channels[-1] * 2, config.max_width))
            self.blocks.append(ResidualBlock(channels[-2], channels[-1]))
        # Coarse, middle and fine maps, each reduced to 4×4 cells.
        self.tapped = len(channels) - min(3, len(channels))
        self.reduce = nn.ModuleList(
            nn.Conv2d(c, min(c, 64 if i < len(channels) - 1 else 128), 1)
            for i, c in enumerate(channels)
            if i >= self.tapped
        )
        size = MAP_SIDE**2 * sum(layer.out_channels for layer in self.reduce if isinstance(layer, nn.Conv2d))
        self.hidden = nn.Linear(size, config.hidden)
        self.base = nn.Linear(config.hidden, config.w_dim)
        if config.offset_rank:
            self.offset_in = nn.Linear(size, config.num_ws * config.offset_rank)
            self.offset_out = nn.Parameter(torch.zeros(config.num_ws, config.offset_rank, config.w_dim))
        nn.init.zeros_(self.base.weight)
        nn.init.zeros_(self.base.bias)
        self.register_buffer("w_mean", torch.zeros(config.w_dim))

    def config(self) -> dict[str, Any]:
        """Constructor arguments, as stored beside the weights: `Encoder(EncoderConfig(**config))`."""
        return asdict(self._config)

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps from fine to coarse, halving each time: (N, C_i, R/pool/2^(i+1), R/pool/2^(i+1))."""
        expected = (self._config.img_channels, self._config.resolution, self._config.resolution)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise UsageError(f"encoder expects pictures of shape {expected}, got {tuple(images.shape[1:])}")
        if self._config.pool > 1:
            images = F.avg_pool2d(images, self._config.pool)
        maps = [F.relu(self.stem_norm(self.stem(images)), inplace=True)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps

    def split(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Base w (N, w_dim), `w_mean` included, and offsets (N, L, w_dim) of zero sum over layers, float32."""
        cells = []
        for x, reduce in zip(self.features(images)[self.tapped :], self.reduce, strict=True):
            cells.append(F.leaky_relu(F.adaptive_avg_pool2d(reduce(x), MAP_SIDE), 0.2).flatten(1))
        h = torch.cat(cells, dim=1)
        base = self.base(F.leaky_relu(self.hidden(h), 0.2)).float() + self.w_mean
        if not self._config.offset_rank:
            return base, base.new_zeros(len(base), self._config.num_ws, self._config.w_dim)
        inner = self.offset_in(h).float().unflatten(1, (self._config.num_ws, self._config.offset_rank))
        offsets = torch.einsum("nlr,lrd->nld", inner, self.offset_out.float())
        return base, offsets - offsets.mean(dim=1, keepdim=True)

    def forward(self, images: Tensor) -> Tensor:
        base, offsets = self.split(images)
        return base[:, None] + offsets
