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
class Seen:
    """What a grader sees in N pictures: features (N, F) of all its networks, and the expected grade (N,)."""

    features: Tensor
    grade: Tensor


@torch.no_grad()
def look(grader: Grader, pictures: Tensor) -> Seen:
    """Features and expected grades of pictures (N, 1, R, R) in [-1, 1], in one go."""
    parts = []
    for part in pictures.clamp(-1, 1).split(_BATCH):
        x = resize(part, grader.input_resolution)
        features = [network.features(x) for network in grader.members]
        outputs = [network.out(f) for network, f in zip(grader.members, features, strict=True)]
        grading = mean_grading([as_grading(output) for output in outputs])
        parts.append((torch.cat(features, dim=1), grading.expected_grade))
    return Seen(*(torch.cat(column) for column in zip(*parts, strict=True)))


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
    def fit(cls, grader: Grader, seen: Seen, is_left: Tensor, *, penalty: float = 1.0) -> Gauge:
        """Learn the probe of the side, a ridge regression on the grader's features.

        Parameters
        ----------
        seen : what `look` gives of N pictures, left knees mirrored
        is_left : (N,) bool
        penalty : ridge, over N and the features' mean variance

        Raises
        ------
        UsageError
            If there is but one side.
        """
        if bool((is_left == is_left[0]).all()):
            raise UsageError("the side can only be learnt from left and right knees: only one side was given")
        features, label = seen.features.double().cpu(), is_left.double().cpu()
        centre = features.mean(dim=0)
        f = features - centre
        # in the dual: there are more features than knees
        gram = f @ f.T
        ridge = penalty * float(gram.diagonal().mean()) * torch.eye(len(f), dtype=f.dtype)
        weight = f.T @ torch.linalg.solve(gram + ridge, label - label.mean())
        return cls(grader, centre.to(seen.features), weight.to(seen.features), float(label.mean()))

    @property
    def names(self) -> tuple[str, ...]:
        """What is measured, in order."""
        return NAMES if self.weight is not None else NAMES[:-1]

    def __call__(self, pictures: Tensor) -> dict[str, Tensor]:
        """Attributes, (N,) each, of pictures (N, 1, R, R) in [-1, 1]."""
        return self.attributes(pictures, look(self.grader, pictures))

    @torch.no_grad()
    def attributes(self, pictures: Tensor, seen: Seen) -> dict[str, Tensor]:
        """The same where the grader has looked already."""
        x = pictures.clamp(-1, 1)
        unit = (x.flatten(1) + 1) / 2
        found = {
            "grade": seen.grade,
            "exposure": unit.mean(dim=1),
            "contrast": unit.std(dim=1),
            "size": bone_width(x),
        }
        if self.weight is not None and self.centre is not None:
            found["left"] = (seen.features - self.centre) @ self.weight + self.offset
        return found
