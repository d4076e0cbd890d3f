"""Trainers in miniature; run as a program, a process of several that train them together."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from progression.encoder import Encoder, EncoderConfig
from progression.errors import OutputError
from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS, Grader
from progression.stylegan2 import Generator
from progression.train.checkpoint import load_checkpoint, save_checkpoint
from progression.train.distributed import joined
from progression.train.gan_trainer import GanConfig, GanTrainer
from progression.train.joint_trainer import JointConfig, JointTrainer
from progression.train.run_folder import owned

STEPS = 3
GAN = GanConfig(
    resolution=16, batch=8, z_dim=8, w_dim=8, mapping_layers=1, channel_base=64, channel_max=8, mbstd_group_size=2,
    r1_interval=2, path_interval=2, ada_target=0.6, precision="float32",
)  # fmt: skip
JOINT = JointConfig(
    kimg=0.2, batch=8, codes=16, mapped=32, slices=8, shift=1, path_interval=2, warmup_kimg=0.008,
    detail=True, precision="float32",
)  # fmt: skip
STAGES = (Stage(1, 3, 1, 1, 4), Stage(1, 3, 2, 2, 6))


def gan(**changes: Any) -> GanTrainer:
    """Every loss of a GAN within three steps, augmentation among them."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 16, 16), generator=draws, dtype=torch.uint8)
    trainer = GanTrainer(replace(GAN, **changes), images)
    assert trainer.ada is not None
    trainer.ada.load_state_dict(trainer.ada.state_dict() | {"p": 0.5})
    return trainer


def joint(device: str = "cpu", **changes: Any) -> JointTrainer:
    """Every loss of the joint training within three steps, codes that differ among knees."""
    draws = torch.Generator().manual_seed(3)
    tilt, ramp = torch.rand(64, 2, 1, 1, generator=draws), torch.linspace(0, 255, 16)
    images = (tilt[:, 0] * ramp + tilt[:, 1] * ramp[:, None]).clamp(0, 255).to(torch.uint8)
    torch.manual_seed(0)
    generator = Generator(16, 0, 16, 16, 1, 2, 64, 8)
    network = EfficientNet(1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=STAGES)
    grader = Grader([network], input_resolution=16).eval().requires_grad_(False)
    encoder = Encoder(EncoderConfig(16, 6, 16, 1, 8, 16, 32, offset_rank=0))
    torch.nn.init.normal_(encoder.base.weight, std=0.1)
    return JointTrainer(replace(JOINT, **changes), generator, encoder, grader, images, device=device)


def trained(trainer: GanTrainer | JointTrainer, steps: int = STEPS) -> dict[str, Any]:
    """The trainer's state after some steps, and the losses of each."""
    losses: list[dict[str, float]] = []
    for _ in range(steps):
        scalars = {name: float(value) for name, value in trainer.step().items()}
        losses.append(trainer.team.mean(scalars, trainer.device))
    return {"losses": losses, "state": trainer.state_dict()}


def together(folder: Path) -> None:
    """Train as one of several processes; the first writes what came out.

    The GANs start from their beginning, with two micro-batches a process; the joint run goes on from a checkpoint
    that one process left. A folder that the first process is refused is refused to all.
    """
    torch.set_num_threads(1)
    with joined(torch.device("cpu")), owned(folder / "run"):
        try:
            with owned(folder / "run"):
                raise AssertionError("one folder, two owners")
        except OutputError as error:
            print(error)
        other = joint()
        other.load_state_dict(load_checkpoint(folder / "joint-half.pt"))
        found: dict[str, dict[str, Any]] = {
            "gan": trained(gan(accumulate=2)),
            "r3gan": trained(gan(accumulate=2, loss="r3gan")),
            "joint": trained(other, STEPS - 1),
        }
        print("written by the first process")
        if other.team.leads:
            for name, result in found.items():
                save_checkpoint(folder / f"{name}.pt", result)


def tensors_of(state: Any, name: str = "") -> dict[str, Tensor]:
    """All floating tensors in a tree of dicts and lists, by where they are."""
    if isinstance(state, Tensor):
        return {name: state} if state.is_floating_point() else {}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {key: value for k, part in items for key, value in tensors_of(part, f"{name}.{k}").items()}


if __name__ == "__main__":
    together(Path(sys.argv[1]))
