"""Net benefit on cases that can be worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from progression.errors import UsageError
from progression.metrics.decision import net_benefit, net_benefit_of_all


def test_by_hand() -> None:
    y, p = [1, 1, 0, 0, 0], [0.8, 0.2, 0.5, 0.1, 0.05]
    # at 0.2: 2 true, 1 false of 5, odds 1/4; at 0.5: 1 true, 1 false, odds 1
    np.testing.assert_allclose(net_benefit(y, p, [0.0, 0.2, 0.5]), [2 / 5, 2 / 5 - 1 / 5 / 4, 0.0])
    # acting on all is worth nothing where the threshold is the event rate
    np.testing.assert_allclose(net_benefit_of_all(y, [0.0, 0.4]), [2 / 5, 0.0], atol=1e-12)


def test_a_risk_is_never_worth_more_than_knowing() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(200)
    y = (rng.random(200) < p).astype(float)
    t = np.linspace(0, 0.95, 20)
    known = net_benefit(y, y, t)
    assert (net_benefit(y, p, t) <= known + 1e-12).all()
    np.testing.assert_allclose(known[1:], y.mean())


def test_refuses_thresholds_that_are_no_risks() -> None:
    with pytest.raises(UsageError, match="thresholds from 0 to below 1"):
        net_benefit([0, 1], [0.1, 0.2], [1.0])
