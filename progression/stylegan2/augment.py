"""Adaptive discriminator augmentation: the pipeline (arXiv 2006.06676 §2 and App. B).

Every transformation is applied with probability `config.<name> · p`, to each image on its own, and all of it
is differentiable twice (R1 differentiates the discriminator's gradient through the pipeline).

| group | transformations | how |
|---|---|---|
| blit | x-flip, 90° rotations, integer translation | with geom |
| geom | isotropic scale, rotation, anisotropic scale, rotation, translation | one map, resampled once |
| color | brightness, contrast, luma flip, hue, saturation | one affine map of RGB |
| filter | amplification of four octave bands | one separable filter |
| corruption | additive noise, cutout | |

| symbol | meaning | shape |
|---|---|---|
| x | images, about [-1, 1] | (N, C, H, W), C = 1 or 3 |
| G | homography source → result, pixels, origin at the image centre, y down | (N, 3, 3) |
| C | affine map of colour | (N, 4, 4) |
| g | gain a band | (N, 4) |

Strengths are drawn on the CPU whatever device the images are on: they are few, and decide how much to compute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from progression.errors import UsageError
from progression.stylegan2.warp import warp
from progression.stylegan2.wavelet import BANDS, octave_bands

# Power of natural images in the four octave bands, lowest first (1/f spectrum; App. B)
_BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)


@dataclass(frozen=True)
class AugmentConfig:
    """Probability of each transformation (at p = 1) and its strength.

    Strengths in octaves are standard deviations of log2 of a factor; in turns, half-widths of a uniform angle;
    in fractions of the image's size, the half-width of `translate`, the standard deviation of `shift` and the
    side of `cutout`.
    """

    xflip: float = 0.0
    rotate90: float = 0.0
    translate: float = 0.0
    translate_fraction: float = 0.125

    scale: float = 0.0
    rotate: float = 0.0
    stretch: float = 0.0
    shift: float = 0.0
    scale_octaves: float = 0.2
    rotate_turns: float = 0.5
    stretch_octaves: float = 0.2
    shift_fraction: float = 0.125

    brightness: float = 0.0
    contrast: float = 0.0
    luma_flip: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    brightness_std: float = 0.2
    contrast_octaves: float = 0.5
    hue_turns: float = 0.5
    saturation_octaves: float = 1.0

    filter: float = 0.0
    filter_bands: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    filter_octaves: float = 1.0

    noise: float = 0.0
    cutout: float = 0.0
    noise_std: float = 0.1
    cutout_fraction: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            strength = field.name.endswith(("_fraction", "_octaves", "_turns", "_std"))
            values = value if isinstance(value, tuple) else (value,)
            if not all(0 <= v <= (math.inf if strength else 1) for v in values):
                wanted = "at least 0" if strength else "a probability from 0 to 1"
                raise UsageError(f"augmentation setting {field.name} is {value}, expected {wanted}")


_BLIT = AugmentConfig(xflip=1.0, rotate90=1.0, translate=1.0)
_GEOM = AugmentConfig(scale=1.0, rotate=1.0, stretch=1.0, shift=1.0)
_COLOR = AugmentConfig(brightness=1.0, contrast=1.0, luma_flip=1.0, hue=1.0, saturation=1.0)
_BG = replace(_GEOM, xflip=1.0, rotate90=1.0, translate=1.0)
_BGC = replace(_BG, brightness=1.0, contrast=1.0, luma_flip=1.0, hue=1.0, saturation=1.0)

PRESETS = {
    "blit": _BLIT,
    "geom": _GEOM,
    "color": _COLOR,
    "filter": AugmentConfig(filter=1.0),
    "noise": AugmentConfig(noise=1.0),
    "cutout": AugmentConfig(cutout=1.0),
    "bg": _BG,
    "bgc": _BGC,
    "bgcf": replace(_BGC, filter=1.0),
    "bgcfn": replace(_BGC, filter=1.0, noise=1.0),
    "bgcfnc": replace(_BGC, filter=1.0, noise=1.0, cutout=1.0),
    # every knee looks like a right one, so no mirroring; no colours, and bone and air never swap
    "radiograph": replace(_BG, xflip=0.0, brightness=1.0, contrast=1.0),
}


class Augment(nn.Module):
    """The pipeline.

    Parameters
    ----------
    config
        An `AugmentConfig` or the name of one in `PRESETS`.
    p
        Overall strength 0 to 1; a buffer, to be changed while training (`ada.AdaptiveAugmentation`).
    """

    p: Tensor

    def __init__(self, config: AugmentConfig | str = "bgc", *, p: float = 1.0) -> None:
        super().__init__()
        if isinstance(config, str):
            if config not in PRESETS:
                raise UsageError(f"no augmentation preset {config!r}; choose one of {', '.join(PRESETS)}")
            config = PRESETS[config]
        self.config = config
        self.register_buffer("p", torch.tensor(float(p)))

    def forward(
        self,
        images: Tensor,
        *,
        generator: torch.Generator | None = None,
        debug_percentile: float | None = None,
    ) -> Tensor:
        """Augment each image on its own.

        Parameters
        ----------
        images
            (N, 1 or 3, H, W), float, about [-1, 1]. The result may exceed that range.
        generator
            Source of all draws, PyTorch's own if None. One on another device gives a seed for each call.
        debug_percentile
            Put this percentile q in (0, 1) of its distribution in place of each drawn strength. As in the
            official implementation, whose numbers this reproduces, Gaussian draws become erfinv(2q - 1),
            without √2, and the second rotation is left out.

        Raises
        ------
        UsageError
            If there are neither one nor three channels.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UsageError(f"augmentation expects images (N, 1 or 3, H, W), received {tuple(images.shape)}")
        p = min(max(float(self.p), 0.0), 1.0)
        if p == 0.0:
            return images
        if generator is not None and generator.device.type != "cpu":
            seed = torch.randint(1 << 62, (1,), generator=generator, device=generator.device)
            generator = torch.Generator().manual_seed(int(seed))
        draw = _Draw(images.shape[0], p, generator, debug_percentile)
        images = self._move(images, draw)
        images = self._recolor(images, draw)
        images = self._filter(images, draw)
        return self._corrupt(images, draw)

    # ------------------------------------------------------------------ blit and geom

    def _homography(self, draw: _Draw, height: int, width: int) -> Tensor:
        """G (N, 3, 3), App. B: each new transformation multiplies from the left."""
        c = self.config
        size = torch.tensor([width, height], dtype=torch.float64)
        g = torch.eye(3, dtype=torch.float64).repeat(draw.n, 1, 1)
        if c.xflip:
            flip = draw.gated(c.xflip, 1 - 2 * draw.choice(2), 1)
            g = _scale2d(flip, torch.ones_like(flip)) @ g
        if c.rotate90:
            g = _rotate2d(draw.gated(c.rotate90, -math.pi / 2 * draw.choice(4), 0)) @ g
        if c.translate:
            t = torch.stack([draw.uniform(), draw.uniform()], dim=1) * c.translate_fraction * size
            g = _translate2d(draw.gated(c.translate, t.round(), 0)) @ g
        if c.scale:
            s = draw.gated(c.scale, torch.exp2(draw.normal() * c.scale_octaves), 1)
            g = _scale2d(s, s) @ g
        # two chances to rotate, so that together they rotate with probability rotate·p
        either = 1 - math.sqrt(1 - c.rotate * draw.p)
        if c.rotate:
            angle = draw.uniform() * 2 * math.pi * c.rotate_turns
            g = _rotate2d(draw.gated(either / draw.p, -angle, 0)) @ g
        if c.stretch:
            s = draw.gated(c.stretch, torch.exp2(draw.normal() * c.stretch_octaves), 1)
            g = _scale2d(s, 1 / s) @ g
        if c.rotate and not draw.fixed:
            angle = draw.uniform() * 2 * math.pi * c.rotate_turns
            g = _rotate2d(draw.gated(either / draw.p, -angle, 0)) @ g
        if c.shift:
            t = torch.stack([draw.normal(), draw.normal()], dim=1) * c.shift_fraction * size
            g = _translate2d(draw.gated(c.shift, t, 0)) @ g
        return g

    def _move(self, images: Tensor, draw: _Draw) -> Tensor:
        g = self._homography(draw, *images.shape[2:])
        moved = (g != torch.eye(3)).flatten(1).any(dim=1).nonzero().squeeze(1)
        if len(moved) == 0:
            return images
        if len(moved) == len(images):
            return warp(images, g)
        where = moved.to(images.device)
        return images.index_copy(0, where, warp(images[where], g[moved]))

    # ------------------------------------------------------------------ color

    def _recolor(self, images: Tensor, draw: _Draw) -> Tensor:
        """C of App. B; a grey image is taken for an RGB one of equal channels, and the result averaged."""
        c = self.config
        m = torch.eye(4, dtype=torch.float64).repeat(draw.n, 1, 1)
        identity = m
        luma = torch.ones(3, dtype=torch.float64) / math.sqrt(3)
        along = torch.outer(luma, luma)
        across = torch.eye(3, dtype=torch.float64) - along
        if c.brightness:
            b = draw.gated(c.brightness, draw.normal() * c.brightness_std, 0)
            m = _affine(offset=b[:, None].expand(-1, 3)) @ m
        if c.contrast:
            s = draw.gated(c.contrast, torch.exp2(draw.normal() * c.contrast_octaves), 1)
            m = _affine(s[:, None, None] * torch.eye(3, dtype=torch.float64)) @ m
        if c.luma_flip:
            i = draw.gated(c.luma_flip, draw.choice(2), 0)
            m = _affine(torch.eye(3, dtype=torch.float64) - 2 * i[:, None, None] * along) @ m
        if images.shape[1] == 3 and c.hue:
            angle = draw.gated(c.hue, draw.uniform() * 2 * math.pi * c.hue_turns, 0)
            m = _affine(_rotate_about(luma, angle)) @ m
        if images.shape[1] == 3 and c.saturation:
            s = draw.gated(c.saturation, torch.exp2(draw.normal() * c.saturation_octaves), 1)
            m = _affine(along + s[:, None, None] * across) @ m
        if m is identity:
            return images
        linear, offset = m[:, :3, :3], m[:, :3, 3]
        if images.shape[1] == 1:
            linear, offset = linear.sum(2).mean(1)[:, None, None], offset.mean(1, keepdim=True)
        linear, offset = linear.to(images), offset.to(images)
        return torch.einsum("nij,njhw->nihw", linear, images) + offset[:, :, None, None]

    # ------------------------------------------------------------------ filter

    def _filter(self, images: Tensor, draw: _Draw) -> Tensor:
        c = self.config
        if not c.filter:
            return images
        power = torch.tensor(_BAND_POWER, dtype=torch.float64)
        gain = torch.ones(draw.n, BANDS, dtype=torch.float64)
        for band in range(BANDS):
            t = torch.ones(draw.n, BANDS, dtype=torch.float64)
            factor = torch.exp2(draw.normal() * c.filter_octaves)
            t[:, band] = draw.gated(c.filter * c.filter_bands[band], factor, 1)
            gain = gain * t / (t.square() @ power).sqrt()[:, None]  # keep the expected power
        gain = gain.to(images)
        bands = [octave_bands(k, images.device).to(images.dtype) for k in images.shape[2:]]
        rows, columns = (torch.einsum("nb,bij->nij", gain, band) for band in bands)
        return rows[:, None] @ images @ columns[:, None].mT

    # ------------------------------------------------------------------ corruption

    def _corrupt(self, images: Tensor, draw: _Draw) -> Tensor:
        c = self.config
        if c.noise:
            std = draw.gated(c.noise, draw.normal().abs() * c.noise_std, 0).to(images)
            noise = torch.randn(images.shape, generator=draw.generator).to(images)
            images = images + noise * std[:, None, None, None]
        if c.cutout:
            half = draw.gated(c.cutout, torch.full((draw.n,), c.cutout_fraction / 2), 0)
            kept = []
            for k in (images.shape[2], images.shape[3]):
                centre = (draw.uniform() + 1) / 2
                coordinate = (torch.arange(k, dtype=torch.float64) + 0.5) / k
                kept.append((coordinate - centre[:, None]).abs() >= half[:, None])
            mask = kept[0][:, None, :, None] | kept[1][:, None, None, :]
            images = images * mask.to(images)
        return images


