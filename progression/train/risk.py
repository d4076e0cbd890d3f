"""Fit the risk model on out-of-fold gradings, and predict each knee by models that never saw its subject.

The gradings must be out-of-fold (`progression.train.grader` writes them): gradings of knees that the grader
was trained on are too good, and a model fitted on them would trust the picture too much.  At use the mean of
the ensemble takes the place of one out-of-fold network.  Averaging networks usually grades better than one of
them, and its probabilities are less extreme; how far that moves the predicted risks is not corrected for here,
and shows only in the calibration on knees that no part of the model has seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from progression.data.dataset import Knees
from progression.errors import TableError, UsageError, WeightsError
from progression.risk.conformal import level_for, levels_by_start
from progression.risk.covariates import UNREAD, OtherKnee, covariates, standardise
from progression.risk.grader import Grading
from progression.risk.model import Risk, RiskModel
from progression.risk.multistate import (
    MultiState,
    Panel,
    Penalty,
    fit_multistate,
    log_likelihood,
    panel,
)
from progression.train.grader import fold_of


@dataclass(frozen=True)
class RiskConfig:
    """How to fit.

    Attributes
    ----------
    penalties
        To choose from, by the likelihood of held-out subjects' readings.
    era_months
        Bounds of the times in which covariates weigh differently: the first re-reading (after misread
        baselines), the visits that nearly all knees have, and those read on a selected part.
    folds, inner_folds
        Of the cross-validation by subject that predicts, and of the one inside it that chooses the penalty.
    resamples
        B, fits to people drawn with replacement, for the risks' intervals.
    """

    penalties: tuple[Penalty, ...] = (Penalty(10.0, 30.0), Penalty(30.0, 90.0), Penalty(100.0, 300.0))
    era_months: tuple[float, ...] = (0.0, 12.0, 48.0, 96.0)
    folds: int = 5
    inner_folds: int = 3
    resamples: int = 24
    seed: int = 0


def load_out_of_fold(path: Path, knees: Knees) -> Grading:
    """Gradings of the training knees, from the file that `train_grader` writes.

    Raises
    ------
    TableError
        The file is about other knees.
    WeightsError
        It cannot be read, or was damaged.
    """
    names = ("subject", "side", "now", "future", "rise")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            subject, side, *outputs = (stored[name] for name in names)
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, BadZipFile, zlib.error) as error:
        raise WeightsError(
            f"cannot read {path} ({type(error).__name__}): expected what `progression train grader` writes; let it "
            "finish, or repeat it if the file was damaged"
        ) from error
    if not (np.array_equal(subject, knees.subject) and np.array_equal(side, knees.side)):
        raise TableError(f"{path} is about other knees than the table: train the grader on this table")
    return Grading(*(torch.from_numpy(output) for output in outputs))


def pairs(knees: Knees, grading: Grading) -> tuple[Knees, Grading, OtherKnee]:
    """The knees whose person's other knee is there too, their gradings, and what is known of the other knees."""
    other = knees.other_knee
    rows = np.flatnonzero(other >= 0)
    beside = OtherKnee(grading, torch.as_tensor(knees.grade)).rows(other[rows])
    return knees.select(rows), grading.rows(torch.as_tensor(rows)), beside


