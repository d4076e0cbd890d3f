import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from progression.image import read_image
from progression.localise.find import Finder
from progression.quality import Quality, measure, unusual
from progression.weights import load_model

FILES = load_model("default")
KNEE = read_image(FILES.folder / "example.png")


@pytest.fixture(scope="module")
def finder() -> Finder:
    found = Finder.load(FILES)
    assert found is not None
    return found


def _told(pixels: np.ndarray, finder: Finder) -> str:
    return " ".join(unusual(measure(pixels.astype(np.float32), finder), finder.limits))


def test_what_is_done_to_a_picture_is_told(finder: Finder) -> None:
    assert _told(KNEE, finder) == ""
    assert "its exposure is flat" in _told(0.5 + 0.08 * (KNEE - 0.5), finder)
    assert "it is blurred" in _told(gaussian_filter(KNEE, 0.03 * len(KNEE)), finder)
    size = len(KNEE)
    assert "the knee is small in it" in _told(np.pad(KNEE, size // 2, mode="edge"), finder)
    assert "the joint is far" in _told(np.roll(KNEE, size // 4, axis=1), finder)


def test_figures_of_a_picture(finder: Finder) -> None:
    found = measure(KNEE, finder)
    assert found.size == pytest.approx(1, abs=0.15)
    assert abs(found.off_x) < 0.08 and abs(found.off_y) < 0.08 and abs(found.tilt_deg) < 8
    flat = measure((0.5 + 0.1 * (KNEE - 0.5)).astype(np.float32), finder)
    assert flat.contrast == pytest.approx(0.1 * found.contrast, rel=1e-3)
    assert flat.sharpness == pytest.approx(found.sharpness, rel=1e-2)  # exposure does not change it


def test_lines_by_hand() -> None:
    quality = Quality(contrast=0.5, sharpness=0.1, size=1.0, off_x=0.2, off_y=float("nan"), tilt_deg=-9.0)
    usual = {"contrast": (0.1, 0.9), "off_x": (-0.1, 0.1), "off_y": (-0.1, 0.1), "tilt_deg": (-5.0, 5.0)}
    assert unusual(quality, usual) == (
        "quality of the picture: the joint is far to the right (off_x 0.20, usual -0.10 to 0.10)",
        "quality of the picture: the limb is turned anticlockwise (tilt_deg -9.00, usual -5.00 to 5.00)",
    )
