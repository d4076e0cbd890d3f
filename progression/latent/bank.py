"""The trajectories of knees whose future is known, searched by nearest neighbour.

A row is one knee between two of its visits: where it was in W, how far it moved, and how long that took.
Distance is the paper's (arXiv 2111.11439): ‖w/‖w‖ - w_n/‖w_n‖‖. The search is exact, except in a bank with an index
(`latent/stream.py` makes one above a million rows), and of rows that lie equally far the first ones count. Rows of the
query's own subject, the other knee and other visits among them, are never returned, and never take another's place.
A bank whose file is large stays on disk: half precision, memory-mapped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from progression.errors import UsageError, WeightsError
from progression.latent.search import Chunks, Floats, Index, Rows, error_bound, pieces, scan, within
from progression.weights import ModelFiles, save_part

Strings = npt.NDArray[np.str_]
KINDS = ("imaged", "graded", "synthetic")
UNREAD = -1
MAPPED_BYTES = 1 << 30
"""Files of banks above this are mapped, not read."""
_NONE = np.empty(0, dtype=np.int64)
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")
_PER_ROW = ("subject", "w", "displacement", "interval_months", "grade_series", "kind")
_CACHED_BYTES = 1 << 29  # of normalised keys: above it they are normalised anew in every search
_CHUNK = 1 << 14
_SPARE = 16  # candidates beyond those needed, so that rounding seldom leaves the last place open
_MEASURED = 128  # of an index' candidates


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Rows of a bank, nearest first.

    Attributes
    ----------
    index : (Q, k) int64 rows of the bank
    distance : (Q, k) float32, 0 (same direction) to 2 (opposite)
    """

    index: Tensor
    distance: Tensor


