"""Banks from visits: which rows a table gives (an outline), and their latents.

`latent/stream.py` makes banks that do not fit in memory out of the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from progression.errors import UsageError
from progression.latent.bank import UNREAD, Strings, TrajectoryBank
from progression.latent.search import pieces
from progression.latent.transport import GradeTransport, last_reading, running_maximum

TRANSPORT_KNEES = 50_000
"""Grade transport learns from so many knees at most, drawn at random (seed 0): each query looks at all of them."""
_CHUNK = 4096

Latents = Iterable[tuple[Tensor, Tensor]]
"""Keys and displacements of a bank's rows in their order, in pieces (n, D)."""


@dataclass(frozen=True)
class Outline:
    """What a table says of a bank's rows, before their latents are known.

    Attributes
    ----------
    subject, interval_months, grade_series, series_months, kind : as in `TrajectoryBank`
    visit : (N,) where in the table a row's key comes from
    """

    subject: Strings
    interval_months: Tensor
    grade_series: Tensor
    series_months: Tensor
    kind: str
    visit: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.visit)

    @property
    def kinds(self) -> Strings:
        """(N,), the same for all."""
        return np.broadcast_to(np.array(self.kind), len(self))

    def bank(self, latents: Latents) -> TrajectoryBank:
        """In memory."""
        w, displacement = (torch.cat(parts).float() for parts in zip(*latents, strict=True))
        return TrajectoryBank(
            subject=self.subject,
            w=w,
            displacement=displacement,
            interval_months=self.interval_months,
            grade_series=self.grade_series,
            series_months=self.series_months,
            kind=self.kinds,
        )


@dataclass(frozen=True)
class ImagedOutline(Outline):
    """Rows between visits that both have radiographs; `later` (N,) is the second one's place in the table."""

    later: npt.NDArray[np.int64]

    @property
    def pictured(self) -> npt.NDArray[np.int64]:
        """Visits that have to be encoded, ascending."""
        return np.unique(np.concatenate([self.visit, self.later]))

    def latents(self, w: Tensor, visits: npt.NDArray[np.int64] | None = None) -> Latents:
        """From keys (M, D) of `visits`, ascending; of all where absent."""
        first, later = self.visit, self.later
        if visits is not None:
            first, later = (np.searchsorted(visits, rows) for rows in (first, later))
        for piece in pieces(len(self), _CHUNK):
            yield w[first[piece]], w[later[piece]] - w[first[piece]]


@dataclass(frozen=True)
class GradedOutline(Outline):
    """Rows of knees with one radiograph whose grade was read then (`grade`, (N,)) and later (`raised`, (N,))."""

    grade: Tensor
    raised: Tensor

    def latents(self, w: Tensor, transport: GradeTransport) -> Latents:
        """From keys (M, D) of the table's knees."""
        for piece in pieces(len(self), _CHUNK):
            keys = w[self.visit[piece]]
            yield (
                keys,
                transport.displacement(
                    keys, self.grade[piece], self.raised[piece], subject=self.subject[piece]
                ),
            )


def outline_imaged(
    *,
    subject: Sequence[str],
    side: Sequence[str],
    months: Sequence[float],
    grade: Sequence[int] | None = None,
    consecutive: bool = False,
) -> ImagedOutline:
    """Rows of :func:`build_imaged`."""
    names, when = np.asarray(subject, dtype=str), np.asarray(months, dtype=np.float64)
    grades = np.full(len(when), UNREAD) if grade is None else np.asarray(grade, dtype=np.int64)
    # knees in the order of their first visits, each one's visits in the order of time
    order = np.argsort(when, kind="stable")
    person = pd.factorize(names[order])[0].astype(np.int64)
    sides, per_person = pd.factorize(np.asarray(side, dtype=str)[order])
    knee = pd.factorize(person * len(per_person) + sides)[0]
    grouped = np.argsort(knee, kind="stable")
    order, knee = order[grouped], knee[grouped]
    again = np.zeros(len(order), dtype=bool)
    again[1:] = (knee[1:] == knee[:-1]) & (when[order[1:]] == when[order[:-1]])
    order, knee = order[~again], knee[~again]
    starts = np.flatnonzero(np.r_[True, knee[1:] != knee[:-1]][: len(knee)])
    visits = np.diff(np.r_[starts, len(knee)])
    left = np.repeat(starts + visits, visits) - np.arange(len(knee))  # visits from each one on
    first = np.flatnonzero(left > 1) if consecutive else starts[visits > 1]
    if not len(first):
        raise UsageError("no knee has radiographs at two times: an imaged bank needs at least one such knee")
    later = first + 1 if consecutive else first + left[first] - 1
    seen = []
    for step in range(int(left[first].max())):
        rows = np.flatnonzero(left[first] > step)
        at = order[first[rows] + step]
        seen.append((rows, when[at] - when[order[first[rows]]], grades[at]))
    series_months = np.unique(np.concatenate([since for _, since, _ in seen]))
    series = np.full((len(first), len(series_months)), UNREAD, dtype=np.int8)
    for rows, since, read in seen:
        series[rows, np.searchsorted(series_months, since)] = read
    return ImagedOutline(
        subject=names[order[first]],
        interval_months=torch.from_numpy(when[order[later]] - when[order[first]]).float(),
        grade_series=torch.from_numpy(series),
        series_months=torch.from_numpy(series_months).float(),
        kind="imaged",
        visit=order[first],
        later=order[later],
    )


