"""How much faster than plain StyleGAN2 are our networks on one CPU thread, and by which form of them?

    python benchmarks/kernels.py [--quick] [--compile] [--repetitions 5] [--only forward gradient training]

*plain* is the yardstick, as the papers say it: weights modulated for each sample and applied by a grouped convolution,
after upsampling by zero insertion and a FIR filter. *transposed* is the same with the usual shortcut, a grouped
transposed convolution and then the filter; a stricter yardstick. *eager* is `progression.stylegan2` as it is;
*compiled* the same through torch.compile (`--compile`; needs a C++ compiler and a minute or two).

| task | network |
|---|---|
| forward, batch 1 and 8 | synthesis, 256², channel base 16384 |
| gradient | of a picture's mean square to w, batch 1, the same network |
| training | one step of generator and discriminator without regularisers, 128², base 2048, at most 128, batch 16 |

Times are milliseconds of processor time a picture, medians of interleaved repetitions: with one thread that is the wall
time of a core to oneself. Forms must agree before they are timed. Errors are the largest in the picture, on weights
drawn at random; where gradients are compared, `1 - cosine`.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from progression.stylegan2 import Discriminator, Generator
from progression.stylegan2.discriminator import Convolution, minibatch_std
from progression.stylegan2.generator import SynthesisLayer, SynthesisNetwork, ToImage
from progression.stylegan2.losses import discriminator_loss, generator_loss
from progression.stylegan2.ops import LEAKY_SLOPE, upfirdn2d

Form = Callable[[Tensor], Tensor]
Noise = bool | torch.Generator
"""True for the constant noise, or where random noise is drawn from."""

# ---- the yardsticks -------------------------------------------------------------------------------------


def grouped(
    x: Tensor, weight: Tensor, styles: Tensor, *, demodulate: bool, f: Tensor | None, transposed: bool
) -> Tensor:
    """Modulated convolution with one weight a sample, doubling the size where there is a filter `f`."""
    n, (c_out, c_in, k, _) = len(x), weight.shape
    w = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        w = w * (w.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    w = w.to(x.dtype)
    if f is not None and transposed:
        w = w.transpose(1, 2).reshape(n * c_in, c_out, k, k)
        x = F.conv_transpose2d(x.reshape(1, n * c_in, *x.shape[2:]), w, stride=2, groups=n)
        return upfirdn2d(x.reshape(n, c_out, *x.shape[2:]), f, padding=(1, 1, 1, 1), gain=4.0)
    padding = k // 2
    if f is not None:
        x, w, padding = upfirdn2d(x, f, up=2, padding=(3, 2, 3, 2), gain=4.0), w.flip((3, 4)), 0
    w = w.reshape(n * c_out, c_in, k, k)
    x = F.conv2d(x.reshape(1, n * c_in, *x.shape[2:]), w, padding=padding, groups=n)
    return x.reshape(n, c_out, *x.shape[2:])


def plain_layer(layer: SynthesisLayer, x: Tensor, w: Tensor, noise: Noise, transposed: bool) -> Tensor:
    f = layer.resample_filter if layer.up else None
    x = grouped(x, layer.weight, layer.affine(w), demodulate=True, f=f, transposed=transposed)
    drawn = layer.noise_const
    if not isinstance(noise, bool):
        drawn = torch.randn(len(x), 1, *x.shape[2:], generator=noise)
    x = x + (drawn * layer.noise_strength).to(x.dtype) + layer.bias.to(x.dtype)[:, None, None]
    return F.leaky_relu(x, LEAKY_SLOPE) * math.sqrt(2)


def plain_to_image(layer: ToImage, x: Tensor, w: Tensor) -> Tensor:
    styles = layer.affine(w) * layer.weight_gain
    x = grouped(x, layer.weight, styles, demodulate=False, f=None, transposed=False)
    return x.float() + layer.bias[:, None, None]


def plain_upsample(image: Tensor, f: Tensor) -> Tensor:
    return upfirdn2d(image, f, up=2, padding=(2, 1, 2, 1), gain=4.0)


def plain_synthesis(
    network: SynthesisNetwork, ws: Tensor, *, noise: Noise = True, transposed: bool = False
) -> Tensor:
    x = network.b4.const.to(network.compute_dtype).repeat(len(ws), 1, 1, 1)
    image: Tensor | None = None
    i = 0
    for resolution in network.block_resolutions:
        block = getattr(network, f"b{resolution}")
        if block.in_channels:
            x = plain_layer(block.conv0, x, ws[:, i], noise, transposed)
        x = plain_layer(block.conv1, x, ws[:, i + block.num_conv - 1], noise, transposed)
        y = plain_to_image(block.torgb, x, ws[:, i + block.num_conv])
        image = y if image is None else y + plain_upsample(image, block.resample_filter)
        i += block.num_conv
    assert image is not None
    return image


def plain_convolution(layer: Convolution, x: Tensor) -> Tensor:
    w, k = (layer.weight * layer.weight_gain).to(x.dtype), layer.weight.shape[2]
    if layer.down:
        before, after = 1 + k // 2, 1 + k // 2
        x = F.conv2d(upfirdn2d(x, layer.resample_filter, padding=(before, after, before, after)), w, stride=2)
    else:
        x = F.conv2d(x, w, padding=k // 2)
    if layer.bias is None:
        return x
    return F.leaky_relu(x + layer.bias.to(x.dtype)[:, None, None], LEAKY_SLOPE) * math.sqrt(2)


def plain_discriminator(network: Discriminator, image: Tensor) -> Tensor:
    x = image.to(network.compute_dtype)
    for resolution in network.block_resolutions:
        block = getattr(network, f"b{resolution}")
        if block.first:
            x = plain_convolution(block.fromrgb, x)
        y = plain_convolution(block.conv1, plain_convolution(block.conv0, x))
        x = (y + plain_convolution(block.skip, x)) * math.sqrt(0.5)
    end = network.b4
    x = plain_convolution(end.conv, minibatch_std(x.float(), group_size=end.mbstd_group_size))
    return end.out(end.fc(x.flatten(1)))


# ---- the forms that are compared ------------------------------------------------------------------------


def in_dtype(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy that shares nothing, computing in `dtype`."""
    network = copy.deepcopy(network)
    network.compute_dtype = dtype
    return network


