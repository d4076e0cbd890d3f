"""Generated pictures as bytes, as figures of merit take them."""

from __future__ import annotations

import torch
from torch import Tensor

from progression.errors import UsageError
from progression.metrics.ppl import SamplesPictures, random_labels


def sample_images(
    generator: SamplesPictures, n: int, *, truncation_psi: float = 1.0, batch: int = 64, seed: int = 0
) -> Tensor:
    """`n` generated pictures as bytes, (n, R, R) uint8."""
    device = next(generator.parameters()).device
    source = torch.Generator().manual_seed(seed)
    parts = []
    with torch.inference_mode():
        for start in range(0, n, batch):
            size = min(batch, n - start)
            z = torch.randn(size, generator.z_dim, generator=source).to(device)
            c = random_labels(generator.c_dim, size, source).to(device)
            x = generator.synthesis(generator.mapping(z, c, truncation_psi), noise_mode="const")
            if x.shape[1] != 1:
                raise UsageError(
                    f"expected a generator of grey pictures, received one of {x.shape[1]} channels"
                )
            parts.append(((x[:, 0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu())
    return torch.cat(parts)
