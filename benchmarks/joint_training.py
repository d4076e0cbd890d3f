"""How much of a device does joint training use? Pictures a second, operations a picture, share of the matrix peak.

    python benchmarks/joint_training.py [--preset gpu] [--batch 64] [--device cuda] [--steps 20] [--replay] [--profile]

Trains the shipped model on pictures of its own making, as no more is needed to time a step (`--channel-base` as in the
preset; ImageNet's network is that of the extra `train`). The peak is what a product of two large square matrices in the
training's own precision reaches here, just before. Operations are counted by torch over whole steps, path lengths in
their turn included; two are a multiplication and an addition. `--profile` prints what the time goes to, and how much of
it the device worked.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from progression.engine import choose_device
from progression.latent.part import load_generator
from progression.memory import keep_freed_memory
from progression.risk.grader import Grader
from progression.train.joint import PRESETS, reshaped, starting_encoder
from progression.train.joint_trainer import JointConfig, JointTrainer
from progression.train.replay import WARM
from progression.weights import load_model


def made_up(model: str, count: int, resolution: int) -> Tensor:
    """Samples of the model, (count, R, R) uint8."""
    generator = load_generator(load_model(model))
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        z = torch.randn(count, generator.z_dim, generator=draws)
        x = torch.cat([generator(part, noise_mode="const") for part in z.split(16)])
    x = torch.nn.functional.interpolate(x, size=(resolution, resolution), mode="bilinear")
    return ((x[:, 0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def make_trainer(config: JointConfig, model: str, device: torch.device) -> JointTrainer:
    """As `train_joint` makes it."""
    files = load_model(model)
    generator = load_generator(files, device=device)
    resolution = config.resolution or generator.img_resolution
    images = made_up(model, max(2 * (config.z_dim or 0) + 1, 4 * config.batch), resolution)
    grader = Grader.from_tensors(files.tensors("grader"), files.config("grader"))
    encoder = starting_encoder(files, generator, config).to(device)
    generator = reshaped(generator, encoder, images, config)
    return JointTrainer(config, generator, encoder, grader, images, device=device)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the largest of several matrix products."""
    best = 0.0
    for side in (4096, 8192) if device.type == "cuda" else (512, 1024):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        for _ in range(5):
            wait(device)
            start = time.perf_counter()
            a @ b
            wait(device)
            best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="gpu", choices=sorted(PRESETS))
    parser.add_argument("--model", default="default")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--replay", action="store_true", help="steps recorded once and replayed")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()
    device = choose_device(options.device)
    changes = {name: getattr(options, name) for name in ("batch", "resolution") if getattr(options, name)}
    trainer = make_trainer(replace(PRESETS[options.preset], **changes), options.model, device)
    peak = matrix_peak(device, trainer.dtype)
    interval = trainer.config.path_interval or 1
    with FlopCounterMode(display=False) as counter:  # also the warming up
        for _ in range(interval):
            trainer.step()
    operations = counter.get_total_flops() / (interval * trainer.config.batch)
    if options.replay:
        trainer = make_trainer(replace(trainer.config, replay=True), options.model, device)
        for _ in range(interval * (WARM + 1)):
            trainer.step()
    steps = max(options.steps // interval, 1) * interval
    wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        trainer.step()
    wait(device)
    rate = steps * trainer.config.batch / (time.perf_counter() - start)
    print("| device | precision | batch | pictures/s | GFLOP a picture | TFLOP/s | peak TFLOP/s | share |")
    print("|---|---|---|---|---|---|---|---|")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"| {name} | {trainer.dtype} | {trainer.config.batch} | {rate:.3g} | {operations / 1e9:.3g} "
        f"| {rate * operations / 1e12:.3g} | {peak / 1e12:.3g} | {rate * operations / peak:.1%} |"
    )
    if options.profile:
        kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
        with profile(activities=kinds) as taken:
            for _ in range(interval):
                trainer.step()
            wait(device)
        by = f"self_{device.type}_time_total"
        print(taken.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=40))


if __name__ == "__main__":
    main()
