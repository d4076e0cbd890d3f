"""Official StyleGAN2-ADA snapshots (`network-snapshot-*.pkl`), read without running anything in them.

A snapshot is a pickle of `{"G", "D", "G_ema", "training_set_kwargs", "augment_pipe"}`. Each network carries
its own Python source, its constructor arguments and its parameters; `inert.read_pickle` keeps the last two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from progression.errors import WeightsError
from progression.files import read_regular
from progression.networks import check_fits
from progression.stylegan2.discriminator import Discriminator
from progression.stylegan2.generator import Generator
from progression.stylegan2.inert import Persistent, read_pickle

MAX_BYTES = 400 << 20
"""Of a snapshot, and of one network's tensors; the official ones of 1,024 pixels have 364 MB."""
_MAX_PARTS = 10_000
"""Modules and tensors of a network, which has a few hundred."""
_MAX_OPTIONS = 100
_MAX_NAME = 100
_MAX_PREFIX = 1_000
_MAX_SIZE = 1 << 17
_REMEDY = "pass a network-snapshot-*.pkl that StyleGAN2-ADA (PyTorch) wrote"

# Constructor arguments that say how to compute, not what: float32 results do not depend on them.
_SPEED_ONLY = frozenset({"num_fp16_res", "fp16_channels_last", "use_fp16"})
# Values that our networks have built in; the clamp at 256 guards half precision and is idle otherwise.
_BUILT_IN: dict[str, tuple[Any, ...]] = {
    "conv_clamp": (None, 256),
    "architecture": ("skip", "resnet"),
    "activation": ("lrelu",),
    "resample_filter": ([1, 3, 3, 1],),
    "use_noise": (True,),
    "embed_features": (None,),
    "layer_features": (None,),
    "lr_multiplier": (0.01,),
    "w_avg_beta": (0.995, None),
    "cmap_dim": (None,),
    "mbstd_num_channels": (1,),
    "freeze_layers": (0,),
}
_GENERATOR_SIZES = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
_DISCRIMINATOR_SIZES = ("c_dim", "img_resolution", "img_channels")

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class OfficialNetwork:
    """One network of a snapshot.

    Attributes
    ----------
    class_name
        "Generator" or "Discriminator".
    init_kwargs
        The constructor's keyword arguments, in the official layout (nested dictionaries).
    state
        Parameters and persistent buffers by their dotted names, on the CPU in the type they were stored.
    """

    class_name: str
    init_kwargs: dict[str, Any]
    state: dict[str, Tensor]


@dataclass(frozen=True)
class OfficialNetworks:
    """A snapshot: generator G, its moving average G_ema, discriminator D; G and D may be absent."""

    G_ema: OfficialNetwork
    G: OfficialNetwork | None = None
    D: OfficialNetwork | None = None


def read_official(path: str | Path) -> OfficialNetworks:
    """Read a snapshot; nothing in it is executed, compiled or imported.

    Raises
    ------
    WeightsError
        If the file cannot be read, is not such a snapshot, or holds any content outside what such a snapshot
        needs; the message names the first such content.
    """
    path = Path(path)
    try:
        content = read_regular(path, most=MAX_BYTES)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}; {_REMEDY}") from error
    data = read_pickle(content, source=str(path))
    if not isinstance(data, dict) or not isinstance(data.get("G_ema"), Persistent):
        raise WeightsError(f"{path} has no network 'G_ema'; {_REMEDY}")
    networks = {
        name: _network(data[name], where=f"{path}: {name}")
        for name in ("G", "D", "G_ema")
        if data.get(name) is not None
    }
    return OfficialNetworks(**networks)


def generator_of(network: OfficialNetwork) -> Generator:
    """Our generator with the network's size and parameters, in float32.

    Raises
    ------
    WeightsError
        If it was built with options that our generator does not have (named), or parameters do not fit.
    """
    options = _options(network, "Generator")
    config = {name: _size(options, name) for name in _GENERATOR_SIZES}
    config["mapping_layers"] = _size(options, "num_layers", default=8)
    config |= _channels(options)
    return _load(lambda: Generator(**config), network, options)


def discriminator_of(network: OfficialNetwork) -> Discriminator:
    """Our discriminator with the network's size and parameters, in float32.

    Raises
    ------
    WeightsError
        As for `generator_of`.
    """
    options = _options(network, "Discriminator")
    options.pop("num_layers", None)  # of the label mapping, whose parameters are checked by name
    config = {name: _size(options, name) for name in _DISCRIMINATOR_SIZES}
    config["mbstd_group_size"] = _size(options, "mbstd_group_size", default=4)
    config |= _channels(options)
    return _load(lambda: Discriminator(**config), network, options)


