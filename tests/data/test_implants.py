import numpy as np
import pytest

from progression.data.implants import STYLES, implant


@pytest.mark.parametrize("style", STYLES)
def test_every_style_is_metal_in_the_picture(style: str) -> None:
    for seed in range(6):
        mask = implant(np.random.default_rng(seed), 64, style=style)
        assert mask.shape == (64, 64) and mask.dtype == np.float32
        assert mask.min() >= 0 and mask.max() <= 1
        assert 0.002 < mask.mean() < 0.6
        np.testing.assert_array_equal(mask, implant(np.random.default_rng(seed), 64, style=style))


def test_a_replacement_bridges_the_joint_on_both_sides() -> None:
    for seed in range(6):
        mask = implant(np.random.default_rng(seed), 128, style="total") > 0.5
        assert all(mask[50:90, part].any() for part in (slice(20, 50), slice(78, 108)))
