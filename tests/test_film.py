from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from progression.dicom import example
from progression.errors import ImageError, UsageError
from progression.film import Place, known_side, neutral_name, read_knee
from progression.image import cut_square
from progression.types import FIELD_MM, Side
from tests.dicom.films import content, dx, named, save
from tests.fakes import knee, save_knee


@pytest.fixture
def both(tmp_path: Path) -> Path:
    return save(tmp_path / "both.dcm", example.bilateral_film(knee()))


def test_a_single_knee_is_taken_whole_and_says_its_side(tmp_path: Path) -> None:
    film = save(tmp_path / "knee.dcm", dx(Side.LEFT))
    found = read_knee(film)
    assert found.side is Side.LEFT and found.pixels.shape == (96, 96) and found.notes == ()
    assert read_knee(film, side=Side.LEFT).side is Side.LEFT
    for read in (read_knee, known_side):
        with pytest.raises(UsageError, match="states that it is a left knee, not a right one"):
            read(film, side=Side.RIGHT)


def test_pictures_of_other_kinds_need_no_spacing(tmp_path: Path) -> None:
    save_knee(tmp_path / "knee.png", side=Side.RIGHT)
    assert read_knee(tmp_path / "knee.png").side is Side.RIGHT
    assert read_knee(knee()).side is None
    with pytest.raises(UsageError, match="right knee, not a left"):
        read_knee(tmp_path / "knee.png", side=Side.LEFT)


def test_both_knees_need_centres(both: Path) -> None:
    with pytest.raises(
        ImageError, match=r"shows both knees \(SeriesDescription both\); give each one's centre"
    ):
        read_knee(both, side=Side.LEFT)


def test_squares_of_both_knees_are_the_knees(both: Path) -> None:
    found = {
        side: read_knee(both, side=side, place=Place(centre=example.centre_px(side))).pixels for side in Side
    }
    assert found[Side.LEFT].shape == (240, 240) == (round(FIELD_MM / example.SPACING_MM),) * 2
    np.testing.assert_allclose(found[Side.LEFT][:, ::-1], found[Side.RIGHT], atol=1e-3)
    expected = np.asarray(Image.fromarray(knee()).resize((240, 240), Image.Resampling.BICUBIC)).clip(0, 1)
    span = lambda x: (x - x.min()) / np.ptp(x)  # noqa: E731
    np.testing.assert_allclose(span(found[Side.RIGHT]), span(expected), atol=0.01)


def test_cutting_counts_pixels_from_the_upper_left() -> None:
    film = np.arange(100).reshape(10, 10)
    assert cut_square(film, centre=(4, 5), size=4, label="x").tolist() == film[3:7, 2:6].tolist()
    edge = cut_square(film, centre=(1, 5), size=4, label="x")
    assert edge[:, 0].tolist() == edge[:, 1].tolist() == film[3:7, 0].tolist()
    for centre in ((-1, 5), (5, 10), (0.5, 5)):
        with pytest.raises(ImageError, match="does not lie in the film of 10 x 10"):
            cut_square(film, centre=centre, size=4, label="x")


@pytest.mark.parametrize("kind", [np.float32, np.uint16])
def test_a_turned_square_sets_upright_what_leans(kind: type) -> None:
    """A line that leans by 10 degrees clockwise, from the middle upwards to the right, is upright in it."""
    y, x = np.mgrid[:200, :300]
    across = (x + 0.5 - 150) * np.cos(np.radians(10)) + (y + 0.5 - 100) * np.sin(np.radians(10))
    film = (np.exp(-((across / 4) ** 2)) * (1 if kind is np.float32 else 60_000)).astype(kind)
    cut = cut_square(film, centre=(150, 100), size=120, tilt_deg=10, label="x")
    assert cut.shape == (120, 120) and cut.dtype == kind
    middle = np.average(np.arange(120) + 0.5, weights=cut.mean(0, dtype=float))
    assert middle == pytest.approx(60, abs=0.1)
    assert (cut.argmax(1) - 59.5 == pytest.approx(0, abs=1.01)) and cut.min() < 0.001 * cut.max()
    colours = cut_square(np.stack([film] * 3, -1), centre=(150, 100), size=120, tilt_deg=10, label="x")
    np.testing.assert_array_equal(colours[..., 2], cut)
    straight = cut_square(film, centre=(150, 100), size=120, label="x")
    nearly = cut_square(film, centre=(150, 100), size=120, tilt_deg=1e-9, label="x")
    np.testing.assert_allclose(straight.astype(float), nearly.astype(float), atol=0.01)


