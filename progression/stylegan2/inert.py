"""Pickles read as data: a small stack machine that calls nothing from the file.

A pickle is a program. The usual machine runs it with every importable function at its disposal; this one
knows only the opcodes that build plain data, and a fixed table of names it can stand in for. A name outside
the table is refused where it is *mentioned*, before anything could be applied to it, so "REDUCE" (call) can
only reach the stand-ins below, which are ours and only assemble containers and tensors.

| name in the file | what it becomes here |
|---|---|
| `torch._utils._rebuild_tensor_v2`, `_rebuild_parameter` | `torch.Tensor`, on the CPU |
| `torch.storage._load_from_bytes`, `torch.FloatStorage` ... | `_Storage`: its elements in a row |
| `collections.OrderedDict`, `dnnlib.util.EasyDict` | `dict` |
| `builtins.set` | `set` |
| `numpy.dtype`, `numpy.core.multiarray.scalar` | a Python number |
| `torch_utils.persistence._reconstruct_persistent_obj` | `Persistent`: class name, state; no source |

Sources: the opcode documentation in Python's `pickletools`; the layout that `torch.save` gave files before
its zip format (five pickles, then each storage as an 8-byte count and raw little-endian elements).
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from progression.errors import WeightsError

MAX_OPCODES = 400_000
"""Of the file and all storages in it; a snapshot of 1,024 pixels has about 60,000."""
MAX_INTEGER = 1 << 100
"""PyTorch's magic number has 77 bits, everything else far fewer."""
_MAX_KEY = 1 << 53
"""Of dictionaries and sets: larger integers can be chosen so that their hashes collide."""
_MAX_ARGUMENTS = 16
_MAX_SET = 1_000
_MAX_DIMENSIONS = 8
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_PROTOCOL = 1001
_REMEDY = "nothing in the file was run; use a network-snapshot-*.pkl as StyleGAN2-ADA (PyTorch) wrote it"


@dataclass(frozen=True)
class Persistent:
    """What is left of a `torch_utils.persistence` object: a name and its `__dict__` as plain data."""

    class_name: str
    state: dict[str, Any]


class _Refused(Exception):
    """Content outside the allowed set; the text names it."""


@dataclass(frozen=True)
class _Name:
    """A global that the pickle mentions: never looked up, only compared."""

    path: str


@dataclass(frozen=True)
class _Storage:
    elements: Tensor


@dataclass
class _NumberType:
    """Stand-in for `numpy.dtype`; the byte order comes in a second step (BUILD)."""

    code: str
    order: str = "<"


class _Mark:
    pass


_MARK = _Mark()

_STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}


def read_pickle(content: bytes, *, source: str) -> Any:
    """Data in a pickle, with tensors rebuilt and no foreign code run.

    Parameters
    ----------
    content
        The whole file.
    source
        Its name, for the error message.

    Returns
    -------
    Any
        Numbers, strings, containers, `torch.Tensor` and `Persistent`.

    Raises
    ------
    WeightsError
        For anything outside the table above (named in the message), or a damaged file.
    """
    limits = _Limits(storage_bytes=len(content))
    try:
        return _run(io.BytesIO(content), _outer(limits), limits)
    except _Refused as refused:
        raise WeightsError(f"{source} holds {refused}, which is not read; {_REMEDY}") from None
    except Exception as error:
        # pickletools and the stand-ins meet arbitrary operands here: whatever they raise means a damaged file
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise WeightsError(f"{source} is not a readable pickle ({reason}); {_REMEDY}") from error


# ---------------------------------------------------------------------------- the machine

_Calls = dict[str, Callable[..., Any]]


