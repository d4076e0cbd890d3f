"""From tensors of a batch to what is told of each knee, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from progression import __version__
from progression.asked import Asked
from progression.engine import Engine
from progression.image import exposure, from_model
from progression.latent.bank import Neighbours
from progression.latent.history import Past
from progression.latent.spread import PERCENTILES
from progression.risk.forecast import Forecast
from progression.risk.risk import product_excess, product_risk
from progression.types import EarlierFilm, HorizonPrediction, Prediction, Request, SpreadPicture
from progression.weights import ModelFiles

DISAGREEMENT = 0.01
"""Probability of the read grade, by the grader, under which reading and picture are said to disagree."""


@dataclass(frozen=True)
class Between:
    """Futures of N knees at H horizons and P percentiles: change in grades (N, H, P), images (N, H, P, 1, R, R)."""

    change: Tensor
    images: Tensor


@dataclass(frozen=True)
class Found:
    """What was found of N knees at H horizons.

    Attributes
    ----------
    baseline, reconstruction : (N, 1, R, R)
    typicality : (N,)
    futures : (N, H, 1, R, R)
    p_now, p_rebuilt, p_future : (N, 5), (N, 5), (N, H, 5), gradings of radiograph, reconstruction and futures
    neighbours : in the bank
    forecast : of the risk part; None without one
    past : what earlier films say; None where no knee has any
    between : the spread, if asked for
    """

    baseline: Tensor
    reconstruction: Tensor
    typicality: Tensor
    futures: Tensor
    p_now: Tensor
    p_rebuilt: Tensor
    p_future: Tensor
    neighbours: Neighbours
    forecast: Forecast | None
    past: Past | None
    between: Between | None


def answers(
    found: Found,
    asked: Asked,
    horizon_months: Sequence[int],
    *,
    warnings: Sequence[tuple[str, ...]],
    provenance: dict[str, Any],
    render: bool,
) -> list[Prediction]:
    """One prediction a knee; without `render` they carry no follow-up pictures.

    With a forecast their provenance carries `kl_start`: probability of each grade now, from which the risks and
    `kl_read` start; certainty of a grade that was read.
    """
    product = torch.stack(product_risk(found.p_now, found.p_future), dim=-1)
    beyond = product_excess(found.p_rebuilt, found.p_future)
    # without a risk part the product's running maximum over the horizons asked for
    forecast = found.forecast
    risk = (
        torch.stack([forecast.risk.fast, forecast.risk.any], dim=-1)
        if forecast
        else torch.cummax(product, dim=1).values
    )
    predictions = []
    for i, radiograph in enumerate(asked.radiographs):
        shown = partial(from_model, side=radiograph.side, exposure=exposure(radiograph.pixels))
        horizons = tuple(
            HorizonPrediction(
                horizon_months=month,
                image=shown(found.futures[i, h]) if render else None,
                risk_fast=float(risk[i, h, 0]),
                risk_any=float(risk[i, h, 1]),
                risk_fast_product=float(product[i, h, 0]),
                risk_any_product=float(product[i, h, 1]),
                kl_future=tuple(found.p_future[i, h].tolist()),
                risk_fast_excess=float(beyond[i, h, 0]),
                risk_any_excess=float(beyond[i, h, 1]),
                **_sureness(forecast, i, h),
                spread=_spread(found.between, i, h, shown if render else None),
            )
            for h, month in enumerate(horizon_months)
        )
        predictions.append(
            Prediction(
                name=radiograph.name,
                side=radiograph.side,
                horizons=horizons,
                baseline=shown(found.baseline[i]),
                reconstruction=shown(found.reconstruction[i]),
                kl_now=tuple(found.p_now[i].tolist()),
                typicality=float(found.typicality[i]),
                neighbour_distances=tuple(found.neighbours.distance[i].tolist()),
                other_knee=forecast is not None and bool(forecast.with_other[i]),
                warnings=(*warnings[i], *_disagreement(asked.grades[i], found.p_now[i])),
                provenance=provenance
                | {"grade_read": asked.grades[i], "other_grade_read": asked.other_grades[i]}
                | _told(asked.histories[i], found.past, i)
                | ({"kl_start": forecast.now[i].tolist()} if forecast else {}),
            )
        )
    return predictions


OF_A_RUN = ("versions", "model", "weights_sha256", "device", "engine", "seed", "arguments", "objective")
"""Keys of a prediction's provenance that are the same for all knees; the others are its own."""


def provenance(
    request: Request,
    *,
    files: ModelFiles,
    bank_hash: str,
    device: torch.device,
    engine: Engine,
    neighbours: int,
) -> dict[str, Any]:
    """Versions, weights' hashes, device, engine and arguments; JSON-serialisable."""
    return {
        "versions": {"progression": __version__, "torch": torch.__version__, "numpy": np.__version__},
        "model": files.name,
        "weights_sha256": files.hashes() | {"bank": bank_hash},
        "device": device.type,
        "engine": engine.provenance(),
        "seed": request.seed,
        "arguments": asdict(request) | {"refine_steps": request.steps, "neighbours": neighbours},
    }


def _spread(
    between: Between | None, knee: int, horizon: int, shown: partial[Any] | None
) -> tuple[SpreadPicture, ...]:
    if between is None:
        return ()
    change, images = between.change[knee, horizon], between.images[knee, horizon]
    return tuple(
        SpreadPicture(percentile, float(change[p]), shown(images[p]) if shown else None)
        for p, percentile in enumerate(PERCENTILES)
    )


def _sureness(forecast: Forecast | None, knee: int, horizon: int) -> dict[str, Any]:
    """Fields of a `HorizonPrediction`: what is expected to be read, and how sure that is."""
    if forecast is None:
        return {}
    risk = forecast.risk
    found: dict[str, Any] = {"kl_read": tuple(risk.future[knee, horizon].tolist())}
    for event, interval in (("fast", risk.fast_interval), ("any", risk.any_interval)):
        if interval is not None:
            found[f"risk_{event}_interval"] = tuple(interval[knee, horizon].tolist())
    if risk.grade_set is not None and bool(risk.grade_set[knee, horizon].any()):
        found["kl_set"] = tuple(risk.grade_set[knee, horizon].nonzero()[:, 0].tolist())
    return found


def _disagreement(read: int | None, seen: Tensor) -> tuple[str, ...]:
    """A warning where the grader hardly sees in the picture, (5,), what a reader called it."""
    if read is None or float(seen[read]) >= DISAGREEMENT:
        return ()
    return (
        f"read as grade {read}, but the picture looks like grade {int(seen.argmax())} (grade {read}: under "
        f"{DISAGREEMENT:.0%}): reading and picture disagree, check both",
    )


def _told(films: Sequence[EarlierFilm], past: Past | None, i: int) -> dict[str, Any]:
    """For the provenance: the earlier films of knee i, and the pace that they gave."""
    if past is None or not films:
        return {}
    told = [{"months_before": film.months_before, "grade_read": film.grade} for film in films]
    return {"history": told, "pace": float(past.pace[i])}
