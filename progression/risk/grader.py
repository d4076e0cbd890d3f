"""The plain grader: what Kellgren-Lawrence grade a knee shows, and what its reading is likely to become.

An ensemble of K EfficientNet-lite0s, cross-fitted: each was fine-tuned without one K-th of the training
subjects, so that grades for those knees could be predicted by a network that had not seen them.  Where it was
also trained on adversarial radiographs, with batch norms of their own (Han et al. 2021), the same class with those
norms is part `grader_robust`.

========= ================================= =========================================================
head      shape                             meaning
========= ================================= =========================================================
now       (N, 5)                            P(KL = 0..4 | picture)
future    (N, len(FUTURE_MONTHS), 5)        P(highest KL read by that month = 0..4 | picture)
rise      (N, len(RISE_TARGETS))            P(KL rises by the target's step by its month | picture)
========= ================================= =========================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from progression.errors import WeightsError
from progression.risk.efficientnet import EfficientNet, Stage
from progression.types import KL_GRADES
from progression.weights import ModelFiles, check_part

FUTURE_MONTHS = (24, 48, 96)
RISE_TARGETS = ((1, 48), (1, 96), (2, 48), (2, 96))
"""(step, months): the grade rises by at least `step` within `months`."""
MAX_RESOLUTION = 1024
"""Pixels a side at which a grader may look."""
NUM_OUTPUTS = KL_GRADES * (1 + len(FUTURE_MONTHS)) + len(RISE_TARGETS)


@dataclass(frozen=True, eq=False)
class Grading:
    """Probabilities of the three heads for N pictures; shapes in the module's table."""

    now: Tensor
    future: Tensor
    rise: Tensor

    def rows(self, index: Tensor) -> Grading:
        """Of some of the pictures."""
        return Grading(self.now[index], self.future[index], self.rise[index])

    def cpu(self) -> Grading:
        """On the CPU."""
        return Grading(self.now.cpu(), self.future.cpu(), self.rise.cpu())

    @property
    def expected_grade(self) -> Tensor:
        """Mean of the grade now, (N,), 0 to 4."""
        return self.now @ torch.arange(KL_GRADES, dtype=self.now.dtype, device=self.now.device)


