"""The networks through OpenVINO: each picture by itself on one thread, as many at once as there are threads.

A picture alone fills a CPU core, and batches bring nothing: so a knee's numbers are the same to the bit in any batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from progression.encoder import Encoder
from progression.engine import Engine
from progression.engine.graphs import efficientnet_graph, encoder_graph, synthesis_graph
from progression.engine.runtime import ov
from progression.risk.grader import Grader, Grading, as_grading, resize
from progression.stylegan2 import Generator


def openvino_engine(name: str, *, generator: Generator, encoder: Encoder, grader: Grader) -> Engine:
    """Compile the networks, whose batch norms are folded; "openvino-half" for half precision where the CPU has it."""
    core = ov.Core()
    # Codes stay exact: a code that moves a little may have other neighbours, and then another future.
    encode = Compiled(core, encoder_graph(encoder), half=False)
    half = name == "openvino-half"
    render = Compiled(core, synthesis_graph(generator.synthesis), half=half)
    members = [
        Compiled(core, efficientnet_graph(network, grader.input_resolution), half=half)
        for network in grader.members
    ]

    def grade_each(x: Tensor) -> list[Grading]:
        x = resize(x, grader.input_resolution)
        return [as_grading(member(x)) for member in members]

    return Engine(name, ov.get_version(), render.precision, encode, render, grade_each)


class Compiled:
    """A graph of one input and one output, both of batch 1, run over the rows of a batch."""

    def __init__(self, core: ov.Core, graph: ov.Model, *, half: bool) -> None:
        threads = torch.get_num_threads()
        settings = {
            "INFERENCE_PRECISION_HINT": _half(core) if half else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
            "ENABLE_CPU_PINNING": False,  # other processes may hold the cores that it would pin to
        }
        compiled = core.compile_model(graph, "CPU", settings)
        self._shape = tuple(compiled.output(0).shape)[1:]
        self._queue = ov.AsyncInferQueue(compiled, threads)
        self._queue.set_callback(_keep)
        self.precision = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}[
            compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """Rows (N, …) → (N, …), float32 on the CPU."""
        rows = np.ascontiguousarray(x.detach().float().numpy())
        found = np.empty((len(rows), *self._shape), dtype=np.float32)
        for i in range(len(rows)):
            self._queue.start_async({0: rows[i : i + 1]}, found[i])
        self._queue.wait_all()
        return torch.from_numpy(found)


def _half(core: ov.Core) -> str:
    """The half precision that is fast here: bfloat16 where the CPU multiplies it, or else float16.

    float16 is the more exact one, but with AVX512-FP16 beside AMX for bfloat16 it was slower than float32, and a sixth
    as fast as bfloat16. Where the CPU has neither, OpenVINO takes float32.
    """
    return "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f16"


def _keep(request: Any, row: np.ndarray[Any, Any]) -> None:
    row[...] = request.get_output_tensor().data[0]
