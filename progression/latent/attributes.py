"""What is seen in a picture that a direction in W may be asked to change: grade, exposure, contrast, size, left.

All are measured on the picture alone, so that they can be measured again after an edit.

| attribute | unit | what |
|---|---|---|
| grade | grades | expected KL grade, 0 to 4, by the grader |
| exposure | share of the grey range | mean grey level |
| contrast | share of the grey range | standard deviation of grey levels |
| size | share of the picture's width | width of the femur's condyles |
| left | 1 for left, 0 for right | what tells left knees from right ones after mirroring, by a linear probe |

Mirrored left knees should be right knees; what is left of the side is acquisition (markers, centring, the projection).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from progression.errors import UsageError
from progression.risk.grader import Grader, as_grading, mean_grading, resize

NAMES = ("grade", "exposure", "contrast", "size", "left")
_BATCH = 16


def bone_width(pictures: Tensor) -> Tensor:
    """Share of the width that is brighter than halfway between dark and bright, above the joint, (N,).

    A rough measure of size: the width of the femur's condyles in the picture.

    Parameters
    ----------
    pictures : (N, 1, R, R) in [-1, 1]
    """
    side = pictures.shape[-1]
    band = pictures[:, 0, int(0.30 * side) : int(0.42 * side)].mean(dim=1)
    low, high = (pictures.flatten(1).quantile(q, dim=1) for q in (0.05, 0.9))
    return (band > ((low + high) / 2)[:, None]).float().mean(dim=1)


@dataclass(frozen=True)
class Gauge:
    """Measures attributes on pictures.

    Attributes
    ----------
    grader : for the grade, and for the features that the probe of the side stands on
    centre, weight : (F,) mean of the features, and the probe's weights on them; None leaves the side out
    offset : mean of the side
    """

    grader: Grader
    centre: Tensor | None = None
    weight: Tensor | None = None
    offset: float = 0.0

    @classmethod
    @torch.no_grad()
    def fit(cls, grader: Grader, pictures: Tensor, is_left: Tensor, *, penalty: float = 1.0) -> Gauge:
        """Learn the probe of the side, a ridge regression on the grader's features.

        Parameters
        ----------
        pictures : (N, 1, R, R) in [-1, 1], left knees mirrored
        is_left : (N,) bool
        penalty : ridge, over N and the features' mean variance

        Raises
        ------
        UsageError
            If there is but one side.
        """
        if bool((is_left == is_left[0]).all()):
            raise UsageError("the side can only be learnt from left and right knees: only one side was given")
        features = torch.cat([_looked_at(grader, x)[0] for x in pictures.split(_BATCH)]).double().cpu()
        centre, label = features.mean(dim=0), is_left.double().cpu()
        f = features - centre
        # in the dual: there are more features than knees
        gram = f @ f.T
        ridge = penalty * float(gram.diagonal().mean()) * torch.eye(len(f), dtype=f.dtype)
        weight = f.T @ torch.linalg.solve(gram + ridge, label - label.mean())
        device = pictures.device
        return cls(grader, centre.float().to(device), weight.float().to(device), float(label.mean()))

    @property
    def names(self) -> tuple[str, ...]:
        """What is measured, in order."""
        return NAMES if self.weight is not None else NAMES[:-1]

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> dict[str, Tensor]:
        """Attributes, (N,) each, of pictures (N, 1, R, R) in [-1, 1]."""
        parts = [self._measure(part) for part in pictures.clamp(-1, 1).split(_BATCH)]
        return {name: torch.cat([part[name] for part in parts]) for name in self.names}

    def _measure(self, x: Tensor) -> dict[str, Tensor]:
        unit = (x.flatten(1) + 1) / 2
        features, expected = _looked_at(self.grader, x)
        found = {
            "grade": expected,
            "exposure": unit.mean(dim=1),
            "contrast": unit.std(dim=1),
            "size": bone_width(x),
        }
        if self.weight is not None and self.centre is not None:
            found["left"] = (features - self.centre) @ self.weight + self.offset
        return found


def _looked_at(grader: Grader, x: Tensor) -> tuple[Tensor, Tensor]:
    """A grader's features (N, F) and expected grades (N,) in one go."""
    x = resize(x, grader.input_resolution)
    features = [network.features(x) for network in grader.members]
    outputs = [network.out(f) for network, f in zip(grader.members, features, strict=True)]
    return torch.cat(features, dim=1), mean_grading([as_grading(o) for o in outputs]).expected_grade
