"""Building blocks of StyleGAN2, written from the papers.

Sources: Karras et al., *Analyzing and Improving the Image Quality of StyleGAN*, CVPR 2020 (arXiv 1912.04958);
Karras et al., *A Style-Based Generator Architecture for GANs*, CVPR 2019 (arXiv 1812.04948).

| symbol | meaning | shape |
|---|---|---|
| x | activations | (N, C, H, W) |
| s | style, one scale per input channel | (N, C_in) |
| W | convolution weight shared by the batch | (C_out, C_in, k, k) |
| f | FIR resampling filter, normalised to sum 1 | (fh, fw) |
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_SLOPE = 0.2
LEAKY_GAIN = math.sqrt(2.0)


def setup_filter(taps: Sequence[float] | Tensor, *, gain: float = 1.0) -> Tensor:
    """Return a 2-D FIR filter that sums to `gain`; a 1-D filter is taken as separable.

    Parameters
    ----------
    taps : (n,) or (fh, fw) filter taps, any scale.
    gain : sum of the returned filter.
    """
    f = torch.as_tensor(taps, dtype=torch.float32)
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"filter taps must be 1-D or 2-D and not empty, got shape {tuple(f.shape)}")
    if f.ndim == 1:
        f = torch.outer(f, f)
    return f * (gain / f.sum())


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    flip: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsample by zero insertion, pad, convolve every channel with `f`, keep every `down`-th pixel.

    Parameters
    ----------
    x : (N, C, H, W).
    f : (fh, fw) filter, used as given (not normalised).
    up, down : integer factors, both axes alike.
    padding : (x0, x1, y0, y1) pixels added after the upsampling; negative values crop.
    flip : correlate instead of convolve.
    gain : factor on the result.
    """
    n, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).reshape(n, c, h * up, w * up)
    if any(padding):
        x = F.pad(x, padding)
    f = f.to(x.dtype) * gain
    if not flip:
        f = f.flip((0, 1))
    x = F.conv2d(x, f.expand(c, 1, *f.shape), groups=c)
    # On CPU the gradient of a strided depth-wise convolution costs 10 to 40 times that of filtering and slicing.
    return x[:, :, ::down, ::down] if down > 1 else x


def upsample2d(x: Tensor, f: Tensor) -> Tensor:
    """Double the size of (N, C, H, W) images; the filter keeps the mean."""
    fh, fw = f.shape
    if fh % 2 or fw % 2:
        padding = ((fw + 1) // 2, (fw - 2) // 2, (fh + 1) // 2, (fh - 2) // 2)
        return upfirdn2d(x, f, up=2, padding=padding, gain=4.0)
    # The same numbers without the inserted zeros: on CPU a fifteenth of the time with its gradient.
    weight = (f.to(x.dtype) * 4.0).expand(x.shape[1], 1, fh, fw)
    return F.conv_transpose2d(x, weight, stride=2, padding=(fh // 2 - 1, fw // 2 - 1), groups=x.shape[1])


def downsample2d(x: Tensor, f: Tensor) -> Tensor:
    """Halve the size of (N, C, H, W) images."""
    fh, fw = f.shape
    padding = ((fw - 1) // 2, (fw - 2) // 2, (fh - 1) // 2, (fh - 2) // 2)
    return upfirdn2d(x, f, down=2, padding=padding)


def normalize_second_moment(x: Tensor) -> Tensor:
    """Scale each row of (N, D) to a mean square of one."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class FullyConnected(nn.Module):
    """Linear layer with equalised learning rate (arXiv 1812.04948 after Progressive GAN §4.1).

    The stored weight has unit variance over `lr_multiplier`; the scale 1/√fan-in is applied at run time.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))
        self.activation = activation
        self.lr_multiplier = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        gain = LEAKY_GAIN * self.lr_multiplier if self.activation == "lrelu" else self.lr_multiplier
        weight = self.weight * (gain / math.sqrt(self.weight.shape[1]))
        x = F.linear(x, weight.to(x.dtype), (self.bias * gain).to(x.dtype))
        return F.leaky_relu(x, LEAKY_SLOPE) if self.activation == "lrelu" else x


def convolve_up(x: Tensor, weight: Tensor, f: Tensor) -> Tensor:
    """Zero-insert ×2, convolve with a 3×3 weight, then blur with `f`: (N, C, H, W) → (N, C', 2H, 2W).

    A transposed convolution does the first two at a quarter of the cost; its (2H+1)² result is blurred back to
    (2H)² by the four-tap filter.
    """
    if x.is_cuda:
        return convolve_up_at_once(x, weight, f)
    x = F.conv_transpose2d(x, weight.to(x.dtype).transpose(0, 1), stride=2)
    pad = f.shape[0] - 3  # 2H + 1 + 2·pad − (taps − 1) = 2H
    return upfirdn2d(x, f, padding=(pad, pad, pad, pad), gain=4.0)


def convolve_up_at_once(x: Tensor, weight: Tensor, f: Tensor) -> Tensor:
    """`convolve_up` with the blur in the kernel: four times the products, and a pass over the pictures the less."""
    kernel = F.conv_transpose2d(weight.float().flatten(0, 1)[:, None], 4.0 * f[None, None])
    kernel = kernel.unflatten(0, weight.shape[:2])[:, :, 0].to(x.dtype)
    # 2(H − 1) + taps + 2 − 2·pad = 2H
    return F.conv_transpose2d(x, kernel.transpose(0, 1), stride=2, padding=f.shape[0] // 2)


def convolve_down(x: Tensor, weight: Tensor, f: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """Blur with `f`, then convolve with stride two: (N, C, H, W) → (N, C', H/2, W/2)."""
    taps, kernel = f.shape[0], weight.shape[2]
    before, after = (taps - 1) // 2 + kernel // 2, (taps - 2) // 2 + kernel // 2
    if kernel == 1:
        return F.conv2d(upfirdn2d(x, f, down=2, padding=(before, after, before, after)), weight, bias)
    return F.conv2d(upfirdn2d(x, f, padding=(before, after, before, after)), weight, bias, stride=2)


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """Per-sample output scale 1/√(Σ (s_i·W_oi)²): (C_out, C_in, k, k), (N, C_in) → (N, C_out).

    arXiv 1912.04958 eq. 3, with the sum over the kernel taken once for the batch.
    """
    return (styles.square() @ weight.square().sum(dim=(2, 3)).t() + 1e-8).rsqrt()


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    bias: Tensor,
    up: bool = False,
    demodulate: bool = True,
    gain: float = 1.0,
    resample_filter: Tensor | None = None,
) -> Tensor:
    """gain · conv(x; weight scaled by styles) + bias (arXiv 1912.04958 eq. 1 and 3).

    Scaling input and output activations is the same map as scaling the weight, without one weight a sample. `bias` is
    (C_out,), or (C_out, H, W) for one a pixel.
    """
    d = demodulation(weight, styles) * gain if demodulate else None
    x = x * styles.to(x.dtype)[:, :, None, None]
    if up:
        assert resample_filter is not None
        x = convolve_up(x, weight, resample_filter)
    else:
        x = F.conv2d(x, weight.to(x.dtype), padding=weight.shape[2] // 2)
    b = bias.to(x.dtype)[:, None, None] if bias.ndim == 1 else bias.to(x.dtype)
    if bias.ndim == 3 and x.is_contiguous(memory_format=torch.channels_last):
        b = b[None].contiguous(memory_format=torch.channels_last)
    # not addcmul, whose gradient to d takes one more pass over x
    return x + b if d is None else (x * d.to(x.dtype)[:, :, None, None]).add_(b)
