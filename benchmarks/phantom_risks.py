"""Whether risks separate phantoms that progress from those that do not, for `extrapolation_phantom.py`.

Two settings, never mixed: the image only, and the image with the baseline grade as read. The ceiling is a logistic
model on what the simulator puts into the baseline film.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from phantom_films import HORIZONS, VISITS, Films
from phantom_measures import Floats, Models
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from progression.data.outcomes import Event
from progression.errors import UsageError
from progression.latent.expected import step_chances
from progression.latent.extrapolate import offset
from progression.latent.part import from_bytes
from progression.metrics.auc import auc_delong, delong_test
from progression.risk.risk import product_risk

TENDENCY_NEIGHBOURS = 25


def risks(models: Models, train: Films, parts: Sequence[Films], keys: Sequence[Tensor]) -> dict[str, Any]:
    """AUCs of fast and any rise by 48 and 96 months, and what goes with the hidden rate, on the subjects of `parts`.

    `keys` are their codes, (N, F, D) each.
    """
    images, grade, severity = (
        torch.cat([field[:, :last] for field in fields])
        for fields, last in (
            ([part.images for part in parts], 1),
            ([part.grade for part in parts], None),
            ([part.severity for part in parts], None),
        )
    )
    visible, rate = (torch.cat([getattr(part, name) for part in parts]) for name in ("visible", "rate"))
    key = torch.cat([codes[:, 0] for codes in keys])
    grading, rebuilt = models.grading(from_bytes(images[:, 0])), models.grading(models.render(key))
    alone = models.risk.predict(grading, HORIZONS)
    read = models.risk.predict(grading, HORIZONS, grade=grade[:, 0])
    chances = step_chances(models.risk.grade_now(grading), alone.future)
    code_alone = models.code_risk.predict(grading, key, HORIZONS)
    code_read = models.code_risk.predict(grading, key, HORIZONS, grade=grade[:, 0])
    change: dict[str, Tensor] = {}
    future: dict[str, Tensor] = {}
    for kind, bank in models.banks.items():
        moves = {
            kind: offset(*bank.trajectories(bank.search(key, k=min(5, len(bank)))), HORIZONS),
            f"{kind} joint": models.steps[kind].displacement_at(key, chances),
        }
        for name, move in moves.items():
            now = [models.grading(models.render(key + move[:, t])).now for t in range(len(HORIZONS))]
            future[name] = torch.stack(now, dim=1)
            change[name] = (future[name] - rebuilt.now[:, None]) @ torch.arange(5.0)
    tendency = models.banks["graded"]
    near = tendency.search(key, k=min(TENDENCY_NEIGHBOURS, len(tendency))).index
    rows, separation = [], {}
    for t in (1, 2):
        rose = (tendency.grade_series[:, VISITS[t]] - tendency.grade_series[:, 0]).float()
        for event, name in ((Event.FAST, "fast"), (Event.ANY, "any")):
            y = grade[:, VISITS[t]] - grade[:, 0] >= event.rise
            asked = grade[:, 0] <= event.highest_baseline
            known = train.grade[:, 0] <= event.highest_baseline
            y_train = train.grade[known, VISITS[t]] - train.grade[known, 0] >= event.rise
            rates = torch.tensor([_mean(y_train[train.grade[known, 0] == k]) for k in range(5)])
            place = {"fast": 0, "any": 1}[name]
            seen = {
                "grade as the grader sees it": grading.expected_grade,
                f"rises among {TENDENCY_NEIGHBOURS} neighbours": (rose[near] >= event.rise)
                .float()
                .mean(dim=1),
                "multi-state model": getattr(alone, name)[:, t],
                "multi-state model, and code": code_alone[place][:, t],
            }
            for name_of, p_future in future.items():
                seen[f"product, {name_of}"] = product_risk(grading.now, p_future)[place][:, t]
                seen[f"predicted change of grade, {name_of}"] = change[name_of][:, t]
            signs = (train.severity[known, 0], train.visible[known])
            scores = {
                "image only": seen,
                "image and read grade": {
                    "read grade alone": rates[grade[:, 0]],
                    "multi-state model": getattr(read, name)[:, t],
                    "multi-state model, and code": code_read[place][:, t],
                },
                "ceiling": {
                    "all that the simulator shows": _ceiling(*signs, y_train, severity[:, 0], visible)
                },
            }
            if event is Event.ANY and t == 2:
                separation = {
                    f"{setting}: {label}": _spearman(score, severity[:, -1] - severity[:, 0], rate, visible)
                    for setting, found in scores.items()
                    for label, score in found.items()
                }
            for setting, found in scores.items():
                reference = found.get("grade as the grader sees it", found.get("read grade alone"))
                for label, score in found.items():
                    head = {"event": name, "months": HORIZONS[t], "setting": setting, "score": label}
                    rows.append(head | _auc(y[asked], score[asked], reference, asked))
    return {"auc": rows, "spearman": separation}


def _auc(y: Tensor, score: Tensor, reference: Tensor | None, asked: Tensor) -> dict[str, float]:
    found: dict[str, float] = {"knees": len(y), "events": int(y.sum())}
    try:
        area, (low, high) = auc_delong(y.numpy(), score.numpy())
    except UsageError:  # no events in a tiny cohort
        return found
    found |= {"auc": area, "low": low, "high": high}
    if reference is not None:
        found["p"] = delong_test(y.numpy(), score.numpy(), reference[asked].numpy())[1]
    return found


def _spearman(score: Tensor, change: Tensor, rate: Tensor, visible: Tensor) -> dict[str, float]:
    """Rank correlation with the true change of severity by 96 months, the hidden rate, and its visible part."""
    if bool((score == score[0]).all()):
        return {}
    pairs = (("severity_change", change), ("rate", rate), ("visible", visible))
    return {name: float(spearmanr(score.numpy(), truth.numpy()).statistic) for name, truth in pairs}


def _ceiling(
    severity: Tensor, visible: Tensor, y: Tensor, severity_test: Tensor, visible_test: Tensor
) -> Tensor:
    """Logistic model on the simulator's own visible signs: grade, place within the grade, signs of the rate."""
    if bool(y.all()) or not bool(y.any()):
        return torch.zeros(len(severity_test))

    def signs(s: Tensor, v: Tensor) -> Floats:
        stage = torch.nn.functional.one_hot(s.long().clamp(max=4), 5).float()
        return np.asarray(torch.cat([stage, stage * (s % 1)[:, None], stage * v[:, None]], dim=1))

    model = LogisticRegression(C=10, max_iter=2000).fit(signs(severity, visible), y.numpy())
    return torch.from_numpy(model.decision_function(signs(severity_test, visible_test)))


def _mean(values: Tensor) -> float:
    return float(values.float().mean()) if len(values) else 0.0
