import numpy as np
import pytest
import torch

from progression.data.films import KINDS, FilmMaker, Settings, with_implant
from progression.image import cut_square
from progression.types import Side
from tests.fakes import knee

PLAIN = Settings(
    gamma=(1.0, 1.0),
    ramp=0.0,
    noise=(0.0, 0.0),
    tilt_deg=0.0,
    collimated=0.0,
    marked=0.0,
    inverted=0.0,
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


def test_implants_are_the_brightest_thing() -> None:
    picture = 0.8 * knee(64)
    for seed in range(10):
        made = with_implant(np.random.default_rng(seed), picture)
        assert made.max() >= 0.94 and 0.005 < (made > 0.9).mean() < 0.5