def split_outputs(outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The network's last layer (N, NUM_OUTPUTS) as logits of now, future and rise."""
    now, future, rise = outputs.split([KL_GRADES, KL_GRADES * len(FUTURE_MONTHS), len(RISE_TARGETS)], dim=1)
    return now, future.reshape(-1, len(FUTURE_MONTHS), KL_GRADES), rise


def as_grading(outputs: Tensor) -> Grading:
    """Probabilities from the network's last layer."""
    now, future, rise = split_outputs(outputs.float())
    return Grading(now.softmax(dim=1), future.softmax(dim=2), rise.sigmoid())


def mean_grading(gradings: Sequence[Grading]) -> Grading:
    """Mean probabilities of several networks on the same pictures."""
    return Grading(*(torch.stack(head).mean(dim=0) for head in _heads(gradings)))


def concatenate(gradings: Sequence[Grading]) -> Grading:
    """The gradings of one lot of pictures after another."""
    return Grading(*(torch.cat(head) for head in _heads(gradings)))


def _heads(gradings: Sequence[Grading]) -> Iterator[tuple[Tensor, ...]]:
    return zip(*((grading.now, grading.future, grading.rise) for grading in gradings), strict=True)


def resize(x: Tensor, resolution: int) -> Tensor:
    """Pictures (N, 1, H, W) at `resolution` pixels a side; antialiased."""
    if x.shape[-2:] == (resolution, resolution):
        return x
    return F.interpolate(
        x, size=(resolution, resolution), mode="bicubic", align_corners=False, antialias=True
    ).clamp(-1, 1)


class Grader(nn.Module):
    """Mean of K networks.

    Parameters
    ----------
    networks
        EfficientNets of one channel and `NUM_OUTPUTS` outputs.
    input_resolution
        Pixels a side at which the networks look; pictures of any other size are resized.
    """

    def __init__(self, networks: Sequence[EfficientNet], *, input_resolution: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.input_resolution = input_resolution

    @property
    def members(self) -> list[EfficientNet]:
        """The networks, each in its own right."""
        return cast("list[EfficientNet]", list(self.networks))

    def forward(self, x: Tensor) -> Grading:
        """Grade model pictures (N, 1, H, W) in [-1, 1]: mean probabilities of the networks."""
        return mean_grading(self.grade_each(x))

    def grade_each(self, x: Tensor) -> list[Grading]:
        """Grade model pictures (N, 1, H, W) in [-1, 1] by each of the K networks alone."""
        x = resize(x, self.input_resolution)
        return [as_grading(network(x)) for network in self.members]

    def probabilities(self, x: Tensor) -> Tensor:
        """P(KL = 0..4 | picture), (N, 5)."""
        return self(x).now

    def each(self, x: Tensor) -> Tensor:
        """P(KL = 0..4 | picture) by each of the K networks alone, (N, K, 5)."""
        return torch.stack([grading.now for grading in self.grade_each(x)], dim=1)

    def features(self, x: Tensor) -> Tensor:
        """Pooled features of all networks side by side, (N, K · head_width)."""
        x = resize(x, self.input_resolution)
        return torch.cat([network.features(x) for network in self.members], dim=1)

    def config(self) -> dict[str, Any]:
        """What `from_tensors` needs besides the tensors; JSON-serialisable."""
        return {
            "networks": len(self.networks),
            "input_resolution": self.input_resolution,
            "future_months": list(FUTURE_MONTHS),
            "rise_targets": [list(target) for target in RISE_TARGETS],
            "architecture": self.members[0].config(),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Grader:
        """The grader of a model folder, ready for use.

        Raises
        ------
        WeightsError
            If tensors and configuration do not fit each other or this version.
        """
        try:
            if [list(target) for target in RISE_TARGETS] != config["rise_targets"]:
                raise WeightsError(
                    "the grader's heads are those of another version: install matching weights"
                )
            architecture = dict(config["architecture"])
            architecture["stages"] = tuple(Stage(*stage) for stage in architecture["stages"])

            def build() -> Grader:
                networks = [EfficientNet(1, NUM_OUTPUTS, **architecture) for _ in range(config["networks"])]
                return cls(networks, input_resolution=config["input_resolution"])

            if not 1 <= int(config["input_resolution"]) <= MAX_RESOLUTION:
                raise WeightsError(
                    f"the grader looks at {config['input_resolution']} pixels: expected 1 to {MAX_RESOLUTION}; "
                    "restore the model folder"
                )
            check_part(build, tensors, what="the grader")
            grader = build()
            grader.load_state_dict(dict(tensors), strict=True)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(
                f"the grader's tensors do not fit its configuration ({type(error).__name__}): "
                "restore the model folder"
            ) from error
        return grader.eval().requires_grad_(False)


def load_grader(files: ModelFiles, part: str = "grader") -> Grader:
    """A grader of a model folder; one that states it is `over` another part has that one's tensors but for its own.

    Raises
    ------
    WeightsError
        It is over another grader than the folder's.
    """
    config = files.config(part)
    below: Mapping[str, Tensor] = {}
    if (over := config.get("over")) is not None:
        if files.hashes().get("grader") != over:
            raise WeightsError(
                f"part {part} of {files.name} belongs to another grader than the folder's: train both anew"
            )
        below = files.tensors("grader")
    return Grader.from_tensors({**below, **files.tensors(part)}, config)


def beyond(grader: Grader, below: Grader) -> dict[str, Tensor]:
    """The tensors in which a grader differs from the one that it is over."""
    base = below.state_dict()
    return {name: t for name, t in grader.state_dict().items() if not torch.equal(t, base[name])}
