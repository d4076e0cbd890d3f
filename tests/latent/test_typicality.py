import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from progression.errors import UsageError
from progression.latent.typicality import Typicality

ERROR = torch.rand(2000, generator=torch.Generator().manual_seed(0)) + 0.5
RADIUS = torch.randn(2000, generator=torch.Generator().manual_seed(1)).abs()
TYPICAL = Typicality.fit(ERROR, RADIUS)


def test_uniform_over_knees_like_the_reference() -> None:
    error = torch.rand(5000, generator=torch.Generator().manual_seed(2)) + 0.5
    radius = torch.randn(5000, generator=torch.Generator().manual_seed(3)).abs()
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    torch.testing.assert_close(TYPICAL(error, radius).quantile(levels), levels, atol=0.03, rtol=0)


@given(st.floats(-1, 50), st.floats(-1, 50), st.floats(0, 10))
def test_bounded_and_falling_in_both(error: float, radius: float, more: float) -> None:
    def at(e: float, r: float) -> float:
        return float(TYPICAL(torch.tensor([e]), torch.tensor([r])))

    assert 0 <= at(error, radius) <= 1
    assert at(error + more, radius) <= at(error, radius) + 1e-6
    assert at(error, radius + more) <= at(error, radius) + 1e-6


def test_far_away_is_untypical_and_best_is_typical() -> None:
    values = TYPICAL(torch.tensor([0.0, 3.0, 1.0]), torch.tensor([0.0, 0.5, 20.0]))
    assert values[0] == 1
    assert values[1] < 1e-6
    assert values[2] < 1e-6


def test_storage_and_ties() -> None:
    again = Typicality.from_tensors({name: t.half().float() for name, t in TYPICAL.tensors().items()})
    torch.testing.assert_close(again(ERROR, RADIUS), TYPICAL(ERROR, RADIUS), atol=0.02, rtol=0)
    same = Typicality.fit(torch.ones(5), torch.ones(5))
    assert same(torch.tensor([0.5, 2.0]), torch.ones(2) * 0.5).tolist() == [1.0, 0.0]


def test_needs_two_knees() -> None:
    with pytest.raises(UsageError, match="two or more knees"):
        Typicality.fit(torch.ones(1), torch.ones(1))
