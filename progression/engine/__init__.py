"""What runs the networks of a prediction, and where: the one place that decides about devices and engines.

| engine | needs | largest difference from `torch` on the same CPU |
|---|---|---|
| `torch` | nothing more | |
| `openvino` | the extra `fast`, a CPU | follow-ups 2e-6 in [0, 1], grade probabilities 3e-6, risks 1e-6 |
| `openvino-half` | the same; float16 or bfloat16 where the CPU has it | 0.016, 0.044 (mean 0.005), 0.011 (bfloat16) |

Differences: model `default`, `python benchmarks/latency.py --knees 48`. With OpenVINO a knee's numbers are the same in
any batch, to the bit; with torch they move by rounding (1e-5).

`auto` is `openvino` on a CPU where it is installed, else `torch`. Half precision is never chosen unasked, so that a
knee's numbers do not hang on the processor. Gradients (refinement, projection, training) are torch's in every case.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from progression.encoder import Encoder
from progression.engine.fold import fold_batch_norms
from progression.errors import UsageError
from progression.risk.grader import Grader, Grading, concatenate, mean_grading
from progression.stylegan2 import Generator

ENGINES = ("auto", "torch", "openvino", "openvino-half")
CPU_BATCH = 4
"""Pictures that torch takes at once on a CPU: many more take twice as long each, as activations leave the caches."""


@dataclass(frozen=True)
class Engine:
    """Forward passes of a model's three networks; call them where torch records no gradients.

    Attributes
    ----------
    name : "torch", "openvino" or "openvino-half"
    version : of the library
    precision : of rendering and grading: "float32", "bfloat16" or "float16"; codes are float32 always
    encode : pictures (N, C, R, R) in [-1, 1] → ws (N, L, D)
    render : ws (N, L, D) → pictures (N, C, R, R), not clamped, with the generator's own noise
    grade_each : pictures (N, C, H, W) in [-1, 1] → their grading by each of the grader's networks
    """

    name: str
    version: str
    precision: str
    encode: Callable[[Tensor], Tensor]
    render: Callable[[Tensor], Tensor]
    grade_each: Callable[[Tensor], list[Grading]]

    def grade(self, images: Tensor) -> Grading:
        """Pictures (N, C, H, W) in [-1, 1] → their grading by all of the grader's networks."""
        return mean_grading(self.grade_each(images))

    def provenance(self) -> dict[str, str]:
        """What a report says about the engine."""
        return {"name": self.name, "version": self.version, "precision": self.precision}


def choose_device(name: str) -> torch.device:
    """The device of a name; a GPU that was asked for and is not there is an error, not a slower answer."""
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {name!r}: expected auto, cpu or cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UsageError("device cuda: no CUDA GPU that this PyTorch can use; pass --device cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def choose(engine: str, device: str) -> tuple[str, torch.device]:
    """The engine and the device of their names; an engine that was asked for and cannot run is an error.

    Raises
    ------
    UsageError
        For unknown names, or where they do not go together.
    DependencyError
        If OpenVINO is asked for and not installed.
    """
    if engine not in ENGINES:
        raise UsageError(f"engine {engine!r}: expected {', '.join(ENGINES[:-1])} or {ENGINES[-1]}")
    if not engine.startswith("openvino"):
        chosen = choose_device(device)
        fast = engine == "auto" and chosen.type == "cpu" and find_spec("openvino") is not None
        return "openvino" if fast else "torch", chosen
    if device == "cuda":
        raise UsageError(f"engine {engine} runs on the CPU: pass --device cpu, or --engine torch")
    choose_device(device)
    import_module("progression.engine.runtime")
    return engine, torch.device("cpu")


def load_engine(name: str, *, generator: Generator, encoder: Encoder, grader: Grader) -> Engine:
    """The engine of a name that `choose` gave, for networks in evaluation mode on its device.

    Folds the batch norms of `encoder` and `grader` in place. OpenVINO takes as many threads as torch has now, compiles
    in under a second, and keeps its own copy of the weights.
    """
    for network in (encoder, grader):
        fold_batch_norms(network)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if name.startswith("openvino"):
        from progression.engine.openvino import openvino_engine

        return openvino_engine(name, generator=generator, encoder=encoder, grader=grader)

    size = CPU_BATCH if encoder.w_mean.device.type == "cpu" else sys.maxsize

    def render(ws: Tensor) -> Tensor:
        return torch.cat([generator.synthesis(part, noise_mode="const") for part in ws.split(size)])

    def grade_each(images: Tensor) -> list[Grading]:
        parts = [grader.grade_each(part) for part in images.split(size)]
        return [concatenate(by_one) for by_one in zip(*parts, strict=True)]

    return Engine("torch", torch.__version__, "float32", encoder, render, grade_each)
