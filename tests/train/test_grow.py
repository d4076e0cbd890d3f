"""A wider or larger generator draws the same pictures, and can learn."""

from __future__ import annotations

import pytest
import torch

from progression.errors import UsageError
from progression.stylegan2 import Generator
from progression.stylegan2.ops import upsample2d
from progression.train.grow import enlarge, widen


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    generator = Generator(8, 0, 12, 32, 1, 2, 64, 8)
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.1)
    return generator


def test_a_wider_generator_draws_the_same(generator: Generator) -> None:
    wider = widen(generator, channel_base=256, channel_max=12)
    assert (wider.channel_base, wider.channel_max) == (256, 12)
    z = torch.randn(3, 8)
    torch.testing.assert_close(wider(z), generator(z), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in wider.parameters()) > 1.5 * sum(p.numel() for p in generator.parameters())


def test_new_maps_get_gradients(generator: Generator) -> None:
    wider = widen(generator, channel_base=128, channel_max=8)
    last = wider.synthesis.b32.conv1
    assert last.weight.shape[:2] == (4, 4)
    wider(torch.randn(3, 8)).square().mean().backward()
    assert last.weight.grad is not None and wider.synthesis.b32.torgb.weight.grad is not None
    # what leads from a new map learns at once; what leads to it does when something leads from it
    assert float(wider.synthesis.b32.torgb.weight.grad[:, 2:].abs().min()) > 0
    assert float(last.weight.grad[2:].abs().max()) == 0


def test_a_larger_generator_draws_the_same_upsampled(generator: Generator) -> None:
    larger = enlarge(generator)
    assert (larger.img_resolution, larger.num_ws) == (64, generator.num_ws + 2)
    z = torch.randn(3, 8)
    taps = larger.synthesis.b64.resample_filter
    torch.testing.assert_close(larger(z), upsample2d(generator(z), taps), rtol=1e-4, atol=1e-5)
    larger(z).square().mean().backward()
    assert float(larger.synthesis.b64.torgb.weight.grad.abs().max()) > 0


def test_fewer_maps_are_refused(generator: Generator) -> None:
    with pytest.raises(UsageError, match="fewer maps than the generator has"):
        widen(generator, channel_base=32, channel_max=8)
