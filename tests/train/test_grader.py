"""Training the grader: labels, folds, the loss, augmentation, and going on after a kill."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from progression.data.dataset import Knees
from progression.errors import UsageError
from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS
from progression.train import grader_run as training
from progression.train.augmentation import augment, mix
from progression.train.checkpoint import load_checkpoint, save_checkpoint
from progression.train.grader import fold_of, grade_images, robust_grader, train_fold, train_grader
from progression.train.grader_config import PRESETS, GraderConfig
from progression.train.grader_loss import Targets, grading_loss, make_targets, soften

SMALL = GraderConfig(
    folds=2, resolutions=(24, 32), batch_size=8, frozen_blocks=0, checkpoint_steps=2, learning_rate=3e-3
)


def _network() -> EfficientNet:
    return EfficientNet(1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=(Stage(1, 3, 2, 1, 4),))


def _knees(count: int = 48) -> Knees:
    """Bright pictures are of grade 3, dark ones of grade 0; two knees a subject."""
    rng = np.random.default_rng(0)
    bright = rng.integers(0, 2, count)
    images = rng.integers(0, 60, (count, 32, 32)) + 150 * bright[:, None, None]
    series = np.stack([3 * bright] * 3, axis=1)
    return Knees(
        torch.as_tensor(images, dtype=torch.uint8),
        np.array([f"P{i // 2:03d}" for i in range(count)]),
        np.array(["left", "right"] * (count // 2)),
        series[:, 0],
        series,
        np.array([0.0, 24, 48]),
    )


def test_targets_by_hand() -> None:
    knees = replace(
        _knees(4),
        grade=np.array([0, 1, 4, -1]),
        grade_series=np.array([[0, 2, 1, -1], [1, -1, 1, 2], [4, 4, 4, 4], [-1, 2, 3, 3]]),
        series_months=np.array([0.0, 24, 48, 96]),
    )
    targets = make_targets(knees)
    assert targets.now.tolist() == [0, 1, 4, -1]
    # by 24, 48 and 96 months; the first knee was not read after 48, the second not by 24
    assert targets.future.tolist() == [[2, 2, -1], [-1, 1, 2], [4, 4, 4], [2, 3, 3]]
    # (1, 48), (1, 96), (2, 48), (2, 96): grade 4 cannot rise, an unread baseline has no outcome
    assert targets.rise.tolist() == [[1, 1, 1, 1], [0, 1, 0, 0], [-1] * 4, [-1] * 4]


def test_softened_labels() -> None:
    received = soften(torch.tensor([0, 2]), 0.2)
    torch.testing.assert_close(received, torch.tensor([[0.8, 0.2, 0, 0, 0], [0, 0.1, 0.8, 0.1, 0]]))


def test_unread_labels_do_not_count() -> None:
    targets = make_targets(_knees(4))
    outputs = torch.randn(4, NUM_OUTPUTS)
    alone = grading_loss(outputs[:2], targets.rows(torch.tensor([0, 1])), SMALL)
    unread = [torch.where(torch.arange(4).reshape(-1, *[1] * (t.ndim - 1)) < 2, t, -1) for t in
              (targets.now, targets.future, targets.rise)]  # fmt: skip
    torch.testing.assert_close(grading_loss(outputs, Targets(*unread), SMALL), alone)


def test_folds_keep_subjects_together_and_are_even() -> None:
    subjects = np.array([f"P{i // 2}" for i in range(60)])
    folds = fold_of(subjects, folds=3, seed=0)
    assert np.array_equal(folds[::2], folds[1::2])
    assert np.bincount(folds).tolist() == [20, 20, 20]


def test_augmentation_keeps_range_and_gives_the_resolution() -> None:
    torch.manual_seed(0)
    received = augment(torch.rand(6, 1, 128, 128) * 2 - 1, 48)
    assert received.shape == (6, 1, 48, 48)
    assert float(received.min()) >= -1 and float(received.max()) <= 1


def test_it_learns_and_leaves_out(tmp_path: Path) -> None:
    knees = _knees()
    grader = train_grader(knees, tmp_path, config=replace(SMALL, resolutions=(32,) * 12), start=_network)
    assert len(grader.networks) == 2
    grade = grade_images(grader, knees.images, input_resolution=32).expected_grade
    bright = torch.as_tensor(knees.grade == 3)
    assert float(grade[bright].min()) > float(grade[~bright].max())
    stored = np.load(tmp_path / "out_of_fold.npz")
    assert np.isfinite(stored["now"]).all() and stored["future"].shape == (48, 3, 5)
    first = grade_images(grader.members[0], knees.images, input_resolution=32)
    left_out = stored["fold"] == 0
    np.testing.assert_allclose(first.now.numpy()[left_out], stored["now"][left_out], atol=1e-5)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knees = _knees()
    unbroken = train_grader(knees, tmp_path / "a", config=SMALL, start=_network)
    steps = 0
    advance = training.GraderRun.advance

    def killed(run: training.GraderRun) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return advance(run)

    monkeypatch.setattr(training.GraderRun, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        train_grader(knees, tmp_path / "b", config=SMALL, start=_network)
    resumed = train_grader(knees, tmp_path / "b", config=SMALL, start=_network)
    for name, tensor in unbroken.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    train_grader(_knees(16), tmp_path, config=replace(SMALL, batch_size=4), start=_network)
    with pytest.raises(UsageError, match="other settings"):
        train_grader(_knees(16), tmp_path, config=replace(SMALL, batch_size=2), start=_network)


@pytest.mark.parametrize(("folds", "knees"), [(2, 14), (1, 6)])
def test_a_fold_smaller_than_a_batch_is_refused(folds: int, knees: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"6 knees to train a fold on, expected at least one batch \(8\)"):
        train_grader(_knees(knees), tmp_path, config=replace(SMALL, folds=folds), start=_network)
    assert not list(tmp_path.iterdir())


def test_presets_end_at_native_resolution_or_say_otherwise() -> None:
    assert {name: preset.resolutions[-1] for name, preset in PRESETS.items()} == {
        "cpu": 224,
        "cpu-robust": 224,
        "gpu": 224,
        "gpu-robust": 224,
        "gpu-256": 288,
    }


ROBUST = replace(SMALL, attack_steps=2, attack_epsilon=8.0, frozen_blocks=-1, mixup=0.4)


@pytest.mark.parametrize("config", [SMALL, ROBUST])
def test_folds_trained_apart_make_the_same_grader(config: GraderConfig, tmp_path: Path) -> None:
    knees = _knees()
    together = train_grader(knees, tmp_path / "a", config=config, start=_network)
    for fold in (1, 0):
        train_fold(knees, tmp_path / "b", fold, config=config, start=_network)
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"fold0", "fold1"}
    assert not list((tmp_path / "b").rglob(training.CHECKPOINT))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").rglob(training.ENDED)}
    apart = train_grader(knees, tmp_path / "b", config=config, start=_network)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "b").rglob(training.ENDED)}
    for name, tensor in together.state_dict().items():
        assert torch.equal(tensor, apart.state_dict()[name]), name
    stored = [np.load(tmp_path / run / "out_of_fold.npz") for run in "ab"]
    assert all(np.array_equal(stored[0][name], stored[1][name]) for name in stored[0])


@pytest.mark.parametrize("fold", [-1, 2])
def test_there_is_no_such_fold(fold: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"fold {fold}: expected 0 to 1, one of 2 folds"):
        train_fold(_knees(), tmp_path, fold, config=SMALL, start=_network)
    assert not list(tmp_path.iterdir())


def test_folds_of_other_people_are_not_put_together(tmp_path: Path) -> None:
    train_fold(_knees(32), tmp_path, 0, config=SMALL, start=_network)
    with pytest.raises(UsageError, match="on other people"):
        train_grader(_knees(48), tmp_path, config=SMALL, start=_network)


def test_the_robust_grader_shares_all_but_its_norms(tmp_path: Path) -> None:
    knees = _knees()
    grader = train_grader(knees, tmp_path, config=ROBUST, start=_network)
    robust = robust_grader(knees, tmp_path, config=ROBUST, start=_network)
    clean = grader.state_dict()
    assert clean.keys() == robust.state_dict().keys()
    for name, tensor in robust.state_dict().items():
        counter = name.endswith("num_batches_tracked")
        assert torch.equal(tensor, clean[name]) == (counter or "norm" not in name), name
    with pytest.raises(UsageError, match="attack_steps > 0"):
        robust_grader(knees, tmp_path, config=SMALL, start=_network)


def test_an_attack_leaves_clean_norms_and_counts_no_batch(tmp_path: Path) -> None:
    run = training.GraderRun(_knees(), torch.arange(48), fold=0, config=ROBUST, device="cpu", start=_network)
    run.advance()
    assert run.second is not None
    for norms in (run.network, run.second):
        counters = [t for name, t in norms.state_dict().items() if name.endswith("tracked")]
        assert len(counters) == 4 and all(int(count) == 1 for count in counters)
    # what is frozen keeps one set
    half = training.GraderRun(
        _knees(),
        torch.arange(48),
        fold=0,
        config=replace(ROBUST, frozen_blocks=0),
        device="cpu",
        start=_network,
    )
    assert half.second is not None and len(half.second.norms) == 3
    before = {name: tensor.clone() for name, tensor in half.frozen.state_dict().items()}
    half.advance()
    assert all(torch.equal(tensor, before[name]) for name, tensor in half.frozen.state_dict().items())


def test_a_killed_robust_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    runs = [
        training.GraderRun(_knees(), torch.arange(48), fold=1, config=ROBUST, device="cpu", start=_network)
        for _ in range(2)
    ]
    for step in range(4):
        runs[0].advance()
        if step == 1:
            save_checkpoint(tmp_path / "half.ckpt", runs[0].state_dict())
    runs[1].load_state_dict(load_checkpoint(tmp_path / "half.ckpt"))
    for _ in range(2):
        runs[1].advance()
    for run in runs:
        run.end(tmp_path / f"{runs.index(run)}.ckpt", people="all")
    unbroken, resumed = (
        training.ended_network(
            tmp_path / f"{i}.ckpt", config=ROBUST, people="all", start=_network, robust=True
        )
        for i in range(2)
    )
    for name, tensor in unbroken.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_blended_pictures_and_labels() -> None:
    x = torch.tensor([0.0, 1.0, -1.0]).reshape(3, 1, 1, 1)
    assert mix(x, 0.75).flatten().tolist() == [-0.25, 1.0, -0.75]
    targets = make_targets(_knees(3 * 2)).flip()
    assert torch.equal(targets.now.flip(0), make_targets(_knees(6)).now)


@pytest.mark.parametrize("config", [SMALL, ROBUST])
def test_a_step_waits_for_nothing_on_its_device(
    config: GraderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On "meta" no number can be read, and a tensor left on the CPU does not fit in."""
    monkeypatch.setattr(torch, "autocast", lambda *_: nullcontext())
    monkeypatch.setattr(training, "held", lambda images, device: images.to(device))
    run = training.GraderRun(_knees(), torch.arange(48), fold=0, config=config, device="meta", start=_network)
    losses = [run.advance() for _ in range(run.epoch_steps + 1)]
    assert {loss.device.type for loss in losses} == {"meta"}
