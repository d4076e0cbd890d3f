"""Other clinics' processing of the same picture: what detectors, vendors, archives and printers do to grey values.

    picture' = damaged(shuttered(sharpened(toned(picture))))

| group | what is drawn |
|---|---|
| tone | power, sigmoid, curve through random knots, histogram equalisation (whole, or in tiles: CLAHE), inversion |
| detail | gains of a Laplacian pyramid's levels, 0.5 to 7: edges of several sizes enhanced; unsharp masks with halos |
| range | its compression: what is coarser than the pyramid's levels weakened |
| shutter | collimation to a rectangle, black, white or grey; wedge of exposure across the picture |
| damage | blur, fewer pixels, noise (white, and by lines), few grey values, JPEG, saturation at either end |

Pictures are (N, 1, H, W) in [0, 1], each with a draw of its own. Where each group's effect applies is drawn for each
picture; `strength` scales how often.
"""

import io
import math
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

Effect = Callable[[Tensor], Tensor]

LEVELS = 4
_BINS, _TILES, _KNOTS = 32, 4, 5


class Processing:
    """Draws processings from a generator of its own; `strength` 0 leaves pictures as they are."""

    def __init__(self, seed: int, *, strength: float = 1.0) -> None:
        self.draws, self.strength = torch.Generator().manual_seed(seed), strength

    def __call__(self, x: Tensor) -> Tensor:
        """Each picture as another clinic would show it."""
        x = self.toned(x)
        x = self.detailed(x)
        x = self.shuttered(x)
        return self.damaged(x).clamp(0, 1)

    def _uniform(self, n: int, low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(n, generator=self.draws)).view(n, 1, 1, 1)

    def _some(self, n: int, chance: float) -> Tensor:
        """(N, 1, 1, 1), which pictures an effect is for."""
        return (torch.rand(n, generator=self.draws) < chance * self.strength).view(n, 1, 1, 1)

    def toned(self, x: Tensor) -> Tensor:
        """Tone curves; one picture in two keeps more or less its own."""
        n = len(x)
        x = torch.where(self._some(n, 0.7), _stretched(x) ** self._uniform(n, -1.0, 1.0).exp(), x)
        slope, at = self._uniform(n, 3, 12), self._uniform(n, 0.25, 0.75)
        low, high = torch.sigmoid(-slope * at), torch.sigmoid(slope * (1 - at))
        sigmoid = (torch.sigmoid(slope * (x - at)) - low) / (high - low)
        x = torch.where(self._some(n, 0.2), sigmoid, x)
        x = self._on_some(x, 0.2, self._bent)
        x = self._on_some(x, 0.12, lambda part: equalised(part, tiles=1))
        x = self._on_some(x, 0.3, self._locally_equalised)
        x = x * self._uniform(n, 0.55, 1.0) ** self._some(n, 0.5).float()
        x = x + self._some(n, 0.4) * self._uniform(n, 0.0, 0.3) * (1 - x)
        return torch.where(self._some(n, 0.12), 1 - x, x)

    def detailed(self, x: Tensor) -> Tensor:
        """Edges of several sizes enhanced or softened, and the range compressed."""

        def of_some(part: Tensor) -> Tensor:
            n = len(part)
            strong = self._uniform(n, 0.0, 1.7)  # a vendor's gains go together
            gains = [(strong + self._uniform(n, -0.6, 0.3)).exp() for _ in range(LEVELS)]
            return enhanced(part, gains, rest=self._uniform(n, 0.2, 1.2))

        x = self._on_some(x, 0.5, of_some)

        def of_few(part: Tensor) -> Tensor:
            radius = int(torch.randint(1, 8, (), generator=self.draws))
            return unsharp(part, radius, self._uniform(len(part), 0.5, 4.0))

        return self._on_some(x, 0.25, of_few).clamp(-0.3, 1.3)

    def shuttered(self, x: Tensor) -> Tensor:
        """A wedge of exposure, and collimation that leaves most of the picture."""
        n, _, height, width = x.shape
        down = torch.linspace(-1, 1, height).view(1, 1, -1, 1)
        along = torch.linspace(-1, 1, width).view(1, 1, 1, -1)
        wedge = 1 + self._uniform(n, -0.5, 0.5) * down + self._uniform(n, -0.5, 0.5) * along
        x = torch.where(self._some(n, 0.3), x * wedge, x)
        grey = torch.tensor([0.0, 0.0, 1.0, 0.1, 0.5])[torch.randint(5, (n,), generator=self.draws)]
        reach = [1 - self._uniform(n, -0.3, 0.3).clamp(min=0) for _ in range(4)]
        inside = (along > -reach[0]) & (along < reach[1]) & (down > -reach[2]) & (down < reach[3])
        return torch.where(self._some(n, 0.3) & ~inside, grey.view(n, 1, 1, 1), x)

    def damaged(self, x: Tensor) -> Tensor:
        """What sensors, archives and screens lose."""
        n, height = len(x), x.shape[2]
        x = self._on_some(x, 0.25, lambda part: smoothed(smoothed(part)))

        def of_some(part: Tensor) -> Tensor:
            return coarser(part, float(0.25 + 0.6 * torch.rand((), generator=self.draws)))

        x = self._on_some(x, 0.3, of_some)
        noise = torch.randn(x.shape, generator=self.draws)
        x = x + self._some(n, 0.5) * self._uniform(n, 0.0, 0.08) * noise
        lines = torch.randn((n, 1, height, 1), generator=self.draws)
        x = x + self._some(n, 0.08) * self._uniform(n, 0.0, 0.05) * lines
        low, high = self._uniform(n, 0.0, 0.25), self._uniform(n, 0.7, 1.0)
        x = torch.where(self._some(n, 0.25), (x - low) / (high - low), x).clamp(0, 1)
        levels = self._uniform(n, 12, 64).round()
        x = torch.where(self._some(n, 0.08), (x * levels).round() / levels, x)
        return self._on_some(x, 0.25, self._compressed)

    def _on_some(self, x: Tensor, chance: float, effect: Effect) -> Tensor:
        chosen = self._some(len(x), chance).flatten()
        if chosen.any():
            x = x.clone()
            x[chosen] = effect(x[chosen])
        return x

    def _bent(self, part: Tensor) -> Tensor:
        """A rising curve through random knots."""
        steps = torch.rand((len(part), _KNOTS), generator=self.draws) + 0.15
        knots = torch.cat([torch.zeros(len(part), 1), steps.cumsum(1)], 1)
        knots = knots / knots[:, -1:]
        at = part.clamp(0, 1) * _KNOTS
        below = at.floor().clamp(max=_KNOTS - 1)
        index = below.long().flatten(1)
        low, high = knots.gather(1, index), knots.gather(1, index + 1)
        return (low + (high - low) * (at - below).flatten(1)).view_as(part)

    def _locally_equalised(self, part: Tensor) -> Tensor:
        limit = float(1.5 + 6 * torch.rand((), generator=self.draws) ** 2)
        return equalised(part, tiles=_TILES, limit=limit)

    def _compressed(self, part: Tensor) -> Tensor:
        return torch.stack(
            [compressed(one, int(torch.randint(15, 80, (), generator=self.draws))) for one in part]
        )


