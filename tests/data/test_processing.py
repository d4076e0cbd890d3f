"""Processings change how a picture looks, each picture its own way, and leave grey values in their range."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from progression.data.processing import (
    Processing,
    coarser,
    compressed,
    enhanced,
    equalised,
    smoothed,
    unsharp,
)
from tests.outlines import drawn, outline


def pictures(count: int = 6, size: int = 64) -> torch.Tensor:
    knee = torch.from_numpy(drawn(outline(), size))
    return knee.expand(count, 1, size, size).clone()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**62), st.sampled_from([(64, 64), (96, 40)]), st.sampled_from(["knee", "black", "white"])
)
def test_grey_values_stay_in_their_range(seed: int, size: tuple[int, int], kind: str) -> None:
    x = pictures(4, max(size))[:, :, : size[0], : size[1]]
    x = x if kind == "knee" else torch.full_like(x, float(kind == "white"))
    made = Processing(seed)(x.clone())
    assert made.shape == x.shape
    assert torch.isfinite(made).all() and made.min() >= 0 and made.max() <= 1


def test_equal_seeds_give_equal_pictures_and_each_picture_has_its_own() -> None:
    x = pictures()
    one, again, other = (Processing(seed)(x.clone()) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    apart = (one[:, None] - one[None]).abs().flatten(2).mean(-1)
    assert apart[~torch.eye(len(x), dtype=torch.bool)].min() > 0.01


def test_without_strength_nothing_changes() -> None:
    x = pictures()
    assert torch.equal(Processing(0, strength=0.0)(x.clone()), x)


def test_a_pyramid_with_gains_of_one_is_the_picture() -> None:
    x = pictures(1)
    torch.testing.assert_close(enhanced(x, [1, 1, 1, 1]), x)
    assert (enhanced(x, [3, 1, 1, 1]) - x).abs().mean() > 0.001


def test_enhancement_and_masks_leave_what_is_even() -> None:
    x = torch.full((1, 1, 48, 48), 0.4)
    for made in (enhanced(x, [5, 5, 5, 5], rest=0.2), unsharp(x, 5, 4.0), smoothed(x), coarser(x, 0.3)):
        torch.testing.assert_close(made, x)


def test_an_unsharp_mask_overshoots_an_edge_on_both_sides() -> None:
    x = torch.zeros(1, 1, 20, 20)
    x[..., 10:] = 1
    made = unsharp(x, 2, 1.0)[0, 0, 10]
    assert made[9] == pytest.approx(-0.4) and made[10] == pytest.approx(1.4)
    assert made[:7].abs().max() == 0 and (made[13:] - 1).abs().max() == 0


def test_an_equalised_ramp_has_even_greys_whatever_its_curve() -> None:
    ramp = torch.linspace(0, 1, 64 * 64).view(1, 1, 64, 64)
    made = equalised(ramp**1.5, tiles=1)
    counts = torch.histc(made, 4, 0, 1)
    assert (counts / counts.sum() - 0.25).abs().max() < 0.05


def test_a_limit_of_one_leaves_the_curve_straight() -> None:
    """Clipped at the mean, and what was cut off spread evenly: a bin that was empty gets its share."""
    x = torch.cat([torch.zeros(1, 1, 32, 64), torch.ones(1, 1, 32, 64)], 2)
    made = equalised(x, tiles=1, limit=1.0)
    assert made.min() == pytest.approx(1 / 64, abs=0.02) and made.max() == pytest.approx(63 / 64, abs=0.02)


def test_strong_compression_loses_more_than_weak() -> None:
    x = pictures(1)[0]
    weak, strong = ((compressed(x, quality) - x).abs().mean() for quality in (90, 10))
    assert weak < 0.01 < strong
