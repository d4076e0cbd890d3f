"""Losses by hand: who gains by which logits, and the penalties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from progression.stylegan2.losses import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    relativistic_loss,
)

LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=3, max_size=3).map(torch.tensor)


def test_logistic_losses_by_hand() -> None:
    real, fake = torch.tensor([0.0, 2.0]), torch.tensor([0.0, -1.0])
    assert float(generator_loss(fake)) == pytest.approx((math.log(2) + math.log(1 + math.e)) / 2)
    expected = (math.log(2) + math.log(1 + math.exp(-2))) / 2 + (math.log(2) + math.log(1 + math.exp(-1))) / 2
    assert float(discriminator_loss(real, fake)) == pytest.approx(expected)


def test_relativistic_loss_by_hand() -> None:
    real, fake = torch.tensor([1.0, 5.0]), torch.tensor([1.0, 2.0])
    assert float(relativistic_loss(real, fake)) == pytest.approx(
        (math.log(2) + math.log(1 + math.exp(-3))) / 2
    )
    assert float(relativistic_loss(fake, real)) == pytest.approx(
        (math.log(2) + math.log(1 + math.exp(3))) / 2
    )


@given(LOGITS, LOGITS, st.floats(-20, 20))
def test_relativistic_loss_is_of_differences_alone_and_symmetric(
    real: torch.Tensor, fake: torch.Tensor, level: float
) -> None:
    """No level of D counts; what D gains is what G loses: softplus(t) − softplus(−t) = t."""
    loss = relativistic_loss(real, fake)
    torch.testing.assert_close(relativistic_loss(real + level, fake + level), loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(relativistic_loss(-fake, -real), loss)
    gain = relativistic_loss(fake, real) - loss
    torch.testing.assert_close(gain, (real - fake).mean(), rtol=1e-4, atol=1e-4)


def test_relativistic_loss_pulls_the_pair_apart_for_one_side_and_together_for_the_other() -> None:
    real, fake = torch.tensor([0.3, -1.0], requires_grad=True), torch.tensor([0.1, 2.0], requires_grad=True)
    to_real, to_fake = torch.autograd.grad(relativistic_loss(real, fake), [real, fake])
    assert bool((to_real < 0).all()) and torch.equal(to_real, -to_fake)  # descent raises D(x), lowers D(G(z))
    (to_fake,) = torch.autograd.grad(relativistic_loss(fake, real), [fake])
    assert bool((to_fake < 0).all())
    assert float(-to_fake[0]) > float(-to_fake[1])  # a fake that lags behind its partner is pushed more


def test_gradient_penalty_by_hand_and_the_same_for_real_and_generated_pictures() -> None:
    x = torch.tensor([3.0, -1.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2).clone().requires_grad_()
    torch.testing.assert_close(
        gradient_penalty(x, 2 * x.sum(dim=(1, 2, 3))),
        torch.tensor([16.0, 16.0]),  # 4 pixels · 2²
    )
    logits = x.square().sum(dim=(1, 2, 3))
    torch.testing.assert_close(gradient_penalty(x, logits), torch.tensor([144.0, 16.0]))  # 4 · (2x)²
    both = torch.cat([x, x]).detach().requires_grad_()
    r1, r2 = gradient_penalty(both, both.square().sum(dim=(1, 2, 3))).chunk(2)
    assert torch.equal(r1, r2)


def test_a_penalty_can_be_differentiated_again() -> None:
    weight = torch.tensor(1.5, requires_grad=True)
    x = torch.ones(1, 1, 2, 2, requires_grad=True)
    penalty = gradient_penalty(x, (weight * x).sum(dim=(1, 2, 3))).mean()
    (gradient,) = torch.autograd.grad(penalty, [weight])
    assert float(gradient) == pytest.approx(4 * 2 * 1.5)
