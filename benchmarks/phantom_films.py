"""Subjects, films and banks of the benchmarks on phantoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from progression.data.dataset import Knees
from progression.data.phantom import VISIT_MONTHS, sample_knee
from progression.image import to_model
from progression.latent.bank import TrajectoryBank
from progression.latent.build import build_graded, build_imaged

HORIZONS = (24.0, 48.0, 96.0)
VISITS = [VISIT_MONTHS.index(month) for month in HORIZONS]
FILMED = tuple(VISIT_MONTHS.index(month) for month in (0.0, 48.0, 96.0))
"""Visits of training subjects with a film; their grades are known at all."""


@dataclass(frozen=True)
class Films:
    """Films of N subjects.

    Attributes
    ----------
    subject : (N,) number of the phantom
    images : (N, F, R, R) uint8; training subjects: one a visit filmed; others: baseline, then (if any) the truths
        "film" and "same" at each of `HORIZONS`
    grade, severity : (N, 7) at all visits
    rate, visible : (N,) hidden truth: severity's rate, and what the baseline film shows of it
    """

    subject: Tensor
    images: Tensor
    grade: Tensor
    severity: Tensor
    rate: Tensor
    visible: Tensor

    @property
    def names(self) -> list[str]:
        """(N,) names as banks have them."""
        return [f"P{index}" for index in self.subject.tolist()]

    def rises(self, horizon: int) -> NDArray[np.bool_]:
        """Whose grade rises by `HORIZONS[horizon]`, (N,)."""
        return np.asarray(self.grade[:, VISITS[horizon]] > self.grade[:, 0])


def take_films(
    subjects: Sequence[int], shown: Sequence[tuple[int, float | None]], *, seed: int, resolution: int
) -> Films:
    """Films of subjects of cohort `seed`: `shown` are (visit, months), as in `PhantomKnee.image`."""
    knees = [sample_knee(index, seed=seed) for index in subjects]
    images = []
    for knee in knees:
        for visit, months in shown:
            picture = knee.image(visit, resolution=resolution, months=months)
            images.append(to_model(picture, side=knee.side, resolution=resolution)[0])
        vars(knee).pop("_knee")  # its texture is large
    pixels = ((torch.stack(images) + 1) * 127.5).round().to(torch.uint8)
    return Films(
        subject=torch.tensor(subjects),
        images=pixels.unflatten(0, (len(knees), len(shown))),
        grade=torch.tensor([[knee.grade(v) for v in range(len(VISIT_MONTHS))] for knee in knees]),
        severity=torch.tensor([[knee.course.severity_at(m) for m in VISIT_MONTHS] for knee in knees]),
        rate=torch.tensor([knee.course.rate for knee in knees]),
        visible=torch.tensor([knee.course.signs.visible for knee in knees]),
    )


def every_visit(films: Films, visits: Sequence[int] = FILMED) -> Knees:
    """Each film, taken at `visits`, as a baseline of its own: what follows it becomes its grade series."""
    months = np.array(VISIT_MONTHS)
    n, v = len(films.grade), len(visits)
    gap = months[None, :] - months[list(visits), None]
    gaps = np.unique(gap[gap >= 0])
    series = np.full((n, v, len(gaps)), -1)
    for place, start in enumerate(visits):
        for end in range(start, len(months)):
            series[:, place, np.searchsorted(gaps, gap[place, end])] = films.grade[:, end]
    return Knees(
        images=films.images.flatten(0, 1),
        subject=np.repeat(np.array(films.names), v),
        side=np.full(n * v, "right"),
        grade=films.grade[:, list(visits)].flatten().numpy(),
        grade_series=series.reshape(n * v, -1),
        series_months=gaps,
    )


def baselines(films: Films) -> Knees:
    """The baseline films alone."""
    return Knees(
        images=films.images[:, 0],
        subject=np.array(films.names),
        side=np.full(len(films.names), "right"),
        grade=films.grade[:, 0].numpy(),
        grade_series=films.grade.numpy(),
        series_months=np.array(VISIT_MONTHS),
    )


def both_banks(films: Films, first: Tensor, last: Tensor) -> dict[str, TrajectoryBank]:
    """`imaged` from the codes (N, D) of first and last films, `graded` from those of the first and all grades."""
    n = len(first)
    imaged = build_imaged(
        torch.cat([first, last]),
        subject=films.names * 2,
        side=["right"] * 2 * n,
        months=[0.0] * n + [VISIT_MONTHS[-1]] * n,
        grade=[*films.grade[:, 0].tolist(), *films.grade[:, -1].tolist()],
    )
    graded = build_graded(
        first, subject=films.names, grade_series=films.grade.numpy(), series_months=VISIT_MONTHS
    )
    return {"imaged": imaged, "graded": graded}
