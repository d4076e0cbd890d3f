"""The shipped network on films made of the shipped synthetic knee."""

import numpy as np
import pytest
import torch
from PIL import Image

from progression.data.films import FilmMaker, MadeFilm, Settings
from progression.dicom import example
from progression.dicom.read import read_film
from progression.errors import WeightsError
from progression.image import read_image
from progression.localise.find import PART, Finder, fitted
from progression.localise.network import SIDE
from progression.types import Side
from progression.weights import load_model, save_part
from tests.dicom.films import content

FILES = load_model("default")
KNEE = read_image(FILES.folder / "example.png")


@pytest.fixture(scope="module")
def finder() -> Finder:
    found = Finder.load(FILES)
    assert found is not None
    return found


def test_a_film_is_fitted_with_its_exposure() -> None:
    film = np.full((50, 100), 0.4, np.float32)
    film[:, 50:] = 0.6
    x = fitted(film)
    assert x.shape == (1, SIDE, SIDE) and float(x[0, :48].max()) == float(x[0, 144:].max()) == 0
    assert float(x[0, 96, 10]) == pytest.approx(0) and float(x[0, 96, 180]) == pytest.approx(1)


def test_both_knees_of_the_example_film(finder: Finder) -> None:
    film = read_film(content(example.bilateral_film(KNEE)), "film").values
    seen = finder(np.asarray(film, np.float32))
    assert seen.kind == "knees" and len(seen.knees) == 2
    for spot, side in zip(seen.knees, (Side.RIGHT, Side.LEFT), strict=True):
        x, y = example.centre_px(side)
        assert np.hypot(spot.x - x, spot.y - y) < 0.05 * 240
        assert spot.side_px == pytest.approx(240, rel=0.15) and spot.confidence > 0.5


def test_knees_are_found_where_they_stand_and_turned(finder: Finder) -> None:
    small = Image.fromarray(KNEE).resize((128, 128))
    knees = torch.from_numpy((np.asarray(small) * 255).astype(np.uint8))[None]
    maker, rng = FilmMaker(knees, settings=Settings(whole=0.0, inverted=0.0)), np.random.default_rng(3)
    films: list[MadeFilm] = [maker.film(rng, longer_px=500, kind="knees") for _ in range(12)]
    off = []
    for film in films:
        seen = finder(film.pixels)
        for knee in film.knees:
            x, y = knee.centre
            near = (np.hypot(spot.x - x, spot.y - y) / knee.side_px for spot in seen.knees)
            off.append(min(near, default=1.0))
    assert np.median(off) < 0.04 and np.mean(np.array(off) < 0.11) > 0.9


def test_an_empty_field_has_no_knee(finder: Finder) -> None:
    seen = finder(np.random.default_rng(0).random((300, 400), dtype=np.float32) * 0.1)
    assert seen.kind != "knees" or not seen.knees
    assert sum(seen.kinds.values()) == pytest.approx(1)


def test_a_model_may_have_none_but_not_another(finder: Finder, tmp_path) -> None:  # type: ignore[no-untyped-def]
    save_part(tmp_path / "m", "other", {"x": torch.zeros(1)}, {}, resolution=64)
    assert Finder.load(load_model(tmp_path / "m")) is None
    finder.save(tmp_path / "m", limits={"size": (0.5, 1.5)}, training={})
    again = Finder.load(load_model(tmp_path / "m"))
    assert again is not None and again.limits == {"size": (0.5, 1.5)} and again.kinds == finder.kinds
    save_part(tmp_path / "m", PART, {"x": torch.zeros(1)}, FILES.config(PART))
    with pytest.raises(WeightsError, match="of another version: progression train localiser makes it anew"):
        Finder.load(load_model(tmp_path / "m"))
