"""What the figures of risks show."""

from __future__ import annotations

import numpy as np
import pytest

from progression.metrics.auc import roc_points
from progression.metrics.calibration import reliability
from progression.metrics.decision import net_benefit
from progression.report.risk_figure import (
    Panel,
    ReaderPoints,
    decision_figure,
    reliability_figure,
    roc_figure,
)


@pytest.fixture(scope="module")
def panel() -> Panel:
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 0.5, 100)
    y = (rng.random(100) < p).astype(float)
    readers = ReaderPoints("two readers", np.array([0.1, 0.3]), np.array([0.4, 0.6]))
    return Panel("a rise", y, {"one": p, "other": p**2}, (readers,))


def test_curves_and_readers(panel: Panel) -> None:
    figure = roc_figure([panel, Panel("without readers", panel.y, panel.scores)])
    figure.canvas.draw()  # warnings of the layout are errors
    first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["a rise", "without readers"]
    _, one, other = first.lines
    np.testing.assert_allclose(one.get_xydata().T, roc_points(panel.y, panel.scores["one"]))
    np.testing.assert_allclose(other.get_xydata(), one.get_xydata())
    np.testing.assert_allclose(first.collections[0].get_offsets(), [[0.1, 0.4], [0.3, 0.6]])
    assert not second.collections
    assert "two readers" in [text.get_text() for text in first.get_legend().get_texts()]


def test_reliability_is_that_of_the_bins(panel: Panel) -> None:
    (axes,) = reliability_figure([panel], n_bins=5).axes
    bins = reliability(panel.y, panel.scores["one"], n_bins=5)
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[b["mean_risk"], b["event_rate"]] for b in bins])


def test_net_benefit_to_three_times_the_rate(panel: Panel) -> None:
    (axes,) = decision_figure([panel]).axes
    lines = {line.get_label(): line.get_xydata().T for line in axes.lines}
    thresholds, benefit = lines["one"]
    assert thresholds[-1] == pytest.approx(min(0.95, 3 * panel.y.mean()))
    np.testing.assert_allclose(benefit, net_benefit(panel.y, panel.scores["one"], thresholds))
    np.testing.assert_allclose(lines["act on none"][1], 0)
    assert lines["act on all"][1][0] == pytest.approx(panel.y.mean())


def test_empty_places_are_not_shown(panel: Panel) -> None:
    axes = roc_figure([panel] * 5).axes
    assert [a.get_visible() for a in axes] == [True] * 5 + [False] * 3
