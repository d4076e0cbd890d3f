"""Future latents as the least of an objective: one sum over all horizons of a knee, each term with its weight.

With δ_h = ŵ(T_h) - w_0, the change by horizon T_h,

    F(δ) =  λ_e/2σ² Σ_h ‖δ_h - e_h‖²                             expected: the bank's steps, by this knee's chances
          + λ_n/2σ² ρ Σ_h Σ_n a_n ‖δ_h - (T_h/Δt_n) d_n‖²        neighbours: what the nearest knees did
          + λ_o/2σ² ρ_o Σ_h ‖δ_h - T_h r_o‖²                     own: what this knee did between its own films
          + λ_m/2 Σ_h ‖v(w_0 + δ_h) - v(w_0)‖²                   manifold: Mahalanobis length of the way
          + λ_k/2 Σ_h ‖R δ_h‖²                                   kept: size, exposure, side and contrast stay
          + λ_g/2 Σ_h max(0, q·(δ_{h-1} - δ_h))²,  δ_0 = 0       grade: never falls with time

| symbol | meaning | shape, unit |
|---|---|---|
| e | expected change (:mod:`progression.latent.expected`), at each horizon | (H, D) |
| d_n, Δt_n | displacement of neighbour n, and the time it took | (k, D), months |
| a_n | weight of neighbour n by similarity, Σ a_n = 1; a_n = 1/k is the paper's | (k,) |
| ρ | agreement of the neighbours, 0 to 1 (:func:`agreement`) | 1 |
| r_o, ρ_o | rate of this knee's own codes, and how far it is beyond what any two films differ by | (D,) a month; 1 |
| v, σ² | whitened coordinates; mean variance of a coordinate of w (`latent/whiten.py`) | deviations; W² |
| R | reading of the kept attributes off a change of w | (A, D), deviations of the attribute |
| q | grade on w, a linear probe | (D,), grades |
| λ | weights | 1, but λ_g 1 / grades² |

Lengths over σ² count in variances of a code, as do whitened ones, so weights compare. The manifold's term asks for no
return to the mean: it is the limit of a slowly drifting Gaussian on the manifold, and is 0 where nothing moves. v is
taken as linear around w_0, which it is as long as no coordinate of w changes its sign.

Without the hinge F is quadratic: its least is A δ_h = (κ/σ²) m_h with m the mean of the first three terms' targets by
their weights, κ the sum of those weights and A = (κ/σ²) I + λ_m JᵀJ + λ_k RᵀR. The hinge acts along q alone, so with
it δ_h = A⁻¹((κ/σ²) m_h + μ_h q), which leaves a problem in the H numbers q·δ_h (:func:`never_falling`, exact). With
λ_m = λ_k = 0 the cost is nothing; otherwise it is one Cholesky factor a knee (some ms at D = 512). No term needs the
generator.

λ_n alone with a_n = 1/k is the closed form of Han et al. 2022 (:func:`progression.latent.extrapolate.offset`),
exactly. What each term is worth on phantoms with known futures: `docs/phantom.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from progression.errors import UsageError
from progression.latent.expected import ridge
from progression.latent.extrapolate import offset
from progression.latent.whiten import Whitening
from progression.stylegan2.ops import LEAKY_GAIN, LEAKY_SLOPE

PRIOR_NEIGHBOURS = 1.0
"""So many neighbours' worth of the bank's spread of rates goes into that of the neighbours: one alone has none."""


@dataclass(frozen=True)
class Weights:
    """λ of the terms, and β of the neighbours' similarity; all >= 0.

    `similarity` is β in a_n ∝ exp(-β d_n²/d̄²), d_n the distance of the search and d̄² its mean square over the k.

    Raises
    ------
    UsageError
        If one is negative, or no term says where to go.
    """

    expected: float = 1.0
    neighbours: float = 0.0
    own: float = 0.0
    manifold: float = 0.0
    kept: float = 0.0
    grade: float = 0.0
    similarity: float = 0.0

    def __post_init__(self) -> None:
        negative = [f"{name} {value}" for name, value in vars(self).items() if not value >= 0]
        if negative:
            raise UsageError(f"weight {negative[0]}: expected 0 or more")
        if self.expected + self.neighbours == 0:
            raise UsageError(
                "weights of the objective: expected one of `expected` and `neighbours` above 0, both are 0"
            )


PAPER = Weights(expected=0, neighbours=1)
"""The closed form of Han et al. 2022."""


@dataclass(frozen=True)
class Observed:
    """What the neighbours of N knees did.

    Attributes
    ----------
    displacement, interval_months : (N, k, D), (N, k) months
    distance : (N, k) of the search
    variance : mean squared distance of one rate from the bank's mean rate, per month²
    """

    displacement: Tensor
    interval_months: Tensor
    distance: Tensor
    variance: float


@dataclass(frozen=True)
class OwnRate:
    """How N knees moved between their own films.

    Attributes
    ----------
    rate : (N, D) a month
    variance : (N,) of the rate, per month²; inf where there is one film
    """

    rate: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Ground:
    """What the terms beside the data stand on; None where a term is not asked for.

    Attributes
    ----------
    whitening : of the codes' manifold; σ² is 1 without it
    effect : (A, D) change of w with a deviation of each attribute, grade among them (`Directions.effect`)
    kept : (A,) bool, which of them must stay
    probe : (D,) q
    """

    whitening: Whitening | None = None
    effect: Tensor | None = None
    kept: Tensor | None = None
    probe: Tensor | None = None

    @cached_property
    def inverse_covariance(self) -> Tensor:
        """(D, D) float64, of unfolded codes p."""
        assert self.whitening is not None
        axes, deviation = self.whitening.axes.double(), self.whitening.deviation.double()
        return (axes / deviation.square()) @ axes.T

    def metric(self, w: Tensor) -> Tensor:
        """JᵀJ (D, D), with J the derivative of whitened coordinates by w at w (D,)."""
        slope = torch.where(w.double() < 0, 1 / LEAKY_SLOPE, 1.0) / LEAKY_GAIN
        return slope[:, None] * self.inverse_covariance * slope


def solve(
    w0: Tensor,
    horizon_months: Sequence[float],
    *,
    weights: Weights,
    expected: Tensor | None = None,
    neighbours: Observed | None = None,
    own: OwnRate | None = None,
    ground: Ground | None = None,
) -> Tensor:
    """The change (N, H, D) of codes w0 (N, D) that makes F least; a knee's does not depend on the others.

    Parameters
    ----------
    horizon_months : (H,), ascending
    expected : (N, H, D)

    Raises
    ------
    UsageError
        If a term has a weight and nothing to stand on, or horizons do not ascend.
    """
    months = torch.as_tensor(horizon_months, dtype=torch.float32)
    if bool((months.diff() < 0).any()):
        raise UsageError(f"horizons {months.tolist()} are not ascending: sort them")
    ground = Ground() if ground is None else ground
    missing = [
        name
        for name, weight, there in (
            ("expected", weights.expected, expected is not None),
            ("neighbours", weights.neighbours, neighbours is not None),
            ("own", weights.own, own is not None),
            ("manifold", weights.manifold, ground.whitening is not None),
            ("kept", weights.kept, ground.whitening is not None and ground.effect is not None),
            ("grade", weights.grade, ground.probe is not None),
        )
        if weight > 0 and not there
    ]
    if missing:
        raise UsageError(f"the objective's term {missing[0]} has a weight, but nothing to stand on was given")
    target, precision = _data(w0, months, weights, expected, neighbours, own)
    if not (weights.manifold or weights.kept or weights.grade):
        return target
    rows = [
        _row(*row, weights=weights, ground=ground) for row in zip(w0, target, precision.tolist(), strict=True)
    ]
    return torch.stack(rows)


def _data(
    w0: Tensor,
    months: Tensor,
    weights: Weights,
    expected: Tensor | None,
    neighbours: Observed | None,
    own: OwnRate | None,
) -> tuple[Tensor, Tensor]:
    """m (N, H, D) and κ (N,): the terms that say where to go, by their weights."""
    targets, precisions = [], []
    if weights.expected and expected is not None:
        targets.append(expected)
        precisions.append(w0.new_full((len(w0),), weights.expected))
    if weights.neighbours and neighbours is not None:
        share = similarity(neighbours.distance, weights.similarity)
        interval = neighbours.interval_months
        targets.append(offset(neighbours.displacement, interval, months, weights=share))
        rho = agreement(neighbours.displacement / interval[:, :, None], share, variance=neighbours.variance)
        precisions.append(weights.neighbours * rho)
    if weights.own and own is not None:
        seen = own.rate.square().sum(dim=1)
        targets.append(months[None, :, None] * own.rate[:, None])
        precisions.append(weights.own * seen / (seen + own.variance).clamp(min=1e-30))
    if len(targets) == 1:
        return targets[0], precisions[0]
    kappa = torch.stack(precisions).sum(dim=0)
    parts = [
        t * (p / kappa.clamp(min=1e-30))[:, None, None] for t, p in zip(targets, precisions, strict=True)
    ]
    return torch.stack(parts).sum(dim=0), kappa


def similarity(distance: Tensor, beta: float) -> Tensor:
    """a_n (N, k), summing to 1, from distances (N, k)."""
    squared = distance.square()
    return (-beta * squared / squared.mean(dim=1, keepdim=True).clamp(min=1e-12)).softmax(dim=1)


def agreement(rates: Tensor, share: Tensor, *, variance: float) -> Tensor:
    """ρ = ‖r̄‖² / (‖r̄‖² + V), (N,): how much of the neighbours' mean rate (N, k, D) is more than their disagreement.

    V = Σ a_n² S estimates the variance of that mean; S, that of one rate, is taken from the k and, as if from
    `PRIOR_NEIGHBOURS` more, from the bank's `variance`. Neighbours that disagree say little; ρ is 0 where none moves.
    """
    mean = (share[:, :, None] * rates).sum(dim=1)
    k = rates.shape[1]
    scatter = k * (share * (rates - mean[:, None]).square().sum(dim=2)).sum(dim=1)
    one = (PRIOR_NEIGHBOURS * variance + scatter) / (PRIOR_NEIGHBOURS + k - 1)
    seen = mean.square().sum(dim=1)
    return seen / (seen + one * share.square().sum(dim=1)).clamp(min=1e-30)


def spread_of_rates(displacement: Tensor, interval_months: Tensor) -> float:
    """Mean squared distance of a bank's rates (N, D) from their mean, per month²."""
    rates = displacement / interval_months[:, None]
    return float((rates - rates.mean(dim=0)).square().sum(dim=1).mean())


