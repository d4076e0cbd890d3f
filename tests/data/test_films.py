from dataclasses import replace

import numpy as np
import pytest
import torch

from progression.data.films import KINDS, FilmMaker, Settings
from progression.image import cut_square
from progression.types import Side
from tests.fakes import knee

PLAIN = Settings(
    gamma=(1.0, 1.0),
    ramp=0.0,
    noise=(0.0, 0.0),
    tilt_deg=0.0,
    askew=0.0,
    collimated=0.0,
    marked=0.0,
    inverted=0.0,
    letter=0.0,
    near=0.0,
    whole=0.0,
)


@pytest.fixture(scope="module")
def knees() -> torch.Tensor:
    return torch.from_numpy(np.stack([(knee(64, seed) * 255).astype(np.uint8) for seed in range(3)]))


@pytest.mark.parametrize("kind", KINDS)
def test_films_are_repeatable_pictures(knees: torch.Tensor, kind: str) -> None:
    maker = FilmMaker(knees)
    for seed in range(8):
        film, again = (maker.film(np.random.default_rng(seed), longer_px=96, kind=kind) for _ in range(2))
        np.testing.assert_array_equal(film.pixels, again.pixels)
        assert max(film.pixels.shape) == 96 and film.pixels.dtype == np.float32
        assert film.pixels.min() >= 0 and film.pixels.max() <= 1
        assert len(film.knees) in ((1, 2) if kind in ("knees", "implant") else (0,))
        height, width = film.pixels.shape
        for shown in film.knees:
            assert 0 < shown.centre[0] < width and 0 < shown.centre[1] < height
        if len(film.knees) == 2:  # the patient's right knee is on the film's left
            assert [shown.side for shown in film.knees] == [Side.RIGHT, Side.LEFT]
            assert film.knees[0].centre[0] < film.knees[1].centre[0]


def test_knees_stand_where_the_film_says(knees: torch.Tensor) -> None:
    """Inside its square a knee looks as its picture does; a left one is the mirror image."""
    maker = FilmMaker(knees, settings=PLAIN)
    for seed in range(6):
        film = maker.film(np.random.default_rng(seed), longer_px=400, kind="knees", rows=[0, 1])
        for row, shown in enumerate(film.knees):
            cut = cut_square(film.pixels, centre=shown.centre, size=0.7 * shown.side_px, label="film")
            expected = knees[row].numpy()[9:55, 9:55] / 255
            if shown.side is Side.LEFT:
                expected = expected[:, ::-1]
            at = ((np.arange(46) + 0.5) / 46 * len(cut)).astype(int)
            assert np.corrcoef(cut[at][:, at].ravel(), expected.ravel())[0, 1] > 0.9


def test_near_films_are_squares_with_a_knee_in_the_middle(knees: torch.Tensor) -> None:
    maker = FilmMaker(knees, settings=replace(PLAIN, near=1.0))
    for seed in range(8):
        film = maker.film(np.random.default_rng(seed), longer_px=96, kind="knees")
        assert film.pixels.shape == (96, 96)
        nearest = min(film.knees, key=lambda one: np.hypot(one.centre[0] - 48, one.centre[1] - 48))
        assert np.hypot(nearest.centre[0] - 48, nearest.centre[1] - 48) < 0.3 * nearest.side_px
        assert all(0 <= at < 96 for one in film.knees for at in one.centre)


def test_limbs_laid_askew_are_turned_as_they_say(knees: torch.Tensor) -> None:
    straight, turned = (
        FilmMaker(knees, settings=replace(PLAIN, askew=chance)).film(
            np.random.default_rng(3), longer_px=300, kind="knees", rows=[0]
        )
        for chance in (0.0, 1.0)
    )
    assert straight.knees[0].tilt_deg == 0 and 0 < abs(turned.knees[0].tilt_deg) <= PLAIN.askew_deg


def test_metal_lies_where_it_is_said_to_and_is_bright(knees: torch.Tensor) -> None:
    maker = FilmMaker(knees, settings=PLAIN)
    for seed in range(10):
        film = maker.film(np.random.default_rng(seed), longer_px=300, kind="implant")
        assert film.metal is not None and film.metal.shape == film.pixels.shape
        metal = film.pixels[film.metal > 0.9]
        assert metal.size and metal.mean() > np.quantile(film.pixels[film.metal == 0], 0.9)
    assert maker.film(np.random.default_rng(0), longer_px=96, kind="knees").metal is None


def test_letters_stand_beside_their_knees_and_change_the_film(knees: torch.Tensor) -> None:
    said = set()
    for seed in range(30):
        bare, film = (
            FilmMaker(knees, settings=replace(PLAIN, letter=chance)).film(
                np.random.default_rng(seed), longer_px=300, kind="knees", rows=[0, 1]
            )
            for chance in (0.0, 1.0)
        )
        assert bare.letters == ()
        for letter in film.letters:
            said.add(letter.says)
            x, y = letter.centre
            knee = min(film.knees, key=lambda one: np.hypot(one.centre[0] - x, one.centre[1] - y))
            assert max(abs(knee.centre[0] - x), abs(knee.centre[1] - y)) >= 0.3 * knee.side_px
            rows, columns = np.ogrid[: film.pixels.shape[0], : film.pixels.shape[1]]
            at_it = np.hypot(columns - x, rows - y) < letter.size_px
            assert np.abs(film.pixels - bare.pixels)[at_it].max() > 0.2
    assert said == {"R", "L", "mirrored R", "mirrored L"}


def test_a_film_says_which_knees_it_shows() -> None:
    knees = torch.from_numpy(np.stack([(knee(64, seed) * 255).astype(np.uint8) for seed in range(3)]))
    maker, rng = FilmMaker(knees), np.random.default_rng(5)
    for _ in range(20):
        film = maker.film(rng, longer_px=96, kind="knees", rows=[2, 1])
        assert len(film.rows) == len(film.knees)
        assert all(
            row == (2 if shown.side is Side.RIGHT else 1)
            for row, shown in zip(film.rows, film.knees, strict=True)
        )
    assert maker.film(rng, longer_px=96, kind="empty").rows == ()
