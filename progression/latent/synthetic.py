"""A bank that is nobody's: drawn from models fitted on a real bank, so that it can be shipped.

A row of a real bank is a person's knee, and the generator turns its latent back into a picture. Shipped rows
are drawn instead:

    key            w ~ N(mean, covariance of the real keys); those too near a training key are dropped
    grade now      P(k_0 | u), multinomial logistic in u, the key's leading principal coordinates
    later grades   the multi-state chain of :mod:`progression.risk.multistate`, its rates depending on u
    displacement   d = Σ_j c_j (B_j [1, u]) + s·e,   c_j = 1 for each grade step j → j + 1 that was made

with e Gaussian in the leading principal axes of the residuals, s = the number of steps for a `graded` bank,
whose knees do not move without a change of grade. An `imaged` bank adds a drift with the years, c_4, and has
s = 1. B, the chain and the axes are a few hundred numbers estimated from thousands of knees.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from progression.errors import UsageError
from progression.latent.bank import TrajectoryBank
from progression.latent.expected import coordinates, design, drivers, principal_axes, ridge, with_one
from progression.latent.transport import last_reading, running_maximum
from progression.risk.multistate import MultiState, Penalty, fit_multistate, panel
from progression.types import KL_GRADES

CLOCK_KNOTS_MONTHS = (0.0, 24.0, 48.0, 96.0)


@dataclass(frozen=True)
class BankModel:
    """What a real bank's rows are like.

    Attributes
    ----------
    kind : "graded" or "imaged"
    series_months : (V,) visit times of the bank's grade series
    mean, axes : (D,), (D, r) with u = (w - mean) @ axes, of unit variance over the bank
    grade : (r + 1, 5) logits of the grade now are [1, u] @ grade
    chain : how grades rise, given u
    effect : (c·(r + 1), D) stacked B_j
    residual : (q, D) axes of e, each scaled by its standard deviation
    """

    kind: str
    series_months: Tensor
    mean: Tensor
    axes: Tensor
    grade: Tensor
    chain: MultiState
    effect: Tensor
    residual: Tensor

    @classmethod
    def fit(
        cls, bank: TrajectoryBank, *, components: int = 32, residual_components: int = 16, hold: float = 20.0
    ) -> BankModel:
        """Fit on a real bank of one kind whose grades were read at the first visit.

        Raises
        ------
        UsageError
            If the bank is synthetic, of mixed kinds, or without grades.
        """
        kinds = sorted(set(bank.kind.tolist()))
        if kinds not in (["graded"], ["imaged"]):
            raise UsageError(f"expected a bank of kind graded or of kind imaged, got {', '.join(kinds)}")
        series = bank.grade_series.long()
        known = (series[:, 0] >= 0) & (series[:, 1:] >= 0).any(dim=1)
        if int(known.sum()) < 2:
            raise UsageError("a synthetic bank needs knees with grades at the first and at a later visit")
        mean, axes = coordinates(bank.w, components=components)
        u = (bank.w - mean) @ axes
        raised = running_maximum(series)
        readings = panel(series[known], bank.series_months.double(), carry_forward=True)
        last = float(bank.series_months[-1])
        knots = [*(month for month in CLOCK_KNOTS_MONTHS if month < last), last]
        chain = fit_multistate(
            u[known],
            readings,
            clock_months=knots,
            era_months=[0.0, last],
            penalty=Penalty(common=hold, transition=10 * hold, era=hold),
            iterations=60,
        )
        first, final = raised[known, 0], last_reading(raised[known])[0]
        made = _drivers(kinds[0], first, final, bank.interval_months[known])
        scale = _residual_scale(kinds[0], first, final)
        effect, residual = _regress(design(made, u[known]), bank.displacement[known], scale, hold=hold)
        return cls(
            kind=kinds[0],
            series_months=bank.series_months,
            mean=mean,
            axes=axes,
            grade=_logistic(u[known], first, hold=hold),
            chain=chain,
            effect=effect,
            residual=residual[:residual_components],
        )

    def sample(self, w: Tensor, *, seed: int) -> TrajectoryBank:
        """Give made-up keys w (N, D) a grade series and a displacement."""
        draws = torch.Generator().manual_seed(seed)
        u = (w - self.mean) @ self.axes
        k = torch.multinomial((with_one(u) @ self.grade).softmax(dim=1), 1, generator=draws)[:, 0]
        series = self._grades(u, k, draws)
        interval = torch.full((len(w),), float(self.series_months[-1] - self.series_months[0]))
        steps = design(_drivers(self.kind, k, series[:, -1], interval), u)
        noise = torch.randn(len(w), len(self.residual), generator=draws) @ self.residual
        return TrajectoryBank(
            subject=np.array([f"synthetic-{i:05d}" for i in range(len(w))]),
            w=w.float(),
            displacement=steps @ self.effect + _residual_scale(self.kind, k, series[:, -1]) * noise,
            interval_months=interval,
            grade_series=series.to(torch.int8),
            series_months=self.series_months,
            kind=np.full(len(w), "synthetic"),
        )

    def _grades(self, u: Tensor, k: Tensor, draws: torch.Generator) -> Tensor:
        """A path of the chain (N, V) from grades k (N,)."""
        (q,) = self.chain.generators(u.double())
        months = self.series_months.double()
        (steps,) = self.chain.ticks(months[:-1], months[1:])
        path = [k]
        for step in steps:
            move = torch.linalg.matrix_exp(q * step).clamp(min=0)
            path.append(torch.multinomial(move[torch.arange(len(k)), path[-1]], 1, generator=draws)[:, 0])
        return torch.stack(path, dim=1)


def synthesise(
    bank: TrajectoryBank,
    *,
    count: int,
    seed: int = 0,
    components: int = 32,
) -> tuple[TrajectoryBank, PrivacyFigures]:
    """A synthetic bank of `count` rows like a real one, none of its keys too near a key of the real one.

    Too near is below :func:`copy_limit` for as many independently made-up keys.

    Raises
    ------
    UsageError
        If too many keys are that near for `count` to be left over.
    """
    model = BankModel.fit(bank, components=components)
    independent = sample_keys(bank.w, len(bank), seed=seed + 1)
    keys = sample_keys(bank.w, count + count // 10 + 10, seed=seed)
    limit = copy_limit(nearest_distances(keys, independent))
    keys = keys[nearest_distances(keys, bank.w) >= limit][:count]
    if len(keys) < count:
        raise UsageError(
            f"only {len(keys)} of {count} made-up latents keep their distance from the training knees: "
            "they are too few to be described without being given away; build a larger real bank"
        )
    made = model.sample(keys, seed=seed)
    return made, nearest_distance_test(made.w, bank.w, independent=independent)


def sample_keys(like: Tensor, count: int, *, seed: int) -> Tensor:
    """Keys (count, D) from the Gaussian with the mean and covariance of `like` (N, D).

    The generator's own samples f(z) would be no better known to be nobody's, and lie where the encoder puts
    real knees only if the generator is perfect: its population is wider and off their centre otherwise.
    """
    mean, axes = principal_axes(like)
    draws = torch.Generator().manual_seed(seed)
    return mean + torch.randn(count, len(axes), generator=draws) @ axes


def copy_limit(independent: Tensor) -> float:
    """Half of the first percentile of nearest distances between independent samples: nearer is a copy."""
    return 0.5 * float(independent.quantile(0.01))


@dataclass(frozen=True)
class PrivacyFigures:
    """How near shipped keys come to training keys, beside how near they come to independent made-up ones.

    Distances are those of the search, ‖w/‖w‖ - w'/‖w'‖‖, to the nearest of equally many.

    Attributes
    ----------
    training_min, training_p01, training_median : nearest training key
    independent_min, independent_p01, independent_median : nearest independent sample
    share_nearer : shipped keys nearer to a training key than `independent_p01`; 0.01 if training keys are
        like any others
    passed : no shipped key is nearer to a training key than half of `independent_p01`
    """

    training_min: float
    training_p01: float
    training_median: float
    independent_min: float
    independent_p01: float
    independent_median: float
    share_nearer: float
    passed: bool

    def as_dict(self) -> dict[str, float | bool]:
        """For a card or a manifest."""
        return asdict(self)


def nearest_distance_test(synthetic: Tensor, training: Tensor, *, independent: Tensor) -> PrivacyFigures:
    """Compare the distances of shipped keys (N, D) to training keys (M, D) and to independent samples (M, D).

    A copy of a training key, or a slightly changed one, is far nearer to it than samples are to each other.

    Raises
    ------
    UsageError
        If the two sets to compare with are not of equal size, which alone changes nearest distances.
    """
    if training.shape != independent.shape:
        raise UsageError(
            f"expected as many independent samples as training keys, {tuple(training.shape)}, "
            f"got {tuple(independent.shape)}"
        )
    real, null = nearest_distances(synthetic, training), nearest_distances(synthetic, independent)
    return PrivacyFigures(
        training_min=float(real.min()),
        training_p01=float(real.quantile(0.01)),
        training_median=float(real.median()),
        independent_min=float(null.min()),
        independent_p01=float(null.quantile(0.01)),
        independent_median=float(null.median()),
        share_nearer=float((real < null.quantile(0.01)).float().mean()),
        passed=float(real.min()) >= copy_limit(null),
    )


def nearest_distances(w: Tensor, others: Tensor) -> Tensor:
    """Distance of each w (N, D) to the nearest of others (M, D), both on the unit sphere: (N,)."""
    to = F.normalize(others.float(), dim=1)
    nearest = []
    for part in F.normalize(w.float(), dim=1).split(1024):
        # products lose digits near distance 0, so the nearest few are measured again
        few = (part @ to.T).topk(min(4, len(to)), dim=1).indices
        nearest.append((part[:, None] - to[few]).norm(dim=2).amin(dim=1))
    return torch.cat(nearest)


def _logistic(u: Tensor, grade: Tensor, *, hold: float) -> Tensor:
    """Multinomial logistic regression of grade on [1, u]; the intercept is hardly held."""
    x = with_one(u)
    logits = torch.zeros(x.shape[1], KL_GRADES, requires_grad=True)
    held = torch.full((x.shape[1], 1), hold)
    held[0] = 0.1
    optimiser = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(x @ logits, grade, reduction="sum") + (held * logits.square()).sum() / 2
        loss.backward()
        return loss

    optimiser.step(closure)
    return logits.detach()


def _drivers(kind: str, first: Tensor, last: Tensor, interval_months: Tensor) -> Tensor:
    return drivers(first, last, None if kind == "graded" else interval_months)


def _residual_scale(kind: str, first: Tensor, last: Tensor) -> Tensor:
    """s (N, 1)."""
    return (last - first)[:, None].float() if kind == "graded" else torch.ones(len(first), 1)


def _regress(x: Tensor, y: Tensor, scale: Tensor, *, hold: float) -> tuple[Tensor, Tensor]:
    """Ridge coefficients of y (N, D) on x (N, F), and the residuals' principal axes by their deviation."""
    x, y = x.double(), y.double()
    effect = ridge(x, y, torch.full((x.shape[1],), hold, dtype=x.dtype))
    moving = scale[:, 0] > 0
    if not bool(moving.any()):
        return effect.float(), torch.zeros(1, y.shape[1])
    return effect.float(), principal_axes(((y - x @ effect) / scale.clamp(min=1e-12))[moving])[1].float()
