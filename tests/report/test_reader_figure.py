"""What the figure of a reader study shows."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from PIL import Image

from progression.errors import OutputError
from progression.evaluate.readers import analyse_readers, differences_of
from progression.metrics.readers import Ratings
from progression.report.reader_figure import (
    colours,
    draw_curves,
    draw_points,
    name_offsets,
    reader_figure,
    save_figure,
)
from tests.reader_studies import study


def figure(threshold: float | None = None, **options: object) -> tuple[Ratings, list[Axes]]:
    ratings = Ratings.of(study(**options))  # type: ignore[arg-type]
    report = analyse_readers(ratings)
    drawn = reader_figure(ratings, differences_of(report, "auc"), threshold=threshold)
    drawn.canvas.draw()  # warnings of the layout are errors
    return ratings, drawn.axes


def test_panels() -> None:
    assert [a.get_title() for a in figure()[1]] == [
        "ROC curves (thick: mean of the readers)",
        "difference, 95 % interval",
    ]
    assert figure(3)[1][1].get_title() == "operating points (rating ≥ 3)"
    assert len(figure(treatments=("alone",))[1]) == 1
    assert len(figure(3, n_readers=1)[1]) == 3


def test_arrows_lead_from_the_reference() -> None:
    ratings, (_, points, _) = figure(3)
    positive = ratings.rating >= 3
    true, false = positive[..., ratings.truth].mean(axis=2), positive[..., ~ratings.truth].mean(axis=2)
    arrows = [a for a in points.texts if isinstance(a, Annotation) and a.arrow_patch is not None]
    assert [a.xy for a in arrows] == list(zip(false[0], true[0], strict=True))
    assert [a.xyann for a in arrows] == list(zip(false[1], true[1], strict=True))
    assert [a.get_text() for a in points.texts if a.get_text()] == list(ratings.readers)


def test_names_of_near_readers_lie_apart() -> None:
    """Eight readers, whose points nearly coincide or do."""
    ends = 0.5 + 0.02 * np.random.default_rng(0).normal(size=(2, 8, 2))
    ends[:, 1] = ends[:, 0]
    names = [f"r{j}" for j in range(8)]
    axes = Figure(figsize=(4.4, 4.5), dpi=110).subplots()
    draw_points(axes, ends[..., 0], ends[..., 1], treatments=("aided", "unaided"), readers=names)
    axes.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == 8 and not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_a_name_with_room_lies_beyond_its_arrows_head() -> None:
    ends = np.array([[[0.5, 0.5]], [[0.2, 0.5]]])
    assert name_offsets(ends, ["reader"])[0] == pytest.approx([5 + 0.3 * 8 * 6, 0])


def test_no_arrows_between_three_treatments() -> None:
    _, (_, points, _) = figure(3, treatments=("a", "b", "c"))
    assert not [a for a in points.texts if isinstance(a, Annotation) and a.arrow_patch is not None]
    assert len(points.collections) == 3


def test_differences_are_of_all_readers_and_means() -> None:
    _, (_, differences) = figure()
    assert [label.get_text() for label in differences.get_yticklabels()][:4] == [
        f"reader r{j}" for j in range(1, 5)
    ]
    assert len(differences.get_yticklabels()) == 7
    _, (_, several) = figure(treatments=("a", "b", "c"))
    assert [label.get_text() for label in several.get_yticklabels()][:2] == ["reader r1 (a)", "reader r1 (b)"]


def test_mean_curve_of_one_reader_is_his_curve() -> None:
    ratings = Ratings.of(study(n_readers=1, treatments=("alone",)))
    axes = Figure().subplots()
    draw_curves(axes, ratings)
    _, curve, mean = axes.lines
    x, y = (np.asarray(values) for values in curve.get_data())
    rising = np.append(np.diff(x) > 0, True)
    np.testing.assert_allclose(
        mean.get_ydata(), np.interp(np.asarray(mean.get_xdata()), x[rising], y[rising])
    )


def test_the_reference_is_grey() -> None:
    assert colours(["a"]) == ["#4d4d4d"]
    many = colours(list("abcdef"))
    assert many[-1] == "#4d4d4d" and many[0] == many[4]


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    drawn = reader_figure(Ratings.of(study()), [])
    save_figure(tmp_path / "new" / "figure.png", drawn)
    with Image.open(tmp_path / "new" / "figure.png") as picture:
        assert picture.format == "PNG"
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        save_figure(tmp_path / "file" / "figure.png", drawn)
