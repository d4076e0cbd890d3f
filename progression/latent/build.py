"""Banks from visits: which rows a table gives, and their latents, in memory or in a stream.

A bank of millions is made in three steps that each need little memory: pictures are encoded in pieces to a scratch
file (:func:`encoded_visits`, goes on after it was killed), the rows' latents are worked out from it piece by piece
straight into the model's part (:func:`write_bank`, appears whole or not at all), and above `EXACT_ROWS` rows an index
is made (:func:`add_index`), with the share of true neighbours that it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from progression.data.dataset import load_images
from progression.encoder import Encoder
from progression.errors import UsageError
from progression.files import digest, growing_file, part_path
from progression.latent.bank import UNREAD, Strings, TrajectoryBank, stored_columns, stored_config
from progression.latent.part import encode_keys
from progression.latent.search import Index, pieces, sample_size
from progression.latent.transport import GradeTransport, last_reading, running_maximum
from progression.weights import ModelFiles, fill_part, save_part

EXACT_ROWS = 1_000_000
"""Banks up to this are searched exactly; larger ones get an index."""
TRANSPORT_KNEES = 50_000
"""Grade transport learns from so many knees at most, drawn at random (seed 0): each query looks at all of them."""
RECALL = 0.99
"""Share of the true neighbours that an index shall find; it looks into as many lists as that takes."""
RECALL_NEIGHBOURS, _RECALL_QUERIES = 5, 200
_PICTURES = 256  # a piece of the scratch file
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


@contextmanager
def encoded_visits(
    folder: str | Path,
    encoder: Encoder,
    *,
    images: Sequence[str],
    side: Sequence[str],
    root: str | Path,
    built_with: Mapping[str, str],
    progress: Callable[[int], None] = lambda count: None,
) -> Iterator[Tensor]:
    """Keys (M, D) float32 of visits' pictures, on disk while the block lasts.

    Parameters
    ----------
    folder
        Gets the scratch file. What was encoded before a run was killed, or before the block raised, is not encoded
        again, as long as pictures' names, sides and networks are the same.
    images, side, root
        As of `data.dataset.load_images`.
    built_with
        Hashes of the networks.
    progress
        Called with the number of visits encoded so far.
    """
    run = digest([f"{part} {hashed}" for part, hashed in sorted(built_with.items())] + [*images, *side])
    resolution = int(encoder.config()["resolution"])
    with growing_file(Path(folder) / "bank-keys", run=run) as file:
        progress(file.items)
        while file.items < len(images):
            piece = slice(file.items, file.items + _PICTURES)
            pictures = load_images(images[piece], side[piece], resolution=resolution, root=root)
            keys = encode_keys(encoder, pictures).contiguous().numpy()
            file.append(keys.tobytes(), items=len(keys))
            progress(file.items)
        width = part_path(file.path).stat().st_size // (4 * len(images))
        yield torch.from_numpy(np.memmap(part_path(file.path), np.float32, "c", shape=(len(images), width)))
        file.remove()


def write_bank(
    folder: str | Path,
    outline: Outline,
    latents: Latents,
    *,
    dimensions: int,
    built_with: Mapping[str, str],
    resolution: int,
) -> None:
    """Write part "bank" of a model folder in a stream, latents in half precision; whole or not at all.

    Raises
    ------
    UsageError
        If a latent is not finite or too large for half precision.
    """
    columns = stored_columns(
        subject=outline.subject,
        kind=outline.kinds,
        grade_series=outline.grade_series,
        interval_months=outline.interval_months,
        series_months=outline.series_months,
    )
    arrays = {name: tensor.numpy() for name, tensor in columns.items()}
    layout: dict[str, tuple[npt.DTypeLike, tuple[int, ...]]] = {
        name: (array.dtype, array.shape) for name, array in arrays.items()
    }
    layout |= {name: (np.float16, (len(outline), dimensions)) for name in ("w", "displacement")}
    config = stored_config(outline.kinds, dimensions=dimensions, built_with=built_with)
    with fill_part(folder, "bank", layout, config, resolution=resolution) as stored:
        for name, array in arrays.items():
            stored[name][:] = array
        at = 0
        for w, displacement in latents:
            rows = slice(at, at + len(w))
            for name, values in (("w", w), ("displacement", displacement)):
                stored[name][rows] = half = values.half().numpy()
                if not np.isfinite(half).all():
                    raise UsageError(
                        "a latent is not finite in half precision: check the encoder and the images"
                    )
            at += len(w)


def add_index(folder: str | Path, files: ModelFiles) -> tuple[int, float]:
    """Write part "bank_index" for a model's bank; how many lists a search looks into, and the share it finds.

    Beside each other on rows of the bank themselves, drawn with a fixed seed, without those of their own subject: of
    the `RECALL_NEIGHBOURS` nearest, as many as the index finds. Lists are doubled until that is `RECALL`.
    """
    bank = replace(TrajectoryBank.load(files), index=None)
    draws = np.random.default_rng(0)
    sample = bank.take(np.sort(draws.choice(len(bank), sample_size(len(bank)), replace=False)))
    keys = np.concatenate([keys for _, keys in sample.chunks()])
    index = Index.build(keys, bank.chunks(), rows=len(bank))
    del sample, keys
    queries = np.sort(draws.choice(len(bank), min(len(bank), _RECALL_QUERIES), replace=False))
    bank, share = choose_probes(bank, index, queries)
    assert bank.index is not None
    config = {
        "bank": files.hashes()["bank"],
        "probes": bank.index.probes,
        "lists": index.lists.nlist,
        "recall": share,
        "recall_queries": len(queries),
    }
    tensors = {name: torch.from_numpy(array) for name, array in index.tensors().items()}
    save_part(folder, "bank_index", tensors, config, dtype="float32")
    return bank.index.probes, share


def choose_probes(
    bank: TrajectoryBank, index: Index, rows: npt.NDArray[np.int64]
) -> tuple[TrajectoryBank, float]:
    """The bank with an index that looks into enough lists to find `RECALL` of the neighbours of some rows."""
    w, subject = bank.w[rows].float(), bank.subject[rows].tolist()
    k = min(RECALL_NEIGHBOURS, len(bank) - max(len(bank.rows_of(name)) for name in subject))
    true = bank.search(w, k=k, exclude_subject=subject).distance[:, -1:]
    probes = index.probes
    while True:
        found = replace(bank, index=replace(index, probes=probes))
        near = found.search(w, k=k, exclude_subject=subject).distance
        share = float((near <= true).float().mean())
        if share >= RECALL or probes >= index.lists.nlist:
            return found, share
        probes = min(2 * probes, index.lists.nlist)
