"""The trajectories of knees whose future is known, searched by nearest neighbour.

A row is one knee between two of its visits: where it was in W, how far it moved, and how long that took.
Distance is the paper's (arXiv 2111.11439): ‖w/‖w‖ - w_n/‖w_n‖‖. The search is exact. Rows of the query's
own subject, the other knee and other visits among them, are never returned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from progression.errors import UsageError, WeightsError
from progression.latent.transport import GradeTransport, last_reading, running_maximum
from progression.weights import ModelFiles, save_part

Strings = npt.NDArray[np.str_]
KINDS = ("imaged", "graded", "synthetic")
UNREAD = -1


@dataclass(frozen=True)
class Neighbours:
    """Rows of a bank, nearest first.

    Attributes
    ----------
    index : (Q, k) int64 rows of the bank
    distance : (Q, k) float32, 0 (same direction) to 2 (opposite)
    """

    index: Tensor
    distance: Tensor


@dataclass(frozen=True)
class TrajectoryBank:
    """Displacements in W of knees with known futures.

    Attributes
    ----------
    subject : (N,) str, whose knee it is
    w : (N, D) float32 search key at the row's first visit: one w a knee, the mean over layers
    displacement : (N, D) float32, change of w to the row's second visit, alike in all layers
    interval_months : (N,) float32, > 0, time between the two visits
    grade_series : (N, V) int8, KL grade at `series_months` after the row's first visit, -1 where unread
    series_months : (V,) float32
    kind : (N,) str, where the displacement comes from: "imaged" (both radiographs), "graded" (grade
        transport) or "synthetic" (drawn from a fitted model, nobody's)
    """

    subject: Strings
    w: Tensor
    displacement: Tensor
    interval_months: Tensor
    grade_series: Tensor
    series_months: Tensor
    kind: Strings

    def __post_init__(self) -> None:
        n = len(self.w)
        sizes = {name: len(value) for name, value in vars(self).items() if name != "series_months"}
        if self.w.ndim != 2 or self.displacement.shape != self.w.shape or set(sizes.values()) != {n}:
            raise UsageError(f"a bank's columns must agree in length and its latents be (N, D), got {sizes}")
        if self.grade_series.shape != (n, len(self.series_months)):
            raise UsageError(
                f"expected one grade a series month, ({n}, {len(self.series_months)}), "
                f"got {tuple(self.grade_series.shape)}"
            )
        if n == 0:
            raise UsageError("no trajectories: expected at least one knee with two visits")
        if not bool((self.interval_months > 0).all()):
            raise UsageError("a trajectory's interval is not positive: expected months > 0")
        if not bool(self.w.isfinite().all() and self.displacement.isfinite().all()):
            raise UsageError("a latent in the bank is not finite: check the encoder and the images")

    def __len__(self) -> int:
        return len(self.w)

    def search(self, w: Tensor, *, k: int, exclude_subject: Sequence[str | None] | None = None) -> Neighbours:
        """The k nearest rows of other subjects for each query.

        Parameters
        ----------
        w : (Q, D)
            Query keys, any scale.
        k : int
            Neighbours wanted, >= 1.
        exclude_subject : (Q,), optional
            Each query's own subject; None or "" for one who is surely not in the bank.

        Raises
        ------
        UsageError
            If the bank has fewer than k rows of other subjects, or the queries do not fit it.
        """
        if w.ndim != 2 or w.shape[1] != self.w.shape[1] or not bool(w.isfinite().all()):
            raise UsageError(
                f"expected finite keys (Q, {self.w.shape[1]}), got {tuple(w.shape)}; use one w a knee"
            )
        own = [None] * len(w) if exclude_subject is None else list(exclude_subject)
        if len(own) != len(w):
            raise UsageError(f"expected one subject to exclude a query, {len(w)}, got {len(own)}")
        most = max((self._rows_of.get(str(s), 0) for s in own if s), default=0)
        if not 1 <= k <= len(self) - most:
            raise UsageError(
                f"{k} neighbours asked for: expected 1 to {len(self) - most}, "
                "as many as the bank has rows of other subjects"
            )
        queries = F.normalize(w.detach().float().cpu(), dim=1)
        # At most `most` of the nearest k + most rows are the subject's own, so k others are among them.
        _, found = self._index.search(queries.numpy(), k + most)
        index = torch.from_numpy(found)
        # faiss expands ‖a - b‖², which loses digits near 0; take the difference itself.
        distance = (queries[:, None] - self._keys[index]).norm(dim=2)
        names = np.array([s or "" for s in own], dtype=str)[:, None]
        distance[torch.from_numpy((self.subject[found] == names) & (names != ""))] = torch.inf
        distance, order = distance.sort(dim=1, stable=True)
        return Neighbours(index.gather(1, order)[:, :k], distance[:, :k])

    def trajectories(self, neighbours: Neighbours) -> tuple[Tensor, Tensor]:
        """Displacements (Q, k, D) and intervals (Q, k) in months of rows that a search found."""
        return self.displacement[neighbours.index], self.interval_months[neighbours.index]

    def take(self, rows: npt.NDArray[np.generic] | Sequence[int]) -> TrajectoryBank:
        """A bank of some rows, by position or by a boolean mask."""
        keep = np.arange(len(self))[np.asarray(rows)]
        columns = {name: value[keep] for name, value in vars(self).items() if name in _PER_ROW}
        return TrajectoryBank(**columns, series_months=self.series_months)

    def save(
        self,
        folder: str | Path,
        *,
        built_with: Mapping[str, str] | None = None,
        resolution: int | None = None,
        dtype: Literal["float16", "float32"] = "float16",
    ) -> None:
        """Write this bank as part "bank" of a model folder.

        Parameters
        ----------
        folder
            The model's folder; a new one needs `resolution`.
        built_with
            Hashes of the parts whose latents these are ("generator", "encoder"); a bank of another encoder
            is of no use, so :func:`check_built_with` compares them.
        resolution
            Side of the model's pictures, pixels.
        dtype
            Storage type of the latents.
        """
        names = np.array([s.encode() or b"\0" for s in self.subject])
        tensors = {
            "subject": torch.from_numpy(names.view(np.uint8).reshape(len(self), -1).copy()),
            "kind": torch.tensor([KINDS.index(kind) for kind in self.kind], dtype=torch.uint8),
            "grade_series": self.grade_series.to(torch.int8),
            # whole numbers, so that storing latents in half precision leaves times alone
            "interval_millimonths": (self.interval_months.double() * 1000).round().to(torch.int32),
            "series_millimonths": (self.series_months.double() * 1000).round().to(torch.int32),
            "w": self.w.contiguous(),
            "displacement": self.displacement.contiguous(),
        }
        config = {
            "rows": len(self),
            "dimensions": self.w.shape[1],
            "kinds": sorted(set(self.kind.tolist())),
            "built_with": dict(built_with or {}),
        }
        save_part(folder, "bank", tensors, config, dtype=dtype, resolution=resolution)

    @classmethod
    def load(cls, files: ModelFiles) -> TrajectoryBank:
        """Read part "bank" of a model."""
        tensors = files.tensors("bank")
        try:
            names = tensors["subject"].numpy()
            return cls(
                subject=np.array([bytes(row).rstrip(b"\0").decode() for row in names], dtype=str),
                w=tensors["w"].float(),
                displacement=tensors["displacement"].float(),
                interval_months=(tensors["interval_millimonths"].double() / 1000).float(),
                grade_series=tensors["grade_series"],
                series_months=(tensors["series_millimonths"].double() / 1000).float(),
                kind=np.array([KINDS[code] for code in tensors["kind"].tolist()], dtype=str),
            )
        except (KeyError, IndexError, UnicodeDecodeError, UsageError) as error:
            raise WeightsError(f"the model's bank is damaged ({error}); build it anew") from error

    @cached_property
    def _keys(self) -> Tensor:
        return F.normalize(self.w.float(), dim=1)

    @cached_property
    def _index(self) -> faiss.IndexFlatL2:
        # The default sends batches below 128,000 distance values a slow way.
        faiss.cvar.distance_compute_blas_threshold = 2048
        index = faiss.IndexFlatL2(self.w.shape[1])
        index.add(self._keys.contiguous().numpy())
        return index

    @cached_property
    def _rows_of(self) -> Counter[str]:
        return Counter(self.subject.tolist())


def check_built_with(bank: ModelFiles, model: ModelFiles) -> None:
    """Refuse a bank whose latents are not of this model's generator and encoder.

    Raises
    ------
    WeightsError
        If a hash that the bank states differs from the model's, or it states none.
    """
    stated = bank.config("bank").get("built_with", {})
    for part in ("generator", "encoder"):
        if stated.get(part) != model.hashes().get(part):
            raise WeightsError(
                f"bank {bank.folder} was built with another {part} than model {model.folder} has: "
                "expected the same; build the bank anew (progression bank build)"
            )


_PER_ROW = ("subject", "w", "displacement", "interval_months", "grade_series", "kind")


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
    grades = [UNREAD] * len(w) if grade is None else [int(g) for g in grade]
    visits: dict[tuple[str, str], list[int]] = {}
    for i in sorted(range(len(w)), key=lambda i: float(months[i])):
        rows = visits.setdefault((str(subject[i]), str(side[i])), [])
        if not rows or months[i] > months[rows[-1]]:
            rows.append(i)
    pairs: list[tuple[int, int, list[int]]] = []
    for rows in visits.values():
        if consecutive:
            pairs += [(a, b, rows[n:]) for n, (a, b) in enumerate(pairwise(rows))]
        elif len(rows) > 1:
            pairs.append((rows[0], rows[-1], rows))
    if not pairs:
        raise UsageError("no knee has radiographs at two times: an imaged bank needs at least one such knee")
    since = [{float(months[r]) - float(months[a]): grades[r] for r in rows} for a, _, rows in pairs]
    series_months = sorted({m for series in since for m in series})
    series = [[read.get(month, UNREAD) for month in series_months] for read in since]
    first, last = [a for a, _, _ in pairs], [b for _, b, _ in pairs]
    return TrajectoryBank(
        subject=np.array([str(subject[i]) for i in first], dtype=str),
        w=w[first].float(),
        displacement=(w[last] - w[first]).float(),
        interval_months=torch.tensor([float(months[b]) - float(months[a]) for a, b, _ in pairs]),
        grade_series=torch.tensor(series, dtype=torch.int8),
        series_months=torch.tensor(series_months),
        kind=np.full(len(pairs), "imaged"),
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
        Fitted here on the same knees if absent.
    """
    series = torch.as_tensor(np.asarray(grade_series), dtype=torch.int64)
    months = torch.tensor([float(m) for m in series_months])
    if series.shape != (len(w), len(months)) or bool((months.diff() <= 0).any()):
        raise UsageError(
            f"expected grades ({len(w)}, {len(months)}) at ascending months, got {tuple(series.shape)} "
            f"at {months.tolist()}"
        )
    names = np.array([str(s) for s in subject], dtype=str)
    if transport is None:
        transport = GradeTransport.fit(w, series[:, 0], subject=names)
    raised = running_maximum(series)
    last, when = last_reading(raised)
    keep = ((series[:, 0] >= 0) & (when > 0)).nonzero()[:, 0]
    if not len(keep):
        raise UsageError("no knee has a first and a later grade: a graded bank needs at least one such knee")
    displacement = transport.displacement(w[keep], raised[keep, 0], last[keep], subject=names[keep.numpy()])
    return TrajectoryBank(
        subject=names[keep.numpy()],
        w=w[keep].float(),
        displacement=displacement,
        interval_months=months[when[keep]] - months[0],
        grade_series=series[keep].to(torch.int8),
        series_months=months - months[0],
        kind=np.full(len(keep), "graded"),
    )
