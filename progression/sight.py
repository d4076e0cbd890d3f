"""What the grader sees of a person: the knee, the other knee, and earlier films, each picture once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from progression.asked import Asked, grades_of
from progression.engine import Engine
from progression.latent.history import Visits
from progression.risk.forecast import Seen
from progression.risk.grader import concatenate, mean_grading
from progression.types import Radiograph, Side

Views = Callable[[Sequence[Radiograph]], Tensor]
"""Radiographs as the grader takes them, (N, 1, R, R)."""


def see(asked: Asked, views: Views, engine: Engine) -> Seen:
    """Grade the knees and the people's other knees."""
    shown = {_picture(r): r for r in (*asked.radiographs, *asked.others) if r is not None}
    place = {key: position for position, key in enumerate(shown)}
    x = views(list(shown.values()))
    return Seen(
        networks=[grading.cpu() for grading in engine.grade_each(x)],
        knee=torch.tensor([place[_picture(r)] for r in asked.radiographs]),
        grade=grades_of(asked.grades),
        other=torch.tensor([-1 if r is None else place[_picture(r)] for r in asked.others]),
        other_grade=grades_of(asked.other_grades),
    )


def look_back(asked: Asked, seen: Seen, views: Views, engine: Engine) -> list[Visits]:
    """All visits of each knee, given what was seen of the present ones."""
    visits = []
    for i, (radiograph, films) in enumerate(zip(asked.radiographs, asked.histories, strict=True)):
        past = sorted(films, key=lambda film: -film.months_before)
        networks = [network.rows(seen.knee[i : i + 1]) for network in seen.networks]
        if past:
            given = [Radiograph(film.pixels, radiograph.side, radiograph.name) for film in past]
            before = [grading.cpu() for grading in engine.grade_each(views(given))]
            networks = [concatenate(pair) for pair in zip(before, networks, strict=True)]
        visits.append(
            Visits(
                grading=mean_grading(networks),
                months=[-film.months_before for film in past] + [0.0],
                read=[*grades_of([film.grade for film in past]).tolist(), int(seen.grade[i])],
                networks=networks,
            )
        )
    return visits


def _picture(radiograph: Radiograph) -> tuple[int, Side]:
    """What tells one picture from another within a call."""
    return id(radiograph.pixels), radiograph.side
