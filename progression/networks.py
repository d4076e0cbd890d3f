"""Networks that are built from what a file says of them: no further than the file's tensors go.

A configuration is a few numbers, and a network of as many layers or channels as it asks for may fill the memory or take
for ever to build, before anybody sees that its tensors are not there. So the network is first built without memory,
counted as it grows, and compared.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

_SLACK = 32


class MisfitError(ValueError):
    """A configuration and tensors that do not belong together; the text says where."""


def check_fits(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Build a network without memory, and compare its parameters and buffers with tensors.

    Parameters
    ----------
    build
        Makes the network, from numbers that nobody has checked.
    tensors
        What it is to be given: by the same names, of the same shapes, floating where it is floating.

    Raises
    ------
    MisfitError
        If it cannot be built, needs more tensors than there are, or others.
    """
    try:
        with (
            torch.device("meta"),
            _at_most(2 * len(tensors) + _SLACK),
        ):  # so that a few missing ones are named
            wanted = build().state_dict()
    except MisfitError:
        raise
    except Exception as error:  # constructors raise nearly anything for numbers that make no sense
        raise MisfitError(f"its configuration makes no network: {_one_line(error)}") from error
    for name in dict.fromkeys([*wanted, *tensors]):
        if name not in wanted or name not in tensors:
            raise MisfitError(f"tensor {name[:80]} is {'missing' if name in wanted else 'not known'}")
        here, there = wanted[name], tensors[name]
        if here.shape != there.shape or here.is_floating_point() != there.is_floating_point():
            raise MisfitError(
                f"tensor {name[:80]} is {there.dtype} {tuple(there.shape)}, expected {here.dtype} {tuple(here.shape)}"
            )


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """In this thread, no module gets more than so many parameters and buffers."""
    left, thread = count, threading.get_ident()

    def counted(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal left
        if tensor is not None and threading.get_ident() == thread:
            left -= 1
            if left < 0:
                raise MisfitError("its configuration asks for far more tensors than are there")

    hooks = (
        register_module_parameter_registration_hook(counted),
        register_module_buffer_registration_hook(counted),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:120]
