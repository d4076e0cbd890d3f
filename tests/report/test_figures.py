from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from progression.report.figures import difference, prediction_figure, save_prediction_figure
from progression.report.mark import WORD
from tests.fakes import prediction, radiograph


def titles(months: tuple[int, ...], *, render: bool = True) -> list[str]:
    figure = prediction_figure(prediction(radiograph(), months, render=render))
    return [axes.get_title() for axes in figure.axes]


def test_every_horizon_has_a_picture_and_a_difference_map() -> None:
    shown = titles((12, 24, 36, 48, 72))
    for months in (12, 24, 36, 48, 72):
        assert f"+{months} months" in shown
        assert f"change to +{months} months" in shown
    assert "radiograph" in shown and "reconstruction" in shown


def test_generated_pictures_are_marked_and_the_radiograph_is_not() -> None:
    figure = prediction_figure(prediction(radiograph(), (48,)))
    for axes in figure.axes:
        words = [text.get_text() for text in axes.texts]
        assert (WORD in words) == (axes.get_title() in ("reconstruction", "+48 months"))


def test_the_map_is_diverging_symmetric_and_has_a_scale() -> None:
    figure = prediction_figure(prediction(radiograph(), (24, 96)))
    maps = [axes.images[0] for axes in figure.axes if axes.get_title().startswith("change")]
    limits = {image.get_clim() for image in maps}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low == -high
    assert any("brighter" in axes.get_ylabel() for axes in figure.axes)


def test_difference_is_in_shares_of_contrast() -> None:
    baseline = np.tile(np.linspace(0, 1, 101, dtype=np.float32) / 2, (101, 1))
    change = difference(baseline + np.float32(0.049), baseline, baseline)
    np.testing.assert_allclose(change, 0.1, atol=1e-5)


def test_without_rendered_pictures_the_risks_remain() -> None:
    assert titles((48,), render=False) == ["radiograph", "reconstruction", "grade, probability",
                                           "risk that the grade rises"]  # fmt: skip


@pytest.mark.parametrize("months", [(48,), (96,)])
def test_file(tmp_path: Path, months: tuple[int, ...]) -> None:
    save_prediction_figure(tmp_path / "figure.png", prediction(radiograph(), months))
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.info["Synthetic"] == "yes"
        assert picture.width > picture.height > 400
