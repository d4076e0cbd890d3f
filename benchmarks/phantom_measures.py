"""How near extrapolations come to the truth, for `extrapolation_phantom.py`, whose docstring states the question.

| symbol | meaning | shape |
|---|---|---|
| w_0 | the encoder's code of the baseline film, also the search key | (N, D) |
| offset | what a method adds to w_0 at each horizon | (N, H, D) |
| distance | between a prediction and a truth, in one metric | (N, H) |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from code_risk import CodeRisk
from numpy.typing import NDArray
from phantom_films import HORIZONS, VISITS, Films
from scipy.stats import ttest_rel, wilcoxon
from torch import Tensor

from progression.errors import DependencyError
from progression.latent.bank import TrajectoryBank
from progression.latent.expected import STEPS, StepEffects, step_chances
from progression.latent.extrapolate import offset
from progression.latent.part import from_bytes
from progression.latent.transport import GradeTransport
from progression.metrics.grading import accuracy, quadratic_kappa
from progression.metrics.image import psnr, ssim
from progression.metrics.lpips import load_lpips
from progression.risk.grader import Grader, Grading
from progression.risk.model import RiskModel
from progression.stylegan2 import Generator

KINDS = ("imaged", "graded")
NEIGHBOURS = (1, 5, 25, 100)
SCALES = (0.25, 0.5, 0.75, 1.0)
_BATCH = 50
_DRAWS = 2000
PRIMARY = tuple(f"{kind}, {name}" for kind in KINDS for name in ("chosen", "joint"))

Floats = NDArray[np.float64]
Metric = Callable[[Tensor], Tensor]
"""Pictures (N, 1, R, R) → (N, F), so that the metric is the Euclidean distance there (LPIPS: its square root)."""


@dataclass(frozen=True)
class Models:
    """What was trained and built."""

    generator: Generator
    grader: Grader
    risk: RiskModel
    code_risk: CodeRisk
    banks: Mapping[str, TrajectoryBank]

    @cached_property
    def steps(self) -> dict[str, StepEffects]:
        """What each bank says of how a step of the grade looks."""
        return {kind: StepEffects.fit(bank) for kind, bank in self.banks.items()}

    @cached_property
    def unseen(self) -> Grader:
        """The grader's networks that the generator was not trained with."""
        return Grader(self.grader.members[1:], input_resolution=self.grader.input_resolution)

    def render(self, w: Tensor) -> Tensor:
        """Pictures of codes (N, D), the same in all layers, (N, 1, R, R) in [-1, 1]."""
        ws = w[:, None].expand(-1, self.generator.num_ws, -1)
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


def grading_quality(models: Models, images: Tensor, read: Tensor, w0: Tensor) -> dict[str, dict[str, float]]:
    """Accuracy and quadratic kappa on films not trained on, and on their reconstructions."""
    found = {}
    for name, pictures in (("films", from_bytes(images)), ("reconstructions", models.render(w0))):
        now = models.grading(pictures).now.argmax(dim=1).numpy()
        scores = {
            "accuracy": accuracy(read.numpy(), now),
            "quadratic_kappa": quadratic_kappa(read.numpy(), now),
        }
        found[name] = scores
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


def choose(models: Models, films: Films, key: Tensor) -> dict[str, dict[str, float]]:
    """For each bank the k and the scale with the least mean distance to the film at 96 months."""
    w0 = key[:, 0]
    truth = models.unseen.features(from_bytes(films.images[:, len(HORIZONS)]))
    carried = max(float((models.unseen.features(models.render(w0)) - truth).norm(dim=1).mean()), 1e-12)
    found = {}
    for kind, bank in models.banks.items():
        tried = []
        for k in _at_most(NEIGHBOURS, len(bank)):
            change = bank_offset(bank, w0, k=k)[:, -1]
            for scale in SCALES:
                features = models.unseen.features(models.render(w0 + scale * change))
                tried.append((float((features - truth).norm(dim=1).mean()) / carried - 1, k, scale))
        best = min(tried)
        found[kind] = {"k": best[1], "scale": best[2], "relative": best[0]}
    return found


