"""Writes snapshots in the official layout, for the tests of the reader.

At pickling time this module poses as `torch_utils.persistence` and `dnnlib.util`, which the reader never
imports.
"""

from __future__ import annotations

import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class EasyDict(dict[str, Any]):
    """A dictionary with attribute access, as the official files hold."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _reconstruct_persistent_obj(meta: Mapping[str, Any]) -> None:
    raise AssertionError("the reader called the official reconstruction")


class Module:
    """Pickles like a module under the official persistence decorator."""

    def __init__(self, class_name: str, state: dict[str, Any], source: str) -> None:
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": source,
            "class_name": class_name,
            "state": state,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstruct_persistent_obj, (self.meta,)


@contextmanager
def posing() -> Iterator[None]:
    """Let pickle find the two names under their official modules."""
    persistence, dnnlib, util = (types.ModuleType(n) for n in ("persistence", "dnnlib", "util"))
    names = {
        "torch_utils": types.ModuleType("torch_utils"),
        "torch_utils.persistence": persistence,
        "dnnlib": dnnlib,
        "dnnlib.util": util,
    }
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    util.EasyDict = EasyDict  # type: ignore[attr-defined]
    before = _reconstruct_persistent_obj.__module__, EasyDict.__module__
    _reconstruct_persistent_obj.__module__, EasyDict.__module__ = "torch_utils.persistence", "dnnlib.util"
    sys.modules.update(names)
    try:
        yield
    finally:
        _reconstruct_persistent_obj.__module__, EasyDict.__module__ = before
        for name in names:
            del sys.modules[name]


def module_tree(
    tensors: Mapping[str, Tensor], class_name: str, *, source: str, options: dict[str, Any] | None = None
) -> Module:
    """Nest dotted names the way `torch.nn.Module.__dict__` does, with the oddments that real files hold."""
    own = {name: value for name, value in tensors.items() if "." not in name}
    buffers = {"resample_filter", "noise_const", "w_avg"}
    children: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        head, _, rest = name.partition(".")
        if rest:
            children.setdefault(head, {})[rest] = value
    state: dict[str, Any] = {
        "training": False,
        "_parameters": OrderedDict(
            (n, torch.nn.Parameter(v, False)) for n, v in own.items() if n not in buffers
        ),
        "_buffers": OrderedDict((n, v) for n, v in own.items() if n in buffers),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_modules": OrderedDict((n, module_tree(v, "Part", source=source)) for n, v in children.items()),
        "weight_gain": np.sqrt(0.5),
    }
    state["_parameters"]["bias_that_is_off"] = None
    if options is not None:
        state |= {"_init_args": (), "_init_kwargs": options}
    return Module(class_name, state, source)


def snapshot(golden: Mapping[str, np.ndarray[Any, Any]], *, source: str = "", protocol: int = 4) -> bytes:
    """A snapshot of the unconditional golden networks."""
    networks = {}
    for prefix, class_name, options in (
        ("G", "Generator", _generator_options()),
        ("D", "Discriminator", _discriminator_options()),
    ):
        tensors = {k[2:]: torch.from_numpy(v.copy()) for k, v in golden.items() if k.startswith(f"{prefix}.")}
        networks[prefix] = module_tree(tensors, class_name, source=source, options=options)
    content = {
        "G": None,
        "D": networks["D"],
        "G_ema": networks["G"],
        "training_set_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset", max_size=10),
        "augment_pipe": None,
    }
    with posing():
        return pickle.dumps(content, protocol=protocol)


def _generator_options() -> dict[str, Any]:
    return {
        "z_dim": 32,
        "c_dim": 0,
        "w_dim": 48,
        "img_resolution": 32,
        "img_channels": 1,
        "mapping_kwargs": EasyDict(num_layers=2),
        "synthesis_kwargs": EasyDict(channel_base=512, channel_max=32, num_fp16_res=3, conv_clamp=256),
    }


def _discriminator_options() -> dict[str, Any]:
    return {
        "c_dim": 0,
        "img_resolution": 32,
        "img_channels": 1,
        "block_kwargs": EasyDict(),
        "mapping_kwargs": EasyDict(),
        "epilogue_kwargs": EasyDict(mbstd_group_size=3),
        "channel_base": 512,
        "channel_max": 32,
        "num_fp16_res": 3,
        "conv_clamp": 256,
    }


def golden(folder: Path, name: str) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays of one golden file."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)
