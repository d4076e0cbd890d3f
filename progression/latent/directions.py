"""Directions in W: where to go for more of one attribute and as little as possible of the others.

With A (N, A) attributes of N knees, standardised, and W (N, D) their codes, the part of a code that goes with the
attributes is a multiple regression with a light ridge,

    W - w̄ ≈ A B,   B = (AᵀA + λ N I)⁻¹ Aᵀ (W - w̄)

so row a of B is how codes change with one standard deviation of attribute a *while the other attributes stay*, which a
difference of group means or a single regression is not: grade goes with age, weight and exposure.

Whether moving along a row changes that attribute alone is then measured on pictures (`disentanglement`): render,
measure all attributes again, and compare. With R what one deviation along each row is seen as, on average,

    B' = R⁻¹ B

asks for each attribute and no other to first order (`Directions.calibrated`). It stays within what knees do: a mixture
of directions that they differ in, not the gradient of a grader, which would find pictures that fool it.

| symbol | meaning | shape |
|---|---|---|
| A | attributes over their deviation, mean 0 | (N, A) |
| B | change of a code with one deviation of each attribute | (A, D) |
| R | change seen in each attribute (columns) with one deviation along each row of B | (A, A) |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from progression.errors import UsageError, WeightsError
from progression.weights import ModelFiles, save_part

PART = "directions"
REACH = 5.0
"""Largest change that may be asked for, in deviations of the attribute among the knees that were learnt from."""
DAMPING = 0.01
"""ε of `Directions.calibrated`: what answers with a tenth of what is asked is made five times as strong."""


@dataclass(frozen=True, eq=False)
class Directions:
    """Named directions in W.

    Attributes
    ----------
    names : of the A attributes
    effect : (A, D) B above
    mean, deviation : (A,) of each attribute, in its own units
    """

    names: tuple[str, ...]
    effect: Tensor
    mean: Tensor
    deviation: Tensor

    def save(
        self, folder: str | Path, *, made_for: ModelFiles, training: Mapping[str, Any] | None = None
    ) -> Path:
        """Write part "directions" of a model folder.

        Parameters
        ----------
        made_for : the model whose generator and encoder they were found with
        training : how they came about, for the card
        """
        tensors = {"effect": self.effect, "mean": self.mean, "deviation": self.deviation}
        config = {"names": list(self.names), "made_for": _hashes(made_for), "training": dict(training or {})}
        return save_part(folder, PART, tensors, config, dtype="float32", resolution=made_for.resolution)

    @classmethod
    def load(cls, files: ModelFiles, *, device: torch.device | str = "cpu") -> Directions:
        """Read part "directions" of a model.

        Raises
        ------
        WeightsError
            If the model has none, or was given another generator or encoder since they were found.
        """
        remedy = "run progression train directions"
        if PART not in files.parts:
            raise WeightsError(f"model {files.folder} has no directions: {remedy}")
        config, tensors = files.config(PART), files.tensors(PART)
        if config.get("made_for") != _hashes(files):
            raise WeightsError(
                f"the directions of model {files.folder} were found for another generator or encoder than it has: "
                f"{remedy}"
            )
        try:
            names = tuple(str(name) for name in config["names"])
            effect, mean, deviation = (tensors[name].to(device) for name in ("effect", "mean", "deviation"))
        except KeyError as error:
            raise WeightsError(
                f"the directions of model {files.folder} are damaged ({error}): {remedy}"
            ) from error
        if effect.ndim != 2 or not len(names) == len(effect) == len(mean) == len(deviation):
            raise WeightsError(f"the directions of model {files.folder} are damaged (sizes differ): {remedy}")
        return cls(names, effect, mean, deviation)

    @classmethod
    def fit(cls, w: Tensor, attributes: Mapping[str, Tensor], *, ridge: float = 1e-3) -> Directions:
        """From codes w (N, D) and attributes (N,) each.

        Raises
        ------
        UsageError
            If an attribute is missing for a knee, or does not vary.
        """
        names = tuple(attributes)
        a = torch.stack([attributes[name].double() for name in names], dim=1)
        if a.shape[0] != len(w) or not bool(a.isfinite().all()):
            raise UsageError(f"expected {len(w)} finite values of every attribute, got {tuple(a.shape)}")
        mean, deviation = a.mean(dim=0), a.std(dim=0)
        if not bool((deviation > 0).all()):
            still = ", ".join(name for name, d in zip(names, deviation, strict=True) if d == 0)
            raise UsageError(f"attribute {still} is the same for all knees: leave it out")
        a = (a - mean) / deviation
        gram = a.T @ a + ridge * len(a) * torch.eye(len(names), dtype=a.dtype)
        effect = torch.linalg.solve(gram, a.T @ (w.double() - w.double().mean(dim=0)))
        return cls(names, effect.float(), mean.float(), deviation.float())

    def calibrated(self, response: Tensor) -> Directions:
        """Directions B' = R⁻¹ B that give what is asked for, where these gave `response` R (:func:`disentanglement`).

        To first order: moving by c B is seen as c R, so a row of R⁻¹ asks for one attribute and for no other. What
        hardly answers is not blown up without end: the inverse is damped, Rᵀ(R Rᵀ + ε I)⁻¹.
        """
        r = response.double()
        damped = r.T @ torch.linalg.inv(r @ r.T + DAMPING * torch.eye(len(r), dtype=r.dtype))
        return replace(self, effect=(damped @ self.effect.double()).float())

    def move(self, w: Tensor, name: str, amount: float) -> Tensor:
        """Codes w (N, D) or (N, L, D) changed by `amount` of an attribute, in the attribute's own units.

        Raises
        ------
        UsageError
            If there is no such attribute.
        """
        i = self._index(name)
        return w + self.effect[i].to(w) * (amount / float(self.deviation[i]))

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise UsageError(f"attribute {name!r}: expected one of {', '.join(self.names)}")
        return self.names.index(name)

    def edit(self, ws: Tensor, **amounts: float) -> Tensor:
        """Codes changed by several attributes at once, each in its own units: `edit(ws, grade=1, exposure=-0.05)`.

        Parameters
        ----------
        ws : (N, D) or (N, L, D)
        amounts : by the attribute's name; none leaves the codes as they are

        Raises
        ------
        UsageError
            If there is no such attribute, or an amount is not finite or beyond `REACH` deviations.
        """
        for name, amount in amounts.items():
            most = REACH * float(self.deviation[self._index(name)])
            if not isinstance(amount, int | float | np.number) or not abs(amount) <= most:
                raise UsageError(
                    f"{name}={amount!r}: expected a change from {-most:.3g} to {most:.3g}, {REACH:g} standard "
                    "deviations of the knees that the directions were learnt from"
                )
            ws = self.move(ws, name, amount)
        return ws


@torch.no_grad()
def disentanglement(
    directions: Directions,
    w: Tensor,
    measure: Callable[[Tensor], Mapping[str, Tensor]],
    *,
    names: Sequence[str] | None = None,
) -> Tensor:
    """What moving by one deviation of each attribute does to all of them, (A, A) in deviations.

    Row: moved along; column: measured. The identity would be perfect; the diagonal tells how much of what was asked
    for is seen, the rest of a row what comes with it. A central difference: half a deviation up less half a one down,
    mean over knees.

    Parameters
    ----------
    w : (N, D) codes of knees not used for the fit
    measure : codes (N, D) → attributes (N,) by name, measured on their pictures
    """
    wanted = tuple(names or directions.names)
    rows = []
    for name in wanted:
        half = 0.5 * float(directions.deviation[directions.names.index(name)])
        up, down = (measure(directions.move(w, name, sign * half)) for sign in (1, -1))
        changes = []
        for other in wanted:
            unit = float(directions.deviation[directions.names.index(other)])
            changes.append(float((up[other] - down[other]).double().mean()) / unit)
        rows.append(torch.tensor(changes))
    return torch.stack(rows)


def _hashes(files: ModelFiles) -> dict[str, str]:
    """Hashes of the parts that say what a code means."""
    return {part: digest for part, digest in files.hashes().items() if part in ("generator", "encoder")}