def primary_offsets(
    models: Models, grading: Grading, key: Tensor, chosen: Mapping[str, Mapping[str, float]]
) -> dict[str, Tensor]:
    """Offsets of the methods that were stated as primary."""
    risk = models.risk
    chances = step_chances(risk.grade_now(grading), risk.predict(grading, HORIZONS).future)
    found = {}
    for kind, bank in models.banks.items():
        best = chosen[kind]
        found[f"{kind}, chosen"] = best["scale"] * bank_offset(bank, key, k=int(best["k"]))
        found[f"{kind}, joint"] = models.steps[kind].displacement_at(key, chances)
    return found


def all_offsets(
    models: Models, films: Films, codes: Tensor, chosen: Mapping[str, Mapping[str, float]]
) -> dict[str, Tensor]:
    """Every method's offsets."""
    key, grade = codes[:, 0], films.grade
    grading = models.grading(from_bytes(films.images[:, 0]))
    found = primary_offsets(models, grading, key, chosen)
    read = models.risk.predict(grading, HORIZONS, grade=grade[:, 0]).future
    chances = {
        "joint, read grade": step_chances(models.risk.grade_now(grading, grade[:, 0]), read),
        "joint, chances from code too": models.code_risk.predict(grading, key, HORIZONS)[2],
    }
    order = torch.arange(STEPS)
    made = torch.stack(
        [(grade[:, :1] <= order) & (order < grade[:, visit, None]) for visit in VISITS], dim=1
    ).float()
    for kind, bank in models.banks.items():
        for k in _at_most((5,), len(bank)):
            found[f"{kind}, k = {k}"] = bank_offset(bank, key, k=k)
        steps = models.steps[kind]
        mean = offset(bank.displacement[None], bank.interval_months[None], HORIZONS)
        found[f"{kind}, mean"] = mean.expand(len(key), -1, -1)
        for name, chance in chances.items():
            found[f"{kind}, {name}"] = steps.displacement_at(key, chance)
        found[f"{kind}, own grades"] = steps.displacement_at(key, made)
    years = torch.tensor(HORIZONS)[:, None] / 12
    found["imaged, joint and drift"] = (
        found["imaged, joint"] + years * models.steps["imaged"].drift(key)[:, None]
    )
    transport = models.transport()
    told = [transport.displacement(key, grade[:, 0], grade[:, visit]) for visit in VISITS]
    found["own grades"] = torch.stack(told, dim=1)
    found["true change"] = codes[:, 1 + len(HORIZONS) :] - key[:, None]
    return found


def all_metrics(models: Models, *, lpips: bool) -> dict[str, Metric]:
    """Named metrics; LPIPS only where it is asked for and its weights are installed."""
    found: dict[str, Metric] = {"grader": models.unseen.features}
    if not lpips:
        return found
    try:
        network = load_lpips()
    except DependencyError:
        return found

    def perceptual(x: Tensor) -> Tensor:
        maps = network.features(x)
        heads = [network.get_buffer(f"head_{i}") for i in range(len(maps))]
        parts = [m * (h / m[0, 0].numel()).sqrt() for m, h in zip(maps, heads, strict=True)]
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    return found | {"LPIPS": perceptual}


def all_distances(
    models: Models,
    films: Films,
    codes: Tensor,
    offsets: Mapping[str, Tensor],
    *,
    metrics: Mapping[str, Metric],
) -> dict[tuple[str, str, str, str], Floats]:
    """Distances (N, H) by (metric, form, truth, method); method "carried" is the baseline carried forward.

    Form "rendered" is g(ŵ); "added" is x_0 + g(ŵ) − g(w_0). Before the last horizon only the primary methods are
    measured, NaN for the others.
    """
    n, h = len(codes), len(HORIZONS)
    found: dict[tuple[str, str, str, str], Floats] = {}
    for rows in torch.arange(n).split(_BATCH):
        x0, w0 = from_bytes(films.images[rows, 0]), codes[rows, 0]
        y0 = models.render(w0)
        carried = _embedded(metrics, {"rendered": y0, "added": x0})
        for t in range(h):
            pictures = {
                "film": from_bytes(films.images[rows, 1 + t]),
                "same": from_bytes(films.images[rows, 1 + h + t]),
            }
            truths = _embedded(metrics, pictures)
            predictions = {"carried": carried}
            for method, change in offsets.items():
                if t < h - 1 and method not in PRIMARY:
                    continue
                y = models.render(w0 + change[rows, t])
                predictions[method] = _embedded(metrics, {"rendered": y, "added": (x0 + y - y0).clamp(-1, 1)})
            for method, forms in predictions.items():
                for (metric, form), place in forms.items():
                    for truth in pictures:
                        apart = (place - truths[metric, truth]).norm(dim=1)
                        column = found.setdefault((metric, form, truth, method), np.full((n, h), np.nan))
                        column[rows.numpy(), t] = (apart.square() if metric == "LPIPS" else apart).numpy()
    return found


