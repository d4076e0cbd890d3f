"""How near extrapolations come to the truth, for `extrapolation_phantom.py`, whose docstring states the question.

| symbol | meaning | shape |
|---|---|---|
| w_0 | refined code of the baseline film | (N, L, D) |
| offset | what a method adds to w_0 at each horizon | (N, H, D) |
| distance | between a prediction and a truth, in one metric | (N, H) |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import wilcoxon
from torch import Tensor

from progression.data.phantom import VISIT_MONTHS
from progression.errors import DependencyError
from progression.latent.bank import TrajectoryBank
from progression.latent.extrapolate import offset
from progression.latent.part import from_bytes
from progression.latent.transport import GradeTransport
from progression.metrics.grading import accuracy, quadratic_kappa
from progression.metrics.image import psnr, ssim
from progression.metrics.lpips import load_lpips
from progression.risk.grader import Grader, Grading
from progression.risk.model import RiskModel
from progression.stylegan2 import Generator

HORIZONS = (24.0, 48.0, 96.0)
KINDS = ("imaged", "graded")
NEIGHBOURS = (1, 5, 25)
SCALES = (0.25, 0.5, 0.75, 1.0)
_BATCH = 50
_DRAWS = 2000
VISITS = [VISIT_MONTHS.index(month) for month in HORIZONS]

Floats = NDArray[np.float64]
Metric = Callable[[Tensor], Tensor]
"""Pictures (N, 1, R, R) → (N, F), so that the metric is the Euclidean distance there (LPIPS: its square root)."""


@dataclass(frozen=True)
class Films:
    """Films of N subjects.

    Attributes
    ----------
    subject : (N,) number of the phantom
    images : (N, F, R, R) uint8; training subjects: one a visit; others: baseline, then (if any) the truths "film"
        and "same" at each of `HORIZONS`
    grade, severity : (N, 7) at all visits
    rate, visible : (N,) hidden truth: severity's rate, and what the baseline film shows of it
    """

    subject: Tensor
    images: Tensor
    grade: Tensor
    severity: Tensor
    rate: Tensor
    visible: Tensor

    @property
    def names(self) -> list[str]:
        """(N,) names as banks have them."""
        return [f"P{index}" for index in self.subject.tolist()]

    def rises(self, horizon: int) -> NDArray[np.bool_]:
        """Whose grade rises by `HORIZONS[horizon]`, (N,)."""
        return np.asarray(self.grade[:, VISITS[horizon]] > self.grade[:, 0])


@dataclass(frozen=True)
class Codes:
    """Search keys `key` (N, F, D) of all films, which are the encoder's; refined codes `ws` (N, 1 or 3, L, D) of the
    baseline and (where there are truths) of "film" and "same" at the last horizon."""

    ws: Tensor
    key: Tensor


@dataclass(frozen=True)
class Models:
    """What was trained and built."""

    generator: Generator
    grader: Grader
    risk: RiskModel
    banks: Mapping[str, TrajectoryBank]

    def render(self, ws: Tensor) -> Tensor:
        """Pictures of codes (N, L, D), (N, 1, R, R) in [-1, 1]."""
        parts = [self.generator.synthesis(part, noise_mode="const") for part in ws.split(_BATCH)]
        return torch.cat(parts).clamp(-1, 1)

    def grading(self, x: Tensor) -> Grading:
        """The grader's answer, batch by batch."""
        parts = [self.grader(part) for part in x.split(_BATCH)]
        return Grading(*(torch.cat([getattr(p, name) for p in parts]) for name in ("now", "future", "rise")))

    def transport(self) -> GradeTransport:
        """The grade transport of the graded bank's knees."""
        bank = self.banks["graded"]
        return GradeTransport.fit(bank.w, bank.grade_series[:, 0].long(), subject=bank.subject)


# ---- quality of the parts ----------------------------------------------------------------------------------------


def grading_quality(
    models: Models, films: Mapping[str, Films], codes: Mapping[str, Codes]
) -> dict[str, dict[str, float]]:
    """Accuracy and quadratic kappa on baseline films not trained on, and on their reconstructions."""
    x = torch.cat([from_bytes(films[split].images[:, 0]) for split in ("test", "more")])
    read = torch.cat([films[split].grade[:, 0] for split in ("test", "more")]).numpy()
    rendered = models.render(torch.cat([codes[split].ws[:, 0] for split in ("test", "more")]))
    found = {}
    for name, pictures in (("films", x), ("reconstructions", rendered)):
        now = models.grading(pictures).now.argmax(dim=1).numpy()
        found[name] = {"accuracy": accuracy(read, now), "quadratic_kappa": quadratic_kappa(read, now)}
    return found


def reconstruction(models: Models, films: Films, w0: Tensor) -> dict[str, float]:
    """Mean PSNR (dB) and SSIM of baseline films."""
    x, y = from_bytes(films.images[:, 0]), models.render(w0)
    return {
        "psnr": float(psnr(x, y, data_range=2).mean()),
        "ssim": float(ssim(x, y, data_range=2).mean()),
    }


