"""The rows nearest to a query among few or among millions: the only place with faiss.

Keys are on the unit sphere.  :func:`scan` compares with every row.  :class:`Index` knows where to look first: rows
are put into lists by their leading principal coordinates (an inverted file, IVF), which are kept at 8 bits each.
Of the 512 coordinates of a knee's key 64 hold 99.8 % of the variance, so that a row takes 72 bytes in memory, while the
keys themselves may stay on disk.  Both only propose candidates: who asks measures their distances anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from progression.errors import UsageError

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Chunks = Iterable[tuple[int, Floats]]
"""Keys in pieces, each with the number of its first row."""

COORDINATES = 64
_TRAINED_ON = 64
"""Rows a list that the lists are learnt from."""


def error_bound(dimensions: int) -> float:
    """How far a squared distance of unit vectors may be off by rounding, where it is taken as 2 - 2 a·b in float32."""
    return 4 * dimensions * float(np.finfo(np.float32).eps)


def scan(queries: Floats, chunks: Chunks, *, count: int) -> tuple[Floats, Rows]:
    """Squared distances (Q, m), up to :func:`error_bound`, and rows (Q, m) of the nearest, m = count at most.

    Of rows that lie equally far, to rounding, any may be left out at the end.
    """
    # The default sends batches below 128,000 distance values a slow way.
    faiss.cvar.distance_compute_blas_threshold = 2048
    squared: Floats = np.empty((len(queries), 0), dtype=np.float32)
    rows: Rows = np.empty((len(queries), 0), dtype=np.int64)
    for start, keys in chunks:
        near, where = faiss.knn(queries, keys, min(count, len(keys)))
        squared, rows = np.hstack([squared, near]), np.hstack([rows, where + start])
        order = np.argsort(squared, axis=1, kind="stable")[:, :count]
        squared = np.take_along_axis(squared, order, axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
    return squared, rows


def within(query: Floats, chunks: Chunks, *, squared: float) -> Rows:
    """All rows whose squared distance to one query (D,), up to :func:`error_bound`, is not above a bound."""
    found = [start + np.flatnonzero(2 - 2 * (keys @ query) <= squared) for start, keys in chunks]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Index:
    """Rows by their leading principal coordinates, in lists.

    Attributes
    ----------
    mean, axes : (D,), (r, D); coordinates are axes @ (key - mean)
    lists : faiss' inverted file
    probes : lists that a search looks into
    """

    mean: Floats
    axes: Floats
    lists: faiss.IndexIVFScalarQuantizer
    probes: int

    def __len__(self) -> int:
        return int(self.lists.ntotal)

    @classmethod
    def build(cls, sample: Floats, chunks: Chunks, *, rows: int, coordinates: int = COORDINATES) -> Index:
        """Learn the lists from a sample of keys (M, D), best of `sample_size(rows)`, and fill them.

        Raises
        ------
        UsageError
            If the sample is too small.
        """
        count = list_count(rows)
        if len(sample) < count:
            raise UsageError(f"an index of {count} lists needs as many keys to learn from, got {len(sample)}")
        mean = sample.mean(axis=0)
        deviations = (sample - mean).astype(np.float64)
        _, axes = np.linalg.eigh(deviations.T @ deviations)
        axes = np.ascontiguousarray(axes[:, ::-1].T[:coordinates], dtype=np.float32)
        quantiser = faiss.IndexFlatL2(len(axes))
        lists = faiss.IndexIVFScalarQuantizer(quantiser, len(axes), count, faiss.ScalarQuantizer.QT_8bit)
        lists.cp.max_points_per_centroid = max(_TRAINED_ON, 256)
        lists.cp.min_points_per_centroid = 1
        lists.train((sample - mean) @ axes.T)
        for _, keys in chunks:
            lists.add((keys - mean) @ axes.T)
        return cls(mean, axes, lists, probes=min(8, count))

    def candidates(self, query: Floats, *, count: int, without: Rows) -> Rows:
        """Rows, `count` at most, that are likely the nearest to one query (D,); those `without` are not among them."""
        looked = faiss.SearchParametersIVF()
        looked.nprobe = self.probes
        own = faiss.IDSelectorBatch(without)
        others = faiss.IDSelectorNot(own)  # the caller of both keeps them alive
        if len(without):
            looked.sel = others
        place = np.ascontiguousarray((self.axes @ (query - self.mean))[None])
        _, found = self.lists.search(place, count, params=looked)
        return found[0][found[0] >= 0]

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """For storage."""
        return {"mean": self.mean, "axes": self.axes, "lists": faiss.serialize_index(self.lists)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, npt.NDArray[np.generic]], *, probes: int) -> Index:
        """As `tensors` gave them.

        Raises
        ------
        KeyError, RuntimeError
            If something is missing or the lists are not faiss'.
        """
        mean, axes = (tensors[name].astype(np.float32) for name in ("mean", "axes"))
        lists = faiss.deserialize_index(tensors["lists"].astype(np.uint8))
        if not isinstance(lists, faiss.IndexIVFScalarQuantizer) or lists.d != len(axes):
            raise RuntimeError("its index is not an inverted file of its coordinates")
        return cls(mean, axes, lists, probes)


def list_count(rows: int) -> int:
    """Lists for so many rows: a power of two near 2 √N."""
    return 1 << max(0, round(np.log2(2 * rows**0.5)))


def sample_size(rows: int) -> int:
    """Rows to learn the lists of an index from."""
    return min(rows, _TRAINED_ON * list_count(rows))


def pieces(count: int, size: int) -> Iterator[slice]:
    """0..count in slices."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
