"""Extractors of features."""

from __future__ import annotations

import numpy as np
import torch

from progression.metrics.features import Extractor, batches_of


def test_batches_cover_all_pictures_in_model_range() -> None:
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 4)
    batches = list(batches_of(images, batch=2))
    assert [b.shape for b in batches] == [(2, 1, 4, 4), (1, 1, 4, 4)]
    np.testing.assert_allclose(torch.cat(batches)[:, 0, 0, 0], [-1, 1, -0.6], atol=1e-6)


def test_extract_keeps_order() -> None:
    extractor = Extractor("mean", lambda x: x.mean(dim=(2, 3)))
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1).expand(5, 2, 2)
    expected = torch.arange(5)[:, None] / 127.5 - 1
    np.testing.assert_allclose(extractor.extract(batches_of(images, batch=2)), expected, atol=1e-6)