def compare(predicted: Floats, carried: Floats, *, draws: int = _DRAWS, seed: int = 0) -> dict[str, float]:
    """Paired comparison of distances (N,): negative differences mean that the prediction is nearer.

    `relative` is the difference of the means over the mean distance of the carried-forward baseline, with a 95 %
    bootstrap interval over subjects; `p_mean` is the paired t-test; `p` is Wilcoxon's signed-rank test, pairs without
    difference dropped. Both two-sided.
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
        "p_mean": float(ttest_rel(predicted, carried).pvalue) if np.ptp(difference) > 0 else 1.0,
        "p": float(wilcoxon(moved).pvalue) if len(moved) else 1.0,
    }


def confirmation(
    models: Models, films: Films, later: Tensor, key: Tensor, offsets: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """The primary comparisons on subjects with a baseline film and one at the last horizon, `later` (N, R, R)."""
    eyes, apart = models.unseen.features, dict[tuple[str, str], list[Tensor]]()
    for rows in torch.arange(len(key)).split(_BATCH):
        x0, w0 = from_bytes(films.images[rows, 0]), key[rows]
        y0, truth = models.render(w0), eyes(from_bytes(later[rows]))
        shown = {"carried": y0} | {
            name: models.render(w0 + change[rows, -1]) for name, change in offsets.items()
        }
        for name, y in shown.items():
            for form, picture in (("rendered", y), ("added", (x0 + y - y0).clamp(-1, 1))):
                apart.setdefault((form, name), []).append((eyes(picture) - truth).norm(dim=1))
    distance = {head: torch.cat(parts).double().numpy() for head, parts in apart.items()}
    head = {"metric": "grader", "truth": "film", "months": HORIZONS[-1], "group": "all"}
    return primary([
        head | {"method": name, "form": form} | compare(values, distance[form, "carried"])
        for (form, name), values in distance.items()
        if name != "carried"
    ])  # fmt: skip


def primary(
    comparisons: Sequence[Mapping[str, Any]], *, months: Sequence[float] = HORIZONS[-1:]
) -> list[dict[str, Any]]:
    """The comparisons stated beforehand, eight a horizon, with Holm's p over the t-tests of all (`p_holm`)."""
    rows = [
        dict(row)
        for row in comparisons
        if row["metric"] == "grader" and row["truth"] == "film" and row["months"] in months
        and row["group"] == "all" and row["method"] in PRIMARY
    ]  # fmt: skip
    highest = 0.0
    for place, row in enumerate(sorted(rows, key=lambda row: row["p_mean"])):
        highest = max(highest, min(1.0, (len(rows) - place) * row["p_mean"]))
        row["p_holm"] = highest
    return rows


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
                if rows.sum() >= 2 and np.isfinite(values[rows, t]).all():
                    head = {"metric": metric, "form": form, "truth": truth, "method": method,
                            "months": months, "group": group}  # fmt: skip
                    found.append(head | compare(values[rows, t], carried[rows, t]))
    return found


def attenuation(
    models: Models, films: Films, codes: Tensor, offsets: Mapping[str, Tensor]
) -> dict[str, dict[str, float]]:
    """Displacements of knees whose grade rises by 96 months beside the true one d ("same" − baseline, in W).

    `on_true`: slope of the method's displacement m on d, Σ m·d / Σ d·d; `calibration`: slope of d on m, above 1 where
    m is too short; `cosine`: median; `length`: Σ|m| / Σ|d|; `grade_change`: mean change of the grade that the grader
    sees in g(w_0 + m) against g(w_0). The film's own change of that grade, and the true one, stand beside.
    """
    rows = torch.from_numpy(films.rises(-1))
    if not bool(rows.any()):
        return {}
    w0, h = codes[rows, 0], len(HORIZONS)
    true = offsets["true change"][rows, -1]
    moves = {name: change[rows, -1] for name, change in offsets.items()}
    moves["film to film"] = codes[rows, h] - w0
    before = models.grading(models.render(w0)).expected_grade
    found = {}
    for name, move in moves.items():
        along = (move * true).sum(dim=1)
        after = models.grading(models.render(w0 + move)).expected_grade
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
