"""Train the plain grader: K cross-fitted networks, each without one K-th of the subjects.

Each network is fine-tuned from ImageNet on three heads at once (`progression.risk.grader`): the grade now,
the highest grade read by later visits, and whether it rises.  Labels that were not read are left out of the
loss.  `progression.train.grader_run` trains one network; `progression.train.grader_config` says how.

Files in the run folder: ``fold<i>/`` (checkpoint, log, TensorBoard curves; once ended, ``ended.ckpt`` in the
checkpoint's place: the averaged network, all that the grader needs of that fold) and ``out_of_fold.npz`` (each
training knee's outputs by the network that did not train on it; participant-level, so it stays here).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from progression.data.dataset import Knees
from progression.errors import UsageError
from progression.files import atomic_write
from progression.memory import keep_freed_memory
from progression.risk.efficientnet import EfficientNet, load_imagenet
from progression.risk.grader import NUM_OUTPUTS, Grader, Grading, as_grading, resize
from progression.train.grader_config import PRESETS, GraderConfig
from progression.train.grader_run import ENDED, GraderRun, clear, ended_network, run_to_end
from progression.train.run_folder import owned

Array = npt.NDArray[Any]
Start = Callable[[], EfficientNet]


def fold_of(subjects: Array, *, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """The fold in which each knee is left out; both knees of a subject share it."""
    names, inverse = np.unique(subjects, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return np.asarray(order % folds, dtype=np.int64)[inverse]


def cross_fitting(subjects: Array, *, seed: int) -> dict[str, Any]:
    """What says which network saw whom: the seed and a digest of the subjects; stored with the grader."""
    names = "\n".join(sorted({str(name) for name in subjects}))
    return {"seed": seed, "subjects": hashlib.sha256(names.encode()).hexdigest()}


def grade_out_of_fold(grader: Grader, knees: Knees, fitting: Mapping[str, Any] | None) -> Grading:
    """Each training knee by the network of a cross-fitted grader that never saw its subject.

    Parameters
    ----------
    grader
        Of `train_grader`.
    knees
        Those it was trained on, all of them: which fold a subject is in depends on them.
    fitting
        `cross_fitting` of that training, as stored with the grader.

    Raises
    ------
    UsageError
        It was trained on other people, or did not say on whom: nobody could then be called unseen.
    """
    if fitting is None or dict(fitting) != cross_fitting(knees.subject, seed=fitting["seed"]):
        raise UsageError(
            "the grader was trained on other people than the table's, or does not say on whom: give the table and the "
            "split it was trained on"
        )
    fold = fold_of(knees.subject, folds=len(grader.members), seed=fitting["seed"])
    order = [torch.as_tensor(np.flatnonzero(fold == left_out)) for left_out in range(len(grader.members))]
    parts = [
        grade_images(network, knees.images[rows], input_resolution=grader.input_resolution)
        for network, rows in zip(grader.members, order, strict=True)
    ]
    back = torch.cat(order).argsort()
    return Grading(
        *(torch.cat([getattr(part, name) for part in parts])[back] for name in ("now", "future", "rise"))
    )


def grade_images(
    model: Grader | EfficientNet, images: Tensor, *, input_resolution: int, batch_size: int = 32
) -> Grading:
    """Grade uint8 pictures (N, R, R), batch by batch, on the model's device."""
    device = next(model.parameters()).device
    gradings = []
    with torch.no_grad():
        for part in images.split(batch_size):
            x = resize(part[:, None].to(device).float() / 127.5 - 1, input_resolution)
            answer = model(x)
            gradings.append(answer if isinstance(answer, Grading) else as_grading(answer))
    return Grading(
        torch.cat([grading.now for grading in gradings]).cpu(),
        torch.cat([grading.future for grading in gradings]).cpu(),
        torch.cat([grading.rise for grading in gradings]).cpu(),
    )


