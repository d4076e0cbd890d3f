"""Geometric resampling of the augmentation pipeline, differentiable twice (arXiv 2006.06676 App. B)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from progression.stylegan2.wavelet import OVERHANG, downsampling, upsampling


def warp(images: Tensor, g: Tensor) -> Tensor:
    """Apply homographies with the paper's resampling (App. B): ×2 up with sym6, bilinear, ×2 down with sym6.

    The image is continued by one reflection at each edge and is zero beyond.

    Parameters
    ----------
    images
        (N, C, H, W).
    g
        (N, 3, 3) source → result, on the CPU; pixels, origin at the image centre, y down. Affine.
    """
    height, width = images.shape[2:]
    # samples of the result that D reads, at twice the pixel rate, in pixels from the centre
    x, y = (
        torch.arange(-OVERHANG, 2 * k + OVERHANG, dtype=torch.float64) / 2 - (k - 1) / 2
        for k in (width, height)
    )
    corners = torch.cartesian_prod(x[[0, -1]], y[[0, -1]])
    matrices, thetas = [], []
    for size, from_result in zip((width, height), torch.linalg.inv(g.double())[:, :2].unbind(1), strict=True):
        # where the result's samples come from, as (fractional) rows of U; U's row 0 is pixel -(size - 1)
        row = from_result * 2
        row[:, 2] += 3 * (size - 1)
        # an affine map reaches furthest at a corner: take only that window of U, of one length for the batch
        reached = row[:, :2] @ corners.T + row[:, 2:]
        total = 6 * size - 4
        first = reached.amin(1).floor().clamp(0, total - 1).long()
        last = reached.amax(1).ceil().clamp(0, total - 1).long()
        length = max(int((last - first).max()) + 1, 2)
        first = first.clamp(max=total - length)
        window = (first[:, None] + torch.arange(length)).to(images.device)
        matrices.append(upsampling(size, images.device)[window].to(images.dtype))
        row[:, 2] -= first
        thetas.append(row * (2 / (length - 1)))  # grid_sample counts a window from -1 to 1
        thetas[-1][:, 2] -= 1
    columns, rows = matrices
    supersampled = rows[:, None] @ images @ columns[:, None].mT
    theta = torch.stack(thetas, dim=1).to(images)[:, None, None]
    x, y = x.to(images)[:, None], y.to(images)[:, None, None]
    grid = theta[..., 0] * x + theta[..., 1] * y + theta[..., 2]
    result: Tensor = _Bilinear.apply(supersampled, grid)
    down = [downsampling(k, images.device).to(images.dtype) for k in (height, width)]
    return down[0] @ result @ down[1].mT


class _Bilinear(torch.autograd.Function):
    """Bilinear sampling, linear in the image, with gradients of any order to the image (none to the grid)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.size = x.shape
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _BilinearTransposed.apply(grad, grid, ctx.size), None


class _BilinearTransposed(torch.autograd.Function):
    """The transpose of `_Bilinear`, whose own transpose is `_Bilinear`."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, grid: Tensor, size: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        image = grad.new_empty(size)  # read for the gradient to the grid only, which is not asked for
        result: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            grad.contiguous(), image, grid, 0, 0, True, [True, False]
        )[0]
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Bilinear.apply(grad, grid), None, None