def build_imaged(
    w: Tensor,
    *,
    subject: Sequence[str],
    side: Sequence[str],
    months: Sequence[float],
    grade: Sequence[int] | None = None,
    consecutive: bool = False,
) -> TrajectoryBank:
    """A bank from knees whose visits all have radiographs: displacement = w(later) - w(earlier).

    Parameters
    ----------
    w : (M, D)
        One key a visit.
    subject, side, months : (M,)
        Whose visit, which knee, when.
    grade : (M,), optional
        KL grade at the visit, -1 where unread.
    consecutive : bool
        False: one row a knee, first to last visit (the paper's bank). True: one row a visit but the last, to
        the next visit (for the step-wise form).

    Raises
    ------
    UsageError
        If no knee has two visits at different times.
    """
    outline = outline_imaged(subject=subject, side=side, months=months, grade=grade, consecutive=consecutive)
    return outline.bank(outline.latents(w))


def outline_graded(
    *, subject: Sequence[str], grade_series: npt.ArrayLike, series_months: Sequence[float]
) -> GradedOutline:
    """Rows of :func:`build_graded`."""
    series = torch.as_tensor(np.asarray(grade_series), dtype=torch.int64)
    months = torch.tensor([float(m) for m in series_months])
    if series.shape != (len(subject), len(months)) or bool((months.diff() <= 0).any()):
        raise UsageError(
            f"expected grades ({len(subject)}, {len(months)}) at ascending months, got {tuple(series.shape)} "
            f"at {months.tolist()}"
        )
    raised = running_maximum(series)
    last, when = last_reading(raised)
    keep = ((series[:, 0] >= 0) & (when > 0)).nonzero()[:, 0]
    if not len(keep):
        raise UsageError("no knee has a first and a later grade: a graded bank needs at least one such knee")
    return GradedOutline(
        subject=np.asarray(subject, dtype=str)[keep.numpy()],
        interval_months=months[when[keep]] - months[0],
        grade_series=series[keep].to(torch.int8),
        series_months=months - months[0],
        kind="graded",
        visit=keep.numpy(),
        grade=raised[keep, 0],
        raised=last[keep],
    )


def build_graded(
    w: Tensor,
    *,
    subject: Sequence[str],
    grade_series: npt.ArrayLike,
    series_months: Sequence[float],
    transport: GradeTransport | None = None,
) -> TrajectoryBank:
    """A bank from knees with one radiograph and later grades only: displacement by grade transport.

    A knee enters with its first grade, taken with the radiograph, and its last; in between it is the running
    maximum that counts. A knee whose grade did not rise enters with no displacement.

    Parameters
    ----------
    w : (N, D)
        One key a knee, of the radiograph at `series_months[0]`.
    subject : (N,)
        Whose knee; other knees of the same subject lend nothing to the transport.
    grade_series : (N, V)
        KL grades, -1 where unread. Knees unread at the first or at all later visits are left out.
    series_months : (V,)
        Ascending, first 0.
    transport : GradeTransport, optional
        Fitted here on the same knees, `TRANSPORT_KNEES` at most, if absent.
    """
    outline = outline_graded(subject=subject, grade_series=grade_series, series_months=series_months)
    if transport is None:
        transport = fit_transport(w, grade=np.asarray(grade_series)[:, 0], subject=subject)
    return outline.bank(outline.latents(w, transport))


def fit_transport(w: Tensor, *, grade: npt.ArrayLike, subject: Sequence[str]) -> GradeTransport:
    """Grade transport learnt from `TRANSPORT_KNEES` of the knees with keys w (N, D) at most."""
    grades, names = torch.as_tensor(np.asarray(grade), dtype=torch.int64), np.asarray(subject, dtype=str)
    if len(w) > TRANSPORT_KNEES:
        drawn = torch.randperm(len(w), generator=torch.Generator().manual_seed(0))
        rows = drawn[:TRANSPORT_KNEES].sort().values
        w, grades, names = w[rows], grades[rows], names[rows.numpy()]
    return GradeTransport.fit(w, grades, subject=names)
