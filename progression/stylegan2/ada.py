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


class AdaptiveProbability:
    """Moves p up while r_t exceeds its target and down while it falls short.

    Parameters
    ----------
    p
        Where to start.
    target
        Wanted r_t.
    ramp_kimg
        Thousands of training images over which p would go from 0 to 1 without turning.
    p_max
        Upper bound; near 1 augmentations start to leak into the generated images (§2.2).

    Attributes
    ----------
    p : float
        Current probability.
    r_t : float
        At the last update; NaN before.
    """

    def __init__(
        self, p: float = 0.0, *, target: float = 0.6, ramp_kimg: float = 500.0, p_max: float = 1.0
    ) -> None:
        if not 0 <= p <= p_max <= 1 or ramp_kimg <= 0:
            raise UsageError(
                f"adaptive augmentation expects 0 <= p <= p_max <= 1 and ramp_kimg > 0, "
                f"received p={p}, p_max={p_max}, ramp_kimg={ramp_kimg}"
            )
        self.p, self.r_t = p, math.nan
        self.target, self.ramp_kimg, self.p_max = target, ramp_kimg, p_max
        self._signs: Tensor | None = None
        self._images = 0

    def observe(self, logits_real: Tensor) -> None:
        """Take note of D's logits on training images; stays on their device, so that nothing waits."""
        signs = logits_real.detach().float().sign().sum()
        self._signs = signs if self._signs is None else self._signs + signs
        self._images += logits_real.numel()

    def update(self) -> float:
        """New p from the images seen since the last update (the paper: every four minibatches).

        p ← clamp(p + sign(r_t - target) · images / (1000 · ramp_kimg)); unchanged if none were seen.
        """
        if self._signs is not None:
            self.r_t = float(self._signs) / self._images
            step = self._images / (1000 * self.ramp_kimg)
            direction = (self.r_t > self.target) - (self.r_t < self.target)
            self.p = min(max(self.p + direction * step, 0.0), self.p_max)
            self._signs, self._images = None, 0
        return self.p

    def state_dict(self) -> dict[str, float]:
        """What an exact resume needs, unfinished sums included."""
        signs = 0.0 if self._signs is None else float(self._signs)
        return {"p": self.p, "r_t": self.r_t, "signs": signs, "images": float(self._images)}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from `state_dict`."""
        self.p, self.r_t, self._images = state["p"], state["r_t"], int(state["images"])
        self._signs = torch.tensor(state["signs"]) if self._images else None