@dataclass(frozen=True, eq=False)
class TrajectoryBank:
    """Displacements in W of knees with known futures.

    Attributes
    ----------
    subject : (N,) str, whose knee it is
    w : (N, D) float32, or float16 where it is mapped; search key at the row's first visit: one w a knee, the mean
        over layers
    displacement : (N, D) of the same type, change of w to the row's second visit, alike in all layers
    interval_months : (N,) float32, > 0, time between the two visits
    grade_series : (N, V) int8, KL grade at `series_months` after the row's first visit, -1 where unread
    series_months : (V,) float32
    kind : (N,) str, where the displacement comes from: "imaged" (both radiographs), "graded" (grade
        transport) or "synthetic" (drawn from a fitted model, nobody's)
    index : where to look first; without it every row is looked at
    """

    subject: Strings
    w: Tensor
    displacement: Tensor
    interval_months: Tensor
    grade_series: Tensor
    series_months: Tensor
    kind: Strings
    index: Index | None = None

    def __post_init__(self) -> None:
        n = len(self.w)
        sizes = {name: len(getattr(self, name)) for name in _PER_ROW}
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
        if self.index is not None and len(self.index) != n:
            raise UsageError(f"expected an index of the bank's {n} rows, got one of {len(self.index)}")
        # what is mapped was looked at when it was written
        if not self.mapped and not bool(self.w.isfinite().all() and self.displacement.isfinite().all()):
            raise UsageError("a latent in the bank is not finite: check the encoder and the images")

    def __len__(self) -> int:
        return len(self.w)

    @property
    def mapped(self) -> bool:
        """Whether latents are on disk rather than in memory."""
        return self.w.dtype == torch.float16

    def search(
        self,
        w: Tensor,
        *,
        k: int,
        exclude_subject: Sequence[str | None] | None = None,
        exact: bool = False,
    ) -> Neighbours:
        """The k nearest rows of other subjects for each query.

        Parameters
        ----------
        w : (Q, D)
            Query keys, any scale.
        k : int
            Neighbours wanted, >= 1.
        exclude_subject : (Q,), optional
            Each query's own subject; None or "" for one who is surely not in the bank.
        exact
            Look at every row although there is an index.

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
        without = [self.rows_of(str(subject)) if subject else _NONE for subject in own]
        most = max((len(rows) for rows in without), default=0)
        if not 1 <= k <= len(self) - most:
            raise UsageError(
                f"{k} neighbours asked for: expected 1 to {len(self) - most}, "
                "as many as the bank has rows of other subjects"
            )
        queries = F.normalize(w.detach().float().cpu(), dim=1).numpy()
        look = self._scan if exact or self.index is None else self._look_first
        found = look(queries, without, k)
        return Neighbours(*(torch.from_numpy(np.stack(column)) for column in zip(*found, strict=True)))

    def rows_of(self, subject: str) -> Rows:
        """Rows of one subject, ascending."""
        order, names = self._by_subject
        return np.sort(order[slice(*(np.searchsorted(names, subject, side) for side in _SIDES))])

    def _scan(self, queries: Floats, without: Sequence[Rows], k: int) -> list[tuple[Rows, Floats]]:
        """Rows and distances, exactly."""
        # At most len(own) of the nearest k + len(own) rows are the subject's own, so k others are among them.
        count = min(len(self), k + max((len(rows) for rows in without), default=0) + _SPARE)
        proposed = zip(*scan(queries, self.chunks(), count=count), strict=True)
        found, rounding = [], error_bound(self.w.shape[1])
        for query, own, (squared, rows) in zip(queries, without, proposed, strict=True):
            nearest = self._measured(query, rows, own, k)
            reach = float(nearest[1][-1]) ** 2 + rounding
            if count < len(self) and squared[-1] <= reach:
                # the next row may lie as far as the last one found: take all that do
                nearest = self._measured(query, within(query, self.chunks(), squared=reach), own, k)
            found.append(nearest)
        return found

    def _look_first(self, queries: Floats, without: Sequence[Rows], k: int) -> list[tuple[Rows, Floats]]:
        """Rows and distances of those that the index proposes, query by query: nothing depends on the batch."""
        assert self.index is not None
        found = []
        for query, own in zip(queries, without, strict=True):
            rows = self.index.candidates(query, count=max(_MEASURED, 8 * k), without=own)
            enough = len(rows) >= k
            found.append(
                self._measured(query, rows, own, k) if enough else self._scan(query[None], [own], k)[0]
            )
        return found

    def _measured(self, query: Floats, rows: Rows, own: Rows, k: int) -> tuple[Rows, Floats]:
        """The k nearest of some rows that are not one's own, and how far they are; equally far ones by their number."""
        rows = np.setdiff1d(rows, own)
        # products lose digits near distance 0, so take the difference itself
        apart = self._keys_at(rows).astype(np.float64) - query
        distance = np.sqrt(np.einsum("nd,nd->n", apart, apart)).astype(np.float32)
        order = np.argsort(distance, kind="stable")[:k]
        return rows[order], distance[order]

    def trajectories(self, neighbours: Neighbours) -> tuple[Tensor, Tensor]:
        """Displacements (Q, k, D) and intervals (Q, k) in months of rows that a search found."""
        return self.displacement[neighbours.index].float(), self.interval_months[neighbours.index]

    def take(self, rows: npt.NDArray[np.generic] | Sequence[int]) -> TrajectoryBank:
        """A bank of some rows, by position or by a boolean mask; in memory, without an index."""
        keep = np.arange(len(self))[np.asarray(rows)]
        columns = {name: getattr(self, name)[keep] for name in _PER_ROW}
        columns |= {name: columns[name].float() for name in ("w", "displacement")}
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
        latents = {"w": self.w.contiguous(), "displacement": self.displacement.contiguous()}
        columns = stored_columns(
            subject=self.subject,
            kind=self.kind,
            grade_series=self.grade_series,
            interval_months=self.interval_months,
            series_months=self.series_months,
        )
        config = stored_config(self.kind, dimensions=self.w.shape[1], built_with=built_with)
        save_part(folder, "bank", columns | latents, config, dtype=dtype, resolution=resolution)

    @classmethod
    def load(cls, files: ModelFiles) -> TrajectoryBank:
        """Read part "bank" of a model, and its index if it has one; a large bank is mapped."""
        large = files.size_bytes("bank") > MAPPED_BYTES
        tensors = files.mapped("bank") if large else files.tensors("bank")
        try:
            names, kinds = tensors["subject"].numpy(), np.unique(tensors["kind"].numpy())
            bank = cls(
                subject=np.char.decode(names.view(f"S{names.shape[1]}")[:, 0], "utf-8"),
                w=tensors["w"],
                displacement=tensors["displacement"],
                interval_months=(tensors["interval_millimonths"].double() / 1000).float(),
                grade_series=tensors["grade_series"],
                series_months=(tensors["series_millimonths"].double() / 1000).float(),
                kind=np.broadcast_to(np.array(KINDS[kinds[0]]), len(names))
                if len(kinds) == 1
                else np.array(KINDS)[tensors["kind"].numpy()],
            )
            if "bank_index" not in files.parts:
                return bank
            stated, index = files.config("bank_index"), files.tensors("bank_index")
            if stated["bank"] != files.hashes()["bank"]:
                return bank  # of an older bank
            arrays = {name: tensor.numpy() for name, tensor in index.items()}
            return replace(bank, index=Index.from_tensors(arrays, probes=int(stated["probes"])))
        except (KeyError, IndexError, ValueError, RuntimeError, UsageError) as error:
            raise WeightsError(f"the model's bank is damaged ({error}); build it anew") from error

    def chunks(self) -> Chunks:
        """Normalised keys in pieces, each with the number of its first row."""
        if 4 * self.w.numel() <= _CACHED_BYTES:
            yield 0, self._keys
        else:
            for piece in pieces(len(self), _CHUNK):
                yield piece.start, self._keys_at(piece)

    def _keys_at(self, rows: Rows | slice) -> Floats:
        return F.normalize(self.w[rows].float(), dim=1).numpy()

    @cached_property
    def _keys(self) -> Floats:
        return self._keys_at(slice(None))

    @cached_property
    def _by_subject(self) -> tuple[Rows, Strings]:
        """Rows in the order of their subjects' names, and the names."""
        order = np.argsort(self.subject, kind="stable")
        return order, self.subject[order]