def train_fold(
    knees: Knees,
    run_folder: Path,
    fold: int,
    *,
    config: GraderConfig = PRESETS["cpu"],
    device: str = "cpu",
    start: Start | None = None,
) -> EfficientNet:
    """Train, or go on training, one network of the grader; as `train_grader`, which finds the folds that ended.

    Parameters
    ----------
    fold
        Which share of the subjects is left out, from 0. Folds may be trained in any order, and side by side by as
        many processes.

    Returns
    -------
    EfficientNet
        The averaged network, on the device.

    Raises
    ------
    UsageError
        There is no such fold, it has fewer knees than a batch, or the run folder holds a run of other settings or
        people.
    """
    if not 0 <= fold < config.folds:
        raise UsageError(f"fold {fold}: expected 0 to {config.folds - 1}, one of {config.folds} folds")
    keep_freed_memory()
    folds = fold_of(knees.subject, folds=config.folds, seed=config.seed)
    fewest = len(folds) - (int(np.bincount(folds).max()) if config.folds > 1 else 0)
    if fewest < config.batch_size:
        raise UsageError(
            f"{fewest} knees to train a fold on, expected at least one batch ({config.batch_size}): use more "
            "knees or a smaller batch"
        )
    folder, people = run_folder / f"fold{fold}", _people(knees.subject)
    start = start or _imagenet(config)
    with owned(folder):
        if not (folder / ENDED).is_file():
            rows = np.flatnonzero(folds != fold) if config.folds > 1 else np.arange(len(folds))
            run = GraderRun(
                knees, torch.as_tensor(rows), fold=fold, config=config, device=device, start=start
            )
            run_to_end(run, folder, people=people)
        clear(folder)
    return ended_network(folder / ENDED, config=config, people=people, start=start).to(device).eval()


def train_grader(
    knees: Knees,
    run_folder: Path,
    *,
    config: GraderConfig = PRESETS["cpu"],
    device: str = "cpu",
    start: Start | None = None,
) -> Grader:
    """Train, or go on training, the cross-fitted grader.

    Parameters
    ----------
    knees
        Training knees, at 224 pixels or more for the presets.
    run_folder
        Checkpoints, logs and out-of-fold outputs; the same call with the same folder resumes.
    device
        "cpu", "cuda" or "cuda:<i>".
    start
        Makes the network to fine-tune; by default EfficientNet-lite0 with ImageNet weights.

    Returns
    -------
    Grader
        Mean of the averaged networks, on the CPU; `save_part(folder, "grader", grader.state_dict(),
        grader.config())` ships it.

    Raises
    ------
    UsageError
        The run folder holds a run of other settings or people, or a fold has fewer knees than a batch.
    OutputError
        Another process owns the run folder or trains a fold, or a file cannot be written: the same call then goes on
        once it can.
    WeightsError
        A checkpoint is damaged.
    """
    with owned(run_folder):
        networks = [
            train_fold(knees, run_folder, fold, config=config, device=device, start=start)
            for fold in range(config.folds)
        ]
        grader = _grader(networks, config)
        left_out = grade_out_of_fold(grader, knees, cross_fitting(knees.subject, seed=config.seed))
        outputs = {name: getattr(left_out, name).numpy() for name in ("now", "future", "rise")}
        folds = fold_of(knees.subject, folds=config.folds, seed=config.seed)
        with atomic_write(run_folder / "out_of_fold.npz") as temporary:
            np.savez(temporary, fold=folds, subject=knees.subject, side=knees.side, **outputs)
        return grader.to("cpu")


def robust_grader(
    knees: Knees, run_folder: Path, *, config: GraderConfig, start: Start | None = None
) -> Grader:
    """The ended run's grader with the norms of adversarial pictures, on the CPU: same weights otherwise.

    Raises
    ------
    UsageError
        The run was not trained on adversarial pictures, or with other settings or on other people.
    """
    if not config.attack_steps:
        raise UsageError("no robust grader without adversarial pictures: train with attack_steps > 0")
    people, start = _people(knees.subject), start or _imagenet(config)
    paths = [run_folder / f"fold{fold}" / ENDED for fold in range(config.folds)]
    networks = [ended_network(path, config=config, people=people, start=start, robust=True) for path in paths]
    return _grader(networks, config)


def _grader(networks: list[EfficientNet], config: GraderConfig) -> Grader:
    return Grader(networks, input_resolution=config.resolutions[-1]).eval().requires_grad_(False)


def _people(subjects: Array) -> str:
    return str(cross_fitting(subjects, seed=0)["subjects"])


def _imagenet(config: GraderConfig) -> Start:
    return lambda: load_imagenet(1, NUM_OUTPUTS, dropout=config.dropout, drop_path=config.drop_path)
