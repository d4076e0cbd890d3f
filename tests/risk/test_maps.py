"""Maps of a frozen network: their scale, how many are looked at, and their distance by hand."""

from __future__ import annotations

import pytest
import torch

from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS, as_grading
from progression.risk.maps import FrozenMaps, map_distance, map_distances

STAGES = (Stage(1, 3, 1, 1, 4), Stage(1, 3, 2, 2, 6), Stage(1, 3, 2, 2, 8))


@pytest.fixture
def maps() -> FrozenMaps:
    torch.manual_seed(0)
    network = EfficientNet(1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=STAGES)
    return FrozenMaps(network, torch.rand(32, 1, 32, 32) * 2 - 1)


def test_maps_have_unit_deviation_on_the_reference_and_grades_are_the_networks(maps: FrozenMaps) -> None:
    torch.manual_seed(0)
    EfficientNet(1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=STAGES)
    x = torch.rand(32, 1, 32, 32) * 2 - 1
    found = maps(x)
    grade = maps.grade(found)
    assert [m.shape[1:] for m in found] == [(4, 16, 16), (6, 8, 8), (8, 4, 4)]
    assert maps.channels == [4, 6, 8]
    for m in found:
        deviation = m.std(dim=(0, 2, 3))
        # quiet channels are not blown up
        assert bool((deviation <= 1 + 1e-3).all()) and deviation.median() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(grade.exp(), as_grading(maps.network(x)).now)


def test_a_silent_channel_is_not_blown_up() -> None:
    torch.manual_seed(0)
    network = EfficientNet(1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=STAGES)
    with torch.no_grad():
        network.stem_norm.weight[0] = 0
    maps = FrozenMaps(network, torch.rand(32, 1, 32, 32) * 2 - 1)
    scales = [getattr(maps, f"scale{level}").flatten() for level in range(3)]
    assert all(float(scale.max() / scale.median()) < 20 for scale in scales)


def test_some_levels_are_those_of_all(maps: FrozenMaps) -> None:
    x = torch.rand(3, 1, 32, 32) * 2 - 1
    every = maps(x)
    for levels in ([0], [1], [0, 2], [0, 1, 2]):
        some = maps.look(x, levels)
        assert len(some) == len(levels)
        assert all(torch.equal(m, every[level]) for m, level in zip(some, levels, strict=True))


def test_distance_by_hand() -> None:
    a, b = (
        [torch.zeros(2, 1, 2, 2), torch.zeros(2, 3, 1, 1)],
        [torch.ones(2, 1, 2, 2), torch.full((2, 3, 1, 1), -2.0)],
    )
    assert map_distances(a, b).tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert map_distance(a, b).tolist() == [3.0, 3.0]
