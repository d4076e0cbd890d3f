"""`progression train`: what is asked for arrives, and what cannot be is said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from progression import cli
from progression.errors import WeightsError
from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS, Grader, load_grader
from progression.stylegan2 import Generator
from progression.train import bones as bones_training
from progression.train import encoder as encoder_training
from progression.train import gan, grader_config, joint
from progression.train import grader as grader_training
from progression.train.grader_config import GraderConfig
from progression.train.run_folder import LOCK, owned
from progression.weights import load_model, save_part
from tests.fakes import save_knee
from tests.outlines import outline


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = []
    for i in range(4):
        name = save_knee(tmp_path / f"{i}.png", seed=i).name
        row = {"subject": f"P{i}", "side": "left", "split": "train" if i < 2 else "val"}
        rows += [row | {"months": 0, "image": name, "grade": 1}, row | {"months": 48, "grade": 1 + i % 2}]
    pd.DataFrame(rows).to_csv(tmp_path / "visits.csv", index=False)
    return tmp_path / "visits.csv"


def make_model(folder: Path, *, grader: bool) -> str:
    generator = Generator(8, 0, 8, 16, 1, 1, 64, 8)
    save_part(folder, "generator", generator.state_dict(), generator.config())
    if grader:
        network = EfficientNet(1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=(Stage(1, 3, 2, 1, 4),))
        part = Grader([network], input_resolution=32)
        save_part(folder, "grader", part.state_dict(), part.config())
    return str(folder)


@pytest.mark.parametrize("command", ["gan", "joint", "encoder", "grader", "risk"])
def test_unknown_preset(
    command: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "gan": ["--out", "o"],
        "joint": ["--out", "o", "--model", "m", "--save", "s"],
        "encoder": ["--out", "o", "--model", "m", "--save", "s"],
        "grader": ["--out", "o", "--save", "s"],
        "risk": ["--grader-run", "o", "--save", "s"],
    }[command]
    assert cli.run(["train", command, str(table), *options, "--preset", "foo"]) == 2
    assert "unknown preset 'foo': expected one of cpu" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--batch", "0"], ["--kimg", "0"], ["--minutes", "-1"], ["--seed", "-1"]])
def test_numbers_out_of_range(option: list[str], table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "gan", str(table), "--out", "o", *option]) == 2
    assert option[0] in capsys.readouterr().err


@pytest.mark.parametrize("asked", [True, False])
def test_grader_features_reach_the_encoder(
    asked: bool, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {}

    def train(files: object, images: torch.Tensor, **options: object) -> SimpleNamespace:
        given.update(options, images=images)
        return SimpleNamespace(save=lambda folder, *, training: training)

    monkeypatch.setattr(encoder_training, "train_encoder", train)
    model = make_model(tmp_path / "model", grader=True)
    flag = "--grade-features" if asked else "--no-grade-features"
    paths = ["--out", str(tmp_path / "run"), "--model", model, "--save", model]
    assert cli.run(["train", "encoder", str(table), *paths, flag, "--device", "cpu"]) == 0
    assert len(given["images"]) == len(given["heldout"]) == 2
    if not asked:
        assert given["features"] is None
        return
    x = torch.zeros(3, 1, 16, 16, requires_grad=True)
    features = given["features"](x)
    assert features.shape == (3, 8)
    features.square().sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())


def test_grader_features_need_a_grader(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path / "model", grader=False)
    paths = ["--out", str(tmp_path / "run"), "--model", model, "--save", model]
    assert cli.run(["train", "encoder", str(table), *paths, "--grade-features", "--device", "cpu"]) == 1
    assert "no part 'grader'" in capsys.readouterr().err


def test_risk_needs_gradings_of_the_tables_knees(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    outputs = {name: np.zeros(1) for name in ("now", "future", "rise")}
    np.savez(run / "out_of_fold.npz", subject=np.array(["other"]), side=np.array(["left"]), **outputs)
    paths = ["--grader-run", str(run), "--save", str(tmp_path / "model")]
    assert cli.run(["train", "risk", str(table), *paths]) == 1
    assert "other knees than the table" in capsys.readouterr().err
    whole = (run / "out_of_fold.npz").read_bytes()
    for damaged in (whole[:-30], whole[:200] + b"?" + whole[201:]):
        (run / "out_of_fold.npz").write_bytes(damaged)
        assert cli.run(["train", "risk", str(table), *paths]) == 1
        assert "out_of_fold.npz (BadZipFile): expected what" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["gan", "joint", "encoder", "grader", "localiser"])
def test_a_folder_in_which_another_run_is_at_work_is_left_alone(
    command: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path / "model", grader=True)
    run = tmp_path / "run"
    options = {
        "gan": ["--preset", "cpu-64", "--device", "cpu"],
        "joint": ["--model", model, "--save", model, "--batch", "2", "--device", "cpu"],
        "encoder": ["--model", model, "--save", model, "--device", "cpu"],
        "grader": ["--save", model, "--device", "cpu"],
        "localiser": ["--save", model, "--steps", "1"],
    }[command]
    with owned(run):
        assert cli.run(["train", command, str(table), "--out", str(run), *options]) == 1
        assert [path.name for path in run.iterdir()] == [LOCK]
    said = capsys.readouterr().err
    assert f"run folder {run} is being written by process" in said and said.count("\n") == 1


@pytest.mark.parametrize("command", ["gan", "joint"])
def test_a_run_is_its_preset(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    presets: Mapping[str, object] = {"gan": gan.PRESETS, "joint": joint.PRESETS}[command]
    options = ["--out", "o", *(["--model", "m", "--save", "s"] if command == "joint" else [])]
    for name, preset in presets.items():
        assert cli.run(["train", command, "visits.csv", *options, "--preset", name, "--dry-run"]) == 0
        assert capsys.readouterr().out.strip() == str(preset)
    assert cli.run(["train", command, "visits.csv", *options, "--accumulate", "2", "--dry-run"]) == 0
    assert "accumulate=2" in capsys.readouterr().out


def test_gan_is_measured_where_the_table_has_held_out_knees(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[dict[str, Any]] = []

    def train(images: torch.Tensor, out: Path, **options: Any) -> Path:
        given.append(options | {"images": images})
        return out

    monkeypatch.setattr(gan, "train_gan", train)
    command = ["train", "gan", str(table), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert cli.run([*command, "--preset", "cpu-64"]) == 0
    assert len(given[0]["images"]) == len(given[0]["heldout"]) == 2 and "snapshot:" in capsys.readouterr().out
    assert cli.run([*command, "--preset", "cpu-64", "--heldout", "test"]) == 0
    assert given[1]["heldout"] is None and "no split 'test'" in capsys.readouterr().out


def test_joint_trains_both_parts_and_says_when_it_stopped(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path / "model", grader=True)
    save = tmp_path / "trained"
    options = ["--out", str(tmp_path / "run"), "--model", model, "--save", str(save), "--device", "cpu"]
    command = ["train", "joint", str(table), *options, "--kimg", "0.004", "--batch", "2"]
    assert cli.run([*command, "--minutes", "0"]) == 0
    assert "the same command goes on" in capsys.readouterr().out and not save.exists()
    assert cli.run(command) == 0
    assert "build its bank anew" in capsys.readouterr().out
    assert set(load_model(save).parts) == {"generator", "encoder"}


def test_folds_of_the_grader_one_at_a_time(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = GraderConfig(folds=2, resolutions=(16,), batch_size=1, frozen_blocks=-1, attack_steps=1)
    monkeypatch.setitem(grader_config.PRESETS, "gpu-robust", config)

    def start(config: GraderConfig) -> Any:
        return lambda: EfficientNet(
            1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=(Stage(1, 3, 2, 1, 4),)
        )

    monkeypatch.setattr(grader_training, "_imagenet", start)
    save = tmp_path / "model"
    options = [
        "--out",
        str(tmp_path / "run"),
        "--save",
        str(save),
        "--device",
        "cpu",
        "--preset",
        "gpu-robust",
    ]
    command = ["train", "grader", str(table), *options]
    for fold in "10":
        assert cli.run([*command, "--fold", fold]) == 0
        assert f"fold {fold} of 2 has ended" in capsys.readouterr().out and not save.exists()
    assert cli.run([*command, "--fold", "2"]) == 2
    assert "fold 2: expected 0 to 1" in capsys.readouterr().err
    assert cli.run(command) == 0
    files = load_model(save)
    assert set(files.parts) == {"grader", "grader_robust"} and set(files.verify()) == set(files.parts)
    clean, robust = (load_grader(files, part) for part in ("grader", "grader_robust"))
    assert all("norm" in name for name in files.tensors("grader_robust"))
    assert torch.equal(clean.members[0].out.weight, robust.members[0].out.weight)
    assert not torch.equal(clean.members[0].head_norm.running_mean, robust.members[0].head_norm.running_mean)
    assert files.config("grader")["cross_fitting"] == files.config("grader_robust")["cross_fitting"]
    save_part(save, "grader", robust.state_dict(), clean.config())
    with pytest.raises(WeightsError, match="belongs to another grader"):
        load_grader(load_model(save), "grader_robust")


def test_the_localiser_goes_on_where_it_stopped(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "train",
        "localiser",
        str(table),
        "--out",
        str(tmp_path / "run"),
        "--save",
        str(tmp_path / "m"),
    ]
    assert cli.run([*arguments, "--steps", "2"]) == 0
    first = load_model(tmp_path / "m")
    assert first.config("localiser")["training"]["knees"] == 2
    assert cli.run([*arguments, "--steps", "2"]) == 0  # ended: measured and saved again
    assert load_model(tmp_path / "m").hashes() == first.hashes()
    assert cli.run([*arguments, "--steps", "3"]) == 2
    assert "holds a run with another steps" in capsys.readouterr().err


def test_bones_go_on_where_they_stopped(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bones_training, "CALIBRATION_FILMS", 3)
    columns = [f"{axis}{point}" for point in range(74) for axis in "xy"]
    outlines = pd.DataFrame([96 * outline(seed).reshape(-1) for seed in range(2)], columns=columns)
    outlines.assign(name=["0", "1"], score=[2.0, 1.0]).to_csv(tmp_path / "contours.csv", index=False)
    arguments = ["train", "bones", str(table), str(tmp_path / "contours.csv"), "--heldout", "train"]
    arguments += ["--out", str(tmp_path / "run"), "--save", str(tmp_path / "m")]
    assert cli.run([*arguments, "--steps", "1"]) == 0
    first = load_model(tmp_path / "m")
    assert first.config("bones")["training"]["knees"] == 2
    assert cli.run([*arguments, "--steps", "1"]) == 0  # ended: saved again
    assert load_model(tmp_path / "m").hashes() == first.hashes()
    assert cli.run([*arguments, "--steps", "2"]) == 0  # made longer
    assert load_model(tmp_path / "m").config("bones")["training"]["steps"] == 2
    assert cli.run([*arguments, "--steps", "2", "--seed", "1"]) == 2
    assert "holds a run with another seed" in capsys.readouterr().err
    assert cli.run([*arguments, "--steps", "1", "--least-score", "3"]) == 1
    assert "no picture at month 0 of the visits table has a row" in capsys.readouterr().err
