"""The network that finds knees: a film (1, 192, 192) to cells of 4 pixels, each with what stands there.

    heat      logit that a knee's square has its middle in this cell
    offset    of that middle from the cell's, in cells
    log_side  log of the square's side over the film's longer one
    tilt      of the limb, in units of 10 degrees, clockwise
    metal     logit that an implant's metal is in this cell
    letters   logits that a letter R, L, a mirrored R, a mirrored L has its middle in this cell
    kind      logits of what the whole film shows, knees or no knees (`progression.localise.find.KINDS`)

After CenterNet (Zhou et al. 2019, Objects as Points), with 0.5 million weights.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

SIDE = 192
"""Of the square that a film is fitted into, pixels."""
STRIDE = 4
LETTERS = ("R", "L", "mirrored R", "mirrored L")
"""What a side's marker may say; mirrored where the film, or the marker, lies the wrong way round. Learnt, and not read
out: too few letters are found for a side to be held against them (model card)."""
METAL_CELLS = 4
"""Metal is as sure as these cells that look most like it: a staple's are about as many."""
TILT_UNIT_DEG = 10.0


@dataclass(frozen=True)
class Cells:
    """What the network says of N films; G = SIDE / STRIDE cells a side.

    Attributes
    ----------
    heat, log_side, tilt, metal : (N, G, G)
    offset : (N, 2, G, G), x and y
    letters : (N, 4, G, G), of `LETTERS`
    kind : (N, K)
    """

    heat: Tensor
    offset: Tensor
    log_side: Tensor
    tilt: Tensor
    metal: Tensor
    letters: Tensor
    kind: Tensor

    def any_metal(self) -> Tensor:
        """Logit that there is metal, (N,)."""
        return any_metal(self.metal)


def any_metal(cells: Tensor) -> Tensor:
    """Logit that there is metal in any of the cells (N, rows, columns), (N,)."""
    cells = cells.flatten(1)
    return cells.topk(min(METAL_CELLS, cells.shape[1]), dim=1).values.mean(1)


def _block(inner: int, outer: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(inplace=True)
    )


class KneeFinder(nn.Module):
    """See the module; `kinds` is K, `width` the channels of the first block."""

    def __init__(self, *, kinds: int, width: int = 16) -> None:
        super().__init__()
        wide = [width, 2 * width, 4 * width, 6 * width, 8 * width]
        self.stem = _block(1, wide[0], 2)
        self.stages = nn.ModuleList(
            nn.Sequential(_block(inner, outer, 2), _block(outer, outer, 1)) for inner, outer in pairwise(wide)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(one, wide[1], 1) for one in wide[1:])
        self.merge = _block(wide[1], wide[1], 1)
        self.head = nn.Conv2d(wide[1], 6 + len(LETTERS), 1)
        self.kind = nn.Linear(2 * wide[-1], kinds)
        bias = self.head.bias
        assert bias is not None
        with torch.no_grad():  # most cells hold neither a knee nor metal nor a letter
            bias[0] = bias[5:] = -4.0

    def forward(self, x: Tensor) -> Cells:
        """Of films (N, 1, 192, 192) in [0, 1]."""
        maps = []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
        up = self.lateral[-1](maps[-1])
        for level in (2, 1, 0):
            up = nn.functional.interpolate(up, scale_factor=2, mode="bilinear", align_corners=False)
            up = torch.relu(up + self.lateral[level](maps[level]))
        out = self.head(self.merge(up))
        return Cells(out[:, 0], out[:, 1:3], out[:, 3], out[:, 4], out[:, 5], out[:, 6:], self.kind(pooled))
