"""What knees look like: a Gaussian by hand, shares that are shares, and turned pictures that are told."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from progression.cli import run
from progression.errors import NotAKneeError, UsageError, WeightsError
from progression.image import to_model
from progression.latent.appearance import (
    AXES,
    ORIENTATIONS,
    PART,
    RESOLUTION,
    Appearance,
    reoriented,
    statistics,
)
from progression.predict import load_predictor
from progression.types import Radiograph, Side
from progression.weights import load_model, save_part
from tests.fakes import knee, save_knee
from tests.models import write_model

COUNT = 240


def _people(count: int) -> np.ndarray:
    return np.array([f"P{i // 2}" for i in range(count)])


def _picture(seed: int) -> Tensor:
    """A knee like others: exposure, place and grain vary."""
    rng = np.random.default_rng(seed)
    pixels = knee(160, seed)[rng.integers(0, 12) :, rng.integers(0, 8) :] ** rng.uniform(0.8, 1.25)
    return to_model(pixels.astype(np.float32), side=Side.RIGHT, resolution=RESOLUTION)


@pytest.fixture(scope="module")
def found() -> Appearance:
    x = torch.stack([_picture(seed) for seed in range(COUNT)])
    return Appearance.fit(statistics(x), _people(COUNT))


@pytest.fixture(scope="module")
def others() -> Tensor:
    return torch.stack([_picture(seed) for seed in range(1000, 1100)])


def test_statistics_by_hand() -> None:
    """Grey 0.5 everywhere has no detail; a checkerboard has all of it in the finest octave."""
    flat = statistics(torch.full((1, 1, RESOLUTION, RESOLUTION), 0.5))[0].unflatten(0, (5, 64))
    torch.testing.assert_close(flat[:4], torch.full((4, 64), float(np.log(1e-3))), atol=1e-3, rtol=0)
    torch.testing.assert_close(flat[4], torch.full((64,), 0.5))
    rows, columns = torch.meshgrid(torch.arange(RESOLUTION), torch.arange(RESOLUTION), indexing="ij")
    board = ((rows + columns) % 2 * 2.0 - 1)[None, None]
    fine = statistics(board)[0].unflatten(0, (5, 64))
    torch.testing.assert_close(fine[0], torch.full((64,), float(np.log(1.001))))
    torch.testing.assert_close(fine[1:4], flat[:3], atol=1e-3, rtol=0)
    assert float(fine[4].abs().max()) == 0


def test_squared_distance_is_that_of_the_covariance() -> None:
    """d² = zᵀ C⁻¹ z with C = Σ λ_i a_i a_iᵀ + λ_rest (1 - Σ a_i a_iᵀ), written out as a matrix."""
    torch.manual_seed(0)
    axes = torch.linalg.qr(torch.randn(6, 2)).Q.T
    variance, rest = torch.tensor([4.0, 2.0]), torch.tensor(0.5)
    one = Appearance(torch.ones(6), torch.full((6,), 2.0), axes, variance, rest, torch.linspace(0, 1, 201))
    within = axes.T @ axes
    covariance = axes.T @ variance.diag() @ axes + rest * (torch.eye(6) - within)
    v = torch.randn(5, 6)
    z = (v - 1) / 2
    by_matrix = (z @ torch.linalg.inv(covariance) * z).sum(dim=1)
    torch.testing.assert_close(one.squared_distance(v), by_matrix, rtol=1e-4, atol=1e-4)


def test_knees_left_out_are_as_typical_as_stated(found: Appearance, others: Tensor) -> None:
    typical = found(others)
    assert bool(((typical >= 0) & (typical <= 1)).all())
    assert 0.35 < float(typical.mean()) < 0.65
    assert float((typical < 0.01).float().mean()) <= 0.05


def test_what_is_no_knee_is_not_typical(found: Appearance, others: Tensor) -> None:
    noise = torch.rand(5, 1, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert float(found(noise).max()) < 0.001
    blurred = torch.nn.functional.avg_pool2d(others[:5], 9, stride=1, padding=4)
    assert float(found(blurred).max()) < 0.01
    for name, turned in reoriented(others[:5]).items():
        assert float(found(turned).max()) < 0.01, name


def test_what_was_done_to_a_knee_is_told(found: Appearance, others: Tensor) -> None:
    x = others[found(others) > 0.2][:1]
    assert set(reoriented(x)) == set(ORIENTATIONS)
    undone = {"turned left": "turned right", "turned right": "turned left"}
    for name, turned in reoriented(x).items():
        torch.testing.assert_close(reoriented(turned)[undone.get(name, name)], x)
        assert found.turned(turned) == ORIENTATIONS[name]
    assert found.turned(torch.zeros(1, 1, RESOLUTION, RESOLUTION)) == ""


def test_a_person_is_in_one_fold(found: Appearance) -> None:
    """With every picture twice, under one name, none lends itself anything: the twin is left out too."""
    x = statistics(torch.stack([_picture(seed) for seed in range(COUNT // 2)])).repeat_interleave(2, dim=0)
    together = Appearance.fit(x, _people(COUNT))
    apart = Appearance.fit(x, np.array([f"Q{i}" for i in range(COUNT)]))
    assert float(together.distance[-1]) > float(apart.distance[-1])


def test_saved_and_read_again(found: Appearance, others: Tensor, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    path = found.save(folder)
    assert path.stat().st_size < 100_000
    again = Appearance.load(load_model(folder))
    torch.testing.assert_close(again(others), found(others))
    tensors = dict(vars(found))
    tensors.pop("rest")
    save_part(folder, PART, tensors, {}, dtype="float32")
    with pytest.raises(WeightsError, match="part typicality lacks the tensor 'rest'"):
        Appearance.load(load_model(folder))
    save_part(folder, PART, dict(vars(found)) | {"mean": torch.zeros(3)}, {}, dtype="float32")
    with pytest.raises(WeightsError, match="of another version: progression train typicality"):
        Appearance.load(load_model(folder))


def test_what_cannot_be_fitted() -> None:
    with pytest.raises(UsageError, match="expected 100 knees or more and whose each is, got 99 and 99"):
        Appearance.fit(torch.rand(99, 320), _people(99))
    with pytest.raises(UsageError, match="too few people"):
        Appearance.fit(torch.rand(120, 320), np.full(120, "P0"))
    with pytest.raises(UsageError, match=r"expected pictures \(N, 1, 128, 128\), got \(2, 1, 64, 64\)"):
        statistics(torch.zeros(2, 1, 64, 64))
    assert AXES < 100


def test_a_model_refuses_unless_told_otherwise(found: Appearance, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    found.save(folder)
    predictor = load_predictor(folder, device="cpu", engine="torch")
    pixels = knee(160, 5)
    good, wrong = Radiograph(pixels, Side.RIGHT, "good"), Radiograph(pixels, Side.LEFT, "wrong")
    assert predictor.predict_batch([good])[0].warnings == ()
    with pytest.raises(
        NotAKneeError, match=r"wrong: refused, it looks like a knee of the other side \(check --side\)"
    ) as caught:
        predictor.predict_batch([good, wrong, good, wrong])
    assert set(caught.value.refused) == {1, 3}
    assert caught.value.refused[3].startswith("refused, it looks like a knee of the other side")
    told = pickle.loads(pickle.dumps(caught.value))  # as from another process
    assert (str(told), told.refused) == (str(caught.value), caught.value.refused)
    alone, forced = predictor.predict_batch([good, wrong], accept_atypical=True)
    assert alone.horizons[0].risk_any == predictor.predict_batch([good])[0].horizons[0].risk_any
    assert forced.warnings[0].startswith("accepted although it looks like a knee of the other side")


def test_an_other_knee_that_would_be_refused_has_no_part(found: Appearance, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    found.save(folder)
    predictor = load_predictor(folder, device="cpu", engine="torch")
    asked = Radiograph(knee(160, 5), Side.RIGHT, "asked")
    mirrored = Radiograph(knee(160, 6), Side.LEFT, "other")  # a right knee, taken for a left one
    alone = predictor.predict_batch([asked])[0]
    without = predictor.predict_batch([asked], others=[mirrored])[0]
    assert not without.other_knee
    assert without.horizons[0].risk_any == alone.horizons[0].risk_any
    assert without.warnings == ("other knee left out: it looks like a knee of the other side (check --side)",)
    assert predictor.predict_batch([asked], others=[mirrored], accept_atypical=True)[0].other_knee


def test_command_lines(found: Appearance, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_model(tmp_path / "tiny")
    found.save(folder)
    image = save_knee(tmp_path / "a.png", size=160, seed=5)
    table = tmp_path / "cohort.csv"
    table.write_text(f"name,image,side\nright,{image.name},right\nwrong,{image.name},left\n")
    out = tmp_path / "results.csv"
    options = ["--out", str(out), "--model", str(folder), "--engine", "torch"]
    assert run(["cohort", str(table), *options]) == 1
    lines = out.read_text().splitlines()
    assert "failed: refused, it looks like a knee of the other side" in lines[2] and "failed" not in lines[1]
    assert run(["cohort", str(table), *options, "--accept-atypical"]) == 0
    assert "accepted although" in out.read_text()
    capsys.readouterr()
    arguments = [str(image), "--side", "left", "--out", str(tmp_path / "o"), *options[2:]]
    assert run(["predict", *arguments]) == 1
    assert "error: a: refused, it looks like a knee of the other side" in capsys.readouterr().err
    assert run(["predict", *arguments, "--accept-atypical"]) == 0


def test_training_command(tmp_path: Path) -> None:
    rows = ["subject,side,months,image,grade,split"]
    for i in range(100):
        save_knee(tmp_path / f"{i}.png", seed=i)
        rows.append(f"P{i},right,0,{i}.png,1,train")
    (tmp_path / "visits.csv").write_text("\n".join(rows) + "\n")
    folder = write_model(tmp_path / "tiny")
    assert run(["train", "typicality", str(tmp_path / "visits.csv"), "--save", str(folder)]) == 0
    assert Appearance.load(load_model(folder)).distance.shape == (201,)
