import numpy as np
import pytest

from progression.data.markers import FONTS, HELD_OUT_FONTS, Lettering, lettered
from progression.types import Side

UPRIGHT = Lettering(fonts=("DejaVuSans-Bold",), mirrored=0.0, turned=0.0, other=0.0)


def test_no_font_is_both_learnt_and_held_out() -> None:
    assert not set(FONTS) & set(HELD_OUT_FONTS)


@pytest.mark.parametrize("side", Side)
def test_a_letter_says_the_side_of_its_knee(side: Side) -> None:
    film = np.zeros((200, 200), np.float32)
    for seed in range(10):
        made, letter = lettered(
            np.random.default_rng(seed), film, knee=(100.0, 100.0), side_px=90.0, side=side, lettering=UPRIGHT
        )
        assert letter is not None and letter.says == str(side)[0].upper()
        x, y = letter.centre
        rows, columns = np.nonzero(made > 0.5)
        assert abs((columns.min() + columns.max()) / 2 - x) < 0.3 * letter.size_px
        assert abs((rows.min() + rows.max()) / 2 - y) < 0.3 * letter.size_px
    assert film.max() == 0


def test_what_says_no_side_or_cannot_be_read_is_no_letter() -> None:
    rng = np.random.default_rng(0)
    place = {"knee": (100.0, 100.0), "side_px": 90.0, "side": Side.LEFT}
    dark, white = np.zeros((200, 200), np.float32), np.ones((200, 200), np.float32)
    made, letter = lettered(rng, dark, **place, lettering=Lettering(other=1.0))  # type: ignore[arg-type]
    assert letter is None and made.max() > 0.5
    assert lettered(rng, white, **place, lettering=UPRIGHT)[1] is None  # type: ignore[arg-type]
