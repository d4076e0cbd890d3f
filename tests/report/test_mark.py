from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from progression.image import stated_side
from progression.report.mark import WORD, burn, save_synthetic_png, to_grey8
from progression.types import Side
from tests.fakes import knee


@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_the_word_is_white_on_black_in_the_corner_and_nothing_else_changes(size: int) -> None:
    plain = to_grey8(knee(size))
    marked = np.asarray(burn(plain))
    changed = np.argwhere(marked != np.asarray(plain))
    top, right = changed[:, 0].min(), changed[:, 1].max()
    assert top > 0.8 * size
    assert 0.3 * size < right < 0.8 * size
    box = marked[top:, : right + 1]
    assert (box < 30).mean() > 0.3
    assert (box > 128).mean() > 0.05


def test_the_mark_differs_between_texts() -> None:
    plain = to_grey8(knee(128))
    assert np.any(np.asarray(burn(plain, WORD)) != np.asarray(burn(plain, "RADIOGRAPH")))
    assert (np.asarray(burn(plain, top=True))[100:] == np.asarray(plain)[100:]).all()


def test_metadata_says_it_again(tmp_path: Path) -> None:
    save_synthetic_png(tmp_path / "a.png", knee(64), side=Side.LEFT)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "L" and picture.size == (64, 64)
        assert picture.info["Synthetic"] == "yes"
        assert picture.info["Comment"].startswith(WORD)
    assert stated_side(tmp_path / "a.png") is Side.LEFT


def test_every_letter_of_a_mark_is_in_the_font() -> None:
    """A box in place of a letter looks like that of a character which no font has."""
    font = ImageFont.load_default(size=40)
    missing = bytes(font.getmask("\uffff"))
    assert bytes(font.getmask("–")) == missing  # so no dash in marks
    for letter in set(f"{WORD} - prediction, 0123456789 months") - {" "}:
        assert bytes(font.getmask(letter)) != missing, letter
