"""Figures of merit and their covariance, against counting and against leaving out case by case."""

from __future__ import annotations

import numpy as np
import pytest

from progression.errors import TableError, UsageError
from progression.metrics.auc import auc
from progression.metrics.readers.merit import Covariance, Merit, Sample
from progression.metrics.readers.ratings import Ratings
from tests.reader_studies import study

POINTS = {Merit.AUC: None, Merit.SENSITIVITY: 3.0, Merit.SPECIFICITY: 3.0}


def sample(merit: Merit, **options: int) -> Sample:
    return Sample.of(Ratings.of(study(**options)), merit, POINTS[merit])


def test_figures_by_hand() -> None:
    ratings = Ratings(("a",), ("1", "2"), ("1", "2", "3", "4"), np.array([False, False, True, True]),
                      np.array([[[1, 3, 2, 5], [1, 1, 4, 4]]], dtype=float), np.arange(4))  # fmt: skip
    assert Sample.of(ratings, Merit.AUC).figures().tolist() == [0.75, 1.0]
    assert Sample.of(ratings, Merit.SENSITIVITY, 3).figures().tolist() == [0.5, 1.0]
    assert Sample.of(ratings, Merit.SPECIFICITY, 3).figures().tolist() == [0.5, 1.0]
    # a rating at the threshold is positive
    assert Sample.of(ratings, Merit.SENSITIVITY, 4).figures().tolist() == [0.5, 1.0]
    assert Sample.of(ratings, Merit.SPECIFICITY, 3.5).figures().tolist() == [1.0, 1.0]


@pytest.mark.parametrize("merit", list(Merit))
@pytest.mark.parametrize("per_subject", [1, 2, 3])
def test_leaving_out_is_computing_again_without(merit: Merit, per_subject: int) -> None:
    found = sample(merit, per_subject=per_subject)
    expected = []
    for person in np.unique(found.subject):
        stay = found.subject != person
        values = found.values[:, stay]
        if merit is Merit.AUC:
            expected.append([auc(found.truth[stay], row) for row in values])
        else:
            expected.append(list(values.mean(axis=1)))
    np.testing.assert_allclose(found.without_each(), expected, rtol=0, atol=1e-12)


def test_jackknife_of_a_mean_is_its_sampling_variance() -> None:
    found = sample(Merit.SENSITIVITY)
    expected = np.cov(found.values) / found.values.shape[1]
    np.testing.assert_allclose(found.covariance(Covariance.JACKKNIFE), expected, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("per_subject", [1, 2])
def test_the_three_covariances_agree_closely(per_subject: int) -> None:
    found = sample(Merit.AUC, n_cases=200, per_subject=per_subject, n_readers=3)
    jackknife = found.covariance(Covariance.JACKKNIFE)
    scale = np.sqrt(np.outer(np.diag(jackknife), np.diag(jackknife)))
    assert np.abs(found.covariance(Covariance.DELONG) - jackknife).max() < 0.03 * jackknife.max()
    bootstrap = found.covariance(Covariance.BOOTSTRAP, n_draws=2000)
    assert (np.abs(bootstrap - jackknife) / scale).max() < 0.15


def test_alike_knees_of_a_person_are_not_more_cases() -> None:
    """Every case twice, as two knees of a person: with subjects the covariance stays, without it halves."""
    single = Ratings.of(study(n_cases=60))
    doubled = Ratings(
        single.treatments, single.readers, tuple(f"{c}{side}" for side in "LR" for c in single.cases),
        np.tile(single.truth, 2), np.tile(single.rating, 2), np.tile(single.subject, 2),
    )  # fmt: skip
    once = Sample.of(single, Merit.AUC).covariance(Covariance.DELONG)
    twice = Sample.of(doubled, Merit.AUC)
    np.testing.assert_allclose(twice.covariance(Covariance.DELONG), once, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        twice.covariance(Covariance.JACKKNIFE), Sample.of(single, Merit.AUC).covariance(Covariance.JACKKNIFE),
        rtol=0, atol=1e-12,
    )  # fmt: skip
    apart = Sample(twice.merit, twice.values, twice.truth, np.arange(120)).covariance(Covariance.DELONG)
    assert apart[0, 0] == pytest.approx(once[0, 0] / 2, rel=0.05)


def test_refuses_too_few_subjects() -> None:
    table = study(n_cases=10, per_subject=10)
    with pytest.raises(TableError, match="at least 2 subjects with the condition, received 1"):
        Sample.of(Ratings.of(table), Merit.AUC).covariance(Covariance.JACKKNIFE)
    with pytest.raises(TableError, match="at least 2 subjects without the condition, received 1"):
        Sample.of(Ratings.of(table), Merit.SPECIFICITY, 3).covariance(Covariance.JACKKNIFE)


def test_refuses_a_threshold_for_auc_and_none_for_others() -> None:
    ratings = Ratings.of(study())
    with pytest.raises(UsageError, match="AUC takes no threshold"):
        Sample.of(ratings, Merit.AUC, 3)
    with pytest.raises(UsageError, match="sensitivity needs a threshold"):
        Sample.of(ratings, Merit.SENSITIVITY)
    with pytest.raises(UsageError, match="DeLong's covariance is for the AUC"):
        sample(Merit.SENSITIVITY).covariance(Covariance.DELONG)
