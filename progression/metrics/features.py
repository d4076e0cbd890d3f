"""Named features of pictures, on which FID, KID and the like are computed.

A distance between sets of pictures means nothing without its features, so every `Extractor` has a name
that goes into the reports.  Published FIDs use Inception-v3's features and are not comparable with ours:
its weights are distributed as TorchScript, that is, as code to be run, which this package does not do.
`progression.evaluate.extractors` has EfficientNet-lite0's, trained on ImageNet (smaller, Apache-2.0, plain
tensors), and a model's own grader's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Extractor:
    """A named map from pictures to features.

    Attributes
    ----------
    name : stated with every figure that rests on these features
    features : (N, 1, R, R) float32 in [-1, 1] → (N, d)
    """

    name: str
    features: Callable[[Tensor], Tensor]

    def extract(self, batches: Iterable[Tensor]) -> NDArray[np.float32]:
        """Features (N, d) of all pictures of the batches, in order."""
        with torch.inference_mode():
            return np.concatenate([self.features(batch).float().cpu().numpy() for batch in batches])


def batches_of(images: Tensor, *, batch: int = 64, device: str | torch.device = "cpu") -> Iterator[Tensor]:
    """Model images (n, 1, R, R) float32 in [-1, 1] from stored ones (N, R, R) uint8."""
    for chunk in images.split(batch):
        yield chunk.unsqueeze(1).to(device).float() / 127.5 - 1
