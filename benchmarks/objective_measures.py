"""What `objective_phantom.py` measures: terms of the objective, earlier films, spreads. Its docstring states the
questions.

Symbols as in `phantom_measures.py`; films of a subject are at `MONTHS`, and horizons are counted from the film that a
prediction starts from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from linear_codes import LinearModels
from phantom_films import Films
from phantom_measures import Floats, compare
from spread_coverage import covered
from torch import Tensor

from progression.data.phantom import VISIT_MONTHS
from progression.latent.attributes import Gauge
from progression.latent.directions import Directions
from progression.latent.expected import step_chances
from progression.latent.history import Past, Visits, joint_grades, own_rate
from progression.latent.objective import (
    Ground,
    Observed,
    OwnRate,
    Weights,
    grade_probe,
    solve,
    spread_of_rates,
)
from progression.latent.part import from_bytes
from progression.latent.spread import PERCENTILES, change_at, steps_at, steps_made
from progression.latent.whiten import Whitening
from progression.metrics.auc import auc_delong
from progression.risk.grader import Grading

MONTHS = (0.0, 24.0, 48.0, 72.0, 96.0)
"""Films of subjects that are not trained on."""
SHOWN = tuple(VISIT_MONTHS.index(month) for month in MONTHS)
NOW = 2
"""Place of the film, at 48 months, from which is predicted with earlier films."""
ALL, HALF = (1, 2, 3, 4), (2, 4)
"""Films to which the primary methods, and single terms, are compared."""
KEPT = ("exposure", "contrast", "size")
K = 5

GRID: Mapping[str, tuple[Weights, ...]] = {
    "neighbours": tuple(Weights(neighbours=n) for n in (0.1, 0.3, 1.0)),
    "neighbours, alike": tuple(Weights(neighbours=n, similarity=b) for n in (0.1, 0.3, 1.0) for b in (2.0,)),
    "manifold": tuple(Weights(manifold=m) for m in (0.01, 0.1, 1.0)),
    "kept": tuple(Weights(kept=k) for k in (10.0, 1000.0)),
    "grade": (Weights(grade=1e4),),
    "all": (Weights(neighbours=0.1, similarity=2.0, manifold=0.01, kept=10.0, grade=1e4),),
}
"""Terms beside the expected change, and the weights that validation subjects choose from."""
BORROWED: Mapping[str, tuple[Weights, ...]] = {
    f"paper + {name}": tuple(replace(w, expected=0.0, neighbours=1.0) for w in tried)
    for name, tried in {
        "alike": (Weights(similarity=2.0), Weights(similarity=10.0)),
        "manifold": GRID["manifold"],
        "kept": GRID["kept"],
        "grade": GRID["grade"],
    }.items()
}
"""The same terms beside the neighbours of the paper's closed form."""


@dataclass(frozen=True)
class Setting:
    """Subjects not trained on, and what predicts them.

    Attributes
    ----------
    models : what was trained and built
    directions : fitted on training subjects' codes and rendered pictures
    films : of N subjects, (N, 5) of them
    key : (N, 5, D) codes
    """

    models: LinearModels
    directions: Directions
    films: Films
    key: Tensor

    @cached_property
    def gradings(self) -> list[Grading]:
        """Of each film."""
        return [self.models.grading(from_bytes(self.films.images[:, place])) for place in range(len(MONTHS))]

    @cached_property
    def truth(self) -> list[Tensor]:
        """Features of each film by the grader's networks."""
        return [self.models.features(from_bytes(self.films.images[:, i])) for i in range(len(MONTHS))]

    @property
    def grade(self) -> Tensor:
        """(N, 5) at `MONTHS`."""
        return self.films.grade[:, list(SHOWN)]

    @property
    def unread(self) -> Tensor:
        """(N,) no grade for anybody."""
        return torch.full((len(self.key),), -1)

    def ground(self, kind: str) -> Ground:
        """What the terms stand on, from a bank's rows: where real codes are."""
        bank = self.models.banks[kind]
        kept = torch.tensor([name in KEPT for name in self.directions.names])
        probe = grade_probe(bank.w, bank.grade_series[:, 0].long())
        return Ground(Whitening.fit(bank.w), self.directions.effect, kept, probe)

    def expected(self, kind: str, joint: Tensor, *, place: int) -> Tensor:
        """The expected change (N, H, D), given P(k_0, k_T)."""
        chances = step_chances(joint[:, 0].sum(dim=2), joint.sum(dim=2))
        return self.models.steps[kind].displacement_at(self.key[:, place], chances)

    def neighbours(self, kind: str, *, place: int) -> Observed:
        """The paper's neighbours."""
        bank = self.models.banks[kind]
        found = bank.search(self.key[:, place], k=min(K, len(bank)))
        variance = spread_of_rates(bank.displacement, bank.interval_months)
        return Observed(*bank.trajectories(found), found.distance, variance)