def forms(network: SynthesisNetwork, *, compiled: bool) -> dict[str, Form]:
    """Ways to render with constant noise; the first one is the yardstick."""

    def eager(net: SynthesisNetwork) -> Form:
        return lambda ws: net(ws, noise_mode="const")

    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    half = in_dtype(last, torch.bfloat16)
    found = {
        "plain": lambda ws: plain_synthesis(network, ws),
        "transposed": lambda ws: plain_synthesis(network, ws, transposed=True),
        "eager, channels first": eager(network),
        "eager, channels last": eager(last),
        "eager, channels last, bfloat16": eager(half),
    }
    if compiled:
        found["compiled"] = torch.compile(eager(last), dynamic=False)
        found["compiled, bfloat16"] = torch.compile(eager(half), dynamic=False)
    return found


def openvino_forms(network: SynthesisNetwork) -> dict[str, Form]:
    if not find_spec("openvino"):
        return {}
    from progression.engine.graphs import synthesis_graph
    from progression.engine.openvino import Compiled
    from progression.engine.runtime import ov

    core, graph = ov.Core(), synthesis_graph(network)
    return {f"openvino, {f.precision}": f for f in (Compiled(core, graph, half=h) for h in (False, True))}


def gradient_of(form: Form) -> Form:
    def gradient(ws: Tensor) -> Tensor:
        ws = ws.clone().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(form(ws).square().mean(), ws)[0]

    return gradient


class Step:
    """A training step of both networks; its value is the generator's loss."""

    def __init__(
        self, networks: tuple[Generator, Discriminator], real: Tensor, *, dtype: torch.dtype, plain: bool
    ) -> None:
        self.generator, self.discriminator = copy.deepcopy(networks)
        self.real, self.plain = real, plain
        self.generator.synthesis.compute_dtype = self.discriminator.compute_dtype = dtype
        if not plain:
            for network in (self.generator, self.discriminator):
                network.to(memory_format=torch.channels_last)
        self.adams = [
            torch.optim.Adam(n.parameters(), lr=1e-4, betas=(0.0, 0.99))
            for n in (self.generator, self.discriminator)
        ]

    def render(self, z: Tensor) -> Tensor:
        ws, draws = self.generator.mapping(z), torch.Generator().manual_seed(0)
        if self.plain:
            return plain_synthesis(self.generator.synthesis, ws, noise=draws)
        return self.generator.synthesis(ws, noise_mode="random", generator=draws)

    def judge(self, image: Tensor) -> Tensor:
        return plain_discriminator(self.discriminator, image) if self.plain else self.discriminator(image)

    def __call__(self, z: Tensor) -> Tensor:
        with torch.enable_grad():
            self.discriminator.requires_grad_(False)
            found = generator_loss(self.judge(self.render(z)))
            self._update(self.adams[0], found)
            self.discriminator.requires_grad_(True)
            with torch.no_grad():
                fakes = self.render(z)
            self._update(self.adams[1], discriminator_loss(self.judge(self.real), self.judge(fakes)))
        return found.detach()

    @staticmethod
    def _update(adam: torch.optim.Adam, loss: Tensor) -> None:
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()


