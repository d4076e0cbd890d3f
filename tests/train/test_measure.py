"""Figures of snapshots: what they are, that they leave the run alone, and which snapshot is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from progression.errors import WeightsError
from progression.metrics.features import Extractor, batches_of
from progression.metrics.frechet import fid
from progression.metrics.samples import sample_images
from progression.train.checkpoint import load_checkpoint
from progression.train.gan import train_gan
from progression.train.measure import HeldOut
from progression.weights import load_model
from tests.train.miniature import GAN, gan, joint, tensors_of

QUARTERS = {
    "quarters": Extractor("grey of quarters", lambda x: torch.nn.functional.avg_pool2d(x, 8).flatten(1))
}
CONFIG = replace(GAN, total_kimg=0.048, snapshot_kimg=0.016, measure_kimg=0.016)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (24, 16, 16), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)


def held_out(images: Tensor) -> HeldOut:
    found = HeldOut.of(images, QUARTERS, most=16, every_kimg=1.0, device=torch.device("cpu"))
    assert found is not None
    return found


def test_figures_are_of_as_many_samples_as_pictures_on_the_given_features(images: Tensor) -> None:
    measure, average = held_out(images), gan().average
    figures = measure.figures(average)
    assert figures.keys() == {"fid_quarters", "kid_quarters"} and len(measure.images) == 16
    real, made = (
        QUARTERS["quarters"].extract(batches_of(x)) for x in (measure.images, sample_images(average, 16))
    )
    assert figures["fid_quarters"] == pytest.approx(fid(real, made))


def test_reconstructions_are_measured_too(images: Tensor) -> None:
    trainer = joint()
    figures = held_out(images).figures(trainer.average, trainer.average_encoder)
    with torch.no_grad():
        x = next(batches_of(held_out(images).images))
        again = trainer.average.synthesis(trainer.average_encoder(x), noise_mode="const").clamp(-1, 1)
    expected = (10 * torch.log10(4 / (again - x).square().mean(dim=(1, 2, 3)))).mean()
    assert figures["psnr"] == pytest.approx(float(expected), rel=1e-4)
    assert "lpips" not in figures  # too small for its network


def test_due_at_multiples_and_at_the_end(images: Tensor) -> None:
    measure = held_out(images)
    assert measure.is_due(1000, 992, 5000) and measure.is_due(5000, 4992, 5000)
    assert not measure.is_due(1008, 1000, 5000)
    assert HeldOut.of(images, {}, most=16, every_kimg=1.0, device=measure.device) is None
    assert HeldOut.of(images, QUARTERS, most=16, every_kimg=0.0, device=measure.device) is None


def test_measuring_leaves_the_run_as_it_is(images: Tensor, tmp_path: Path) -> None:
    for name, given in (("with", images), ("without", None)):
        torch.manual_seed(7)  # the default source is nobody's
        train_gan(images, tmp_path / name, config=CONFIG, heldout=given, extractors=QUARTERS)
    one, other = (load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("with", "without"))
    assert (tmp_path / "with" / "best").is_dir() and not (tmp_path / "without" / "best").exists()
    assert one["rng"].equal(other["rng"]) and one["host_rng"].equal(other["host_rng"])
    expected = tensors_of(other)
    assert all(value.equal(expected[name]) for name, value in tensors_of(one).items())


def test_the_best_snapshot_is_kept_and_told(
    images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = iter([3.0, 1.0, 2.0, 1.5])
    monkeypatch.setattr(HeldOut, "figures", lambda *_: {"fid_quarters": next(values)})
    for kimg in (0.048, 0.064):  # the second run goes on and finds nothing better
        config = replace(CONFIG, total_kimg=kimg)
        train_gan(images, tmp_path, config=config, heldout=images, extractors=QUARTERS)
        assert f"best snapshot: {tmp_path / 'best'} (fid_quarters 1 at 0.032 kimg)" in capsys.readouterr().out
    best = load_model(tmp_path / "best")
    assert best.verify() and best.config("optimizer")["seen_images"] == 32
    told = json.loads((tmp_path / "best" / "figures.json").read_text())
    assert told["figures"] == {"fid_quarters": 1.0} and told["features"] == {"quarters": "grey of quarters"}
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["fid_quarters"] for row in rows if "fid_quarters" in row] == [3.0, 1.0, 2.0, 1.5]
    (tmp_path / "best" / "figures.json").write_text('{"best_by": "fid_quarters"}')
    with pytest.raises(
        WeightsError, match=r"figures\.json is damaged \(KeyError\).*; remove .*best, and the next"
    ):
        train_gan(images, tmp_path, config=config, heldout=images, extractors=QUARTERS)