# ---- extrapolation -----------------------------------------------------------------------------------------------


def bank_offset(bank: TrajectoryBank, key: Tensor, *, k: int) -> Tensor:
    """The paper's closed form with k neighbours, (N, H, D)."""
    return offset(*bank.trajectories(bank.search(key, k=k)), HORIZONS)


def choose(models: Models, films: Films, codes: Codes) -> dict[str, dict[str, float]]:
    """For each bank the k and the scale with the least mean grader distance at 96 months."""
    w0, key = codes.ws[:, 0], codes.key[:, 0]
    truth = models.grader.features(from_bytes(films.images[:, len(HORIZONS)]))
    carried = max(float((models.grader.features(models.render(w0)) - truth).norm(dim=1).mean()), 1e-12)
    found = {}
    for kind, bank in models.banks.items():
        tried = []
        for k in _at_most(NEIGHBOURS, len(bank)):
            change = bank_offset(bank, key, k=k)[:, -1, None, :]
            for scale in SCALES:
                features = models.grader.features(models.render(w0 + scale * change))
                tried.append((float((features - truth).norm(dim=1).mean()) / carried - 1, k, scale))
        best = min(tried)
        found[kind] = {"k": best[1], "scale": best[2], "relative": best[0]}
    return found


def all_offsets(
    models: Models, films: Films, codes: Codes, chosen: Mapping[str, Mapping[str, float]]
) -> dict[str, Tensor]:
    """Every method's offsets."""
    key, found = codes.key[:, 0], {}
    for kind, bank in models.banks.items():
        for k in _at_most((1, 5), len(bank)):
            found[f"{kind}, k = {k}"] = bank_offset(bank, key, k=k)
        best = chosen[kind]
        found[f"{kind}, chosen"] = best["scale"] * bank_offset(bank, key, k=int(best["k"]))
        mean = offset(bank.displacement[None], bank.interval_months[None], HORIZONS)
        found[f"{kind}, mean"] = mean.expand(len(key), -1, -1)
    transport, now = models.transport(), films.grade[:, 0]
    grading = models.grading(from_bytes(films.images[:, 0]))
    for name, read in (("picture", None), ("picture and read grade", now)):
        start, future = (
            models.risk.grade_now(grading, read),
            models.risk.predict(grading, HORIZONS, grade=read).future,
        )
        found[f"expected grades, {name}"] = transport.expected_displacement(key, start, future)
    told = [transport.displacement(key, now, films.grade[:, visit]) for visit in VISITS]
    found["own grades"] = torch.stack(told, dim=1)
    found["true change"] = codes.key[:, 1 + len(HORIZONS) :] - key[:, None]
    return found


def all_metrics(models: Models) -> dict[str, Metric]:
    """Named metrics; LPIPS only where its weights are installed."""
    found: dict[str, Metric] = {
        "grader": models.grader.features,
        "pixel": lambda x: x.flatten(1) / x[0].numel() ** 0.5,
        "grade": lambda x: models.grader(x).expected_grade[:, None],
    }
    try:
        lpips = load_lpips()
    except DependencyError:
        return found

    def perceptual(x: Tensor) -> Tensor:
        maps = lpips.features(x)
        heads = [lpips.get_buffer(f"head_{i}") for i in range(len(maps))]
        parts = [m * (h / m[0, 0].numel()).sqrt() for m, h in zip(maps, heads, strict=True)]
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    return found | {"LPIPS": perceptual}


def all_distances(
    models: Models, films: Films, codes: Codes, offsets: Mapping[str, Tensor]
) -> dict[tuple[str, str, str, str], Floats]:
    """Distances (N, H) by (metric, form, truth, method); method "carried" is the baseline carried forward.

    Form "rendered" is g(ŵ), beside all truths; "added" is x_0 + g(ŵ) − g(w_0), beside the two films.
    """
    n, h = len(codes.ws), len(HORIZONS)
    metrics = all_metrics(models)
    found: dict[tuple[str, str, str, str], Floats] = {}
    for rows in torch.arange(n).split(_BATCH):
        x0, w0 = from_bytes(films.images[rows, 0]), codes.ws[rows, 0]
        y0 = models.render(w0)
        carried = _embedded(metrics, {"rendered": y0, "added": x0})
        for t in range(h):
            pictures = {
                "film": from_bytes(films.images[rows, 1 + t]),
                "same": from_bytes(films.images[rows, 1 + h + t]),
            }
            if t == h - 1:
                pictures["code"] = models.render(codes.ws[rows, 1])
                pictures["code same"] = models.render(codes.ws[rows, 2])
            truths = _embedded(metrics, pictures)
            predictions = {"carried": carried}
            for method, change in offsets.items():
                y = models.render(w0 + change[rows, t, None])
                predictions[method] = _embedded(metrics, {"rendered": y, "added": (x0 + y - y0).clamp(-1, 1)})
            for method, forms in predictions.items():
                for (metric, form), place in forms.items():
                    for truth in list(pictures)[: 2 if form == "added" else None]:
                        apart = (place - truths[metric, truth]).norm(dim=1)
                        column = found.setdefault((metric, form, truth, method), np.full((n, h), np.nan))
                        column[rows.numpy(), t] = (apart.square() if metric == "LPIPS" else apart).numpy()
    return found


