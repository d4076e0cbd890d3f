"""Named features of pictures, on which FID, KID and the like are computed.

A distance between sets of pictures means nothing without its features, so every `Extractor` has a name
that goes into the reports.  Published FIDs use Inception-v3's features and are not comparable with ours:
its weights are distributed as TorchScript, that is, as code to be run, which this package does not do.
The default is EfficientNet-lite0 trained on ImageNet (smaller, Apache-2.0, plain tensors); beside it the
shipped grader's features, which know knees but were trained on the training ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

IMAGENET_SIZE = 224


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


def imagenet_features(device: str | torch.device = "cpu") -> Extractor:
    """1,280 pooled features of EfficientNet-lite0 (ImageNet), pictures enlarged to 224 × 224.

    Raises
    ------
    DependencyError
        The package with its weights is not installed.
    """
    from progression.risk.efficientnet import load_imagenet

    network = load_imagenet(in_channels=1, num_outputs=1000).eval().requires_grad_(False).to(device)

    def features(x: Tensor) -> Tensor:
        size = (IMAGENET_SIZE, IMAGENET_SIZE)
        return network.features(F.interpolate(x.to(device), size=size, mode="bicubic", antialias=True))

    return Extractor("efficientnet-lite0 (ImageNet)", features)


def batches_of(images: Tensor, *, batch: int = 64, device: str | torch.device = "cpu") -> Iterator[Tensor]:
    """Model images (n, 1, R, R) float32 in [-1, 1] from stored ones (N, R, R) uint8."""
    for chunk in images.split(batch):
        yield chunk.unsqueeze(1).to(device).float() / 127.5 - 1