def fit_directions(models: LinearModels) -> Directions:
    """Directions of what is seen in pictures rendered from the bank's codes."""
    w = models.banks["graded"].w
    gauge = Gauge(models.grader)
    parts = [gauge(models.render(part)) for part in w.split(200)]
    seen = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Directions.fit(w, {name: values for name, values in seen.items() if float(values.std()) > 0})


def distances(setting: Setting, change: Tensor, films: Sequence[int], *, place: int) -> Floats:
    """(N, F) distance of g(w_0 + δ) to some of the films after that at `place`; δ (N, H, D) to each film after it."""
    w0, rows = setting.key[:, place], []
    for film in films:
        seen = setting.models.features(setting.models.render(w0 + change[:, film - place - 1]))
        rows.append((seen - setting.truth[film]).norm(dim=1))
    return torch.stack(rows, dim=1).double().numpy()


# ---- terms -------------------------------------------------------------------------------------------------------


def terms(
    setting: Setting, grids: Mapping[str, Mapping[str, Sequence[Weights]]]
) -> dict[tuple[str, str], list[tuple[Weights, Floats]]]:
    """Distances by (bank, term), (N, 2), for each weight, and by (bank, "carried" | "paper" | "joint"), (N, 4)."""
    risk, months = setting.models.risk, MONTHS[1:]
    joint = joint_grades(risk, setting.gradings[0], setting.unread, months)
    still = torch.zeros(len(setting.key), len(months), setting.key.shape[2])
    found = {}
    for kind in setting.models.banks:
        e, near, ground = (
            setting.expected(kind, joint, place=0),
            setting.neighbours(kind, place=0),
            setting.ground(kind),
        )

        def change(weights: Weights, e: Tensor = e, near: Observed = near, ground: Ground = ground) -> Tensor:
            return solve(
                setting.key[:, 0], months, weights=weights, expected=e, neighbours=near, ground=ground
            )

        found[kind, "carried"] = [(Weights(), distances(setting, still, ALL, place=0))]
        found[kind, "paper"] = [
            (p := Weights(expected=0, neighbours=1), distances(setting, change(p), ALL, place=0))
        ]
        found[kind, "joint"] = [(Weights(), distances(setting, change(Weights()), ALL, place=0))]
        for name, tried in grids[kind].items():
            found[kind, name] = [(w, distances(setting, change(w), HALF, place=0)) for w in tried]
    return found


def best(tried: Sequence[tuple[Weights, Floats]]) -> Weights:
    """The weights with the least mean distance over subjects and horizons."""
    return min(tried, key=lambda one: float(one[1].mean()))[0]


