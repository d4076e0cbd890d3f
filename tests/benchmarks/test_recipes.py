"""The benchmark of recipes, whole, in miniature: killed, resumed, and what it leaves behind."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from progression.errors import UsageError
from progression.metrics.features import Extractor
from progression.risk.efficientnet import EfficientNet, Stage

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 128, "channel_max": 8, "batch": 4,
         "precision": "float32"}  # fmt: skip
STAGES = (Stage(1, 3, 1, 1, 4), Stage(1, 3, 2, 2, 6))


def pixels(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean(dim=(1, 2, 3))


def tiny_network(in_channels: int, num_outputs: int) -> EfficientNet:
    torch.manual_seed(0)
    return EfficientNet(in_channels, num_outputs, stem_width=4, head_width=8, stages=STAGES)


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script at 32², with tiny networks and a few pixels for features."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("recipes")
    monkeypatch.setattr(script, "RESOLUTION", 32)
    monkeypatch.setattr(script, "JUDGE_SIDE", 32)
    monkeypatch.setattr(script, "TURN_SECONDS", 0.05)
    monkeypatch.setattr(script, "GAN", replace(script.GAN, resolution=32, **SMALL))
    monkeypatch.setattr(
        script,
        "JOINT",
        replace(script.JOINT, batch=4, width=4, max_width=8, codes=8, mapped=8, slices=4, shift=1),
    )
    monkeypatch.setattr(script, "load_imagenet", tiny_network)
    for name, side in (("imagenet_features", 4), ("vgg_features", 2)):
        label = "VGG-16 (ImageNet)" if side == 2 else "efficientnet-lite0 (ImageNet)"
        extractor = Extractor(
            label, lambda x, n=side: torch.nn.functional.adaptive_avg_pool2d(x, n).flatten(1)
        )
        monkeypatch.setattr(script, name, lambda e=extractor: e)
    monkeypatch.setattr(script, "load_lpips", lambda _: pixels)
    return script


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(44):
        coarse = rng.integers(0, 255, size=(6, 6), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.png")
        rows.append(
            {"subject": f"s{i // 2}", "side": ("left", "right")[i % 2], "months": 0, "image": f"{i}.png",
             "grade": i % 5, "split": "train" if i < 28 else "val"}
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "visits.csv", index=False)
    return tmp_path / "visits.csv"


def test_all_recipes_get_the_same_time_and_a_killed_run_goes_on(
    recipes: ModuleType,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work, minutes = tmp_path / "work", 0.004
    command = ["recipes.py", str(table), "--work", str(work), "--minutes", str(minutes), "--paths", "4"]
    monkeypatch.setattr(sys, "argv", [*command, "--steps", "2"])
    turn, turns = recipes.Run.turn, 0

    def killed(run: object, seconds: float) -> None:
        nonlocal turns
        if (turns := turns + 1) == 15:
            raise KeyboardInterrupt
        turn(run, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(recipes.Run, "turn", killed)
        with pytest.raises(KeyboardInterrupt):
            recipes.main()
    before = json.loads("[" + ",".join(p.read_text() for p in work.glob("*/spent.json")) + "]")
    recipes.main()
    first = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    names = [f"| {name}" for name in recipes.RECIPES]
    assert first == ["| recipe", "| training knees", *names, "| recipe", "| mean training knee", *names]
    report = json.loads((work / "result.json").read_text())
    assert list(report["recipes"]) == list(recipes.RECIPES)
    for name, entry in report["recipes"].items():
        assert entry["seconds"] >= 60 * minutes and len(entry["seen_images"]) == len(recipes.RECIPES[name])
        assert all(seen > 0 for seen in entry["seen_images"])
        assert ("encoded" in entry) == (name == "joint")
    assert all(entry in [json.loads(p.read_text()) for p in work.glob("*/spent.json")] for entry in before)
    with Image.open(work / "samples.png") as picture:
        assert picture.info["Synthetic"] == "yes"
        assert picture.size == (32 * recipes.COLUMNS, 32 * len(recipes.RECIPES))
    monkeypatch.setattr(sys, "argv", [*command, "--steps", "3"])
    with pytest.raises(UsageError, match="choose another --work"):
        recipes.main()


def test_a_run_resumed_from_disk_continues_exactly(recipes: ModuleType, table: Path, tmp_path: Path) -> None:
    """The judge on frozen maps, whose trainer lives in the script alone."""
    cohort = recipes.Cohort(table, None)
    whole = recipes.frozen_gan(cohort, tmp_path)
    half = recipes.frozen_gan(cohort, tmp_path)
    for _ in range(2):
        whole.step(), half.step()
    rest = recipes.frozen_gan(cohort, tmp_path)
    rest.load_state_dict(half.state_dict())
    losses = [{name: float(value) for name, value in t.step().items()} for t in (whole, rest)]
    assert losses[0] == losses[1]
    for name, net in whole.networks().items():
        found = rest.networks()[name].state_dict()
        assert all(torch.equal(value, found[key]) for key, value in net.state_dict().items())


def test_the_frozen_network_and_its_mixes_stay_as_they_are(
    recipes: ModuleType, table: Path, tmp_path: Path
) -> None:
    trainer = recipes.frozen_gan(recipes.Cohort(table, None), tmp_path)
    frozen = {**trainer.maps.state_dict(), **trainer.discriminator.mix.state_dict()}
    before = {name: value.clone() for name, value in frozen.items()}
    heads = [p.clone() for p in trainer.discriminator.heads.parameters()]
    trainer.step()
    assert all(torch.equal(value, frozen[name]) for name, value in before.items())
    changed = zip(heads, trainer.discriminator.heads.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in changed)