def calibrate_grades(grading: Grading, grade: Tensor) -> tuple[Tensor, Tensor]:
    """Sharpness and bias of `RiskModel.grade_now` by maximum likelihood, lightly held at 1 and 0."""
    known = grade >= 0
    log_p, target = grading.now.double().clamp(min=1e-6).log()[known], grade[known].long()
    sharpness = torch.ones((), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(log_p.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([sharpness, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(sharpness * log_p + bias, target, reduction="sum")
        loss = loss + bias.square().sum() + (sharpness - 1).square()
        loss.backward()
        return loss

    optimiser.step(closure)
    return sharpness.detach(), bias.detach()


def fit_risk(
    knees: Knees,
    grading: Grading,
    *,
    penalty: Penalty,
    config: RiskConfig,
    other: OtherKnee | None = None,
) -> RiskModel:
    """The risk model of these knees at one penalty, without intervals and sets."""
    x = _own(knees, grading, other)
    mean, scale = _location_and_scale(x)
    multistate, complete = (
        _fit(knees, standardise(x, mean, scale), penalty=penalty, config=config, carry_forward=carry_forward)
        for carry_forward in (True, False)
    )
    sharpness, bias = calibrate_grades(grading, torch.as_tensor(knees.grade))
    return RiskModel(multistate, complete, mean, scale, sharpness, bias)


def choose_penalty(
    knees: Knees, grading: Grading, config: RiskConfig, *, other: OtherKnee | None = None
) -> Penalty:
    """The penalty under which held-out subjects' readings are most likely."""
    if len(config.penalties) == 1:
        return config.penalties[0]
    scores = np.zeros(len(config.penalties))
    x = _own(knees, grading, other)
    for inside, outside in _splits(knees, folds=config.inner_folds, seed=config.seed + 2):
        fitted, held_out = knees.select(inside), knees.select(outside)
        mean, scale = _location_and_scale(x[inside])
        train, test = (standardise(x[rows], mean, scale) for rows in (inside, outside))
        readings = _readings(held_out, carry_forward=True)
        for position, penalty in enumerate(config.penalties):
            model = _fit(fitted, train, penalty=penalty, config=config, carry_forward=True)
            scores[position] += float(log_likelihood(model, test, readings).sum())
    return config.penalties[int(scores.argmax())]


def train_risk(
    knees: Knees,
    grading: Grading,
    *,
    other: OtherKnee | None = None,
    config: RiskConfig | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> RiskModel:
    """Choose the penalty by cross-validation over subjects, fit on all knees, then ask how sure that is.

    Parameters
    ----------
    knees
        Training knees with their grade series; a baseline reading is needed.
    grading
        Out-of-fold gradings of the same knees.
    other
        Their other knees (`pairs`), for a model that sees both.

    Raises
    ------
    UsageError
        Gradings of another number of knees, or missing ones.
    """
    config = config or RiskConfig()
    _check(knees, grading)
    penalty = choose_penalty(knees, grading, config, other=other)
    progress(f"penalty {penalty.common:g}; fitting")
    model = fit_risk(knees, grading, penalty=penalty, config=config, other=other)
    progress(f"intervals, from {config.resamples} resamples of people")
    model = replace(model, resampled=_resampled(knees, grading, other, model, penalty, config))
    progress(f"sets of grades, in {config.folds} folds")
    months, levels = _set_levels(knees, grading, other, penalty, config)
    return replace(model, set_months=months, set_levels=levels)


def cross_predict(
    knees: Knees,
    grading: Grading,
    horizon_months: Sequence[float],
    *,
    other: OtherKnee | None = None,
    config: RiskConfig | None = None,
) -> tuple[Risk, Risk]:
    """Each knee's risk by a risk model (penalty included) that never saw its subject: nested cross-validation.

    The gradings are made once, not anew in every fold: those of the knees that a risk model is fitted on come
    from graders that saw held-out subjects, labels included (ordinary stacking). A held-out knee's own grading
    comes from a grader that never saw its subject. Only knees that neither grader nor risk model was trained on
    are free of this.

    Returns
    -------
    (image only, image and read grade)
        With `other`, the other knee's read grade is used where this knee's is.
    """
    config = config or RiskConfig()
    _check(knees, grading)
    parts: list[tuple[Risk, Risk]] = []
    order: list[npt.NDArray[np.int64]] = []
    for inside, outside in _splits(knees, folds=config.folds, seed=config.seed + 1):
        fitted, seen, beside = knees.select(inside), grading.rows(_index(inside)), _rows(other, inside)
        penalty = choose_penalty(fitted, seen, config, other=beside)
        model = fit_risk(fitted, seen, penalty=penalty, config=config, other=beside)
        part, beside = grading.rows(_index(outside)), _rows(other, outside)
        grade = torch.as_tensor(knees.grade[outside])
        parts.append(
            (
                model.predict(part, horizon_months, other=_unread(beside)),
                model.predict(part, horizon_months, grade=grade, other=beside),
            )
        )
        order.append(outside)
    back = _index(np.argsort(np.concatenate(order)))
    alone, read = (
        Risk(
            *(
                torch.cat([getattr(part[i], name) for part in parts])[back]
                for name in ("fast", "any", "future")
            )
        )
        for i in (0, 1)
    )
    return alone, read


def _resampled(
    knees: Knees,
    grading: Grading,
    other: OtherKnee | None,
    model: RiskModel,
    penalty: Penalty,
    config: RiskConfig,
) -> MultiState:
    """Fits to people drawn with replacement; the covariates' scale stays, as it is the model's."""
    x = standardise(_own(knees, grading, other), model.mean, model.scale)
    people, member = np.unique(knees.subject, return_inverse=True)
    rows_of = [np.flatnonzero(member == i) for i in range(len(people))]
    rng = np.random.default_rng((config.seed, len(people)))
    fits = []
    for _ in range(config.resamples):
        rows = np.concatenate([rows_of[i] for i in rng.integers(len(people), size=len(people))])
        fits.append(_fit(knees.select(rows), x[rows], penalty=penalty, config=config, carry_forward=True))
    return MultiState.stack(fits)


def _set_levels(
    knees: Knees, grading: Grading, other: OtherKnee | None, penalty: Penalty, config: RiskConfig
) -> tuple[Tensor, Tensor]:
    """Visits (V,) and levels (6, V), from forecasts of knees that the model was fitted without."""
    months = knees.series_months[1:]
    alone, read = cross_predict(
        knees, grading, months.tolist(), other=other, config=replace(config, penalties=(penalty,))
    )
    return torch.as_tensor(months).double(), set_levels(knees, alone.future, read.future)


def set_levels(knees: Knees, alone: Tensor, read: Tensor) -> Tensor:
    """Levels (6, V) of `RiskModel`, from forecasts (N, V, 5) of grades at the V visits: image only, and read grade."""
    start = torch.as_tensor(knees.grade)
    highest = torch.as_tensor(np.maximum.accumulate(knees.grade_series, axis=1)[:, 1:])
    seen = torch.as_tensor(np.logical_or.accumulate(knees.grade_series[:, 1:] >= 0, axis=1))
    levels = []
    for v, rows in enumerate(seen.unbind(dim=1)):
        grade = highest[rows, v]
        by_start = levels_by_start(alone[rows, v], start[rows], grade)
        levels.append([*by_start.tolist(), level_for(read[rows, v], grade)])
    return torch.tensor(levels, dtype=torch.float64).T


def _own(knees: Knees, grading: Grading, other: OtherKnee | None) -> Tensor:
    """Covariates of the grade that each knee was read as, (N, F)."""
    return covariates(grading, other)[torch.arange(len(knees)), torch.as_tensor(knees.grade).clamp(min=0)]


def _location_and_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    spread = x.std(dim=0)
    return x.mean(dim=0), torch.where(spread > 1e-4, spread, 1.0)


def _index(rows: npt.NDArray[np.int64]) -> Tensor:
    return torch.as_tensor(rows)


def _rows(other: OtherKnee | None, rows: npt.NDArray[np.int64]) -> OtherKnee | None:
    return None if other is None else other.rows(rows)


def _unread(other: OtherKnee | None) -> OtherKnee | None:
    return None if other is None else OtherKnee(other.grading, torch.full_like(other.grade, UNREAD))


def _fit(knees: Knees, x: Tensor, *, penalty: Penalty, config: RiskConfig, carry_forward: bool) -> MultiState:
    return fit_multistate(
        x,
        _readings(knees, carry_forward=carry_forward),
        clock_months=knees.series_months.tolist(),
        era_months=config.era_months,
        penalty=penalty,
    )


def _readings(knees: Knees, *, carry_forward: bool) -> Panel:
    return panel(
        torch.as_tensor(knees.grade_series), torch.as_tensor(knees.series_months), carry_forward=carry_forward
    )


def _splits(
    knees: Knees, *, folds: int, seed: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    fold = fold_of(knees.subject, folds=folds, seed=seed)
    for left_out in range(folds):
        yield np.flatnonzero(fold != left_out), np.flatnonzero(fold == left_out)


def _check(knees: Knees, grading: Grading) -> None:
    if len(grading.now) != len(knees):
        raise UsageError(f"expected gradings of the {len(knees)} knees, received {len(grading.now)}")
    if not bool(grading.now.isfinite().all()):
        raise UsageError(
            "some knees have no out-of-fold grading: let `progression train grader` finish first"
        )