def smoothed(x: Tensor) -> Tensor:
    """Blurred by a box of 3 pixels, twice."""
    return avg_pool2d(avg_pool2d(x, 3, 1, 1, count_include_pad=False), 3, 1, 1, count_include_pad=False)


def enhanced(x: Tensor, gains: Sequence[Tensor | float], *, rest: Tensor | float = 1.0) -> Tensor:
    """Each level of a Laplacian pyramid, the finest first, times its gain; what is coarser than all times `rest`."""
    levels, coarse = [], x
    for _ in gains:
        half = avg_pool2d(smoothed(coarse), 2, 2, ceil_mode=True)
        levels.append(coarse - _as_large(half, coarse))
        coarse = half
    middle = coarse.mean((2, 3), keepdim=True)
    made = middle + (coarse - middle) * rest
    for level, gain in zip(reversed(levels), reversed(gains), strict=True):
        made = _as_large(made, level) + level * gain
    return made


def unsharp(x: Tensor, radius: int, amount: Tensor | float) -> Tensor:
    """Unsharp mask with a box: halos as wide as `radius` pixels."""
    blurred = avg_pool2d(x, 2 * radius + 1, 1, radius, count_include_pad=False)
    return x + amount * (x - blurred)


def coarser(x: Tensor, share: float) -> Tensor:
    """As if stored with `share` of the pixels a side."""
    height, width = x.shape[2:]
    size = (max(1, round(height * share)), max(1, round(width * share)))
    small = interpolate(x, size=size, mode="bilinear", antialias=True)
    return interpolate(small, size=(height, width), mode="bilinear")


def compressed(x: Tensor, quality: int) -> Tensor:
    """A picture (1, H, W) after JPEG of that quality."""
    written = io.BytesIO()
    Image.fromarray((x[0].clamp(0, 1) * 255).byte().numpy()).save(written, "jpeg", quality=quality)
    read = torch.frombuffer(bytearray(Image.open(written).tobytes()), dtype=torch.uint8)
    return read.view(x.shape).float() / 255


def _as_large(x: Tensor, other: Tensor) -> Tensor:
    return interpolate(x, size=other.shape[2:], mode="bilinear", align_corners=False)


def _stretched(x: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return ((x - low) / (high - low + 1e-6)).clamp(1e-4, 1)


def equalised(x: Tensor, *, tiles: int, limit: float = math.inf) -> Tensor:
    """Histogram equalisation in tiles, no bin higher than `limit` times the mean, blended between them (CLAHE)."""
    n, _, height, width = x.shape
    x = _stretched(x)
    rows = torch.arange(height) * tiles // height
    columns = torch.arange(width) * tiles // width
    tile = (rows[:, None] * tiles + columns).flatten()
    index = tile * _BINS + (x.flatten(1) * _BINS).long().clamp(max=_BINS - 1)
    counts = torch.zeros(n, tiles * tiles * _BINS).scatter_add_(
        1, index, torch.ones_like(index, dtype=x.dtype)
    )
    counts = counts.view(n, tiles, tiles, _BINS)
    counts = counts / counts.mean(-1, keepdim=True)
    clipped = counts.clamp(max=limit)
    clipped = clipped + (counts - clipped).mean(-1, keepdim=True)
    curve = clipped.cumsum(-1) / _BINS - clipped / (2 * _BINS)  # at the middle of each bin
    down = torch.linspace(-1, 1, height).view(1, -1, 1).expand(n, height, width)
    along = torch.linspace(-1, 1, width).view(1, 1, -1).expand(n, height, width)
    place = torch.stack([along, down, x[:, 0] * 2 - 1], -1)[:, None]
    return grid_sample(
        curve.permute(0, 3, 1, 2)[:, None], place, mode="bilinear", padding_mode="border", align_corners=False
    )[:, 0]
