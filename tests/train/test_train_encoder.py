"""Encoder training on a small random generator."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from progression.errors import UsageError
from progression.latent.part import EncoderPart
from progression.stylegan2 import Generator
from progression.train.encoder import CHECKPOINT, EncoderTraining, batch_rows, load_generator, train_encoder
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
    generator = load_generator(model, "cpu")
    with torch.no_grad():
        pictures = generator(torch.randn(64, 16, generator=torch.Generator().manual_seed(5)))
    return ((pictures[:, 0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def silent(line: str) -> None:
    pass


def test_learns_resumes_and_is_stored(model: ModelFiles, images: torch.Tensor, tmp_path: Path) -> None:
    lines: list[str] = []
    part = train_encoder(
        model, images, run=tmp_path / "run", preset=replace(TINY, kimg=1.6), report=lines.append
    )
    assert "kimg" in lines[0]
    assert "min left" in lines[0]
    generator = load_generator(model, "cpu")
    with torch.no_grad():
        w = generator.mapping(torch.randn(32, 16, generator=torch.Generator().manual_seed(9)), None)
        pictures = generator.synthesis(w, noise_mode="const")
        found = part.encoder(pictures)
    spread = (w[:, 0] - part.whitening.w_mean).square().mean()
    assert (found.mean(dim=1) - w[:, 0]).square().mean() < 0.8 * spread
    part.save(model.folder, training={"kimg": 1.6}, dtype="float32")
    again = EncoderPart.load(load_model(model.folder))
    torch.testing.assert_close(again.encoder(pictures), found, atol=1e-4, rtol=1e-4)
    odd = torch.cat([pictures[:4], torch.full((1, 1, 16, 16), 1.0)])
    assert again.typical(generator, odd)[-1] < 0.05
    assert (tmp_path / "run" / CHECKPOINT).is_file()
    assert list((tmp_path / "run").glob("sheet-*.png"))


class Killed(Exception):
    pass


def test_killed_and_resumed_equals_uninterrupted(
    model: ModelFiles, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_encoder(model, images, run=tmp_path / "whole", preset=TINY, report=silent)
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
        train_encoder(model, images, run=tmp_path / "cut", preset=TINY, report=silent, checkpoint_seconds=0.0)
    lines: list[str] = []
    cut = train_encoder(model, images, run=tmp_path / "cut", preset=TINY, report=lines.append)
    assert lines[0] == "going on at 0.0 kimg"
    for name, value in whole.encoder.state_dict().items():
        assert value.equal(cut.encoder.state_dict()[name]), name


def test_goes_on_with_a_better_generator(model: ModelFiles, images: torch.Tensor, tmp_path: Path) -> None:
    first = train_encoder(model, images, run=tmp_path / "run", preset=TINY, report=silent)
    other = make_model(tmp_path / "other", seed=1)
    lines: list[str] = []
    second = train_encoder(other, images, run=tmp_path / "run", preset=TINY, report=lines.append)
    assert "generator has changed" in lines[0]
    assert not second.encoder.w_mean.equal(first.encoder.w_mean)


def test_other_options_are_refused(model: ModelFiles, images: torch.Tensor, tmp_path: Path) -> None:
    short = replace(TINY, kimg=0.008)
    train_encoder(model, images, run=tmp_path / "run", preset=short, report=silent)
    with pytest.raises(UsageError, match="other options"):
        train_encoder(model, images, run=tmp_path / "run", preset=replace(short, offset=1.0), report=silent)
    with pytest.raises(UsageError, match="another shape"):
        train_encoder(model, images, run=tmp_path / "run", preset=replace(short, width=4), report=silent)


def test_feature_loss(model: ModelFiles, images: torch.Tensor, tmp_path: Path) -> None:
    lines: list[str] = []
    train_encoder(
        model,
        images,
        run=tmp_path,
        preset=replace(TINY, kimg=0.016),
        features=lambda x: x.mean(dim=3).flatten(1),
        heldout=images[:8],
        report=lines.append,
    )
    assert "feature" in lines[0]


def test_wrong_pictures(model: ModelFiles, images: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected uint8 pictures \(N, 16, 16\)"):
        train_encoder(model, images[:, :8], run=tmp_path, preset=TINY)
    with pytest.raises(UsageError, match="at least one batch"):
        train_encoder(model, images[:6], run=tmp_path, preset=TINY)


def test_batches_cover_every_epoch() -> None:
    rows = torch.cat([batch_rows(step, 4, 12, seed=0) for step in range(3)])
    assert sorted(rows.tolist()) == list(range(12))
    assert not batch_rows(3, 4, 12, seed=0).equal(batch_rows(0, 4, 12, seed=0))