def stored_columns(
    *, subject: Strings, kind: Strings, grade_series: Tensor, interval_months: Tensor, series_months: Tensor
) -> dict[str, Tensor]:
    """A bank's columns but the latents, as they are stored."""
    names = np.char.encode(subject, "utf-8")
    codes = np.zeros(len(kind), dtype=np.uint8)
    for code, name in enumerate(KINDS):
        codes[kind == name] = code
    return {
        "subject": torch.from_numpy(names.view(np.uint8).reshape(len(names), -1).copy()),
        "kind": torch.from_numpy(codes),
        "grade_series": grade_series.to(torch.int8),
        # whole numbers, so that storing latents in half precision leaves times alone
        "interval_millimonths": (interval_months.double() * 1000).round().to(torch.int32),
        "series_millimonths": (series_months.double() * 1000).round().to(torch.int32),
    }


def stored_config(
    kind: Strings, *, dimensions: int, built_with: Mapping[str, str] | None
) -> dict[str, object]:
    """What a model's manifest says of its bank."""
    return {
        "rows": len(kind),
        "dimensions": dimensions,
        "kinds": sorted(name for name in KINDS if (kind == name).any()),
        "built_with": dict(built_with or {}),
    }


def check_built_with(bank: ModelFiles, model: ModelFiles) -> None:
    """Refuse a bank whose latents are not of this model's generator and encoder.

    Raises
    ------
    WeightsError
        If a hash that the bank states differs from the model's, or it states none.
    """
    stated = bank.config("bank").get("built_with")
    for part in ("generator", "encoder"):
        if not isinstance(stated, dict) or stated.get(part) != model.hashes().get(part):
            raise WeightsError(
                f"bank {bank.folder} was built with another {part} than model {model.folder} has: "
                "expected the same; build the bank anew (progression bank build)"
            )