def grade_probe(w: Tensor, grade: Tensor, *, penalty: float = 0.1) -> Tensor:
    """q (D,): a ridge regression of read grades (N,) on codes w (N, D), penalty over the mean sum of squares."""
    read = grade >= 0
    x, y = w[read].double(), grade[read].double()
    x = x - x.mean(dim=0)
    held = torch.full((x.shape[1],), penalty * float(x.square().sum(dim=0).mean()), dtype=x.dtype)
    return ridge(x, (y - y.mean())[:, None], held)[:, 0].float()


def _row(w0: Tensor, target: Tensor, precision: float, *, weights: Weights, ground: Ground) -> Tensor:
    """One knee: δ (H, D) from w0 (D,), m (H, D) and κ."""
    if precision == 0:  # neighbours that stay, and nothing else
        return torch.zeros_like(target)
    change, answer = target, ground.probe
    if ground.whitening is not None and (weights.manifold or weights.kept):
        scale = precision * len(w0) / float(ground.whitening.w_std) ** 2  # κ/σ²
        metric = ground.metric(w0)
        system = scale * torch.eye(len(w0), dtype=metric.dtype) + weights.manifold * metric
        if weights.kept and ground.effect is not None:
            reading = kept_reading(metric, ground.effect, ground.kept)
            system = system + weights.kept * reading.T @ reading
        factor = torch.linalg.cholesky(system)
        change = torch.cholesky_solve((scale * target).double().T, factor).T.float()
        if ground.probe is not None:
            answer = torch.cholesky_solve(ground.probe[:, None].double(), factor)[:, 0].float()
    elif answer is not None:
        unit = 1.0 if ground.whitening is None else float(ground.whitening.w_std) ** 2 / len(w0)
        answer = answer * unit / precision
    if weights.grade and ground.probe is not None and answer is not None:
        grade, gain = change @ ground.probe, float(answer @ ground.probe)
        held = never_falling(grade, weights.grade * gain)
        change = change + ((held - grade) / gain)[:, None] * answer
    return change