def test_places_as_text() -> None:
    assert Place.parse() == Place()
    assert Place.parse("12,30.5") == Place((12.0, 30.5))
    assert Place.parse("12,30,40,-7.5") == Place((12.0, 30.0), side_px=40.0, tilt_deg=-7.5)
    for wrong in ("12", "a,b", "1,2,3,4,5", "1,2,3,nan", "1,2,3,60"):
        with pytest.raises(UsageError, match=r"expected x,y in pixels .* tilt of at most 45 degrees"):
            Place.parse(wrong)


def test_spacing_is_needed_to_cut_only(tmp_path: Path) -> None:
    film = save(tmp_path / "knee.dcm", example.cr(knee(400), spacing_mm=None))
    assert read_knee(film, side=Side.LEFT).pixels.shape == (400, 400)
    centre = (200.0, 200.0)
    with pytest.raises(ImageError, match=r"does not say the size of its pixels; pass it \(--spacing-mm"):
        read_knee(film, side=Side.LEFT, place=Place(centre))
    assert read_knee(film, side=Side.LEFT, place=Place(centre, 0.5)).pixels.shape == (180, 180)
    for wrong in (0.0, 3.0, float("nan")):
        with pytest.raises(UsageError, match=r"expected the size of a pixel, 0\.01 to 2 mm"):
            read_knee(film, side=Side.LEFT, place=Place(centre, wrong))


def test_spacing_given_and_stated_agree(both: Path) -> None:
    centre = example.centre_px(Side.LEFT)
    assert read_knee(both, side=Side.LEFT, place=Place(centre, 0.379)).pixels.shape == (237, 237)
    with pytest.raises(UsageError, match=r"states pixels of 0\.375 mm, not 0\.6"):
        read_knee(both, side=Side.LEFT, place=Place(centre, 0.6))


def test_a_header_that_contradicts_itself_is_told_and_decided_by_the_user(tmp_path: Path) -> None:
    film = dx(Side.LEFT)
    film.SeriesDescription = "right knee"
    path = save(tmp_path / "knee.dcm", film)
    told = r"contradicts itself about the side \(ImageLaterality left, AnatomicRegionModifierSequence left, "
    with pytest.raises(UsageError, match=told):
        read_knee(path)
    found = read_knee(path, side=Side.RIGHT)
    assert found.side is Side.RIGHT and "taken as right, as asked" in found.notes[0]


def test_a_wide_picture_is_warned_of(tmp_path: Path) -> None:
    film = save(tmp_path / "knee.dcm", dx(spacing_mm=2.0))
    assert read_knee(film).notes == ()
    film = save(tmp_path / "wide.dcm", example.dx(knee(256), side=Side.LEFT, spacing_mm=1.0))
    assert "the picture is 256 mm wide" in read_knee(film).notes[0]


def test_a_file_called_by_its_patient_is_called_otherwise(tmp_path: Path) -> None:
    film = save(tmp_path / "x.dcm", named(dx()))
    for name in ("geheimnis_knee", "scan-77123", "Annegret", "19561224"):
        other = neutral_name(film, name)
        assert other.startswith("knee-") and len(other) == 13 and other == neutral_name(film, name)
    assert neutral_name(film, "visit1") == "visit1"
    assert content(dx()) != b"" and neutral_name(save(tmp_path / "y.dcm", dx()), "visit1") == "visit1"
