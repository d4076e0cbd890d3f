"""The closed form on numbers that can be checked by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from progression.errors import UsageError
from progression.latent.extrapolate import extrapolate, extrapolate_stepwise, key_of, offset

W0 = torch.tensor([[1.0, 2.0]])
# neighbour A moved (2, 0) in 12 months, neighbour B (0, 6) in 24
TWO = torch.tensor([[[2.0, 0.0], [0.0, 6.0]]])
TIMES = torch.tensor([[12.0, 24.0]])


def test_two_neighbours_mean_of_scaled_displacements() -> None:
    # T = 48: ((48/12)(2, 0) + (48/24)(0, 6)) / 2 = (4, 6)
    # A scale compounding from neighbour to neighbour would give another second coordinate.
    assert extrapolate(W0, TWO, TIMES, [48.0]).tolist() == [[[5.0, 8.0]]]


def test_order_of_neighbours_does_not_matter() -> None:
    swapped = extrapolate(W0, TWO.flip(1), TIMES.flip(1), [48.0])
    assert swapped.equal(extrapolate(W0, TWO, TIMES, [48.0]))


def test_one_neighbour_is_the_papers_formula() -> None:
    assert extrapolate(W0, TWO[:, :1], TIMES[:, :1], [6.0, 12.0]).tolist() == [[[2.0, 2.0], [3.0, 2.0]]]


def test_weights() -> None:
    # a = (3/4, 1/4): 3/4·(8, 0) + 1/4·(0, 12) = (6, 3)
    got = offset(TWO, TIMES, [48.0], weights=torch.tensor([[3.0, 1.0]]))
    assert got.tolist() == [[[6.0, 3.0]]]


def test_layers_all_move_alike() -> None:
    ws = torch.randn(1, 4, 2)
    future = extrapolate(ws, TWO, TIMES, [0.0, 48.0])
    assert future.shape == (1, 2, 4, 2)
    assert future[:, 0].equal(ws)
    torch.testing.assert_close(future[:, 1] - ws, torch.tensor([4.0, 6.0]).expand(1, 4, 2))
    torch.testing.assert_close(key_of(future[:, 1]), key_of(ws) + torch.tensor([4.0, 6.0]))


@given(st.lists(st.floats(0, 96), min_size=1, max_size=5), st.floats(0.5, 60))
def test_linear_in_horizon(horizons: list[float], interval: float) -> None:
    change = offset(TWO, torch.full((1, 2), interval), horizons)
    unit = offset(TWO, torch.full((1, 2), interval), [1.0])
    torch.testing.assert_close(change, torch.tensor(horizons)[None, :, None] * unit, rtol=1e-4, atol=1e-5)


def test_batch_equals_one_by_one() -> None:
    w0, moves, times = torch.randn(5, 3), torch.randn(5, 4, 3), torch.rand(5, 4) * 50 + 1
    together = extrapolate(w0, moves, times, [12.0, 96.0])
    alone = [extrapolate(w0[i : i + 1], moves[i : i + 1], times[i : i + 1], [12.0, 96.0]) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_stepwise_searches_again_at_every_step() -> None:
    # To the right of 0 everything moves by +1 in 12 months, to the left by -1.
    asked = []

    def search(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(w.tolist())
        return w.sign()[:, None] * torch.ones(1, 1, 1), torch.full((len(w), 1), 12.0)

    future = extrapolate_stepwise(torch.tensor([[0.5], [-0.5]]), [12.0, 36.0], search=search)
    assert future[..., 0].tolist() == [[1.5, 3.5], [-1.5, -3.5]]
    assert asked == [[[0.5], [-0.5]], [[1.5], [-1.5]]]


def test_stepwise_with_constant_field_equals_closed_form() -> None:
    got = extrapolate_stepwise(W0, [10.0, 25.0, 48.0], search=lambda w: (TWO, TIMES))
    torch.testing.assert_close(got, extrapolate(W0, TWO, TIMES, [10.0, 25.0, 48.0]))


def test_wrong_input() -> None:
    with pytest.raises(UsageError, match="interval is not positive"):
        offset(TWO, torch.tensor([[12.0, 0.0]]), [48.0])
    with pytest.raises(UsageError, match="negative horizon"):
        offset(TWO, TIMES, [-1.0])
    with pytest.raises(UsageError, match=r"expected displacement \(N, k, D\)"):
        offset(TWO, TIMES[:, :1], [1.0])
    with pytest.raises(UsageError, match="not ascending"):
        extrapolate_stepwise(W0, [24.0, 12.0], search=lambda w: (TWO, TIMES))