@dataclass
class _Limits:
    """What is left for one file."""

    storage_bytes: int
    """Each storage is in the file once, however often it is asked for."""
    opcodes: int = MAX_OPCODES


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"}
    | {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"}
)
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _run(
    stream: io.BytesIO, calls: _Calls, limits: _Limits, *, persistent: Callable[..., Any] | None = None
) -> Any:
    """Interpret one pickle; the stream is left just behind its STOP."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    opcodes: Any = pickletools.genops(stream)
    for opcode, operand, position in opcodes:
        limits.opcodes -= 1
        if limits.opcodes < 0:
            raise _Refused(f"more than {MAX_OPCODES} opcodes")
        if type(operand) is int and abs(operand) > MAX_INTEGER:
            raise _Refused(f"an integer of {operand.bit_length()} bits (byte {position})")
        op = opcode.name
        if op in ("PROTO", "FRAME"):
            continue
        if op == "STOP":
            (result,) = stack
            return result
        if op in _LITERALS:
            stack.append(operand)
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op])
        elif op in _EMPTY:
            stack.append(_EMPTY[op]())
        elif op == "MARK":
            stack.append(_MARK)
        elif op in ("BINPUT", "LONG_BINPUT"):
            memo[operand] = stack[-1]
        elif op == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif op in ("BINGET", "LONG_BINGET"):
            stack.append(memo[operand])
        elif op in _TUPLES:
            size = _TUPLES[op]
            stack[-size:] = [tuple(stack[-size:])]
        elif op == "TUPLE":
            stack.append(tuple(_pop_mark(stack)))
        elif op in ("APPEND", "APPENDS"):
            items = [stack.pop()] if op == "APPEND" else _pop_mark(stack)
            _top(stack, list).extend(items)
        elif op == "ADDITEMS":
            items = _pop_mark(stack)
            _top(stack, set).update(_keys(items))
        elif op in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if op == "SETITEM" else _pop_mark(stack)
            _top(stack, dict).update(zip(_keys(items[::2]), items[1::2], strict=True))
        elif op == "GLOBAL":
            stack.append(_name(*operand.split(" ", 1), calls=calls, position=position))
        elif op == "STACK_GLOBAL":
            stack[-2:] = [_name(*stack[-2:], calls=calls, position=position)]
        elif op in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack[-1] = _call(stack[-1], arguments, calls, op=op, position=position)
        elif op == "BUILD":
            state = stack.pop()
            _set_byte_order(stack[-1], state, position)
        elif op == "BINPERSID" and persistent is not None:
            stack[-1] = persistent(*stack[-1])
        else:
            shown = "" if operand is None else f" {str(operand).replace(' ', '.', 1)[:80]!r}"
            raise _Refused(f"opcode {op}{shown} (byte {position})")
    raise ValueError("no STOP opcode")


def _pop_mark(stack: list[Any]) -> list[Any]:
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _keys(items: list[Any]) -> list[Any]:
    """Strings and integers only: the hash of a deeply shared tuple would never end."""
    if any(type(item) is not str and (type(item) is not int or abs(item) > _MAX_KEY) for item in items):
        raise ValueError("a key that is neither a string nor a small integer")
    return items


def _top(stack: list[Any], kind: type) -> Any:
    if type(stack[-1]) is not kind:
        raise ValueError(f"expected a {kind.__name__} to fill, found {type(stack[-1]).__name__}")
    return stack[-1]


def _name(module: Any, name: Any, *, calls: _Calls, position: int) -> _Name:
    if type(module) is not str or type(name) is not str:
        raise _Refused(f"a global whose name is not text (byte {position})")
    path = f"{module}.{name}"
    if path not in calls:
        raise _Refused(f"{path[:120]!r} (byte {position})")
    return _Name(path)


def _call(target: Any, arguments: Any, calls: _Calls, *, op: str, position: int) -> Any:
    if not isinstance(target, _Name) or type(arguments) is not tuple:
        raise _Refused(f"opcode {op} on a {type(target).__name__} (byte {position})")
    if len(arguments) > _MAX_ARGUMENTS:
        raise _Refused(f"a call with {len(arguments)} arguments (byte {position})")
    if op == "NEWOBJ" and target.path not in _DICTIONARIES:
        raise _Refused(f"opcode NEWOBJ of {target.path!r} (byte {position})")
    return calls[target.path](*arguments)


def _set_byte_order(target: Any, state: Any, position: int) -> None:
    if not isinstance(target, _NumberType):
        raise _Refused(f"opcode BUILD on a {type(target).__name__} (byte {position})")
    order = state[1]
    if type(order) is not str or order not in "<>|=":
        raise ValueError("a numpy type without byte order")
    target.order = order


# ---------------------------------------------------------------------------- the stand-ins


def _not_called(*_: Any) -> Any:
    raise _Refused("a call of a storage type")


def _empty_dictionary() -> dict[Any, Any]:
    return {}


def _set(items: list[Any]) -> set[Any]:
    if type(items) is not list or len(items) > _MAX_SET:
        raise ValueError("a set of something else than a short list")
    return set(_keys(items))


def _persistent(meta: Any) -> Persistent:
    class_name, state = meta["class_name"], meta["state"]
    if meta.get("type") != "class" or type(class_name) is not str or type(state) is not dict:
        raise ValueError("a persistent object without class name or state")
    return Persistent(class_name, state)


def _number_type(code: Any, *_: Any) -> _NumberType:
    if type(code) is not str or not re.fullmatch(r"[biuf][1248]", code):
        raise _Refused("a numpy type other than plain numbers")
    return _NumberType(code)


def _number(kind: _NumberType, content: bytes) -> int | float | bool:
    plain: Any = np.dtype(kind.code)
    if type(content) is not bytes or len(content) != plain.itemsize:
        raise ValueError("a numpy number of another size than its type")
    dtype = plain.newbyteorder(kind.order)
    (value,) = np.frombuffer(content, dtype=dtype).tolist()
    number: int | float | bool = value
    return number


def _storage(limits: _Limits, content: Any) -> _Storage:
    """The one storage in a legacy `torch.save` file."""
    if type(content) is not bytes:
        raise ValueError("a storage without bytes")
    limits.storage_bytes -= len(content)
    if limits.storage_bytes < 0:
        raise _Refused("tensor storages that are larger together than the file")
    if content.startswith(b"PK"):
        raise _Refused("a zip file in place of a tensor storage")
    stream = io.BytesIO(content)
    if _run(stream, {}, limits) != _TORCH_MAGIC or _run(stream, {}, limits) != _TORCH_PROTOCOL:
        raise ValueError("a tensor storage without PyTorch's signature")
    if _run(stream, {}, limits)["little_endian"] is not True:
        raise ValueError("tensors of a big-endian machine")
    dtype, key, count = _run(stream, _INNER, limits, persistent=_storage_entry)
    if _run(stream, {}, limits) != [key] or int.from_bytes(stream.read(8), "little") != count:
        raise ValueError("a tensor storage whose table and content disagree")
    raw = stream.read()
    if len(raw) != count * dtype.itemsize:
        raise ValueError(f"a truncated tensor storage ({len(raw)} bytes for {count} x {dtype})")
    return _Storage(torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype))


def _storage_entry(
    kind: str, storage_type: _Name, key: str, location: str, count: int, view: None = None
) -> tuple[torch.dtype, str, int]:
    if kind != "storage" or type(key) is not str or type(count) is not int or view is not None:
        raise ValueError("a tensor storage that is a view or has no name")
    return _STORAGES[storage_type.path], key, count


def _tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    if not isinstance(storage, _Storage) or not (type(size) is type(stride) is tuple):
        raise ValueError("a tensor without storage, size or stride")
    if any(type(one) is not int for one in (offset, *size, *stride)) or len(size) > _MAX_DIMENSIONS:
        raise ValueError("a tensor whose size is not a few whole numbers")
    count, used = storage.elements.numel(), math.prod(size)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or used > count or (used and last >= count):
        raise ValueError(f"a tensor of size {size} outside its storage of {count} elements")
    return storage.elements.as_strided(size, stride, offset) if used else storage.elements.new_empty(size)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


_DICTIONARIES = ("collections.OrderedDict", "dnnlib.util.EasyDict")
_INNER: _Calls = dict.fromkeys(_STORAGES, _not_called)


def _outer(limits: _Limits) -> _Calls:
    return _OUTER | {"torch.storage._load_from_bytes": partial(_storage, limits)}


_OUTER: _Calls = {
    **dict.fromkeys(_DICTIONARIES, _empty_dictionary),
    "builtins.set": _set,
    "numpy.dtype": _number_type,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
}
