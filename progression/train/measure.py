"""Figures of merit of a run's snapshots on held-out pictures, and the best snapshot.

FID and KID of samples of the averaged generator on named features; where there is an encoder, PSNR and, where its
weights are installed, LPIPS of held-out knees' reconstructions. Numbers of pictures are the same all through a run and
fewer than in `progression evaluate`, hence FIDs are higher and compare within the run only. Nothing here draws from
the run's random sources.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from progression.encoder import Encoder
from progression.errors import DependencyError, WeightsError
from progression.files import atomic_folder
from progression.latent.invert import precision
from progression.metrics.features import Extractor, batches_of
from progression.metrics.frechet import fid, kid
from progression.metrics.image import psnr
from progression.metrics.lpips import LPIPS, SMALLEST_SIDE, load_lpips
from progression.metrics.samples import sample_images
from progression.stylegan2 import Generator

FIGURES = "figures.json"


@dataclass
class HeldOut:
    """Held-out pictures and what is measured on them.

    Attributes
    ----------
    images : (n, R, R) uint8
    extractors : features by a short name, which goes into the figures' names; the first one's FID says what is best
    every_kimg : thousands of images between two measurements
    device : where pictures are looked at
    """

    images: Tensor
    extractors: Mapping[str, Extractor]
    every_kimg: float
    device: torch.device
    _real: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    _lpips: LPIPS | None = None

    @classmethod
    def of(
        cls,
        images: Tensor | None,
        extractors: Mapping[str, Extractor],
        *,
        most: int,
        every_kimg: float,
        device: torch.device,
    ) -> HeldOut | None:
        """At most so many of the pictures, drawn with a fixed seed; None where there is nothing to measure."""
        if images is None or len(images) < 2 or not extractors or not every_kimg:
            return None
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        return cls(images[order[:most]], extractors, every_kimg, device)

    def is_due(self, seen: int, before: int, total: float) -> bool:
        """Whether a multiple of `every_kimg` lies between two image counts, or the run is over."""
        interval = 1000 * self.every_kimg
        return seen // interval > before // interval or seen >= total

    def figures(self, generator: Generator, encoder: Encoder | None = None) -> dict[str, float]:
        """``fid_NAME`` and ``kid_NAME`` of each extractor; ``psnr`` in dB and ``lpips`` of reconstructions."""
        found = {}
        # in full precision, as users will have it
        with precision(generator, torch.float32):
            samples = sample_images(generator, len(self.images))
            for name, extractor in self.extractors.items():
                if name not in self._real:
                    self._real[name] = extractor.extract(batches_of(self.images, device=self.device))
                made = extractor.extract(batches_of(samples, device=self.device))
                found[f"fid_{name}"] = fid(self._real[name], made)
                found[f"kid_{name}"] = kid(self._real[name], made)
            if encoder is not None:
                found |= self._likeness(generator, encoder)
        return found

    @torch.inference_mode()
    def _likeness(self, generator: Generator, encoder: Encoder) -> dict[str, float]:
        if self._lpips is None and self.images.shape[-1] >= SMALLEST_SIDE:
            with suppress(DependencyError):
                self._lpips = load_lpips("alex", device=self.device)
        likeness: dict[str, list[Tensor]] = {}
        for x in batches_of(self.images, device=self.device):
            again = generator.synthesis(encoder(x), noise_mode="const").clamp(-1, 1)
            likeness.setdefault("psnr", []).append(psnr(x, again, data_range=2))
            if self._lpips is not None:
                likeness.setdefault("lpips", []).append(self._lpips(x, again))
        return {name: float(torch.cat(values).mean()) for name, values in likeness.items()}

    def keep_if_best(
        self,
        run: Path,
        figures: Mapping[str, float],
        kimg: float,
        *,
        finish: Callable[[Path], None] = lambda folder: None,
    ) -> None:
        """Copy `run`/snapshot to `run`/best if its FID is the lowest so far.

        The folder's `figures.json` tells the figures, kimg, features and number of pictures. `finish` may add to the
        copy before it takes the old one's place.
        """
        leading = f"fid_{next(iter(self.extractors))}"
        best = best_of(run)
        if not math.isfinite(figures[leading]):
            return
        if best is not None and best["figures"][leading] <= figures[leading]:
            return
        record = {
            "best_by": leading,
            "kimg": kimg,
            "figures": dict(figures),
            "features": {name: extractor.name for name, extractor in self.extractors.items()},
            "pictures": len(self.images),
        }
        with atomic_folder(run / "best") as folder:
            shutil.copytree(run / "snapshot", folder, dirs_exist_ok=True)
            finish(folder)
            (folder / FIGURES).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def best_of(run: Path) -> dict[str, Any] | None:
    """What `figures.json` of a run's best snapshot says; None if there is none.

    Raises
    ------
    WeightsError
        It is damaged.
    """
    path = run / "best" / FIGURES
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        float(found["figures"][found["best_by"]]), float(found["kimg"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path} is damaged ({type(error).__name__}): expected the figures of the best snapshot; remove "
            f"{path.parent}, and the next one measured is kept"
        ) from error
    return found


def tell_best(run: Path) -> None:
    """Say which snapshot was best, if any was measured."""
    if (best := best_of(run)) is not None:
        name = best["best_by"]
        print(f"best snapshot: {run / 'best'} ({name} {best['figures'][name]:.4g} at {best['kimg']:g} kimg)")
