"""The commands, on a tiny untrained model and made-up pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from progression.cli import run
from progression.encoder import Encoder, EncoderConfig
from progression.evaluate import run as running
from progression.evaluate.inversion import Distance
from progression.latent.part import EncoderPart
from progression.latent.typicality import Typicality
from progression.latent.whiten import Whitening
from progression.metrics.features import Extractor
from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS, Grader
from progression.stylegan2 import Generator
from progression.weights import save_part

RESOLUTION = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    generator = Generator(z_dim=8, c_dim=0, w_dim=8, img_resolution=RESOLUTION, img_channels=1,
                          mapping_layers=1, channel_base=128, channel_max=8)  # fmt: skip
    save_part(folder, "generator", generator.state_dict(), generator.config(), resolution=RESOLUTION)
    encoder = Encoder(
        EncoderConfig(RESOLUTION, generator.num_ws, 8, width=4, max_width=4, hidden=8, offset_rank=2)
    )
    typicality = Typicality.fit(torch.rand(20), torch.rand(20))
    EncoderPart(encoder, Whitening.of(generator, samples=200), typicality).save(folder)
    network = EfficientNet(1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=(Stage(1, 3, 2, 1, 4),))
    grader = Grader([network], input_resolution=RESOLUTION)
    save_part(folder, "grader", grader.state_dict(), grader.config())
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(24):
        coarse = rng.integers(0, 255, size=(6, 6), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        rows.append(
            {"subject": f"s{i // 2}", "side": ("left", "right")[i % 2], "months": 0, "image": f"{i}.png",
             "grade": i % 5, "split": "train" if i < 12 else "val"}
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "visits.csv", index=False)
    return folder / "visits.csv"


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither optional package is asked for."""

    def features(device: torch.device) -> Extractor:
        return Extractor("cells", lambda x: torch.nn.functional.avg_pool2d(x, 8).flatten(1))

    def lpips(network: str, device: torch.device) -> Distance:
        return lambda a, b: (a - b).square().mean(dim=(1, 2, 3))

    def blocks(device: torch.device) -> Extractor:
        return Extractor("blocks", lambda x: torch.nn.functional.max_pool2d(x, 8).flatten(1))

    monkeypatch.setattr(running, "imagenet_features", features)
    monkeypatch.setattr(running, "vgg_features", blocks)
    monkeypatch.setattr(running, "load_lpips", lpips)


def report_of(out: Path, name: str) -> dict[str, Any]:
    return json.loads((out / f"{name}.json").read_text())


def test_generator(model: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--samples", "20", "--path-samples", "8", "--draws", "2", "--device", "cpu"]
    command = ["evaluate", "generator", "--model", str(model), "--table", str(table), "--out", str(tmp_path)]
    assert run([*command, *options]) == 0
    report = report_of(tmp_path, "generator")
    assert set(report["features"]) == {"cells", "blocks", "grader of tiny (1 networks)"}
    assert report["held_out"] == report["train"] == 12 and report["model"] == "tiny"
    assert str(tmp_path.parent) not in json.dumps(report)
    said = capsys.readouterr()
    assert "cells" in said.out and "LPIPS VGG-16" in said.out and "rendering 20 samples" in said.err


def test_inversion(model: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--steps", "0", "--steps", "3", "--draws", "5", "--limit", "6", "--device", "cpu"]
    command = ["evaluate", "inversion", "--model", str(model), "--table", str(table), "--out", str(tmp_path)]
    assert run([*command, *options]) == 0
    report = report_of(tmp_path, "inversion")
    before, after = report["curve"]
    assert report["n"] == 6 and after["psnr"]["mean"] > before["psnr"]["mean"]
    assert {"ssim", "lpips", "grades"} <= set(after)
    assert "6 knees of" in capsys.readouterr().out


def test_grader(model: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "grader", "--model", str(model), "--table", str(table), "--out", str(tmp_path)]
    assert run([*command, "--draws", "5", "--device", "cpu"]) == 0
    report = report_of(tmp_path, "grader")
    assert report["n"] == 12 and np.sum(report["confusion"]) == 12
    assert set(report["weights"]) == {"generator", "encoder", "grader"}
    assert "quadratic kappa" in capsys.readouterr().out


def test_grader_under_attack(
    model: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "grader", "--model", str(model), "--table", str(table), "--out", str(tmp_path)]
    options = ["--draws", "5", "--device", "cpu", "--attack-epsilon", "1", "--attack-epsilon", "40"]
    assert run([*command, *options]) == 0
    report = report_of(tmp_path, "grader")
    weak, strong = report["attacked"]
    assert (weak["epsilon"], strong["epsilon"], weak["steps"]) == (1, 40, 10) and report["part"] == "grader"
    assert strong["accuracy"] <= weak["accuracy"] <= report["accuracy"]
    assert "changed by 40 of 255 grey levels: accuracy" in capsys.readouterr().out
    assert run([*command, "--part", "grader_robust", "--device", "cpu"]) == 1
    assert "no part 'grader_robust'" in capsys.readouterr().err


def test_risk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"k{i}" for i in range(40)]
    rising = np.arange(40) % 3 == 0
    pd.DataFrame(
        {
            "name": names,
            "subject": names,
            "side": "L",
            "split": "val",
            "kl_m00": 1,
            "kl_m48": 1 + 2 * rising,
            "kl_m96": "",
        }
    ).to_csv(tmp_path / "outcomes.csv", index=False)
    pd.DataFrame(
        {"name": names, "horizon_months": 48, "risk_fast": 0.1 + 0.3 * rising, "risk_any": 0.2 + 0.3 * rising}
    ).to_csv(tmp_path / "results.csv", index=False)
    arguments = [str(tmp_path / name) for name in ("results.csv", "outcomes.csv")]
    options = ["--out", str(tmp_path), "--draws", "5", "--reference", arguments[1], "--label", "made up"]
    assert run(["evaluate", "risk", *arguments, *options]) == 0
    report = report_of(tmp_path, "risk")
    assert report["rows"][0]["auc"] == 1 and report["label"] == "made up"
    assert "fast: risk_fast" in capsys.readouterr().out
    assert (tmp_path / "risk.md").read_text().startswith("| score")
    for figure in ("roc", "reliability", "decision"):
        with Image.open(tmp_path / f"{figure}.png") as picture:
            assert picture.format == "PNG"


def test_a_missing_package_is_told_and_its_figure_left_out(
    model: Path,
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from progression.errors import DependencyError

    def absent(*_: object, **__: object) -> None:
        raise DependencyError("LPIPS needs a package: install it")

    monkeypatch.setattr(running, "load_lpips", absent)
    command = ["evaluate", "inversion", "--model", str(model), "--table", str(table), "--out", str(tmp_path)]
    assert run([*command, "--steps", "0", "--draws", "2", "--device", "cpu"]) == 0
    assert "left out: LPIPS needs a package: install it" in capsys.readouterr().err
    assert "lpips" not in report_of(tmp_path, "inversion")["curve"][0]


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["--split", "elsewhere"], 2, "split 'elsewhere'"),
        (["--split", "test"], 1, "no row has split 'test'"),
        (["--device", "tpu"], 2, "expected auto, cpu or cuda"),
        (["--model", "nowhere"], 1, "no model 'nowhere'"),
        (["--table", "nowhere.csv"], 1, "nowhere.csv"),
    ],
)
def test_wrong_use_is_one_line(
    model: Path,
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    code: int,
    message: str,
) -> None:
    command = ["evaluate", "grader", "--model", str(model), "--table", str(table), "--out", str(tmp_path)]
    assert run([*command, *change]) == code
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())
