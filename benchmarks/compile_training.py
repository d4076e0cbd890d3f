"""Does torch.compile pay in training? Forward and backward of each network, eager and compiled, in bfloat16.

    OMP_NUM_THREADS=1 python benchmarks/compile_training.py [--resolution 128] [--batch 8] [--device cpu]

Times are medians of interleaved repetitions in one process, so that ratios hold on a noisy machine. "First" is what the
first two passes of the compiled form take, compilation included. Gradients of gradients (R1, path length) cannot be
compiled, so that the networks are measured as they are called elsewhere.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from progression.encoder import Encoder, EncoderConfig
from progression.memory import keep_freed_memory
from progression.risk.efficientnet import EfficientNet
from progression.risk.grader import NUM_OUTPUTS
from progression.stylegan2 import Discriminator, Generator

Loss = Callable[[], Tensor]
Wrap = Callable[[Callable[..., Tensor]], Callable[..., Tensor]]


def losses(resolution: int, batch: int, device: torch.device, wrap: Wrap) -> dict[str, Loss]:
    """A loss through each network, called as training calls it; `wrap` may compile what is called."""
    torch.manual_seed(0)
    generator = Generator(512, 0, 512, resolution, 1, 2, 2048, 128)
    judge = Discriminator(0, resolution, 1, 2048, 128, 4)
    encoder = Encoder(EncoderConfig(resolution, generator.num_ws, 512, 1, offset_rank=0))
    frozen = EfficientNet(1, NUM_OUTPUTS).eval().requires_grad_(False)
    for network in (generator, judge, encoder, frozen):
        network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator.synthesis.compute_dtype = judge.compute_dtype = torch.bfloat16
    x = torch.rand(batch, 1, resolution, resolution, device=device) * 2 - 1
    ws = torch.randn(batch, generator.num_ws, 512, device=device)
    source = torch.Generator(device).manual_seed(0)

    def looked_at(pictures: Tensor) -> Tensor:
        return torch.stack([m.float().abs().mean() for m in frozen.pyramid(pictures)]).sum()

    synthesis, score, encode, look = (wrap(f) for f in (generator.synthesis, judge, encoder, looked_at))

    def half(call: Loss) -> Loss:
        def run() -> Tensor:
            with torch.autocast(device.type, torch.bfloat16):
                return call()

        return run

    return {
        "synthesis, constant noise": lambda: synthesis(ws, noise_mode="const").square().mean(),
        "synthesis, random noise": lambda: (
            synthesis(ws, noise_mode="random", generator=source).square().mean()
        ),
        "discriminator": lambda: score(x).mean(),
        "encoder": half(lambda: encode(x).square().mean()),
        "frozen maps": half(lambda: look(x.clone().requires_grad_(True))),
    }


def seconds(loss: Loss, device: torch.device) -> float:
    """Time of a forward and a backward pass."""
    start = time.perf_counter()
    loss().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Print one line a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    device = torch.device(options.device)
    keep_freed_memory()
    eager = losses(options.resolution, options.batch, device, lambda f: f)
    compiled = losses(options.resolution, options.batch, device, torch.compile)
    for name, loss in compiled.items():
        first = sum(seconds(loss, device) for _ in range(2))
        seconds(eager[name], device)
        pairs = [(seconds(eager[name], device), seconds(loss, device)) for _ in range(options.repetitions)]
        one, other = (statistics.median(times) for times in zip(*pairs, strict=True))
        print(
            f"{name:26} eager {1e3 * one:6.0f} ms  compiled {1e3 * other:6.0f} ms  ratio {one / other:.2f}  "
            f"first {first:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
