"""Engines: the same answers within the stated error, and no silent choice of another one."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from progression.encoder import Encoder, EncoderConfig
from progression.engine import choose, choose_device, load_engine
from progression.engine.fold import fold_batch_norms
from progression.errors import DependencyError, UsageError
from progression.predict import Predictor, load_predictor
from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS, Grader
from progression.stylegan2 import Generator
from progression.types import Radiograph, Side

from .fakes import knee
from .models import RESOLUTION, write_model


def need_openvino() -> None:
    if importlib.util.find_spec("openvino") is None:  # importing it here would report to its maker
        pytest.skip("needs the extra: pip install 'progression-imaging[fast]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Predictor:
    return load_predictor(folder, device="cpu", engine="torch")


@pytest.fixture(scope="module", params=["openvino", "openvino-half"])
def fast(folder: Path, request: pytest.FixtureRequest) -> Predictor:
    need_openvino()
    return load_predictor(folder, device="cpu", engine=request.param)


def tolerance(predictor: Predictor) -> float:
    """The stated error, of pictures and probabilities."""
    return {"openvino": 1e-4, "openvino-half": 0.05}[predictor.engine.name]


def busy(network: nn.Module) -> nn.Module:
    """A network whose batch norms and zero-initialised tensors do something."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim <= 1 or name.endswith("offset_out"):
                parameter.add_(0.2 * torch.randn_like(parameter))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.2)
                module.running_var.uniform_(0.5, 2.0)
    return network.eval().requires_grad_(False)


def networks(*, colours: int = 1, offset_rank: int = 3, pool: int = 1) -> tuple[Generator, Encoder, Grader]:
    torch.manual_seed(0)
    generator = Generator(8, 0, 12, 32, colours, mapping_layers=1, channel_base=256, channel_max=16)
    shape = EncoderConfig(32, generator.num_ws, 12, colours, 8, 16, 24, offset_rank=offset_rank, pool=pool)
    encoder = Encoder(shape)
    # every kind of block: expanded or not, kernels 3 and 5, both strides, skipped or not, an odd side
    stages = (Stage(2, 3, 1, 1, 8), Stage(2, 5, 2, 3, 12), Stage(1, 3, 2, 2, 12))
    members = [EfficientNet(1, NUM_OUTPUTS, stages=stages, stem_width=8, head_width=20) for _ in range(2)]
    for network in (generator, encoder, *members):
        busy(network)
    return generator, encoder, Grader(members, input_resolution=45).eval()


