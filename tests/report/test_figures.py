from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from progression.report.figures import difference, prediction_figure, save_prediction_figure, spread_figure
from progression.report.mark import NOTICE, WORD
from progression.types import Prediction, SpreadPicture
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


def panel(figure: Figure, title: str) -> Axes:
    (found,) = [axes for axes in figure.axes if axes.get_title() == title]
    return found


def heights(made: Prediction) -> dict[str, list[float]]:
    axes = panel(prediction_figure(made), "grade, probability")
    return {str(bars.get_label()): [bar.get_height() for bar in bars] for bars in axes.containers}


def test_the_bars_are_of_one_kind() -> None:
    """The grade now that the risk starts from, and the highest read later: never a picture's beside a rendering's."""
    made = prediction(radiograph(), (24, 48))
    assert heights(made) == {
        "now": list(made.provenance["kl_start"]),
        "within 48 months": list(made.horizons[-1].kl_read or ()),
    }
    told = " ".join(text.get_text() for text in prediction_figure(made).texts)
    assert "highest grade read within 48 months" in told and "do not grade the pictures" in told


def test_the_bars_without_a_risk_model_are_of_the_radiograph_alone() -> None:
    made = replace(prediction(radiograph()), provenance={})
    assert heights(made) == {"now": list(made.kl_now)}
    assert "in the radiograph" in prediction_figure(made).texts[-1].get_text()


def test_what_cannot_rise_has_no_risk_drawn() -> None:
    made = replace(prediction(radiograph()), provenance={"kl_start": (0, 0, 0, 1, 0)})
    risks = panel(prediction_figure(made), "risk that the grade rises")
    drawn = {str(line.get_label()): len(np.asarray(line.get_xdata())) for line in risks.lines}
    assert drawn == {"rise by 1 or more": 2, "rise by 2 or more: cannot": 0}


def with_spread(months: tuple[int, ...]) -> Prediction:
    made = prediction(radiograph(), months)
    return replace(
        made,
        warnings=("accepted although " + "very odd, " * 12 + "do not rely on this",),
        horizons=tuple(
            replace(h, spread=tuple(SpreadPicture(p, 0.5, h.image) for p in (5, 50, 95)))
            for h in made.horizons
        ),
    )


@pytest.mark.parametrize("months", [(48,), (24, 48, 96)])
def test_nothing_is_cut_off_and_no_place_is_empty(months: tuple[int, ...]) -> None:
    made = with_spread(months)
    for figure in (spread_figure(made), prediction_figure(made)):
        figure.canvas.draw()
        for text in figure.texts:
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1
        words = " ".join(text.get_text() for text in figure.texts)
        assert NOTICE in words.replace("\n", " ") and "do not rely on this" in words.replace("\n", " ")
    rows, columns = spread_figure(made).axes[0].get_gridspec().get_geometry()
    assert len(spread_figure(made).axes) == rows * columns


def test_every_row_of_futures_is_marked_and_begins_with_what_is_now() -> None:
    figure = spread_figure(with_spread((24, 48)))
    marked = {axes.get_title(): WORD in [text.get_text() for text in axes.texts] for axes in figure.axes}
    assert not marked.pop("radiograph") and all(marked.values())
    assert "reconstruction" in marked and "+48 months, 95th: +0.5 grades" in marked


@pytest.mark.parametrize("months", [(48,), (96,)])
def test_file(tmp_path: Path, months: tuple[int, ...]) -> None:
    save_prediction_figure(tmp_path / "figure.png", prediction(radiograph(), months))
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.info["Synthetic"] == "yes"
        assert picture.width > picture.height > 400
