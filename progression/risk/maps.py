"""What a network sees in a picture, map by map, and how unlike it finds two pictures.

| symbol | meaning | shape |
|---|---|---|
| m_l | map of the network at stride 2^(l+1), each channel over its deviation on knees | (N, C_l, R/2^(l+1), …) |

The network, most often one of the grader's, looks at the picture as it is, not enlarged to its own resolution: that is
dear, and the maps are compared, not read. Training judges by them (`progression.train.judge`), refinement keeps them
(`progression.latent.perceptual`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from progression.risk.efficientnet import EfficientNet
from progression.risk.grader import split_outputs

RELATIVE_FLOOR = 0.1


class FrozenMaps(nn.Module):
    """m_l of pictures.

    Parameters
    ----------
    network : one network of a grader, or another of its kind
    reference : (N, C, R, R) knees in [-1, 1] on which the deviations are measured

    Attributes
    ----------
    channels : C_l, fine to coarse
    """

    def __init__(self, network: EfficientNet, reference: Tensor) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.channels: list[int] = []
        with torch.no_grad():
            for level, m in enumerate(network.pyramid(reference)):
                self.channels.append(m.shape[1])
                deviation = m.float().std(dim=(0, 2, 3), keepdim=True)
                # a channel that is silent on these must not shout on others
                deviation = deviation.clamp(min=RELATIVE_FLOOR * float(deviation.mean()) + 1e-6)
                self.register_buffer(f"scale{level}", 1 / deviation)

    def scales(self) -> dict[str, Tensor]:
        """What was measured: its part of the state, all that the network itself does not give."""
        return {name: value for name, value in self.state_dict().items() if name.startswith("scale")}

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of pictures (N, C, R, R)."""
        maps = self.network.pyramid(x)
        return [self._scaled(maps, level) for level in range(len(maps))]

    def grade(self, maps: list[Tensor]) -> Tensor:
        """log P(KL = 0..4) (N, 5) of pictures with these maps, where the network is a grader's."""
        last = maps[-1] / getattr(self, f"scale{len(maps) - 1}").to(maps[-1].dtype)
        now, _, _ = split_outputs(self.network.out(self.network.top(last).mean(dim=(2, 3))).float())
        return now.log_softmax(dim=1)

    def look(self, x: Tensor, levels: Sequence[int]) -> list[Tensor]:
        """The maps l of `levels`; those beyond are not computed."""
        maps = self.network.pyramid(x, levels=max(levels) + 1)
        return [self._scaled(maps, level) for level in levels]

    def _scaled(self, maps: list[Tensor], level: int) -> Tensor:
        scale: Tensor = getattr(self, f"scale{level}")
        return maps[level] * scale.to(maps[level].dtype)


def map_distance(maps: list[Tensor], others: list[Tensor]) -> Tensor:
    """Mean absolute difference of m_l, summed over levels: (N,)."""
    return map_distances(maps, others).sum(dim=1)


def map_distances(maps: list[Tensor], others: list[Tensor]) -> Tensor:
    """Mean absolute difference of m_l, (N, levels)."""
    terms = [(a.float() - b.float()).abs().mean(dim=(1, 2, 3)) for a, b in zip(maps, others, strict=True)]
    return torch.stack(terms, dim=1)
