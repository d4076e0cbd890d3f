"""Double a resolution (in the spirit of progressive growing, arXiv 1710.10196) or widen a generator without a jump."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from progression.errors import UsageError
from progression.stylegan2 import Discriminator, Generator
from progression.stylegan2.discriminator import Convolution


@torch.no_grad()
def grow(generator: Generator, discriminator: Discriminator, smaller: Mapping[str, Tensor]) -> None:
    """Set the blocks of the highest resolution so that the networks compute what half-sized ones computed.

    For the generator this is exact (the same image, upsampled): its new contribution to the image is 0. For the
    discriminator it is approximate: its new residual branch is 0, and its skip branch reproduces the `fromrgb` layer
    of the half-sized discriminator, whose tensors are `smaller`. That layer is a function of the grey value (or
    colour) alone, here fitted by least squares with the new layer's functions; besides the error of that fit, the
    picture is blurred after this function instead of before it.
    Without this both networks start from noise and the discriminator forgets what it knew (seen at 128²: logits of
    real and generated knees alike even after 6 kimg).
    """
    last = getattr(generator.synthesis, f"b{generator.img_resolution}")
    last.torgb.weight.zero_()
    last.torgb.bias.zero_()
    half = discriminator.img_resolution // 2
    key = f"b{half}.fromrgb"
    if f"{key}.weight" not in smaller:
        return
    block = getattr(discriminator, f"b{discriminator.img_resolution}")
    block.conv1.weight.zero_()
    block.conv1.bias.zero_()
    device, colours = block.conv1.weight.device, discriminator.img_channels
    draws = torch.Generator().manual_seed(0)
    block.fromrgb.bias.copy_(2 * torch.rand(block.fromrgb.bias.shape, generator=draws) - 1)
    block.fromrgb.weight.copy_(torch.randn(block.fromrgb.weight.shape, generator=draws).sign())
    x = (2 * torch.rand(8192, colours, 1, 1, generator=draws) - 1).to(device)
    old = Convolution(colours, smaller[f"{key}.weight"].shape[0], 1).to(device)
    old.weight.copy_(smaller[f"{key}.weight"])
    assert old.bias is not None
    old.bias.copy_(smaller[f"{key}.bias"])
    basis, wanted = block.fromrgb(x).flatten(1), old(x).flatten(1)
    fit = torch.linalg.lstsq(basis.double(), wanted.double()).solution.t().float()
    block.skip.weight.copy_((fit / (block.skip.weight_gain * math.sqrt(0.5)))[:, :, None, None])


@torch.no_grad()
def enlarge(generator: Generator, *, seed: int = 0) -> Generator:
    """The generator at twice its resolution, drawing the same pictures, upsampled.

    The new block's contribution to the image is 0 until training uses it.
    """
    config = generator.config() | {"img_resolution": 2 * generator.img_resolution}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        larger = Generator(**config).to(next(generator.parameters()).device)
    larger.mapping.load_state_dict(generator.mapping.state_dict())
    larger.synthesis.load_state_dict(larger.synthesis.state_dict() | generator.synthesis.state_dict())
    last = getattr(larger.synthesis, f"b{larger.img_resolution}")
    last.torgb.weight.zero_()
    last.torgb.bias.zero_()
    return larger


@torch.no_grad()
def widen(generator: Generator, *, channel_base: int, channel_max: int, seed: int = 0) -> Generator:
    """The generator with more feature maps, drawing the same pictures.

    New maps have random weights that lead to them and zeros that lead from them, so nothing changes until training
    uses them (in the spirit of Net2Net, arXiv 1511.05641).

    Raises
    ------
    UsageError
        Where a resolution would have fewer maps than it has.
    """
    config = generator.config() | {"channel_base": channel_base, "channel_max": channel_max}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wider = Generator(**config).to(next(generator.parameters()).device)
    wider.mapping.load_state_dict(generator.mapping.state_dict())
    old = generator.synthesis.state_dict()
    for name, new in wider.synthesis.state_dict().items():
        given = old[name]
        if any(a < b for a, b in zip(new.shape, given.shape, strict=True)):
            raise UsageError(
                f"channel_base {channel_base}, channel_max {channel_max}: fewer maps than the generator has "
                f"({generator.channel_base}, {generator.channel_max})"
            )
        if name.endswith((".conv0.weight", ".conv1.weight", ".torgb.weight")):
            new[: given.shape[0], given.shape[1] :] = 0
        if name.endswith(".torgb.weight"):  # its gain falls with the number of maps
            given = given * math.sqrt(new.shape[1] / given.shape[1])
        new[tuple(slice(size) for size in given.shape)] = given
    return wider