def pictures(count: int, colours: int = 1) -> Tensor:
    return torch.rand(count, colours, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_folding_keeps_the_answers_and_the_gradient() -> None:
    for network, x in zip(networks()[1:], (pictures(3), pictures(3)), strict=True):
        folded = copy.deepcopy(network)
        fold_batch_norms(folded)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
        answers = [net.split(x)[0] if isinstance(net, Encoder) else net(x).now for net in (network, folded)]
        torch.testing.assert_close(answers[1], answers[0], atol=1e-5, rtol=1e-5)
        slopes = []
        for net in (network, folded):
            shown = x.clone().requires_grad_()
            y = net(shown) if isinstance(net, Encoder) else net(shown).now[:, 0]
            slopes.append(torch.autograd.grad(y.sum(), shown)[0])
        torch.testing.assert_close(slopes[1], slopes[0], atol=1e-5, rtol=1e-4)


def test_norms_in_training_are_not_folded() -> None:
    with pytest.raises(ValueError, match="call eval"):
        fold_batch_norms(networks()[1].train())


@pytest.mark.parametrize(("colours", "offset_rank", "pool"), [(1, 3, 1), (3, 0, 2)])
@torch.no_grad()
def test_every_layer_of_the_graphs_is_torchs(colours: int, offset_rank: int, pool: int) -> None:
    need_openvino()
    generator, encoder, grader = networks(colours=colours, offset_rank=offset_rank, pool=pool)
    ws = torch.randn(3, generator.num_ws, 12)
    images, shown = pictures(3, colours), pictures(3)
    expected = (encoder(images), generator.synthesis(ws, noise_mode="const"), grader(shown))
    engine = load_engine("openvino", generator=generator, encoder=encoder, grader=grader)
    torch.testing.assert_close(engine.encode(images), expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(engine.render(ws), expected[1], atol=1e-5, rtol=1e-5)
    for name in ("now", "future", "rise"):
        graded = getattr(engine.grade(shown), name)
        torch.testing.assert_close(graded, getattr(expected[2], name), atol=1e-5, rtol=1e-5)


def test_predictions_agree(plain: Predictor, fast: Predictor) -> None:
    given = [Radiograph(knee(seed=seed), Side.RIGHT, f"knee{seed}") for seed in range(2)]
    for a, b in zip(
        plain.predict_batch(given, horizon_months=[24, 96]),
        fast.predict_batch(given, horizon_months=[24, 96]),
        strict=True,
    ):
        atol = tolerance(fast)
        np.testing.assert_allclose(b.reconstruction, a.reconstruction, atol=atol)
        np.testing.assert_allclose(b.kl_now, a.kl_now, atol=atol)
        np.testing.assert_allclose(b.typicality, a.typicality, atol=10 * atol)
        for one, other in zip(a.horizons, b.horizons, strict=True):
            np.testing.assert_allclose(other.image, one.image, atol=atol)
            np.testing.assert_allclose(other.kl_future, one.kl_future, atol=atol)
            np.testing.assert_allclose(other.risk_any, one.risk_any, atol=atol)


def test_openvino_does_not_see_the_batch(fast: Predictor) -> None:
    x = torch.rand(5, 1, RESOLUTION, RESOLUTION) * 2 - 1
    together, alone = fast.engine.encode(x), fast.engine.encode(x[3:4])
    assert torch.equal(together[3], alone[0])
    assert torch.equal(fast.engine.render(together)[3], fast.engine.render(alone)[0])
    assert torch.equal(fast.engine.grade(x).now[3], fast.engine.grade(x[3:4]).now[0])


def test_the_report_names_the_engine(plain: Predictor, fast: Predictor) -> None:
    for predictor, name in ((plain, "torch"), (fast, fast.engine.name)):
        engine = predictor.predict(knee(), side="right").provenance["engine"]
        assert engine["name"] == name and engine["version"]
    assert plain.engine.precision == "float32"
    assert fast.engine.precision == "float32" or fast.engine.name == "openvino-half"


def test_refinement_is_torchs_and_goes_with_any_engine(plain: Predictor, fast: Predictor) -> None:
    a, b = (p.predict(knee(), side="right", refine_steps=2) for p in (plain, fast))
    np.testing.assert_allclose(b.reconstruction, a.reconstruction, atol=2 * tolerance(fast))


def test_openvino_reports_to_nobody() -> None:
    need_openvino()
    program = """
import sys
def refuse(event, arguments):
    if event.startswith(("socket.", "urllib.", "http.", "subprocess.", "os.fork")):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(refuse)
from progression.engine.runtime import op, ov
print(ov.Core().available_devices)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and "CPU" in done.stdout, done.stderr


def test_auto_is_openvino_only_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = importlib.util.find_spec("openvino") is not None
    assert choose("auto", "cpu") == ("openvino" if installed else "torch", torch.device("cpu"))
    monkeypatch.setattr("progression.engine.find_spec", lambda name: None)
    assert choose("auto", "cpu")[0] == "torch"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("progression.engine.find_spec", lambda name: object())
    assert choose("auto", "auto") == ("torch", torch.device("cuda"))
    assert choose("auto", "cpu")[0] == "openvino"


def test_engines_are_not_swapped_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="expected auto, torch, openvino or openvino-half"):
        choose("onnx", "cpu")
    with pytest.raises(UsageError, match="runs on the CPU"):
        choose("openvino", "cuda")
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "progression.engine.runtime", raising=False)
    with pytest.raises(DependencyError, match=r"engine openvino needs .*progression-imaging\[fast\]"):
        choose("openvino", "cpu")


def test_devices_are_not_swapped_silently() -> None:
    with pytest.raises(UsageError, match="expected auto, cpu or cuda"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="pass --device cpu"):
            choose_device("cuda")
