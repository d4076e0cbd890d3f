"""Gradients of the fast depth-wise convolution against plain autograd and finite differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from progression.risk.depthwise import depthwise_conv2d


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_equal_autograd(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 11, 12, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    ours = depthwise_conv2d(x, weight, stride=stride)
    plain = F.conv2d(x, weight, stride=stride, groups=4)
    assert torch.equal(ours, plain)
    direction = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, (x, weight), direction)
    received = torch.autograd.grad(ours, (x, weight), direction)
    # at stride 2 the gradient to x passes through float32 by design
    torch.testing.assert_close(received[0], expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(received[1], expected[1])


def test_bfloat16_gradients_are_close_to_exact_ones() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 8, 15, 15), torch.randn(8, 1, 5, 5)
    exact_x, exact_weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    F.conv2d(exact_x, exact_weight, stride=2, groups=8).square().sum().backward()
    rounded_x = x.bfloat16().requires_grad_()
    rounded_weight = weight.clone().requires_grad_()
    depthwise_conv2d(rounded_x, rounded_weight, stride=2).float().square().sum().backward()
    for exact, rounded in ((exact_x, rounded_x), (exact_weight, rounded_weight)):
        assert exact.grad is not None and rounded.grad is not None
        cosine = F.cosine_similarity(exact.grad.flatten(), rounded.grad.float().flatten(), dim=0)
        assert cosine > 0.999


def test_a_frozen_filter_gets_no_gradient() -> None:
    x, weight = torch.randn(1, 4, 9, 9, requires_grad=True), torch.randn(4, 1, 5, 5)
    depthwise_conv2d(x, weight, stride=2).sum().backward()
    assert weight.grad is None and x.grad is not None
    expected = torch.autograd.grad(F.conv2d(x, weight, stride=2, groups=4).sum(), x)[0]
    torch.testing.assert_close(x.grad, expected)
