"""Extractors of features from networks: ImageNet's, and a model's own grader's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from progression.metrics.features import Extractor
from progression.metrics.lpips import load_lpips
from progression.risk.efficientnet import load_imagenet
from progression.risk.grader import Grader

IMAGENET_SIZE = 224


def imagenet_features(device: str | torch.device = "cpu") -> Extractor:
    """1,280 pooled features of EfficientNet-lite0 (ImageNet), pictures enlarged to 224 × 224.

    Raises
    ------
    DependencyError
        The package with its weights is not installed.
    """
    network = load_imagenet(in_channels=1, num_outputs=1000).eval().requires_grad_(False).to(device)

    def features(x: Tensor) -> Tensor:
        size = (IMAGENET_SIZE, IMAGENET_SIZE)
        return network.features(F.interpolate(x.to(device), size=size, mode="bicubic", antialias=True))

    return Extractor("efficientnet-lite0 (ImageNet)", features)


def vgg_features(device: str | torch.device = "cpu") -> Extractor:
    """512 pooled features of VGG-16 (ImageNet): its last compared layer in LPIPS, of unit length at every place.

    No network that is shipped or judges in training stems from it, so it is the independent witness.

    Raises
    ------
    DependencyError
        The package with its weights is not installed.
    """
    network = load_lpips("vgg", device=device)

    def features(x: Tensor) -> Tensor:
        return network.features(x.to(device))[-1].mean(dim=(2, 3))

    return Extractor("VGG-16 (ImageNet)", features)


def grader_features(grader: Grader, *, model: str) -> Extractor:
    """Pooled features of all the grader's networks: they know knees, but were trained on the training ones."""
    return Extractor(f"grader of {model} ({len(grader.networks)} networks)", grader.features)