def kept_reading(metric: Tensor, effect: Tensor, kept: Tensor | None = None) -> Tensor:
    """R (A, D): how many deviations of each kept attribute a change of w is, all attributes (A, D) read together.

    Generalised least squares, (B M Bᵀ)⁻¹ B M: where grade and size go together in knees, grade alone is no size.
    """
    weighed = effect.to(metric) @ metric
    reading = torch.linalg.solve(weighed @ effect.to(metric).T, weighed)
    return reading if kept is None else reading[kept]


def never_falling(grade: Tensor, strength: float) -> Tensor:
    """The g (H,) least in Σ (g_h - grade_h)² + strength Σ max(0, g_{h-1} - g_h)², with g_0 = 0.

    Newton's method on the pairs that fall, which ends at the least of this convex piecewise quadratic.
    """
    steps = torch.eye(len(grade), dtype=torch.float64)
    steps[1:] -= torch.eye(len(grade), dtype=torch.float64)[:-1]  # g_h - g_{h-1}
    wanted = grade.double()
    held, falling = wanted, steps @ wanted < 0
    for _ in range(4 * len(grade)):
        broken = steps[falling]
        held = torch.linalg.solve(
            torch.eye(len(grade), dtype=torch.float64) + strength * broken.T @ broken, wanted
        )
        again = steps @ held < 0
        if bool((again == falling).all()):
            break
        falling = again
    return held.to(grade.dtype)
