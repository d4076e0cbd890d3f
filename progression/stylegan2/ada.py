"""How strongly to augment: the adaptive control of arXiv 2006.06676 §3.

| symbol | meaning |
|---|---|
| r_t | E[sign D(x)] over training images: 0 without overfitting, 1 when D knows them all |
| p | probability of each augmentation |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from progression.errors import UsageError
from progression.stylegan2.augment import Augment, AugmentConfig


class AdaptiveAugmentation:
    """A pipeline whose p rises while r_t exceeds its target and falls while it is short of it.

    Parameters
    ----------
    config
        Of the pipeline: an `AugmentConfig` or the name of a preset.
    p
        Where to start.
    target
        Wanted r_t.
    ramp_kimg
        Thousands of training images over which p would go from 0 to 1 without turning.
    interval
        Minibatches between two adjustments.
    p_max
        Upper bound; near 1 augmentations start to leak into the generated images (§2.2).

    Attributes
    ----------
    pipeline : Augment
        To be applied to all images that D sees; its buffer `p` is what is adjusted.
    p : float
        Current probability.
    r_t : float
        At the last adjustment; NaN before the first.
    """

    def __init__(
        self,
        config: AugmentConfig | str = "radiograph",
        p: float = 0.0,
        *,
        target: float = 0.6,
        ramp_kimg: float = 500.0,
        interval: int = 4,
        p_max: float = 1.0,
    ) -> None:
        if not 0 <= p <= p_max <= 1 or ramp_kimg <= 0 or interval < 1:
            raise UsageError(
                f"adaptive augmentation expects 0 <= p <= p_max <= 1, ramp_kimg > 0 and interval >= 1, "
                f"received p={p}, p_max={p_max}, ramp_kimg={ramp_kimg}, interval={interval}"
            )
        self.pipeline = Augment(config, p=p)
        self.p, self.r_t = p, math.nan
        self.target, self.ramp_kimg, self.interval, self.p_max = target, ramp_kimg, interval, p_max
        self._signs = torch.zeros([])
        self._images = self._batches = 0

    def update(self, logits_real: Tensor) -> None:
        """Take note of D's logits on one minibatch of training images, and adjust p when it is time.

        p ← clamp(p + sign(r_t - target) · images / (1000 · ramp_kimg)). Between adjustments the sums stay on the
        logits' device, so that nothing waits.
        """
        self._signs = self._signs + logits_real.detach().float().sign().sum()
        self._images += logits_real.numel()
        self._batches += 1
        if self._batches < self.interval:
            return
        self.r_t = float(self._signs) / self._images
        direction = (self.r_t > self.target) - (self.r_t < self.target)
        step = direction * self._images / (1000 * self.ramp_kimg)
        self._set(min(max(self.p + step, 0.0), self.p_max))
        self._signs = torch.zeros([])
        self._images = self._batches = 0

    def state_dict(self) -> dict[str, float]:
        """What an exact resume needs, unfinished sums included."""
        return {
            "p": self.p,
            "r_t": self.r_t,
            "signs": float(self._signs),
            "images": self._images,
            "batches": self._batches,
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from `state_dict`."""
        self._set(state["p"])
        self.r_t, self._signs = state["r_t"], torch.tensor(state["signs"])
        self._images, self._batches = int(state["images"]), int(state["batches"])

    def _set(self, p: float) -> None:
        self.p = p
        self.pipeline.p.fill_(p)
