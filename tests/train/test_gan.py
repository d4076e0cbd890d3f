"""GAN training: a killed run continues as if it had never stopped, and it learns."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from progression import weights
from progression.errors import UsageError, WeightsError
from progression.stylegan2 import Discriminator, Generator
from progression.stylegan2.ops import upsample2d
from progression.train import gan
from progression.train.checkpoint import load_checkpoint
from progression.train.gan import CHECKPOINT, PRESETS, train_gan, with_overrides
from progression.train.gan_trainer import GanConfig, GanTrainer
from progression.train.loop import activation_dtype, batch_indices, changed_fields, ema_beta
from progression.train.run_log import LOG
from progression.train.snapshot import take_over

TINY = GanConfig(
    resolution=16,
    total_kimg=0.024,
    batch=4,
    z_dim=8,
    w_dim=8,
    mapping_layers=1,
    channel_base=64,
    channel_max=8,
    mbstd_group_size=2,
    r1_interval=2,
    path_interval=3,
    snapshot_kimg=0.008,
    precision="float32",
)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (10, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def weights_of(trainer: GanTrainer) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, net in (trainer.networks() | {"average": trainer.average}).items()
        for key, value in net.state_dict().items()
    }


@pytest.mark.parametrize(
    "changes", [{}, {"ada_target": 0.6, "precision": "bfloat16"}, {"loss": "r3gan", "ada_target": 0.6}]
)
def test_a_run_resumed_from_disk_is_identical(images: Tensor, tmp_path: Path, changes: dict) -> None:
    config = replace(TINY, **changes)
    whole = GanTrainer(config, images)
    for _ in range(6):
        whole.step()
    train_gan(images, tmp_path, config=replace(config, total_kimg=0.012))
    train_gan(images, tmp_path, config=config)
    resumed = GanTrainer(config, images)
    resumed.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert resumed.seen_images == whole.seen_images == 24
    expected, found = weights_of(whole), weights_of(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_snapshot_is_a_model_and_a_larger_run_starts_with_the_same_functions(
    images: Tensor, tmp_path: Path
) -> None:
    wide = replace(TINY, total_kimg=0.008, channel_base=512, channel_max=16)  # 16 functions to fit with
    folder = train_gan(images, tmp_path / "small", config=wide)
    files = weights.load_model(folder)
    assert set(files.parts) == {"generator", "discriminator", "optimizer"}
    small = Generator(**files.config("generator"))
    small.load_state_dict(files.tensors("generator"))
    judge = Discriminator(**files.config("discriminator"))
    judge.load_state_dict(files.tensors("discriminator"))
    larger = GanTrainer(replace(wide, resolution=32), torch.zeros(4, 32, 32, dtype=torch.uint8))
    taken = take_over(larger, files)
    assert taken["generator"] == len(small.state_dict()) and larger.seen_images == 0
    z = torch.randn(4, 8)
    with torch.no_grad():
        before = small(z, noise_mode="const")
        doubled = upsample2d(before, small.synthesis.b16.resample_filter)
        torch.testing.assert_close(larger.generator(z, noise_mode="const"), doubled)
        # grey values in [-1, 1], flat enough that blurring before or after the first layer is the same
        flat = torch.linspace(-0.9, 0.9, 4)[:, None, None, None].expand(4, 1, 16, 16)
        expected = judge.b16.fromrgb(flat)
        found = larger.discriminator.b32(flat.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    inside = (slice(None), slice(None), slice(3, -3), slice(3, -3))
    assert float((found[inside] - expected[inside]).abs().max()) < 0.03 * float(expected.abs().max())


def test_a_snapshot_goes_on_elsewhere(images: Tensor, tmp_path: Path) -> None:
    config = replace(TINY, ada_target=0.6)
    folder = train_gan(images, tmp_path / "here", config=replace(config, total_kimg=0.016))
    there = GanTrainer(config, images)
    take_over(there, weights.load_model(folder))
    here = GanTrainer(config, images)
    here.load_state_dict(torch.load(tmp_path / "here" / "checkpoint.pt", weights_only=True))
    assert there.seen_images == 16
    assert there.ada is not None and here.ada is not None and there.ada.p == here.ada.p > 0
    for name, net in here.networks().items():
        for a, b in zip(net.parameters(), there.networks()[name].parameters(), strict=True):
            if (kept := here.optimizers[name].state.get(a)) is None:
                continue
            moved = there.optimizers[name].state[b]["exp_avg_sq"]
            rows = kept["exp_avg_sq"].reshape(a.shape[0] if a.ndim else 1, -1).mean(dim=1)
            torch.testing.assert_close(moved.reshape(len(rows), -1).mean(dim=1), rows)
    assert torch.isfinite(there.step()["loss_g"])


def test_divergence_keeps_the_last_good_checkpoint(
    images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_gan(images, tmp_path, config=replace(TINY, total_kimg=0.008))
    good = (tmp_path / "checkpoint.pt").read_bytes()
    step = GanTrainer.step

    def diverge(trainer: GanTrainer) -> dict[str, Tensor]:
        scalars = step(trainer)
        with torch.no_grad():
            next(trainer.average.parameters()).fill_(float("nan"))
        return scalars

    monkeypatch.setattr(GanTrainer, "step", diverge)
    with pytest.raises(WeightsError, match="diverged"):
        train_gan(images, tmp_path, config=TINY)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good


def test_killed_before_the_checkpoint_the_rerun_brings_the_snapshot_up_to_date(
    images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: object, state: object) -> None:
        raise KeyboardInterrupt

    config = replace(TINY, total_kimg=0.008)
    with monkeypatch.context() as patch:
        patch.setattr(gan.Checkpoints, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train_gan(images, tmp_path, config=config)
    assert weights.load_model(tmp_path / "snapshot").config("optimizer")["seen_images"] == 8
    train_gan(images, tmp_path, config=config)
    assert (tmp_path / "checkpoint.pt").exists()


def test_interrupted_at_any_file_a_run_ends_as_if_it_had_not_been(
    images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TINY, total_kimg=0.016, batch=4, snapshot_kimg=0.006)  # written at 8, 12 and 16 pictures
    whole = rows_and_state(train_gan(images, tmp_path / "whole", config=config).parent)
    assert [row["kimg"] for row in whole[0]] == [0.008, 0.012, 0.016]
    out, left = tmp_path, 0

    def interrupted(move: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
        def once(source: Path, target: Path) -> None:
            nonlocal left
            left -= Path(target).parent == out
            if left == 0:
                left = -1
                raise KeyboardInterrupt
            move(source, target)

        return once

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, interrupted(getattr(os, name)))
    for nth in range(1, 100, 2):
        out, left = tmp_path / str(nth), nth
        try:
            train_gan(images, out, config=config)
        except KeyboardInterrupt:
            train_gan(images, out, config=config)
        else:
            break
        rows, state = rows_and_state(out)
        assert [drop_time(row) for row in rows] == [drop_time(row) for row in whole[0]]
        torch.testing.assert_close(state, whole[1], rtol=0, atol=0)
        assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    assert nth > 3 * 3  # snapshot, samples and checkpoint, three times


def rows_and_state(run: Path) -> tuple[list[dict[str, float]], dict[str, object]]:
    rows = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    state = load_checkpoint(run / CHECKPOINT)
    del state["config"]
    return rows, state


def drop_time(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "kimg_per_s"}


@pytest.mark.parametrize(
    "changes",
    [{"batch": 0}, {"total_kimg": 0.0}, {"resolution": 4}, {"resolution": 96}, {"path_interval": -1},
     {"ada_target": 1.5}, {"precision": "float16"}, {"r1_gamma": -1.0}, {"loss": "hinge"}],
)  # fmt: skip
def test_settings_out_of_range(changes: dict) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(changes))} is .* expected"):
        replace(TINY, **changes)


def test_portable_snapshot_of_the_large_preset_is_small(tmp_path: Path) -> None:
    config = PRESETS["gpu"]
    trainer = GanTrainer(config, torch.zeros(config.batch, 256, 256, dtype=torch.uint8))
    parameters = [p for net in trainer.networks().values() for p in net.parameters()]
    halves = sum(v.numel() for net in trainer.networks().values() for v in net.state_dict().values())
    rows = sum(p.shape[0] if p.ndim else 1 for p in parameters)
    assert config.channel_base == 8192
    assert 2 * halves + 4 * rows < 60e6  # bytes


def test_batches_cover_the_data_once_an_epoch_and_depend_on_the_position_alone() -> None:
    stream = torch.cat([batch_indices(10, 4, position=p, seed=3) for p in range(0, 20, 4)])
    assert sorted(stream[:10].tolist()) == sorted(stream[10:].tolist()) == list(range(10))
    assert stream[:10].tolist() != stream[10:].tolist()
    assert torch.equal(batch_indices(10, 4, position=8, seed=3), stream[8:12])


def test_ema_half_life() -> None:
    assert ema_beta(16, half_life_kimg=0.016, seen_images=10**6, rampup=None) == pytest.approx(0.5)
    assert ema_beta(16, half_life_kimg=10, seen_images=160, rampup=0.1) == pytest.approx(0.5)


def test_precision_auto_is_what_the_device_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert activation_dtype("auto", torch.device("cpu")) == torch.bfloat16
    for able, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation, able=able: able)
        assert activation_dtype("auto", torch.device("cuda")) == expected
        assert activation_dtype("bfloat16", torch.device("cuda")) == torch.bfloat16
    assert activation_dtype("float32", torch.device("cpu")) == torch.float32


def test_a_run_from_before_a_field_had_its_default() -> None:
    saved = asdict(TINY)
    del saved["accumulate"]
    assert changed_fields(saved, TINY) == set()
    assert changed_fields(saved, replace(TINY, accumulate=2, batch=8)) == {"accumulate", "batch"}


def test_micro_batches_train_the_same_and_a_run_may_change_their_number(
    images: Tensor, tmp_path: Path
) -> None:
    whole = train_gan(images, tmp_path / "whole", config=TINY)
    for total, goes in ((0.008, 1), (TINY.total_kimg, 2)):
        config = replace(TINY, total_kimg=total, accumulate=goes)
        cut = train_gan(images, tmp_path / "cut", config=config)
    for name, value in weights.load_model(whole).tensors("generator").items():
        torch.testing.assert_close(
            weights.load_model(cut).tensors("generator")[name], value, rtol=2e-3, atol=1e-4
        )


def test_a_penalty_in_every_step_leaves_the_rate_as_it_is(images: Tensor) -> None:
    rates = {
        interval: GanTrainer(replace(TINY, r1_interval=interval), images)
        .optimizers["discriminator"]
        .param_groups[0]["lr"]
        for interval in (1, 16)
    }
    assert rates[1] == TINY.learning_rate
    assert rates[16] == pytest.approx(TINY.learning_rate * 16 / 17)


def test_r3gan_penalises_real_and_generated_pictures_when_it_is_due(images: Tensor) -> None:
    trainer = GanTrainer(replace(TINY, loss="r3gan"), images)
    first, second = trainer.step(), trainer.step()
    assert {"r1", "r2"} <= first.keys() and not {"r1", "r2"} & second.keys()
    assert float(first["r1"]) > 0 and float(first["r2"]) > 0


def test_the_level_of_a_relativistic_discriminator_does_not_augment(images: Tensor) -> None:
    """Logits of real and generated pictures that are all far above 0, and alike: nothing is overfitted."""
    trainer = GanTrainer(replace(TINY, loss="r3gan", ada_target=0.6), images)
    with torch.no_grad():
        trainer.discriminator.b4.out.bias.fill_(100.0)
        trainer.discriminator.b4.out.weight.zero_()
    assert float(trainer._discriminator_step(torch.arange(4), regularise=False)["sign_real"]) == 0


@pytest.mark.parametrize("loss", ["logistic", "r3gan"])
def test_learns_the_grey_of_its_pictures(loss: str) -> None:
    pictures = torch.full((8, 16, 16), 230, dtype=torch.uint8)
    trainer = GanTrainer(replace(TINY, path_interval=0, learning_rate=0.01, loss=loss), pictures)

    def error() -> float:
        with torch.no_grad():
            grey = trainer.generator(torch.randn(32, 8, generator=torch.Generator().manual_seed(1))).mean()
        return abs(float(grey) - (230 / 127.5 - 1))

    before = error()
    for _ in range(60):
        trainer.step()
    assert error() < 0.5 * before


def test_wrong_use_is_told(images: Tensor, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown preset 'tpu'"):
        with_overrides("tpu")
    with pytest.raises(UsageError, match="expected uint8 pictures of 16²"):
        GanTrainer(TINY, images[:, :8])
    with pytest.raises(UsageError, match="give more pictures"):
        GanTrainer(TINY, images[:3])
    train_gan(images, tmp_path, config=replace(TINY, total_kimg=0.004))
    with pytest.raises(UsageError, match="trained with other seed"):
        train_gan(images, tmp_path, config=replace(TINY, seed=1))
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match="damaged: its end is missing; remove it to begin anew"):
        train_gan(images, tmp_path, config=TINY)
