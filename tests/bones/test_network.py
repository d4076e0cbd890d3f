"""What the network's maps mean, and what it does not look at."""

import pytest
import torch

from progression.bones.network import STRIDE, BoneNet, Maps

CELLS = 40


def maps(points: torch.Tensor) -> Maps:
    empty = torch.zeros(len(points), CELLS, CELLS)
    return Maps(points, empty, empty, empty, empty)


def test_a_point_lies_where_its_map_says() -> None:
    """All in cell (row 10, column 20): x 82, y 42, no spread; half in the next column: 2 pixels on, 2 wide."""
    points = torch.full((1, 74, CELLS, CELLS), -1e4)
    points[:, :, 10, 20] = 0
    points[:, 1, 10, 21] = 0
    places, spread = maps(points).places()
    assert places[0, 0].tolist() == [20.5 * STRIDE, 10.5 * STRIDE]
    assert places[0, 1].tolist() == [21 * STRIDE, 10.5 * STRIDE]
    assert spread[0, :2].tolist() == pytest.approx([0, STRIDE / 2], abs=1e-2)


def test_exposure_and_contrast_of_a_whole_picture_change_nothing() -> None:
    torch.manual_seed(0)
    network, x = BoneNet().eval(), torch.rand(1, 1, 96, 64)
    with torch.no_grad():
        one, other = network(x), network(0.3 * x + 0.5)
    assert one.points.shape == (1, 74, 24, 16)
    for name in ("points", "middle", "log_width", "tilt", "right"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=2e-2, rtol=1e-2)
