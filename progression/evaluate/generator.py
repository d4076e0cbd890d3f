"""Do generated pictures look like knees, all kinds of knees, and not like the ones in training?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from progression.errors import UsageError
from progression.evaluate.report import as_table, interval
from progression.metrics.bootstrap import cluster_bootstrap
from progression.metrics.features import Extractor, batches_of
from progression.metrics.frechet import fid_draws, kid_draws, nearest_distance, precision_recall
from progression.metrics.ppl import SamplesPictures, perceptual_path_length
from progression.metrics.samples import sample_images

Features = NDArray[np.float32]
KID_SIZE = 500


def evaluate_generator(
    generator: SamplesPictures,
    held_out: Tensor,
    *,
    extractors: Sequence[Extractor],
    train: Tensor | None = None,
    distance: Callable[[Tensor, Tensor], Tensor] | None = None,
    distance_name: str = "",
    n_samples: int = 2000,
    n_path: int = 1000,
    truncation_psi: float = 1.0,
    n_draws: int = 10,
    batch: int = 64,
    seed: int = 0,
    progress: Callable[[str], object] = lambda stage: None,
) -> dict[str, Any]:
    """FID, KID, precision and recall, memorisation on each extractor's features, and path length.

    Parameters
    ----------
    generator
        `progression.stylegan2.Generator` of one channel, in evaluation mode.
    held_out
        (N, R, R) uint8 real pictures that the generator was not trained on: the reference.
    train
        (M, R, R) uint8 pictures that it was trained on; with them the report has the floor, that is the
        figures between two sets of real pictures, and the search for memorised ones.
    distance, distance_name
        For the path length, which is left out if None.
    n_samples
        Pictures generated: rendered with constant noise and rounded to bytes as the real ones are.
    n_draws
        Draws behind every interval.
    progress
        Told what is begun, in a few words.

    Returns
    -------
    dict with ``features``: one entry an extractor (see `compare_features`), and ``path_length``.

    Raises
    ------
    UsageError
        The generator has colours, or its resolution is not the pictures'.
    """
    progress(f"rendering {n_samples} samples")
    samples = sample_images(generator, n_samples, truncation_psi=truncation_psi, batch=batch, seed=seed)
    if samples.shape[1:] != held_out.shape[1:]:
        raise UsageError(
            f"expected real pictures of {tuple(samples.shape[1:])}, received {tuple(held_out.shape[1:])}"
        )
    report: dict[str, Any] = {
        "resolution": samples.shape[-1],
        "samples": n_samples,
        "truncation_psi": truncation_psi,
        "noise": "const",
        "held_out": len(held_out),
        "train": None if train is None else len(train),
        "seed": seed,
        "features": {},
    }
    for extractor in extractors:
        progress(f"features of {extractor.name}")
        real, made = (extractor.extract(batches_of(x, batch=batch)) for x in (held_out, samples))
        known = None if train is None else extractor.extract(batches_of(train, batch=batch))
        report["features"][extractor.name] = compare_features(made, real, known, n_draws=n_draws, seed=seed)
    if distance is not None:
        progress(f"path length by {distance_name}")
        length = perceptual_path_length(
            generator, distance, distance_name=distance_name, n=n_path, batch=batch, seed=seed
        )
        report["path_length"] = length.as_dict()
    return report


def compare_features(
    made: Features, held_out: Features, train: Features | None, *, n_draws: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Figures of generated against held-out real pictures, beside those of the training ones.

    All sets are cut to one size, drawn anew `n_draws` times.  ``fid_ratio`` is FID(generated, held out)
    over the floor FID(training, held out): 1 would be pictures as like the held-out ones as other real
    pictures are.
    """
    n = min(len(made), len(held_out), *([] if train is None else [len(train)]))
    options = {"n": n, "n_draws": n_draws, "seed": seed}
    # half at most, so that draws differ; KID has no bias that would make the size matter
    kid_options = {**options, "n": min(n // 2, KID_SIZE)}
    fid, kid = fid_draws(held_out, made, **options), kid_draws(held_out, made, **kid_options)
    precision, recall = precision_recall(held_out[:n], made[:n])
    figures: dict[str, Any] = {
        "n": n,
        "fid": asdict(fid),
        "kid": asdict(kid),
        "precision": precision,
        "recall": recall,
    }
    if train is not None:
        floor = fid_draws(held_out, train, **options)
        real = precision_recall(held_out[:n], _drawn(train, n, seed))
        figures |= {
            "fid_floor": asdict(floor),
            "fid_ratio": fid.mean / floor.mean,
            "kid_floor": asdict(kid_draws(held_out, train, **kid_options)),
            "precision_floor": real[0],
            "recall_floor": real[1],
            "memorisation": memorisation(made, held_out, train, seed=seed),
        }
    return figures


def memorisation(
    made: Features, held_out: Features, train: Features, *, n_draws: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Are generated pictures nearer to the training pictures than chance has it?

    ``nearer_to_train`` is the share of generated pictures whose nearest real one is a training picture and
    not a held-out one, ``by_chance`` the training pictures' share of the real ones, and ``excess``
    (nearer_to_train − by_chance) / (1 − by_chance): 0 without memorisation, 1 for copies.  Its interval is
    over draws of generated pictures.  It tells nothing of pictures that are far from all real ones
    (precision near 0): those are nearest to a few odd ones, whichever side these are on.

    The distances to the nearest training picture, of generated and of held-out pictures, tell whether the
    closest are copies (a low first percentile against the held-out one).
    """
    to_train = {"generated": nearest_distance(made, train), "held_out": nearest_distance(held_out, train)}
    is_nearer = to_train["generated"] < nearest_distance(made, held_out)
    chance = len(train) / (len(train) + len(held_out))

    def excess(nearer: NDArray[np.bool_]) -> float:
        return float((nearer.mean() - chance) / (1 - chance))

    return {
        "nearer_to_train": float(is_nearer.mean()),
        "by_chance": chance,
        "excess": excess(is_nearer),
        "excess_interval": cluster_bootstrap(
            excess, np.arange(len(made)), is_nearer, n_draws=n_draws, seed=seed
        ),
        **{
            f"{name}_to_train": {
                "percentile_01": float(np.quantile(distance, 0.01)),
                "median": float(np.median(distance)),
            }
            for name, distance in to_train.items()
        },
    }


def generator_table(report: Mapping[str, Any]) -> str:
    """One line an extractor, and the path length under them."""
    header = ("features", "n", "FID", "floor", "ratio", "KID x1000", "floor", "precision", "recall",
              "copying")  # fmt: skip
    rows = []
    for name, figures in report["features"].items():
        kids = (figures["kid"], figures.get("kid_floor"))
        copying = figures.get("memorisation")
        rows.append(
            (
                name,
                figures["n"],
                f"{figures['fid']['mean']:#.4g}",
                f"{figures['fid_floor']['mean']:#.4g}" if "fid_floor" in figures else None,
                figures.get("fid_ratio"),
                *(_thousandths(kid) for kid in kids),
                figures["precision"],
                figures["recall"],
                None if copying is None else interval(copying["excess"], copying["excess_interval"]),
            )
        )
    table = as_table(header, rows)
    if "path_length" in report:
        length = report["path_length"]
        table += (
            f"\n\npath length in W (end, step {length['epsilon']:g}, {length['distance']}): "
            f"{length['mean']:.4g} ± {length['standard_error']:.2g} over {length['n']} steps"
        )
    return table


def _thousandths(kid: Mapping[str, Any] | None) -> str | None:
    if kid is None:
        return None
    mean, low, high = (f"{1000 * kid[name]:#.3g}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _drawn(x: Features, n: int, seed: int) -> Features:
    return x[np.random.default_rng(seed).choice(len(x), n, replace=False)]
