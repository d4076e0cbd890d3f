"""Banks of millions, made in three steps that each need little memory.

Pictures are encoded in pieces to a scratch file (:func:`encoded_visits`, goes on after it was killed), the rows'
latents are worked out from it piece by piece straight into the model's part (:func:`write_bank`, appears whole or not
at all), and above `EXACT_ROWS` rows an index is made (:func:`add_index`), with the share of true neighbours that it
finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from progression.data.dataset import load_images
from progression.encoder import Encoder
from progression.errors import UsageError
from progression.files import digest, growing_file, part_path
from progression.latent.bank import TrajectoryBank, stored_columns, stored_config
from progression.latent.build import Latents, Outline
from progression.latent.part import encode_keys
from progression.latent.search import Index, sample_size
from progression.weights import ModelFiles, fill_part, save_part

EXACT_ROWS = 1_000_000
"""Banks up to this are searched exactly; larger ones get an index."""
RECALL = 0.99
"""Share of the true neighbours that an index shall find; it looks into as many lists as that takes."""
RECALL_NEIGHBOURS, _RECALL_QUERIES = 5, 200
_PICTURES = 256  # a piece of the scratch file


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
