"""What is made of what the network sees; it is given here."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from progression.dicom import example
from progression.errors import FilmRefusedError, ImageError, UsageError
from progression.film import Place, read_knee
from progression.localise.find import Finder, Seen, Spot
from progression.localise.network import KneeFinder
from progression.localise.places import locate, read_located
from progression.types import Side
from tests.dicom.films import save
from tests.fakes import knee

RIGHT, LEFT = Spot(312.0, 400.0, 200.0, 1.0, 0.9), Spot(808.0, 400.0, 200.0, -2.0, 0.8)


@dataclass(frozen=True)
class Says(Finder):
    """Sees what it is told, and no tilt or size that would be unusual."""

    network: KneeFinder = field(default_factory=lambda: KneeFinder(kinds=1, width=1))
    kinds: tuple[str, ...] = ()
    knees: tuple[Spot, ...] = (RIGHT, LEFT)
    kind: str = "knees"

    def __call__(self, pixels: np.ndarray) -> Seen:
        height, width = pixels.shape
        inside = tuple(spot for spot in self.knees if spot.x < width and spot.y < height)
        return Seen({self.kind: 0.9, "rest": 0.1}, inside)


@pytest.fixture
def both(tmp_path: Path) -> Path:
    return save(tmp_path / "both.dcm", example.bilateral_film(knee()))


def test_the_right_knee_is_on_the_left_of_the_film(both: Path) -> None:
    right, left = locate(both, finder=Says())
    assert (right.side, left.side) == (Side.RIGHT, Side.LEFT)
    assert right.centre == "right=312.0,400.0,200.0" and right.centre_mm == (117.0, 150.0)
    assert Place.parse("312.0,400.0,200.0") == right.place and right.notes == ()


def test_a_mirrored_film_is_mirrored(tmp_path: Path) -> None:
    film = example.bilateral_film(knee())
    film.PatientOrientation = ["R", "F"]
    left, right = locate(save(tmp_path / "both.dcm", film), finder=Says())
    assert (left.side, right.side) == (Side.LEFT, Side.RIGHT)
    assert "mirrored by its Patient Orientation" in left.notes[0]


@pytest.mark.parametrize(
    ("finder", "reason"),
    [
        (Says(kind="implant"), r"shows metal, an implant or a fixation \(90% sure\)"),
        (Says(kind="lateral"), "looks like a knee from the side"),
        (Says(kind="other"), "looks like another part of the body"),
        (Says(kind="empty"), "shows no knee"),
        (Says(knees=()), "shows no knee"),
        (Says(knees=(RIGHT, RIGHT, LEFT)), "shows 3 knees, where one or two are expected"),
    ],
)
def test_refused_by_name_unless_accepted(both: Path, finder: Says, reason: str) -> None:
    with pytest.raises(FilmRefusedError, match=rf"{reason}.*--centre x,y.*--accept-atypical"):
        locate(both, finder=finder)
    found = locate(both, finder=finder, accept_atypical=True)
    if finder.knees:
        assert len(found) == 2 and all("trained on synthetic films" in one.notes[0] for one in found)
    else:
        assert len(found) == 1 and found[0].spot is None and found[0].centre == ""


def test_the_side_asked_for_is_read(both: Path) -> None:
    read = read_located(both, finder=Says(), side=Side.LEFT)
    assert read.side is Side.LEFT and read.pixels.shape == (200, 200)
    with pytest.raises(UsageError, match="shows both knees: expected the side of one"):
        read_located(both, finder=Says())
    given = read_located(both, finder=Says(), side=Side.LEFT, place=Place((808.0, 400.0)))
    assert given.pixels.shape == (240, 240)  # a place that is given is not looked for


def test_one_knee_is_cut_from_a_long_film_and_taken_whole_from_its_picture(tmp_path: Path) -> None:
    values = np.zeros((400, 240), np.float32)
    values[100:340, :] = knee(240)
    film = save(tmp_path / "long.dcm", example.dx(values, side=Side.LEFT, spacing_mm=0.5))
    small = Says(knees=(Spot(120.0, 220.0, 150.0, 0.0, 0.4),))
    (found,) = locate(film, finder=small)
    assert found.side is Side.LEFT and found.spot is not None and "confidence of 0.40" in found.notes[0]
    assert read_located(film, finder=small).pixels.shape == (150, 150)
    large = Says(knees=(Spot(120.0, 205.0, 200.0, 0.0, 0.9),))
    assert locate(film, finder=large)[0].spot is None
    assert read_located(knee(200), finder=None, side=Side.RIGHT).pixels.shape == (200, 200)


def test_a_film_may_be_as_long_as_a_leg(tmp_path: Path) -> None:
    values = np.zeros((1200, 300), np.float32)
    values[500:740, 30:270] = knee(240)
    film = tmp_path / "leg.png"
    Image.fromarray((255 * values).astype(np.uint8)).save(film)
    at_the_joint = Place((150.0, 620.0), side_px=240.0)
    assert read_knee(film, side=Side.LEFT, place=at_the_joint).pixels.shape == (240, 240)
    wide = Says(knees=(Spot(150.0, 620.0, 240.0, 0.0, 0.9),))
    assert read_located(film, finder=wide, side=Side.LEFT).pixels.shape == (240, 240)  # fills its width alone
    with pytest.raises(ImageError, match=r"300 x 1200 pixels; expected one knee, .*--centre x,y"):
        read_knee(film, side=Side.LEFT)


def test_a_square_picture_is_one_knee_unless_it_is_clearly_a_film(tmp_path: Path) -> None:
    square = knee(200)

    def spots(finder: Says) -> list[Spot | None]:
        return [one.spot for one in locate(square, finder=finder, side=Side.RIGHT)]

    one, small = Spot(100.0, 100.0, 190.0, 0.0, 0.9), Spot(100.0, 100.0, 80.0, 0.0, 0.9)
    two = (Spot(50.0, 100.0, 80.0, 0.0, 0.9), Spot(150.0, 100.0, 80.0, 0.0, 0.9))
    assert spots(Says(knees=(one,))) == [None]
    assert spots(Says(knees=(one,), kind="implant")) == [
        None
    ]  # crops of knees without metal look so, at times
    assert spots(Says(knees=())) == [None]
    assert spots(Says(knees=(replace(small, confidence=0.4),))) == [None]
    assert spots(Says(knees=(small,))) == [small]
    assert spots(Says(knees=two)) == list(two)
    with pytest.raises(FilmRefusedError, match="looks like a knee from the side"):
        spots(Says(knees=(), kind="lateral"))
    known = save(tmp_path / "known.dcm", example.dx(square, side=Side.LEFT, spacing_mm=0.5))
    assert locate(known, finder=Says(knees=two))[0].spot is None  # 100 mm are one knee


def test_a_knee_that_leans_is_cut_upright(both: Path) -> None:
    leaning = Says(knees=(replace(RIGHT, tilt_deg=11.0), LEFT))
    right, left = locate(both, finder=leaning)
    assert right.centre == "right=312.0,400.0,200.0,11.0" and left.centre == "left=808.0,400.0,200.0"
    assert Place.parse("312.0,400.0,200.0,11.0") == right.place and right.place.tilt_deg == 11.0
    cut, straight = (read_located(both, finder=one, side=Side.RIGHT).pixels for one in (leaning, Says()))
    assert cut.shape == straight.shape == (200, 200)
    assert not np.array_equal(cut, straight)


def test_a_square_at_the_edge_is_made_to_fit(both: Path) -> None:
    close = Says(knees=(Spot(100.0, 400.0, 500.0, 0.0, 0.9), LEFT))
    found = locate(both, finder=close)
    assert found[0].spot is not None and found[0].spot.side_px == pytest.approx(0.98 * 400)
    assert read_located(both, finder=close, side=Side.RIGHT).pixels.shape == (392, 392)
