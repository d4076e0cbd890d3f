"""A training step recorded once as a CUDA graph: its thousands of small kernels are then launched as one.

Python launches kernels more slowly than a large GPU runs those of a batch of 32 knees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM = 4
"""Calls before recording, in which libraries choose their kernels and optimisers make their state."""


class Replayed:
    """A function on a GPU, whose kernels are recorded at its fifth call and replayed from then on.

    Parameters
    ----------
    function
        Reads and writes tensors that stay where they are, waits for none of them, and returns scalars.
    draws
        The generators, all on the GPU, that it draws from.
    """

    def __init__(self, function: Callable[[], dict[str, Tensor]], draws: Sequence[torch.Generator]) -> None:
        self.function, self.draws, self.calls = function, draws, 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.found: dict[str, Tensor] = {}

    def __call__(self) -> dict[str, Tensor]:
        """The scalars of one more call; later calls do not change them."""
        self.calls += 1
        if self.calls <= WARM:
            return self._warm()
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            for generator in self.draws:
                self.graph.register_generator_state(generator)
            with torch.cuda.graph(self.graph):
                self.found = self.function()
        self.graph.replay()
        return dict(zip(self.found, torch.stack(list(self.found.values())).unbind(), strict=True))

    def _warm(self) -> dict[str, Tensor]:
        """On a stream of its own, as it will be recorded."""
        side, here = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            found = self.function()
        here.wait_stream(side)
        return found
