"""How alike two sets of pictures are, on features of each picture (`progression.metrics.features`).

======== ======================================================================================
symbol   meaning
======== ======================================================================================
A, B     features (n_a, d) and (n_b, d), one row a picture; A real and B generated where it matters
μ, C     mean (d,) and sample covariance (d, d)
k(x, y)  (x·y / d + 1)³
======== ======================================================================================

FID (arXiv 1706.08500) is biased upward at small n, the more so the larger d: compare values at the same
n and on the same features only, and beside the floor between two sets of real pictures.  KID (arXiv
1801.01401) is unbiased.  Precision and recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from progression.errors import UsageError
from progression.metrics.bootstrap import percentile_interval

Floats = NDArray[np.float64]


# arXiv 1706.08500, eq. (6): |μ_a − μ_b|² + tr(C_a + C_b − 2 (C_a C_b)^½)
def fid(a: ArrayLike, b: ArrayLike) -> float:
    """Fréchet distance between the normal distributions fitted to both sets.

    With C = XᵀX for centred, scaled features X, the eigenvalues of C_a C_b are the squared singular
    values of X_a X_bᵀ, so tr (C_a C_b)^½ is that matrix's sum of singular values: exact, real, and
    without the root of a singular matrix.
    """
    one, other = _checked(a, b)
    x, y = _scaled(one), _scaled(other)
    spread = (x**2).sum() + (y**2).sum()
    cross = np.linalg.svd(_triangle(x) @ _triangle(y).T, compute_uv=False).sum()
    shift = ((one.mean(axis=0) - other.mean(axis=0)) ** 2).sum()
    return float(max(shift + spread - 2 * cross, 0.0))


# arXiv 1801.01401, section 4: the unbiased estimate of squared MMD, eq. (4)
def kid(a: ArrayLike, b: ArrayLike) -> float:
    """Kernel inception distance with k(x, y) = (x·y / d + 1)³; may be below 0 for like sets."""
    x, y = _checked(a, b)
    m, n = len(x), len(y)
    within_x, within_y = _kernel(x, x), _kernel(y, y)
    return float(
        (within_x.sum() - np.trace(within_x)) / (m * (m - 1))
        + (within_y.sum() - np.trace(within_y)) / (n * (n - 1))
        - 2 * _kernel(x, y).mean()
    )


@dataclass(frozen=True)
class Draws:
    """A figure over repeated draws: mean, middle 95 % of the draws, size and number of draws.

    The interval tells how much the figure moves between samples of this size; it is no confidence
    interval for the value at larger n.
    """

    mean: float
    low: float
    high: float
    n: int
    n_draws: int


def kid_draws(a: ArrayLike, b: ArrayLike, *, n: int = 500, n_draws: int = 20, seed: int = 0) -> Draws:
    """KID over `n_draws` draws of `n` pictures from each side, without replacement within a draw."""
    return _over_draws(kid, a, b, n=n, n_draws=n_draws, seed=seed)


def fid_draws(a: ArrayLike, b: ArrayLike, *, n: int, n_draws: int = 5, seed: int = 0) -> Draws:
    """FID over `n_draws` draws of `n` pictures from each side, without replacement within a draw."""
    return _over_draws(fid, a, b, n=n, n_draws=n_draws, seed=seed)


def precision_recall(real: ArrayLike, generated: ArrayLike, *, k: int = 3) -> tuple[float, float]:
    """Share of generated pictures inside the real set's k-NN balls, and of real ones in the generated set's.

    Use equal sizes: with more pictures the balls shrink and both figures fall.
    """
    a, b = _checked(real, generated)
    if min(len(a), len(b)) <= k:
        raise UsageError(f"expected more than k = {k} pictures on each side, received {len(a)} and {len(b)}")
    return _coverage(of=b, by=a, k=k), _coverage(of=a, by=b, k=k)


def nearest_distance(of: ArrayLike, to: ArrayLike, *, chunk: int = 1024) -> Floats:
    """Euclidean distance of each row of `of` to its nearest row of `to`, (len(of),)."""
    a, b = _checked(of, to)
    return np.concatenate([_distances(a[i : i + chunk], b).min(axis=1) for i in range(0, len(a), chunk)])


def _coverage(*, of: Floats, by: Floats, k: int) -> float:
    # the (k + 1)-th smallest, since each point is its own nearest
    radius = np.partition(_distances(by, by), k, axis=1)[:, k]
    return float((_distances(of, by) <= radius[None, :]).any(axis=1).mean())


def _over_draws(
    figure: Callable[[ArrayLike, ArrayLike], float],
    a: ArrayLike,
    b: ArrayLike,
    *,
    n: int,
    n_draws: int,
    seed: int,
) -> Draws:
    x, y = _checked(a, b)
    size = min(n, len(x), len(y))
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(n_draws):
        rows = [rng.choice(len(side), size, replace=False) for side in (x, y)]
        values.append(figure(x[rows[0]], y[rows[1]]))
    low, high = percentile_interval(values)
    return Draws(float(np.mean(values)), low, high, size, n_draws)


def _kernel(x: Floats, y: Floats) -> Floats:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _distances(x: Floats, y: Floats) -> Floats:
    squared = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None, :] - 2 * (x @ y.T)
    return np.sqrt(np.maximum(squared, 0))


def _scaled(x: Floats) -> Floats:
    return (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)


def _triangle(x: Floats) -> Floats:
    """Fewest rows with the same xᵀx."""
    return np.asarray(np.linalg.qr(x, mode="r")) if len(x) > x.shape[1] else x


def _checked(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 1:
        raise UsageError(f"expected features (n, d) of one width, received {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UsageError("expected finite features, received NaN or infinity: is a network broken?")
    return x, y
