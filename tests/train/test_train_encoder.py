"""Encoder training on a small random generator."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from progression.encoder import Encoder, EncoderConfig
from progression.errors import UsageError, WeightsError
from progression.latent.part import EncoderPart, load_generator
from progression.stylegan2 import Generator
from progression.train.encoder import CHECKPOINT, EncoderTraining, train_encoder
from progression.weights import ModelFiles, load_model, save_part

TINY = EncoderTraining(kimg=0.16, batch=8, warmup_kimg=0.05, width=8, max_width=16, bfloat16=False)


def make_model(folder: Path, *, seed: int = 0) -> ModelFiles:
    torch.manual_seed(seed)
    generator = Generator(16, 0, 16, 16, 1, 2, 64, 8)
    save_part(folder, "generator", generator.state_dict(), generator.config(), dtype="float32")
    return load_model(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def images(model: ModelFiles) -> torch.Tensor:
    generator = load_generator(model)
    with torch.no_grad():
        pictures = generator(torch.randn(64, 16, generator=torch.Generator().manual_seed(5)))
    return ((pictures[:, 0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def test_learns_and_is_stored(
    model: ModelFiles, images: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    part = train_encoder(model, images, run=run, preset=replace(TINY, kimg=0.8))
    assert "left 0:00" in capsys.readouterr().out
    assert (run / CHECKPOINT).is_file()
    with Image.open(next(run.glob("sheet-*.png"))) as sheet:
        assert sheet.size == (8 * 16, 2 * 16) and "SYNTHETIC" in sheet.info["Comment"]
    generator = load_generator(model)
    with torch.no_grad():
        w = generator.mapping(torch.randn(32, 16, generator=torch.Generator().manual_seed(9)), None)
        pictures = generator.synthesis(w, noise_mode="const")
        found = part.encoder(pictures)
    spread = (w[:, 0] - part.whitening.w_mean).square().mean()
    assert (found.mean(dim=1) - w[:, 0]).square().mean() < 0.8 * spread

    folder = tmp_path / "model"
    part.save(folder, training={"kimg": 0.8}, dtype="float32")
    again = EncoderPart.load(load_model(folder))
    torch.testing.assert_close(again.encoder(pictures), found, atol=1e-4, rtol=1e-4)
    odd = torch.cat([pictures[:4], torch.full((1, 1, 16, 16), 1.0)])
    assert again.typical(generator, odd)[-1] < 0.05


class Killed(Exception):
    pass


def test_killed_and_resumed_equals_uninterrupted(
    model: ModelFiles, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_encoder(model, images, run=tmp_path / "whole", preset=TINY)
    steps = 0
    original = torch.nn.utils.clip_grad_norm_

    def die(*args: object, **options: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 7:
            raise Killed
        return original(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", die)
    with pytest.raises(Killed):
        train_encoder(model, images, run=tmp_path / "cut", preset=TINY, checkpoint_seconds=0.0)
    cut = train_encoder(model, images, run=tmp_path / "cut", preset=TINY)
    assert steps == 7 + 14  # went on from step 6
    for name, value in whole.encoder.state_dict().items():
        assert value.equal(cut.encoder.state_dict()[name]), name


def test_starts_from_the_models_encoder_else_from_the_run(
    model: ModelFiles, images: torch.Tensor, tmp_path: Path
) -> None:
    short = replace(TINY, kimg=0.008, learning_rate=0.0)
    first = train_encoder(model, images, run=tmp_path / "run", preset=TINY)
    other = make_model(tmp_path / "other", seed=1)
    second = train_encoder(other, images, run=tmp_path / "run", preset=short)
    assert second.encoder.base.weight.equal(first.encoder.base.weight)
    assert not second.encoder.w_mean.equal(first.encoder.w_mean)

    third = make_model(tmp_path / "third", seed=2)
    joint = Encoder(EncoderConfig(resolution=16, num_ws=6, w_dim=16, width=4))
    torch.nn.init.normal_(joint.base.weight)
    save_part(third.folder, "encoder", joint.state_dict(), joint.config(), dtype="float32")
    with pytest.raises(WeightsError, match="no statistics"):
        EncoderPart.load(load_model(third.folder))
    finished = train_encoder(load_model(third.folder), images, run=tmp_path / "run", preset=short)
    assert finished.encoder.base.weight.equal(joint.base.weight)


def test_other_options_are_refused(model: ModelFiles, images: torch.Tensor, tmp_path: Path) -> None:
    short = replace(TINY, kimg=0.008)
    train_encoder(model, images, run=tmp_path / "run", preset=short)
    with pytest.raises(UsageError, match="other options"):
        train_encoder(model, images, run=tmp_path / "run", preset=replace(short, offset=1.0))


def test_feature_loss(model: ModelFiles, images: torch.Tensor, tmp_path: Path) -> None:
    train_encoder(
        model,
        images,
        run=tmp_path,
        preset=replace(TINY, kimg=0.016),
        features=lambda x: x.mean(dim=3).flatten(1),
        heldout=images[:8],
    )
    assert "encoder/feature" in (tmp_path / "log.jsonl").read_text()


def test_wrong_pictures(model: ModelFiles, images: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected uint8 pictures \(N, 16, 16\)"):
        train_encoder(model, images[:, :8], run=tmp_path, preset=TINY)
    with pytest.raises(UsageError, match="at least one batch"):
        train_encoder(model, images[:6], run=tmp_path, preset=TINY)
