"""The ensemble: shapes, probabilities, input of any size, and its way to disk and back."""

from __future__ import annotations

import pytest
import torch

from progression.errors import WeightsError
from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import FUTURE_MONTHS, NUM_OUTPUTS, RISE_TARGETS, Grader, as_grading, resize


def _grader(count: int = 2) -> Grader:
    torch.manual_seed(0)
    stages = (Stage(1, 3, 2, 1, 4),)
    networks = [EfficientNet(1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=stages) for _ in range(count)]
    return Grader(networks, input_resolution=32).eval().requires_grad_(False)


def test_heads_are_probabilities_of_the_stated_shapes() -> None:
    grading = _grader()(torch.rand(3, 1, 32, 32) * 2 - 1)
    assert grading.now.shape == (3, 5)
    assert grading.future.shape == (3, len(FUTURE_MONTHS), 5)
    assert grading.rise.shape == (3, len(RISE_TARGETS))
    torch.testing.assert_close(grading.now.sum(dim=1), torch.ones(3))
    torch.testing.assert_close(grading.future.sum(dim=2), torch.ones(3, len(FUTURE_MONTHS)))
    assert bool(((grading.rise > 0) & (grading.rise < 1)).all())


def test_expected_grade_by_hand() -> None:
    outputs = torch.zeros(1, NUM_OUTPUTS)
    outputs[0, :5] = torch.tensor([0.5, 0.25, 0, 0, 0.25]).clamp(min=1e-30).log()
    assert as_grading(outputs).expected_grade.item() == pytest.approx(1.25)


def test_ensemble_is_the_mean_of_its_networks() -> None:
    grader = _grader(3)
    x = torch.rand(2, 1, 32, 32) * 2 - 1
    singles = [as_grading(network(x)).now for network in grader.networks]
    torch.testing.assert_close(grader.probabilities(x), torch.stack(singles).mean(dim=0))
    assert grader.features(x).shape == (2, 3 * 8)


@pytest.mark.parametrize("size", [16, 32, 48, 128])
def test_any_resolution_is_resized_to_the_networks(size: int) -> None:
    grader = _grader()
    x = torch.rand(1, 1, size, size) * 2 - 1
    assert torch.equal(grader.probabilities(x), grader.probabilities(resize(x, 32)))


def test_gradients_reach_the_picture() -> None:
    x = torch.zeros(1, 1, 16, 16, requires_grad=True)
    _grader()(x).expected_grade.sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())


def test_tensors_and_config_restore_it() -> None:
    grader = _grader()
    restored = Grader.from_tensors(grader.state_dict(), grader.config())
    x = torch.rand(2, 1, 40, 40) * 2 - 1
    assert torch.equal(restored.probabilities(x), grader.probabilities(x))
    assert not restored.training


def test_misfits_are_named() -> None:
    grader = _grader()
    with pytest.raises(WeightsError, match=r"the grader is damaged: tensor .* is missing"):
        Grader.from_tensors(grader.state_dict(), grader.config() | {"networks": 3})
    with pytest.raises(WeightsError, match="heads are those of another version"):
        Grader.from_tensors(grader.state_dict(), grader.config() | {"rise_targets": [[1, 12]]})
