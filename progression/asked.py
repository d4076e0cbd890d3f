"""What is asked of a batch: one entry a knee in every field, None where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from progression.errors import UsageError
from progression.image import to_model
from progression.knees import check_earlier
from progression.types import EarlierFilm, Radiograph, check_grade

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """N knees and what is known of them.

    Attributes
    ----------
    radiographs : of the knees
    grades : as a reader gave them
    others, other_grades : the same people's other knees of the same day
    histories : earlier films of each knee, in any order
    """

    radiographs: Sequence[Radiograph]
    grades: Sequence[int | None]
    others: Sequence[Radiograph | None]
    other_grades: Sequence[int | None]
    histories: Sequence[Sequence[EarlierFilm]]

    @classmethod
    def of(
        cls,
        radiographs: Sequence[Radiograph],
        *,
        grades: Sequence[int | None] | None = None,
        others: Sequence[Radiograph | None] | None = None,
        other_grades: Sequence[int | None] | None = None,
        histories: Sequence[Sequence[EarlierFilm]] | None = None,
    ) -> Asked:
        """Fields that are absent have None for every knee.

        Raises
        ------
        UsageError
            For another number than one a knee, and for an earlier film that is not one (`knees.check_earlier`).
        """
        for one in radiographs:
            if not isinstance(one, Radiograph):
                raise UsageError(
                    f"a knee of type {type(one).__name__}: expected progression.Radiograph(pixels, side, name), or "
                    "Predictor.predict, which reads files"
                )
        asked = cls(
            radiographs,
            _one_each(grades, radiographs, "grades"),
            _one_each(others, radiographs, "other knees"),
            _one_each(other_grades, radiographs, "grades of the other knee"),
            [films or () for films in _one_each(histories, radiographs, "histories")],
        )
        for one, other, films in zip(radiographs, asked.others, asked.histories, strict=True):
            check_earlier(
                one.pixels, [film.pixels for film in films], other=None if other is None else other.pixels
            )
        return asked


def _one_each(
    given: Sequence[T | None] | None, radiographs: Sequence[Radiograph], what: str
) -> Sequence[T | None]:
    found = [None] * len(radiographs) if given is None else list(given)
    if len(found) != len(radiographs):
        raise UsageError(
            f"{len(found)} {what} for {len(radiographs)} knees: give one a knee, None if there is none"
        )
    return found


def pictures(radiographs: Sequence[Radiograph], resolution: int, device: torch.device) -> Tensor:
    """As the networks take them, (N, 1, R, R) in [-1, 1], every knee as a right one."""
    views = [to_model(r.pixels, side=r.side, resolution=resolution) for r in radiographs]
    return torch.stack(views).to(device)


def grades_of(grades: Sequence[int | None]) -> Tensor:
    """-1 where unread; UsageError for what is no grade."""
    return torch.tensor([-1 if grade is None else check_grade(grade) for grade in grades])
