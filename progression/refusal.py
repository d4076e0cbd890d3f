"""Who is let in: pictures unlike the training radiographs are refused, and what is odd about others is said.

A picture is refused for how it is laid out (:mod:`progression.latent.appearance`) or because the generator cannot draw
it; what the bounds let pass is counted by `benchmarks/typicality.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from progression.asked import Asked, pictures
from progression.errors import NotAKneeError
from progression.latent.appearance import RESOLUTION, Appearance
from progression.types import Radiograph

ATYPICAL = 0.01
"""Typicality under which a picture is called unlike the training radiographs, with a warning."""
MISLAID = 0.005
"""Typicality of its layout under which a picture is refused: one knee in four hundred, nearly all that are none."""
OFF_MANIFOLD = 0.001
"""Typicality under which a picture is refused for what the model makes of it."""


@dataclass(frozen=True)
class Gate:
    """What a model knows of how knees are laid out; None for a model that cannot tell."""

    appearance: Appearance | None
    device: torch.device

    def admit(
        self, asked: Asked, *, typicality: Tensor, mirrored: Tensor, accept_atypical: bool
    ) -> tuple[Asked, list[tuple[str, ...]]]:
        """What is asked, without the other knees that would be refused, and warnings for each knee.

        Parameters
        ----------
        typicality, mirrored : (N,), how well the model draws the pictures as shown and mirrored
        accept_atypical : let all in, with a warning

        Raises
        ------
        NotAKneeError
            If pictures are refused: for the first one, with all of them in its `refused`. One whose figures are not
            finite always is.
        """
        radiographs, drawn = asked.radiographs, typicality.tolist()
        laid_out = self._laid_out(radiographs)
        senseless = {
            i: "refused, the networks answered with numbers that are not finite; expected a radiograph and whole "
            "weights (progression weights verify), or try --engine torch"
            for i, figures in enumerate(zip(drawn, mirrored.tolist(), laid_out, strict=True))
            if not all(map(math.isfinite, figures))
        }
        reasons = self._reasons(radiographs, drawn, laid_out)
        refused = senseless or {
            i: f"refused, {reason}; expected one knee from the front, upright, the joint in the middle "
            "(--accept-atypical predicts it all the same)"
            for i, reason in enumerate(reasons)
            if reason and not accept_atypical
        }
        if refused:
            first, told = next(iter(refused.items()))
            which = f"{radiographs[first].name}: " if len(radiographs) > 1 else ""
            raise NotAKneeError(which + told, refused)
        others, left_out = self._knees_among(asked.others, accept_atypical=accept_atypical)
        found = []
        for i, reason in enumerate(reasons):
            least = min(drawn[i], laid_out[i])
            found.append((*_warnings(least, float(mirrored[i]), asked.grades[i], reason), *left_out[i]))
        return replace(asked, others=others), found

    def _laid_out(self, radiographs: Sequence[Radiograph]) -> list[float]:
        """Share of knees that are laid out as oddly as each picture; 1 for a model that cannot tell."""
        if self.appearance is None:
            return [1.0] * len(radiographs)
        return [float(one) for one in self.appearance(pictures(radiographs, RESOLUTION, self.device))]

    def _reasons(
        self, radiographs: Sequence[Radiograph], drawn: Sequence[float], laid_out: Sequence[float]
    ) -> list[str]:
        """Why each picture is no knee that the model knows; empty where it is one."""
        found = []
        for radiograph, drawing, layout in zip(radiographs, drawn, laid_out, strict=True):
            reason = ""
            if layout < MISLAID:
                reason = (
                    "it is not laid out like the training radiographs (share of knees as odd: "
                    f"{_under(layout, MISLAID)})"
                )
            if drawing < OFF_MANIFOLD:
                reason = f"the model cannot draw it (typicality {_under(drawing, OFF_MANIFOLD)})"
            if reason and self.appearance is not None:
                reason = self.appearance.turned(pictures([radiograph], RESOLUTION, self.device)) or reason
            found.append(reason)
        return found

    def _knees_among(
        self, others: Sequence[Radiograph | None], *, accept_atypical: bool
    ) -> tuple[list[Radiograph | None], list[tuple[str, ...]]]:
        """The other knees that are laid out like knees, and a warning for each that is left out."""
        kept: list[Radiograph | None] = list(others)
        told: list[tuple[str, ...]] = [()] * len(kept)
        for i, other in enumerate(others):
            if other is None or accept_atypical:
                continue
            (reason,) = self._reasons([other], [1.0], self._laid_out([other]))
            if reason:
                kept[i], told[i] = None, (f"other knee left out: {reason}",)
        return kept, told


def _under(figure: float, least: float) -> str:
    """A figure with as many digits as show that it is under its bound, and the bound."""
    digits = next((digits for digits in range(4, 17) if round(figure, digits) < least), 17)
    return f"{figure:.{digits}f}, least {least:g}"


def _warnings(typicality: float, mirrored: float, grade: int | None, reason: str) -> tuple[str, ...]:
    found = [f"accepted although {reason}: do not rely on this"] if reason else []
    if typicality < ATYPICAL and not reason:
        found.append(f"unlike the training radiographs (typicality {typicality:.3f}): do not rely on this")
    if mirrored > 0.05 and mirrored > 10 * typicality:
        found.append("looks more like a knee of the other side: check --side")
    if grade == 4:
        found.append("grade 4 is the highest: it cannot rise")
    elif grade == 3:
        found.append("grade 3 cannot rise by two")
    return tuple(found)
