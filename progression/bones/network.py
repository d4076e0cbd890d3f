"""The network that sees a knee's bones: a picture (N, 1, H, W) of any size to what stands in cells of 4 pixels.

    points      (N, 74, G, G)  logits of where each point of the outlines lies (`progression.bones.shape`)
    middle      (N, G, G)      logit that the middle of a knee's joint lies in this cell
    log_width   (N, G, G)      log of the tibial plateau's width over SIDE pixels, of the knee in whose middle it is
    tilt        (N, G, G)      of that knee, in units of 10 degrees, clockwise
    right       (N, G, G)      logit that its lateral side is the picture's left, as of a right knee

A feature pyramid (Lin et al. 2017) whose finest level has a fourth of the picture's pixels a side, with heatmaps whose
expectation is a point's place (integral regression, Sun et al. 2018). Two channels are made of the picture: itself, and
itself with the mean and the deviation of each neighbourhood taken out, in which clinics' processings differ less.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from progression.bones.shape import POINTS

SIDE = 160
"""Of the square in which outlines are looked for, pixels."""
STRIDE = 4
MULTIPLE = 32
"""Pictures have a multiple of this many pixels a side."""
TILT_UNIT_DEG = 10.0
WIDTHS = (24, 48, 96, 128, 160)
PYRAMID = 64
_NEIGHBOURHOOD = 7
"""Cells a side."""


@dataclass(frozen=True)
class Maps:
    """What the network says, see the module; logits of points are float32."""

    points: Tensor
    middle: Tensor
    log_width: Tensor
    tilt: Tensor
    right: Tensor

    def places(self) -> tuple[Tensor, Tensor]:
        """Expected place (N, 74, 2) of each point, x and y in pixels, and its spread (N, 74): the map's deviation."""
        n, k, rows, columns = self.points.shape
        chance = self.points.flatten(2).softmax(-1).view(n, k, rows, columns)
        along = ((torch.arange(count, device=chance.device) + 0.5) * STRIDE for count in (columns, rows))
        mean, square = [], []
        for axis, chances in zip(along, (chance.sum(2), chance.sum(3)), strict=True):
            mean.append(chances @ axis)
            square.append(chances @ axis.square())
        place = torch.stack(mean, -1)
        variance = torch.stack(square, -1) - place.square()
        return place, variance.clamp(min=0).sum(-1).sqrt()


def _block(inner: int, outer: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(inplace=True)
    )


class BoneNet(nn.Module):
    """See the module."""

    def __init__(self, *, widths: tuple[int, ...] = WIDTHS, pyramid: int = PYRAMID) -> None:
        super().__init__()
        self.widths, self.pyramid = widths, pyramid
        self.stem = _block(2, widths[0], 2)
        self.stages = nn.ModuleList(
            nn.Sequential(_block(inner, outer, 2), _block(outer, outer, 1))
            for inner, outer in pairwise(widths)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(width, pyramid, 1) for width in widths[1:])
        self.merge = nn.ModuleList(_block(pyramid, pyramid, 1) for _ in widths[2:])
        self.head = nn.Conv2d(pyramid, POINTS + 4, 1)
        assert self.head.bias is not None
        with torch.no_grad():  # most cells hold no knee's middle
            self.head.bias[POINTS] = -4.0

    def forward(self, x: Tensor) -> Maps:
        """Of pictures in [0, 1] of any exposure, with a multiple of 32 pixels a side."""
        maps = []
        x = self.stem(two_channels(x).contiguous(memory_format=torch.channels_last))
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        up = self.lateral[-1](maps[-1])
        for level in range(len(maps) - 2, -1, -1):
            up = interpolate(up, scale_factor=2.0, mode="nearest") + self.lateral[level](maps[level])
            up = self.merge[level](up)
        out = self.head(up).float()
        middle, log_width, tilt, right = out[:, POINTS:].unbind(1)
        return Maps(out[:, :POINTS], middle, log_width, tilt, right)


def two_channels(x: Tensor) -> Tensor:
    """The picture with its own mean and deviation taken out, and with those of each neighbourhood, (N, 2, H, W)."""
    mean, deviation = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True)
    x = (x - mean) / (deviation + 1e-4)

    def around(value: Tensor) -> Tensor:
        coarse = avg_pool2d(value, STRIDE)
        coarse = avg_pool2d(coarse, _NEIGHBOURHOOD, 1, _NEIGHBOURHOOD // 2, count_include_pad=False)
        return interpolate(coarse, scale_factor=float(STRIDE), mode="bilinear", align_corners=False)

    local = around(x)
    spread = (around(x.square()) - local.square()).clamp(min=0).sqrt()
    return torch.cat([x, (x - local) / (spread + 0.1)], 1)