def _network(stored: Any, *, where: str) -> OfficialNetwork:
    if not isinstance(stored, Persistent):
        raise WeightsError(f"{where} is a {type(stored).__name__}, expected a network; {_REMEDY}")
    arguments, options = stored.state.get("_init_args", ()), stored.state.get("_init_kwargs")
    if arguments or not isinstance(options, dict):
        raise WeightsError(f"{where} does not carry its constructor's keyword arguments; {_REMEDY}")
    return OfficialNetwork(stored.class_name, options, _tensors(stored, where))


def _tensors(root: Persistent, where: str) -> dict[str, Tensor]:
    """Parameters and persistent buffers of a module tree, by dotted name, in `state_dict` order."""
    tensors: dict[str, Tensor] = {}
    pending: list[tuple[str, Any]] = [("", root)]
    visited: set[int] = set()
    total_bytes = 0
    while pending:
        prefix, module = pending.pop()
        if not isinstance(module, Persistent) or id(module) in visited or len(prefix) > _MAX_PREFIX:
            raise WeightsError(f"{where}.{prefix[:_MAX_NAME]} is not a tree of persistent modules; {_REMEDY}")
        visited.add(id(module))
        parameters, buffers, modules = (
            _named(module.state.get(kind), f"{where}.{prefix[:_MAX_NAME]}")
            for kind in ("_parameters", "_buffers", "_modules")
        )
        transient = module.state.get("_non_persistent_buffers_set") or set()
        if not isinstance(transient, set):
            raise WeightsError(f"{where}.{prefix[:_MAX_NAME]} has no set of buffers to leave out; {_REMEDY}")
        for name, value in {**parameters, **buffers}.items():
            if value is None or name in transient:
                continue
            if not isinstance(value, Tensor):
                raise WeightsError(
                    f"{where}.{prefix}{name} is a {type(value).__name__}, expected a tensor; {_REMEDY}"
                )
            tensors[f"{prefix}{name}"] = value
            total_bytes += value.numel() * value.element_size()
        pending += [(f"{prefix}{name}.", child) for name, child in reversed(modules.items())]
        if len(tensors) + len(pending) > _MAX_PARTS or total_bytes > MAX_BYTES:
            raise WeightsError(f"{where} has more parts than any network of a snapshot; {_REMEDY}")
    return tensors


def _named(parts: Any, where: str) -> dict[str, Any]:
    """Parameters, buffers or modules of one module."""
    if not isinstance(parts, dict) or len(parts) > _MAX_PARTS:
        raise WeightsError(f"{where} has no parameters, buffers and modules; {_REMEDY}")
    if not all(type(name) is str and 0 < len(name) <= _MAX_NAME for name in parts):
        raise WeightsError(f"{where} has parts without a short name; {_REMEDY}")
    return parts


def _options(network: OfficialNetwork, class_name: str) -> dict[str, Any]:
    """Constructor arguments on one level: the official layout nests some in `*_kwargs` groups."""
    if network.class_name != class_name:
        raise WeightsError(
            f"the network is a {network.class_name[:40]!r}, expected {class_name!r}; {_REMEDY}"
        )
    options: dict[str, Any] = {}
    for name, value in network.init_kwargs.items():
        group = type(name) is str and name.endswith("_kwargs") and isinstance(value, dict)
        options |= value if group and len(value) <= _MAX_OPTIONS else {name: value}
        if len(options) > _MAX_OPTIONS or type(name) is not str:
            raise WeightsError(f"the network has options without names, or too many; {_REMEDY}")
    return options


def _size(options: dict[str, Any], name: str, *, default: int | None = None) -> int:
    value = options.pop(name, default)
    if type(value) is not int or not 0 <= value <= _MAX_SIZE:
        raise WeightsError(f"option {name} is not a whole number up to {_MAX_SIZE}; {_REMEDY}")
    return value


def _channels(options: dict[str, Any]) -> dict[str, int]:
    """Official defaults where the snapshot does not say."""
    return {
        "channel_base": _size(options, "channel_base", default=32768),
        "channel_max": _size(options, "channel_max", default=512),
    }


def _load(build: Callable[[], _Module], network: OfficialNetwork, options: dict[str, Any]) -> _Module:
    """Build without memory, so that sizes in the file cannot ask for any; put the file's tensors in place."""
    try:
        check_fits(build, network.state)
        with torch.device("meta"):
            module = build()
        for name, value in options.items():
            if name not in _SPEED_ONLY and value not in _BUILT_IN.get(name, ()):
                raise WeightsError(f"option {str(name)[:40]} has a value that our networks lack; {_REMEDY}")
        state = {name: value.float() for name, value in network.state.items()}
        module.load_state_dict(state, strict=True, assign=True)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"parameters do not fit their constructor arguments: {reason}; {_REMEDY}"
        ) from None
    return module.eval()
