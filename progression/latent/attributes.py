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
import torch.nn.functional as F
from torch import Tensor

from progression.errors import UsageError
from progression.risk.grader import Grader

NAMES = ("grade", "exposure", "contrast", "size", "left")
THUMBNAIL = 16
"""Side of the picture that the probe looks at; the grader's features were trained to look at other things."""
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
    grader : for the grade
    centre, weight : (F,) mean thumbnail and the weights on it of the probe of the side; None leaves the side out
    offset : mean of the side
    """

    grader: Grader
    centre: Tensor | None = None
    weight: Tensor | None = None
    offset: float = 0.0

    @classmethod
    def fit(cls, grader: Grader, pictures: Tensor, is_left: Tensor, *, penalty: float = 0.1) -> Gauge:
        """Learn the probe of the side, a ridge regression on thumbnails.

        Parameters
        ----------
        pictures : (N, 1, R, R) in [-1, 1], left knees mirrored
        is_left : (N,) bool
        penalty : ridge, over the mean of the thumbnails' sums of squares

        Raises
        ------
        UsageError
            If there is but one side.
        """
        if bool((is_left == is_left[0]).all()):
            raise UsageError("the side can only be learnt from left and right knees: only one side was given")
        seen, label = _thumbnails(pictures).double().cpu(), is_left.double().cpu()
        centre = seen.mean(dim=0)
        f = seen - centre
        gram = f.T @ f
        ridge = penalty * float(gram.diagonal().mean()) * torch.eye(len(gram), dtype=gram.dtype)
        weight = torch.linalg.solve(gram + ridge, f.T @ (label - label.mean()))
        return cls(grader, centre.to(pictures), weight.to(pictures), float(label.mean()))

    @property
    def names(self) -> tuple[str, ...]:
        """What is measured, in order."""
        return NAMES if self.weight is not None else NAMES[:-1]

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> dict[str, Tensor]:
        """Attributes, (N,) each, of pictures (N, 1, R, R) in [-1, 1]."""
        x = pictures.clamp(-1, 1)
        unit = (x.flatten(1) + 1) / 2
        found = {
            "grade": torch.cat([self.grader(part).expected_grade for part in x.split(_BATCH)]),
            "exposure": unit.mean(dim=1),
            "contrast": unit.std(dim=1),
            "size": bone_width(x),
        }
        if self.weight is not None and self.centre is not None:
            found["left"] = (_thumbnails(x) - self.centre) @ self.weight + self.offset
        return found


def _thumbnails(pictures: Tensor) -> Tensor:
    """(N, F)."""
    return F.adaptive_avg_pool2d(pictures.clamp(-1, 1), THUMBNAIL).flatten(1)
