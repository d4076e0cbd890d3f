"""Depth-wise convolution whose gradients are fast in bfloat16 on CPUs.

oneDNN (as of PyTorch 2.13, x86 without AMX) falls back to reference code for two gradients: with respect
to the input at stride 2 in bfloat16, and with respect to 5x5 filters in any precision.  Together they are
most of a training step of EfficientNet.  Both have a way round that is exact up to rounding: the first is
computed in float32, picture by picture, the second as four overlapping 3x3 filters, whose gradient is fast.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, *, stride: int, mask: list[bool]
) -> tuple[Tensor, Tensor]:
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [stride] * 2, [0, 0], [1, 1], False, [0, 0], len(weight), mask
    )[:2]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, stride=stride, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        stride = ctx.stride
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = _picture_gradient(gradient, x, weight, stride=stride)
        # not for a network that is only looked through
        if ctx.needs_input_grad[1]:
            to_weight = _filter_gradient(gradient, x, weight, stride=stride)
        return to_x, to_weight, None


def _picture_gradient(gradient: Tensor, x: Tensor, weight: Tensor, *, stride: int) -> Tensor:
    mask = [True, False, False]
    if stride == 1 or x.dtype == torch.float32:
        return _gradients(gradient, x, weight, stride=stride, mask=mask)[0]
    # a picture at a time stays in the cache; of x only the shape counts
    result, exact, shape = torch.empty_like(x), weight.float(), x[:1].float()
    for i in range(len(x)):
        part = gradient[i : i + 1].float()
        result[i : i + 1] = _gradients(part, shape, exact, stride=stride, mask=mask)[0]
    return result


def _filter_gradient(gradient: Tensor, x: Tensor, weight: Tensor, *, stride: int) -> Tensor:
    if weight.shape[2] != 5:
        return _gradients(gradient, x, weight, stride=stride, mask=[False, True, False])[1]
    result = torch.empty_like(weight)
    height, width = (stride * (size - 1) + 3 for size in gradient.shape[2:])
    for top in (0, 2):
        for left in (0, 2):
            patch = x[:, :, top : top + height, left : left + width]
            part = weight[:, :, top : top + 3, left : left + 3]
            result[:, :, top : top + 3, left : left + 3] = _gradients(
                gradient, patch, part, stride=stride, mask=[False, True, False]
            )[1]
    return result


def depthwise_conv2d(x: Tensor, weight: Tensor, *, stride: int = 1) -> Tensor:
    """Filter every channel with its own kernel, without padding.

    Parameters
    ----------
    x
        (N, C, H, W), already padded.
    weight
        (C, 1, K, K), K = 3 or 5; cast to x's precision.
    """
    result: Tensor = _Depthwise.apply(x, weight.to(x.dtype), stride)
    return result
