"""How a knee's latent moves when its grade rises, learnt from knees seen once ("graded" displacements).

There is no follow-up radiograph; what there is are many knees of every Kellgren-Lawrence (KL) grade. Around
a knee's latent w, for each step from grade j to j + 1, the change of w is a kernel-weighted ridge slope
over the knees of these two grades, shrunk toward the cohort's:

    b_j(w) = (S_wk + λ b_j) / (S_kk + λ),   S_wk = Σ κ (k - k̄)(w_n - w̄),   S_kk = Σ κ (k - k̄)²
    d(w; k → k') = Σ_{j = k}^{k' - 1} b_j(w)

b_j is the cohort's own slope over grades j and j + 1 (κ = 1), itself shrunk by the same λ toward its slope
over all grades: grade 4 is rare. κ is a tricube of the distance with the grade removed: the plain nearest
knees of grades j and j + 1 both crowd around w and differ in all but grade, which would hide most of the
effect. The cohort's slope over all grades is projected out, after which latents and grade are uncorrelated.

What it cannot see, and so understates or distorts (attenuation):
- b is a difference between knees, not within one: what goes with grade (age, weight, exposure) is in it.
- Reading errors of the grade shrink every slope by the reading's reliability.
- What the encoder does not keep of a grade cannot be transported.
Compare with `imaged` displacements where both exist (the phantom cohort) before believing it.

This is our proposal; the paper moves between radiographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from progression.errors import UsageError
from progression.types import KL_GRADES

_CHUNK = 512


@dataclass(frozen=True)
class GradeTransport:
    """Local effect of grade on w.

    Attributes
    ----------
    w : (N, D) latents of the knees it was fitted on
    grade : (N,) int64, 0 to 4
    subject : (N,) codes of subjects
    cohort_steps : (4, D) the cohort's slope b_j of each step j → j + 1
    removed : (D,) unit direction of the cohort's slope over all grades, projected out of distances
    neighbours : knees within the kernel's reach
    shrinkage : λ, in knees: with S_kk = λ the local slope and the cohort's count the same
    """

    w: Tensor
    grade: Tensor
    subject: npt.NDArray[np.str_]
    cohort_steps: Tensor
    removed: Tensor
    neighbours: int
    shrinkage: float

    @classmethod
    def fit(
        cls,
        w: Tensor,
        grade: Tensor,
        *,
        subject: Sequence[str] | npt.NDArray[np.str_],
        neighbours: int = 1000,
        shrinkage: float = 20.0,
    ) -> GradeTransport:
        """Learn from knees with a latent w (N, D) and a grade (N,); grade -1 (unread) is left out.

        Raises
        ------
        UsageError
            If fewer than two grades occur.
        """
        known = grade >= 0
        w, grade = w[known].float(), grade[known].long()
        names = np.asarray([str(s) for s in subject], dtype=str)[known.numpy()]
        present = grade.unique()
        if len(present) < 2:
            raise UsageError(f"grade transport needs knees of at least two grades, got {present.tolist()}")
        overall = _slope(w, grade.float(), torch.ones(len(w)), toward=torch.zeros(w.shape[1]), shrinkage=0.0)
        steps = []
        for step in range(KL_GRADES - 1):
            weight = ((grade == step) | (grade == step + 1)).float()
            steps.append(_slope(w, grade.float(), weight, toward=overall, shrinkage=shrinkage))
        removed = F.normalize(overall, dim=0)
        return cls(w, grade, names, torch.stack(steps), removed, min(neighbours, len(w)), shrinkage)

    def displacement(
        self,
        w: Tensor,
        grade_from: Tensor,
        grade_to: Tensor,
        *,
        subject: Sequence[str] | npt.NDArray[np.str_] | None = None,
    ) -> Tensor:
        """Change (Q, D) of latents w (Q, D) as their grade goes from `grade_from` to `grade_to` (Q,).

        Exactly zero where the grade stays. Knees of the query's own `subject` lend nothing.

        Raises
        ------
        UsageError
            If a grade falls or is outside 0 to 4.
        """
        if not bool(((grade_from >= 0) & (grade_from <= grade_to) & (grade_to < KL_GRADES)).all()):
            raise UsageError("grades to transport must rise within 0 to 4; enter series as running maxima")
        moved = torch.zeros_like(w, dtype=torch.float32)
        rising = (grade_to > grade_from).nonzero()[:, 0]
        names = None if subject is None else np.asarray([str(s) for s in subject], dtype=str)
        for rows in rising.split(_CHUNK):
            kernel = self._kernel(w[rows], None if names is None else names[rows.numpy()])
            for step in range(KL_GRADES - 1):
                crosses = (grade_from[rows] <= step) & (step < grade_to[rows])
                if bool(crosses.any()):
                    weight = kernel[crosses] * ((self.grade == step) | (self.grade == step + 1))
                    moved[rows[crosses]] += _slope(
                        self.w,
                        self.grade.float(),
                        weight,
                        toward=self.cohort_steps[step],
                        shrinkage=self.shrinkage,
                    )
        return moved

    def _kernel(self, w: Tensor, subject: npt.NDArray[np.str_] | None) -> Tensor:
        """Tricube weights (Q, N), 0 beyond the m-th nearest knee of another subject, grade removed."""
        distance = torch.cdist(self._without_grade(w), self._without_grade(self.w))
        if subject is not None:
            distance[torch.from_numpy(subject[:, None] == self.subject[None, :])] = torch.inf
        reach = distance.kthvalue(self.neighbours, dim=1, keepdim=True).values
        finite = distance.masked_fill(distance.isinf(), 0.0).amax(dim=1, keepdim=True)
        scaled = distance / torch.minimum(reach, finite).clamp(min=1e-12)
        return (1 - scaled.clamp(max=1) ** 3) ** 3

    def _without_grade(self, w: Tensor) -> Tensor:
        return w - (w @ self.removed)[:, None] * self.removed


def _slope(w: Tensor, grade: Tensor, weight: Tensor, *, toward: Tensor, shrinkage: float) -> Tensor:
    """Weighted ridge slope of w (N, D) on grade (N,): (D,) for weights (N,), (Q, D) for weights (Q, N)."""
    total = weight.sum(dim=-1, keepdim=True).clamp(min=1e-12)
    centred = weight * (grade - (weight @ grade)[..., None] / total)
    spread = (centred * grade).sum(dim=-1, keepdim=True)
    # Σ κ (k - k̄)(w - w̄) = Σ κ (k - k̄) w, because κ (k - k̄) sums to zero
    return (centred @ w + shrinkage * toward) / (spread + shrinkage).clamp(min=1e-12)


def running_maximum(series: Tensor) -> Tensor:
    """Highest grade read so far (N, V), -1 where the visit itself, or every visit before, is unread.

    Readings fall now and then; the disease does not heal.
    """
    return series.cummax(dim=1).values.masked_fill(series < 0, -1)


def last_reading(series: Tensor) -> tuple[Tensor, Tensor]:
    """The last grade read (N,) and its visit's position (N,); 0 if the first visit or none is read."""
    read = series >= 0
    position = torch.arange(series.shape[1]).expand_as(series)
    when = torch.where(read, position, 0).amax(dim=1)
    return series.gather(1, when[:, None])[:, 0], when