def holm(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with Holm's p over their t-tests."""
    done, highest = [dict(row) for row in rows], 0.0
    for place, row in enumerate(sorted(done, key=lambda row: row["p_mean"])):
        highest = max(highest, min(1.0, (len(done) - place) * row["p_mean"]))
        row["p_holm"] = highest
    return done


def primary(found: Mapping[tuple[str, str], Sequence[tuple[Weights, Floats]]]) -> list[dict[str, Any]]:
    """`joint` against the baseline carried forward and against the paper's form, at each horizon and bank."""
    rows = []
    for kind in sorted({kind for kind, _ in found}):
        for other in ("carried", "paper"):
            for h, months in enumerate(MONTHS[1:]):
                ours, theirs = found[kind, "joint"][0][1][:, h], found[kind, other][0][1][:, h]
                rows.append({"bank": kind, "against": other, "months": months} | compare(ours, theirs))
    return holm(rows)


def ablation(found: Mapping[tuple[str, str], Sequence[tuple[Weights, Floats]]]) -> list[dict[str, Any]]:
    """Each term, by its mean distance at 48 and 96 months, against what it was added to."""
    rows = []
    for (kind, name), tried in found.items():
        if name in ("carried", "paper", "joint"):
            continue
        start = "paper" if name.startswith("paper") else "joint"
        (weights, values), base = tried[0], found[kind, start][0][1]
        rows.append(
            {"bank": kind, "term": name, "weights": vars(weights)}
            | compare(values.mean(axis=1), base[:, [film - 1 for film in HALF]].mean(axis=1))
        )
    return holm(rows)


# ---- earlier films -----------------------------------------------------------------------------------------------

SHAPES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
OWN = (0.1, 0.3, 1.0)


def earlier(setting: Setting, *, shapes: Sequence[float], own: Sequence[float]) -> dict[str, Any]:
    """What the films at 0 and 24 months add to that at 48, for 72 and 96 months.

    By name: distances (N, 2), P(rise by 96 months) (N,) and mean negative log-likelihood of the grade at 96.
    """
    models, ahead = setting.models, [m - MONTHS[NOW] for m in MONTHS[NOW + 1 :]]
    past = setting.gradings[: NOW + 1]
    when = list(MONTHS[: NOW + 1])
    now, unread = past[-1], torch.full((len(setting.key), NOW + 1), -1)
    found: dict[str, Any] = {}
    for label, read in (("image only", unread), ("read grades", setting.grade[:, : NOW + 1])):
        visits = [Visits(_rows(past, i), when, read[i].tolist()) for i in range(len(setting.key))]
        for name in ("one film", *(f"pace {shape}" for shape in shapes)):
            told = None if name == "one film" else Past.of(models.risk, visits, shape=float(name.split()[1]))
            joint = joint_grades(models.risk, now, read[:, NOW], ahead, past=told)
            found[f"{label}, {name}"] = _judged(setting, joint, {})
            if name == "one film" and label == "image only":
                rates = own_rate(
                    list(setting.key[:, : NOW + 1]),
                    [torch.tensor(when)] * len(setting.key),
                    film_variance=models.steps["imaged"].film_variance or 0.0,
                )
                for weight in own:
                    found[f"{label}, own {weight}"] = _judged(setting, joint, {"own": weight}, rates=rates)
    return found


def _rows(past: Sequence[Grading], i: int) -> Grading:
    """One knee's gradings, a film a row."""
    return Grading(*(torch.stack([getattr(g, name)[i] for g in past]) for name in ("now", "future", "rise")))


def _judged(
    setting: Setting, joint: Tensor, weights: Mapping[str, float], *, rates: OwnRate | None = None
) -> dict[str, Any]:
    e = setting.expected("imaged", joint, place=NOW)
    months = [m - MONTHS[NOW] for m in MONTHS[NOW + 1 :]]
    change = solve(setting.key[:, NOW], months, weights=Weights(**weights), expected=e, own=rates)
    last = joint[:, -1].sum(dim=1)
    likelihood = last.gather(1, setting.grade[:, -1:]).clamp(min=1e-6).log()
    return {
        "distance": distances(setting, change, range(NOW + 1, len(MONTHS)), place=NOW),
        "rise": joint[:, -1].triu(diagonal=1).sum(dim=(1, 2)).numpy(),
        "surprise": -likelihood[:, 0].numpy(),
    }


def earlier_table(setting: Setting, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each way against one film in its setting."""
    rose = (setting.grade[:, -1] > setting.grade[:, NOW]).numpy()
    rows = []
    for name, values in found.items():
        one = found[f"{name.split(',')[0]}, one film"]
        rows.append({
            "way": name,
            "distance": compare(values["distance"].mean(axis=1), one["distance"].mean(axis=1)),
            "surprise": float(values["surprise"].mean()),
            "surprise_less": compare(values["surprise"], one["surprise"]),
            "auc_any": _auc(rose, values["rise"]),
            "events": int(rose.sum()),
        })  # fmt: skip
    return rows


def _auc(rose: Floats, score: Floats) -> tuple[float, ...]:
    """Area with its interval; nothing where nobody rose or all did."""
    if not 0 < rose.sum() < len(rose):
        return ()
    area, interval = auc_delong(rose, score)
    return area, *interval


# ---- spreads -----------------------------------------------------------------------------------------------------


def coverage(setting: Setting) -> list[dict[str, Any]]:
    """How often the 5th to 95th percentile holds what came, by bank, setting and horizon.

    `grade`: the change of the simulator's grade lies from the grade at the 5th to that at the 95th percentile of
    steps. `rank`: its randomised rank among the mixture's steps is within 5 to 95 %, which is 90 % for a calibrated
    model even though grades are few. `seen`: the change of the grade that the grader sees from g(w_0) to the later
    film lies between those that it sees in the two rendered futures (last horizon).
    """
    models = setting.models
    grades = torch.arange(5.0)
    rows = []
    w0 = setting.key[:, 0]
    before = models.grading(models.render(w0)).now @ grades
    for label, read in (("image only", setting.unread), ("read grade", setting.grade[:, 0])):
        joint = joint_grades(models.risk, setting.gradings[0], read, MONTHS[1:])
        steps = steps_made(joint)
        for kind, effects in models.steps.items():
            tau = effects.variability
            change = change_at(joint, PERCENTILES, variability=tau)
            looks = effects.steps(w0)
            share = steps_at(joint, change, variability=tau)
            for h, months in enumerate(MONTHS[1:]):
                made = setting.grade[:, h + 1] - setting.grade[:, 0]
                held, rank = covered(steps[:, h], made, seed=h)
                rows.append({
                    "bank": kind, "setting": label, "months": months, "variability": tau,
                    "grade": float(held.double().mean()),
                    "grade_risers": float(held[made > 0].double().mean()),
                    "rank": float(rank.double().mean()),
                    "median_change_95": float(change[:, h, -1].median()),
                })  # fmt: skip
            seen = []
            for p in (0, len(PERCENTILES) - 1):
                move = torch.einsum("nj,njd->nd", share[:, -1, p].float(), looks)
                seen.append(models.grading(models.render(w0 + move)).now @ grades - before)
            came = setting.gradings[-1].now @ grades - before
            inside = (came >= seen[0].minimum(seen[1])) & (came <= seen[0].maximum(seen[1]))
            rows[-1]["seen"] = float(inside.double().mean())
    return rows


def pictures(setting: Setting, rows: Sequence[int], *, months: float = 96.0) -> Tensor:
    """Film now, g(w_0), futures at the percentiles, film then: (len(rows), 6, R, R) in [-1, 1]."""
    h = MONTHS.index(months) - 1
    effects = setting.models.steps["imaged"]
    joint = joint_grades(setting.models.risk, setting.gradings[0], setting.unread, MONTHS[1:])[list(rows)]
    change = change_at(joint, PERCENTILES, variability=effects.variability)
    share = steps_at(joint, change, variability=effects.variability)[:, h]
    w0 = setting.key[list(rows), 0]
    looks = effects.steps(w0)
    shown = [from_bytes(setting.films.images[list(rows), 0]), setting.models.render(w0)]
    for p in range(len(PERCENTILES)):
        shown.append(setting.models.render(w0 + torch.einsum("nj,njd->nd", share[:, p].float(), looks)))
    shown.append(from_bytes(setting.films.images[list(rows), h + 1]))
    return torch.cat(shown, dim=1)
