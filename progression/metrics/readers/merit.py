"""Figures of merit of one reader under one treatment, and how they vary over cases.

========== ==========================================================================================
symbol     meaning
========== ==========================================================================================
K          scores side by side: all readers under all treatments
θ          (K,) figure of merit
G          subjects; the one left out takes all its cases along
θ_(g)      (G, K) figure of merit without subject g
========== ==========================================================================================

AUC is the trapezoidal (empirical) one.  Sensitivity and specificity are means of right calls over the cases
that they are about, so that the others do not count among their cases.

Covariances: jackknife as in Obuchowski & Rockette 1995 (Commun Stat Simul 24:285) and Hillis 2007; DeLong's
(its form for people with several cases by Obuchowski 1997); or the bootstrap of subjects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from progression.errors import TableError, UsageError
from progression.metrics.auc import Floats, aucs, delong_covariance, structural_components
from progression.metrics.bootstrap import cluster_draws
from progression.metrics.readers.ratings import Ints, Ratings


class Merit(StrEnum):
    """What is judged of a reader."""

    AUC = "auc"
    SENSITIVITY = "sensitivity"
    SPECIFICITY = "specificity"


class Covariance(StrEnum):
    """How the covariance of the figures of merit is estimated."""

    JACKKNIFE = "jackknife"
    DELONG = "delong"
    BOOTSTRAP = "bootstrap"


@dataclass(frozen=True)
class Sample:
    """What a figure of merit is computed from.

    Attributes
    ----------
    merit : which one
    values : (K, N) ratings; for sensitivity and specificity 1 where the call is right
    truth : (N,) bool
    subject : (N,) int
    """

    merit: Merit
    values: Floats
    truth: NDArray[np.bool_]
    subject: Ints

    @classmethod
    def of(cls, ratings: Ratings, merit: Merit, threshold: float | None = None) -> Sample:
        """Scores of all readers under all treatments, treatment by treatment.

        Parameters
        ----------
        threshold
            Ratings at or above it are calls that the case has the condition.  For sensitivity and
            specificity; AUC takes none.

        Raises
        ------
        UsageError
            A threshold is missing, or given for AUC.
        """
        values = ratings.rating.reshape(-1, len(ratings.cases))
        if merit is Merit.AUC:
            if threshold is not None:
                raise UsageError(
                    "the AUC takes no threshold: leave it out, or ask for sensitivity or specificity"
                )
            return cls(merit, values, ratings.truth, ratings.subject)
        if threshold is None or not np.isfinite(threshold):
            raise UsageError(f"{merit} needs a threshold: ratings at or above it count as positive")
        about = ratings.truth if merit is Merit.SENSITIVITY else ~ratings.truth
        positive = values[:, about] >= threshold
        right = positive if merit is Merit.SENSITIVITY else ~positive
        return cls(merit, right.astype(np.float64), ratings.truth[about], ratings.subject[about])

    def figures(self) -> Floats:
        """θ (K,), 0 to 1."""
        return aucs(self.truth, list(self.values)) if self.merit is Merit.AUC else self.values.mean(axis=1)

    def covariance(self, method: Covariance, *, n_draws: int = 1000, seed: int = 0) -> Floats:
        """Covariance of θ over samples of subjects, (K, K).

        Raises
        ------
        TableError
            Fewer than two subjects with (or without) the condition: nothing tells how θ varies.
        UsageError
            DeLong's is asked for with another figure of merit than the AUC.
        """
        self._check_subjects()
        if method is Covariance.DELONG:
            if self.merit is not Merit.AUC:
                raise UsageError(f"DeLong's covariance is for the AUC: take the jackknife for {self.merit}")
            return delong_covariance(self.truth, list(self.values), subject=self.subject)[1]
        if method is Covariance.BOOTSTRAP:
            return self._bootstrap(n_draws, seed)
        # Hillis 2007: (G − 1) / G Σ_g (θ_(g) − θ_(·)) (θ_(g) − θ_(·))ᵀ
        left_out = self.without_each()
        apart = left_out - left_out.mean(axis=0)
        return np.asarray((len(apart) - 1) / len(apart) * apart.T @ apart)

    def without_each(self) -> Floats:
        """θ_(g) (G, K), in the order of the subjects' numbers; nan where a class is then empty."""
        _, owner = np.unique(self.subject, return_inverse=True)
        return _aucs_without(self, owner) if self.merit is Merit.AUC else _means_without(self.values, owner)

    def _check_subjects(self) -> None:
        about = {
            Merit.AUC: {"with": self.truth, "without": ~self.truth},
            Merit.SENSITIVITY: {"with": self.truth},
            Merit.SPECIFICITY: {"without": ~self.truth},
        }[self.merit]
        for word, members in about.items():
            people = len(np.unique(self.subject[members]))
            if people < 2:
                raise TableError(
                    f"expected at least 2 subjects {word} the condition, received {people}: how {self.merit} varies "
                    "over cases cannot be told; take more cases, or treat the cases as fixed"
                )

    def _bootstrap(self, n_draws: int, seed: int) -> Floats:
        statistic: Callable[..., Floats] = (
            (lambda y, s: aucs(y, s.T)) if self.merit is Merit.AUC else (lambda _, s: s.mean(axis=0))
        )
        draws = cluster_draws(statistic, self.subject, self.truth, self.values.T, n_draws=n_draws, seed=seed)
        if len(draws) < max(2, n_draws / 2):
            raise TableError(
                f"only {len(draws)} of {n_draws} bootstrap draws held cases with and without the condition: take "
                "more cases, or the jackknife"
            )
        return np.atleast_2d(np.cov(draws.T))


def _means_without(values: Floats, owner: Ints) -> Floats:
    """Mean over the cases of everyone else, (G, K)."""
    sums = np.zeros((int(owner.max()) + 1, len(values)))
    np.add.at(sums, owner, values.T)
    return np.asarray((values.sum(axis=1) - sums) / (len(owner) - np.bincount(owner))[:, None])


def _aucs_without(sample: Sample, owner: Ints) -> Floats:
    """AUC without each subject, (G, K), from structural components instead of ranking anew G times.

    m n θ counts the pairs won.  A subject takes n V10 of them for each of its events and m V01 for each of
    its non-events; pairs within the subject are then taken twice and given back once.
    """
    events, values = sample.truth, sample.values
    v10, v01 = structural_components(events, values)
    m, n, people = v10.shape[1], v01.shape[1], int(owner.max()) + 1
    won = np.zeros((people, len(values)))
    np.add.at(won, owner[events], n * v10.T)
    np.add.at(won, owner[~events], m * v01.T)
    events_of = np.bincount(owner[events], minlength=people)
    others_of = np.bincount(owner[~events], minlength=people)
    for g in np.flatnonzero(events_of * others_of):
        own = owner == g
        won[g] -= _pairs_won(values[:, own], events[own])
    left = ((m - events_of) * (n - others_of))[:, None]
    total = m * n * v10.mean(axis=1)
    return np.divide(total - won, left, out=np.full(won.shape, np.nan), where=left > 0)


def _pairs_won(values: Floats, events: NDArray[np.bool_]) -> Floats:
    """Pairs of an event and a non-event where the event scores higher, ties half (K,)."""
    ranks = rankdata(values, axis=1)[:, events].sum(axis=1)
    m = int(events.sum())
    return np.asarray(ranks - m * (m + 1) / 2)