# ---- measuring ------------------------------------------------------------------------------------------


def difference(found: Tensor, expected: Tensor, *, cosine: bool) -> float:
    if cosine:
        return 1 - float(F.cosine_similarity(found.double().flatten(), expected.double().flatten(), dim=0))
    return float((found - expected).abs().max())


@torch.no_grad()
def compare(
    title: str,
    named: dict[str, Form],
    x: Tensor,
    *,
    pictures: int,
    repetitions: int,
    limits: tuple[float, float],
    cosine: bool = False,
) -> None:
    """Print a block of the table. `limits` are on the error, in float32 and in half precision."""
    results = {name: form(x) for name, form in named.items()}
    expected = next(iter(results.values()))
    errors = {name: difference(result, expected, cosine=cosine) for name, result in results.items()}
    for name, error in errors.items():
        limit = limits["bfloat16" in name or "float16" in name]
        if not error <= limit:
            raise SystemExit(f"{title}: {name} differs from plain by {error:.2g}, allowed {limit:g}")
    times: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(repetitions):
        for name, form in named.items():
            start = time.process_time()
            form(x)
            times[name].append((time.process_time() - start) * 1000 / pictures)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{title:34s} {'ms a picture':>13s} {'x plain':>8s} {'x transposed':>13s} {'error':>9s}")
    for name, ms in medians.items():
        strict = f"{medians['transposed'] / ms:13.2f}" if "transposed" in medians else f"{'':13s}"
        print(f"  {name:32s} {ms:13.1f} {medians['plain'] / ms:8.2f} {strict} {errors[name]:9.1e}")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny networks: does it run, do the forms agree")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repetitions", type=int, default=5)
    tasks = ["forward", "gradient", "training"]
    parser.add_argument("--only", nargs="+", choices=tasks, default=tasks)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    big, base, small, batch = (32, 512, 32, 4) if options.quick else (256, 16384, 128, 16)
    repetitions = 1 if options.quick else options.repetitions

    if {"forward", "gradient"} & set(options.only):
        network = Generator(512, 0, 512, big, 1, mapping_layers=2, channel_base=base).eval().synthesis
        for layer in network.modules():
            if isinstance(layer, SynthesisLayer):
                nn.init.constant_(layer.noise_strength, 0.1)
        network.requires_grad_(False)
        named = forms(network, compiled=options.compile)
        ws = torch.randn(8, network.num_ws, 512)
        for n in (1, 8) if "forward" in options.only else ():
            compare(
                f"forward, {big}², batch {n}",
                named | openvino_forms(network),
                ws[:n],
                pictures=n,
                repetitions=repetitions,
                limits=(1e-4, 0.2),
            )
        if "gradient" in options.only:
            compare(
                f"gradient to w, {big}², batch 1",
                {name: gradient_of(form) for name, form in named.items()},
                ws[:1],
                pictures=1,
                repetitions=repetitions,
                limits=(1e-6, 1e-3),
                cosine=True,
            )
    if "training" in options.only:
        pair = (
            Generator(512, 0, 512, small, 1, mapping_layers=2, channel_base=2048, channel_max=128),
            Discriminator(0, small, 1, channel_base=2048, channel_max=128),
        )
        z, real = torch.randn(batch, 512), torch.randn(batch, 1, small, small)
        steps = {
            f"{name}{', bfloat16' * (dtype == torch.bfloat16)}": Step(pair, real, dtype=dtype, plain=plain)
            for dtype in (torch.float32, torch.bfloat16)
            for name, plain in (("plain", True), ("eager, channels last", False))
        }
        compare(
            f"training step, {small}², batch {batch}",
            dict(steps),
            z,
            pictures=batch,
            repetitions=repetitions,
            limits=(1e-3, 0.1),
        )


if __name__ == "__main__":
    main()