class _Draw:
    """Draws for n images, each (n,) float64 on the CPU; or one percentile q of each distribution."""

    def __init__(self, n: int, p: float, generator: torch.Generator | None, q: float | None) -> None:
        self.n, self.p, self.generator = n, p, generator
        self.fixed = q is not None
        self._q = None if q is None else torch.full((n,), float(q), dtype=torch.float64)

    def _rand(self) -> Tensor:
        return torch.rand(self.n, generator=self.generator, dtype=torch.float64)

    def gated(self, probability: float, value: Tensor, otherwise: float) -> Tensor:
        """`value` with the given probability times p, else `otherwise`."""
        chosen = self._rand() < probability * self.p
        chosen = chosen.reshape(-1, *[1] * (value.ndim - 1))
        return torch.where(chosen, value, torch.tensor(otherwise, dtype=value.dtype))

    def uniform(self) -> Tensor:
        """Uniform on [-1, 1)."""
        return 2 * (self._rand() if self._q is None else self._q) - 1

    def normal(self) -> Tensor:
        """Standard normal."""
        if self._q is not None:
            return torch.erfinv(2 * self._q - 1)
        return torch.randn(self.n, generator=self.generator, dtype=torch.float64)

    def choice(self, k: int) -> Tensor:
        """Uniform on 0 ... k - 1."""
        return ((self._rand() if self._q is None else self._q) * k).floor()


def _affine(linear: Tensor | None = None, *, offset: Tensor | None = None) -> Tensor:
    """Homogeneous (N, d+1, d+1) map y = linear·x + offset."""
    given = linear if linear is not None else offset
    assert given is not None
    n, d = given.shape[:2]
    m = torch.eye(d + 1, dtype=torch.float64).repeat(n, 1, 1)
    if linear is not None:
        m[:, :d, :d] = linear
    if offset is not None:
        m[:, :d, d] = offset
    return m


def _scale2d(x: Tensor, y: Tensor) -> Tensor:
    return _affine(torch.diag_embed(torch.stack([x, y], dim=1)))


def _rotate2d(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return _affine(torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2))


def _translate2d(offset: Tensor) -> Tensor:
    return _affine(offset=offset)


def _rotate_about(axis: Tensor, angle: Tensor) -> Tensor:
    """Rodrigues' formula: (N, 3, 3) rotations about a unit axis."""
    x, y, z = axis.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along = torch.outer(axis, axis)
    return along + cos * (torch.eye(3, dtype=torch.float64) - along) + sin * cross