def compare(predicted: Floats, carried: Floats, *, draws: int = _DRAWS, seed: int = 0) -> dict[str, float]:
    """Paired comparison of distances (N,): negative differences mean that the prediction is nearer.

    `relative` is the difference of the means over the mean distance of the carried-forward baseline, with a 95 %
    bootstrap interval over subjects; `p` is Wilcoxon's signed-rank test, two-sided, pairs without difference dropped.
    """
    difference = predicted - carried
    index = np.random.default_rng(seed).integers(len(difference), size=(draws, len(difference)))
    scale = np.maximum(carried[index].mean(axis=1), 1e-12)
    low, high = np.quantile(difference[index].mean(axis=1) / scale, [0.025, 0.975])
    moved = difference[difference != 0]
    return {
        "subjects": len(difference),
        "carried": float(carried.mean()),
        "difference": float(difference.mean()),
        "relative": float(difference.mean() / max(carried.mean(), 1e-12)),
        "low": float(low),
        "high": float(high),
        "nearer": float((difference < 0).mean()),
        "p": float(wilcoxon(moved).pvalue) if len(moved) else 1.0,
    }


def all_comparisons(
    distances: Mapping[tuple[str, str, str, str], Floats], films: Films
) -> list[dict[str, Any]]:
    """Every method against the baseline carried forward, at each horizon and in each subgroup."""
    found = []
    for (metric, form, truth, method), values in distances.items():
        if method == "carried":
            continue
        carried = distances[metric, form, truth, "carried"]
        for t, months in enumerate(HORIZONS):
            rises = films.rises(t)
            for group, rows in (("all", rises | True), ("rise", rises), ("no rise", ~rises)):
                if rows.sum() >= 2 and np.isfinite(carried[rows, t]).all():
                    head = {"metric": metric, "form": form, "truth": truth, "method": method,
                            "months": months, "group": group}  # fmt: skip
                    found.append(head | compare(values[rows, t], carried[rows, t]))
    return found


def attenuation(
    models: Models, films: Films, codes: Codes, offsets: Mapping[str, Tensor]
) -> dict[str, dict[str, float]]:
    """Displacements of knees whose grade rises by 96 months beside the true one d ("same" − baseline, in W).

    `on_true`: slope of the method's displacement m on d, Σ m·d / Σ d·d; `calibration`: slope of d on m, above 1 where
    m is too short; `cosine`: median; `length`: Σ|m| / Σ|d|; `grade_change`: mean change of the grade that the grader
    sees in g(w_0 + m) against g(w_0). The film's own change of that grade, and the true one, stand beside.
    """
    rows = torch.from_numpy(films.rises(-1))
    if not bool(rows.any()):
        return {}
    w0, h = codes.ws[rows, 0], len(HORIZONS)
    true = offsets["true change"][rows, -1]
    moves = {name: change[rows, -1] for name, change in offsets.items()}
    moves["film to film"] = codes.key[rows, h] - codes.key[rows, 0]
    before = models.grading(models.render(w0)).expected_grade
    found = {}
    for name, move in moves.items():
        along = (move * true).sum(dim=1)
        after = models.grading(models.render(w0 + move[:, None])).expected_grade
        found[name] = {
            "on_true": float(along.sum() / true.square().sum()),
            "calibration": float(along.sum() / move.square().sum().clamp(min=1e-30)),
            "cosine": float(torch.cosine_similarity(move, true, dim=1).median()),
            "length": float(move.norm(dim=1).sum() / true.norm(dim=1).sum()),
            "grade_change": float((after - before).mean()),
        }
    seen = [models.grading(from_bytes(films.images[rows, film])).expected_grade for film in (0, h, 2 * h)]
    risen = (films.grade[rows, -1] - films.grade[rows, 0]).float().mean()
    found["films"] = {
        "knees": int(rows.sum()),
        "true_grade_change": float(risen),
        "seen_in_film": float((seen[1] - seen[0]).mean()),
        "seen_in_same": float((seen[2] - seen[0]).mean()),
    }
    return found


def _embedded(metrics: Mapping[str, Metric], pictures: Mapping[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    return {(m, name): metric(x) for m, metric in metrics.items() for name, x in pictures.items()}


def _at_most(numbers: tuple[int, ...], most: int) -> list[int]:
    return [number for number in numbers if number <= most]
