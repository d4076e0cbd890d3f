"""Official snapshots convert to what their tensors say; hostile ones are named and run nothing."""

from __future__ import annotations

import copyreg
import functools
import io
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from progression.convert import convert
from progression.errors import WeightsError
from progression.stylegan2 import Discriminator, Generator
from progression.stylegan2.checkpoint import discriminator_of, generator_of, read_official
from progression.weights import load_model
from tests.stylegan2.official_files import golden, module_tree, posing, snapshot

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
WATCHED = {
    "pickle.find_class",
    "exec",
    "compile",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
}

_events: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _events is not None and event in WATCHED:
        _events.append(event)


sys.addaudithook(_watch)


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """What the interpreter itself says was looked up, compiled, executed or started during the test."""
    global _events
    _events = []
    yield _events
    _events = None


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray[Any, Any]]:
    return golden(GOLDEN, "uncond_32")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def write(folder: Path, content: bytes) -> Path:
    path = folder / "network-snapshot-000000.pkl"
    path.write_bytes(content)
    return path


# ---------------------------------------------------------------------------- good files


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_snapshot_gives_every_tensor_and_argument(
    tmp_path: Path, arrays: dict[str, np.ndarray[Any, Any]], protocol: int
) -> None:
    networks = read_official(write(tmp_path, snapshot(arrays, protocol=protocol)))
    assert networks.G is None
    assert networks.G_ema.class_name == "Generator"
    assert networks.G_ema.init_kwargs["mapping_kwargs"] == {"num_layers": 2}
    for prefix, network in (("G", networks.G_ema), ("D", networks.D)):
        assert network is not None
        expected = {k[2:]: v for k, v in arrays.items() if k.startswith(f"{prefix}.")}
        assert network.state.keys() == expected.keys()
        for name, value in expected.items():
            assert np.array_equal(network.state[name].numpy(), value), name


def test_converted_model_renders_the_golden_image(
    tmp_path: Path, arrays: dict[str, np.ndarray[Any, Any]]
) -> None:
    folder = convert(write(tmp_path, snapshot(arrays)), tmp_path / "model")
    model = load_model(folder)
    assert model.parts == ("generator", "discriminator")
    generator = Generator(**model.config("generator")).eval()
    generator.load_state_dict(model.tensors("generator"), strict=True)
    discriminator = Discriminator(**model.config("discriminator")).eval()
    discriminator.load_state_dict(model.tensors("discriminator"), strict=True)
    with torch.no_grad():
        ws = generator.mapping(torch.from_numpy(arrays["z"]), None)
        image = generator.synthesis(ws, noise_mode="const")
        logits = discriminator(image, None)
    for got, name in ((ws, "ws"), (image, "image_const_noise"), (logits, "logits_fake")):
        scale = np.abs(arrays[name]).max()
        np.testing.assert_allclose(got.numpy(), arrays[name], rtol=0, atol=1e-4 * scale)


def test_conditional_snapshot(tmp_path: Path, shared: Path) -> None:
    arrays = golden(shared / "golden" / "stylegan2", "cond_64_rgb")
    tensors = {k[2:]: torch.from_numpy(v.copy()) for k, v in arrays.items() if k.startswith("G.")}
    options = {
        "z_dim": 24,
        "c_dim": 5,
        "w_dim": 24,
        "img_resolution": 64,
        "img_channels": 3,
        "synthesis_kwargs": {"channel_base": 512, "channel_max": 24},
    }
    with posing():
        content = pickle.dumps({"G_ema": module_tree(tensors, "Generator", source="", options=options)})
    generator = generator_of(read_official(write(tmp_path, content)).G_ema)
    with torch.no_grad():
        ws = generator.mapping(torch.from_numpy(arrays["z"]), torch.from_numpy(arrays["c"]))
    np.testing.assert_allclose(ws.numpy(), arrays["ws"], rtol=0, atol=1e-4 * np.abs(arrays["ws"]).max())


def test_half_precision_views_and_shared_storages_come_out_right(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "a": base.t(),
        "b": base[1:, 2],
        "c": base.half(),
        "d": torch.tensor(3.0),
        "e": torch.zeros(0, 2),
    }
    with posing():
        content = pickle.dumps({"G_ema": module_tree(tensors, "Generator", source="", options={})})
    state = read_official(write(tmp_path, content)).G_ema.state
    assert state.keys() == tensors.keys()
    for name, value in tensors.items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name], value)


def test_embedded_source_is_carried_and_not_run(
    tmp_path: Path, arrays: dict[str, np.ndarray[Any, Any]], canary: Path, watched: list[str]
) -> None:
    source = f"open({str(canary)!r}, 'w').close()\n"
    path = write(tmp_path, snapshot(arrays, source=source))
    watched.clear()
    networks = read_official(path)
    assert watched == []
    assert source not in repr(networks)
    convert(path, tmp_path / "model")
    assert not canary.exists()
    assert not {"torch_utils", "torch_utils.persistence", "dnnlib"} & sys.modules.keys()
    assert all(source.encode() not in f.read_bytes() for f in (tmp_path / "model").iterdir())


# ---------------------------------------------------------------------------- hostile files

SHELL, CODE = "touch canary", "open('canary', 'w').close()"


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def saved(hostile: Any, *, zipped: bool) -> bytes:
    """A torch file with a hostile object, in the format in which tensor storages are embedded, or as zip."""
    stream = io.BytesIO()
    torch.save(hostile, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


SYSTEM = Call(os.system, SHELL)
POSIX_SYSTEM = b"cposix\nsystem\n"
CALL = text(SHELL) + b"\x85R"
LOAD_STORAGE = torch.storage._load_from_bytes

# name -> (pickle that makes the canary under `pickle.loads`, what the refusal must name)
ATTACKS: dict[str, tuple[bytes, str]] = {
    "os.system": (pickle.dumps(SYSTEM), r"'posix\.system'"),
    "os.system of protocol 0": (pickle.dumps(SYSTEM, protocol=0), r"opcode PUT|'posix\.system'"),
    "os.system in a network": (pickle.dumps({"G_ema": [SYSTEM]}), r"'posix\.system'"),
    "eval": (pickle.dumps(Call(eval, CODE)), r"'builtins\.eval'"),
    "exec": (pickle.dumps(Call(exec, CODE)), r"'builtins\.exec'"),
    "subprocess": (pickle.dumps(Call(subprocess.call, ["touch", "canary"])), r"'subprocess\.call'"),
    "getattr of a module": (
        b"cbuiltins\ngetattr\ncimportlib\nimport_module\n"
        + text("os")
        + b"\x85R"
        + text("system")
        + b"\x86R"
        + CALL
        + b".",
        r"'builtins\.getattr'",
    ),
    "partial": (pickle.dumps(Call(functools.partial(os.system, SHELL))), r"'functools\.partial'"),
    "torch.load": (
        pickle.dumps(Call(functools.partial(torch.load, "gadget.pt", weights_only=False))),
        r"'functools\.partial'",
    ),
    "numpy.load": (pickle.dumps(Call(np.load, "gadget.pkl", None, True)), r"'numpy\.load'"),
    "pickle in a pickle": (pickle.dumps(Call(pickle.loads, pickle.dumps(SYSTEM))), r"'_pickle\.loads'"),
    "hostile storage": (pickle.dumps(Call(LOAD_STORAGE, saved(SYSTEM, zipped=False))), r"'posix\.system'"),
    "hostile zip storage": (
        pickle.dumps(Call(LOAD_STORAGE, saved(SYSTEM, zipped=True))),
        r"a zip file in place",
    ),
    "INST": (b"(" + text(SHELL) + b"iposix\nsystem\n.", r"opcode INST 'posix\.system'"),
    "OBJ": (b"(" + POSIX_SYSTEM + text(SHELL) + b"o.", r"'posix\.system'"),
    "NEWOBJ": (b"\x80\x02cbuiltins\nobject\n)\x810" + POSIX_SYSTEM + CALL + b".", r"'builtins\.object'"),
    "NEWOBJ_EX": (b"\x80\x04\x8c\x02os\x8c\x05error\x93)}\x920" + POSIX_SYSTEM + CALL + b".", r"'os\.error'"),
    "STACK_GLOBAL": (
        b"\x80\x04" + text("posix") + text("system") + b"\x93" + CALL + b".",
        r"'posix\.system'",
    ),
    "dotted name in an allowed module": (
        b"\x80\x04" + text("torch._utils") + text("torch.os.system") + b"\x93" + CALL + b".",
        r"'torch\._utils\.torch\.os\.system'",
    ),
    "attribute of an allowed function": (
        b"\x80\x04"
        + text("torch._utils")
        + text("_rebuild_tensor_v2.__globals__.get")
        + b"\x930"
        + POSIX_SYSTEM
        + CALL
        + b".",
        r"'torch\._utils\._rebuild_tensor_v2\.__globals__\.get'",
    ),
    "names from the memo": (
        b"\x80\x04" + text("system") + b"\x94" + text("posix") + b"h\x00\x93" + CALL + b"\x86.",
        r"'posix\.system'",
    ),
    "memo overwritten": (
        b"\x80\x04ccollections\nOrderedDict\nq\x00" + POSIX_SYSTEM + b"q\x00h\x00" + CALL + b"\x87.",
        r"'posix\.system'",
    ),
    "duplicated function": (b"\x80\x04" + POSIX_SYSTEM + b"20" + CALL + b".", r"'posix\.system'"),
    "result thrown away": (POSIX_SYSTEM + CALL + b"0N.", r"'posix\.system'"),
    "result behind a mark": (b"(" + POSIX_SYSTEM + CALL + b"1N.", r"'posix\.system'"),
    "BUILD plants __setstate__": (
        b"\x80\x04carray\narray\n0ctypes\nSimpleNamespace\n)R}"
        + text("__setstate__")
        + POSIX_SYSTEM
        + b"sb"
        + text(SHELL)
        + b"b.",
        r"'array\.array'",
    ),
    "EXT1": (b"\x80\x02\x82\xf0" + CALL + b".", r"opcode EXT1 '240'"),
    "EXT2": (b"\x80\x02\x83\xf0\x00" + CALL + b".", r"opcode EXT2 '240'"),
    "EXT4": (b"\x80\x02\x84\xf0\x00\x00\x00" + CALL + b".", r"opcode EXT4 '240'"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_pickle_runs_nothing_and_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: list[str]
) -> None:
    content, named = ATTACKS[name]
    monkeypatch.chdir(tmp_path)
    Path("gadget.pt").write_bytes(saved(SYSTEM, zipped=True))
    Path("gadget.pkl").write_bytes(pickle.dumps(SYSTEM))
    path = write(tmp_path, content)
    copyreg.add_extension("posix", "system", 240)
    try:
        watched.clear()
        with pytest.raises(WeightsError, match=named) as caught:
            read_official(path)
        assert watched == []
    finally:
        copyreg.remove_extension("posix", "system", 240)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match=named):
        convert(path, tmp_path / "model")
    assert not Path("canary").exists()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_real(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes do make the canary where pickles are trusted, so the test above is not empty."""
    monkeypatch.chdir(tmp_path)
    Path("gadget.pt").write_bytes(saved(SYSTEM, zipped=True))
    Path("gadget.pkl").write_bytes(pickle.dumps(SYSTEM))
    copyreg.add_extension("posix", "system", 240)
    try:
        pickle.loads(ATTACKS[name][0])
    except Exception as error:
        print(f"{name}: {error!r}")
    finally:
        copyreg.remove_extension("posix", "system", 240)
    assert Path("canary").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable pickle"),
        (b"\x89PNG not a pickle", "not a readable pickle"),
        (pickle.dumps({"G_ema": 1})[:-3], "not a readable pickle"),
        (b"\x80\x04\x8e" + (1 << 62).to_bytes(8, "little") + b"x.", "not a readable pickle"),
        (b"\x80\x04h\x07.", "not a readable pickle"),
        (b"\x80\x04\x85.", "no network 'G_ema'"),
        (b"\x80\x04}(]K\x01u.", "not a readable pickle"),
        (pickle.dumps({"G": None}), "no network 'G_ema'"),
        (pickle.dumps({"G_ema": {"a": 1}}), "no network 'G_ema'"),
        (b"cdnnlib.tflib.network\nNetwork\n)\x81.", r"'dnnlib\.tflib\.network\.Network'"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.", r"opcode BUILD on a _Name"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)\x81.", r"opcode NEWOBJ of 'torch"),
        (b"\x80\x02X\x01\x00\x00\x00a)R.", "opcode REDUCE on a str"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "opcode BINPERSID"),
        (b"\x80\x02]2.", "opcode DUP"),
        (b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.", "a numpy type other than plain numbers"),
    ],
)
def test_damaged_or_foreign_file_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        read_official(write(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot read .*: No such file"):
        read_official(tmp_path / "none.pkl")


@pytest.mark.parametrize(
    ("size", "stride"), [((5,), (1,)), ((2, 2), (4, 1)), ((1 << 40,), (0,)), ((2,), (-1,)), ((-1,), (1,))]
)
def test_tensor_outside_its_storage(tmp_path: Path, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
    storage = torch.arange(4.0).untyped_storage()
    rebuild = Call(
        torch._utils._rebuild_tensor_v2,
        torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True),
        0,
        size,
        stride,
        False,
        {},
    )
    with pytest.raises(WeightsError, match="outside its storage"):
        read_official(write(tmp_path, pickle.dumps(rebuild)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_byte_is_read_or_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray[Any, Any]], data: st.DataObject
) -> None:
    """Never another exception, whatever the file holds."""
    tensors = {"weight": torch.ones(2, 3), "child.bias": torch.zeros(2)}
    with posing():
        content = bytearray(pickle.dumps({"G_ema": module_tree(tensors, "G", source="", options={"a": 1})}))
    where = data.draw(st.integers(0, len(content) - 1))
    content[where] = data.draw(st.integers(0, 255))
    try:
        network = read_official(write(tmp_path, bytes(content))).G_ema
        generator_of(network)
    except WeightsError:
        return


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_resolution": 64}, "parameters do not fit"),
        ({"img_resolution": 33}, "power of two"),
        ({"w_dim": "48"}, "option w_dim is not a whole number"),
        ({"z_dim": 1 << 40}, "option z_dim is not a whole number"),
        (
            {"synthesis_kwargs": {"channel_base": 512, "channel_max": 32, "architecture": "orig"}},
            "architecture",
        ),
        ({"mapping_kwargs": {"num_layers": 3}}, r"fc2\.weight"),
        ({"surprise": 1}, "option surprise"),
    ],
)
def test_options_that_our_generator_lacks(
    arrays: dict[str, np.ndarray[Any, Any]], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    network = read_official(write(tmp_path, snapshot(arrays))).G_ema
    network.init_kwargs.update(change)
    with pytest.raises(WeightsError, match=message):
        generator_of(network)


def test_generator_and_discriminator_are_not_mixed_up(
    arrays: dict[str, np.ndarray[Any, Any]], tmp_path: Path
) -> None:
    network = read_official(write(tmp_path, snapshot(arrays))).G_ema
    with pytest.raises(WeightsError, match="is a 'Generator', expected 'Discriminator'"):
        discriminator_of(network)


def number(value: int) -> bytes:
    """An integer of any length."""
    written = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + len(written).to_bytes(4, "little") + written


def module(modules: bytes) -> bytes:
    """A network whose modules are those, and which the memo has as 7; its dictionary of modules is 6."""
    state = b"".join([text("_init_args") + b")", text("_init_kwargs") + b"}", text("_parameters") + b"}"])
    meta = text("type") + text("class") + text("class_name") + text("Generator") + text("state") + b"}q\x05("
    inside = meta + state + text("_buffers") + b"}" + text("_modules") + b"}q\x06uu\x85Rq\x07"
    return (
        b"\x80\x04}("
        + text("G_ema")
        + b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n}("
        + inside
        + text("more")
        + b"h\x06("
        + modules
        + b"uu."
    )


REBUILD = b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\n"
SCALAR = b"\x80\x04cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n" + text("f8") + b"\x85R"
BOMBS: dict[str, tuple[bytes, str]] = {
    "bytes times a number as a size": (
        REBUILD + b"(NK\x00C\x01x" + number(3 * 10**9) + b"\x86C\x01x" + number(3 * 10**9) + b"\x86\x89}tR.",
        "a tensor without storage",
    ),
    "keys of one hash": (
        b"\x80\x04}(" + b"".join(number(k * ((1 << 61) - 1)) + b"N" for k in range(50_000)) + b"u.",
        "a key that is neither a string nor a small integer",
    ),
    "a key of a million bits": (b"\x80\x04}(" + number(1 << 10**6) + b"Nu.", "an integer of 1000001 bits"),
    "a number of a million bits": (b"\x80\x04](" + number(1 << 10**6) + b"e.", "an integer of 1000001 bits"),
    "opcodes": (b"\x80\x04](" + b"N" * 1_000_000 + b"e.", "more than 400000 opcodes"),
    "a tuple that doubles": (b"\x80\x04N" + b"q\x00h\x00\x86" * 60 + b".", "no network 'G_ema'"),
    "a tuple of tuples": (b"\x80\x04N" + b"\x85" * 100_000 + b".", "no network 'G_ema'"),
    "a call with many arguments": (
        b"\x80\x04cnumpy\ndtype\nq\x00(" + b"N" * 50_000 + b"tq\x01]" + b"h\x00h\x01Ra" * 50_000 + b".",
        "a call with 50000 arguments",
    ),
    "a large set": (
        b"\x80\x04cbuiltins\nset\nq\x00]("
        + b"K\x01" * 50_000
        + b"e\x85q\x01]"
        + b"h\x00h\x01Ra" * 50_000
        + b".",
        "a short list",
    ),
    "a number of many bytes": (
        SCALAR + b"B" + (10**7).to_bytes(4, "little") + bytes(10**7) + b"\x86R.",
        "a numpy number of another size",
    ),
    "a module in itself": (module(text("a") + b"h\x07"), "not a tree of persistent modules"),
    "a module in many places": (
        module(b"".join(text(f"m{n}") + b"h\x07" for n in range(1000))),
        "not a tree of persistent modules",
    ),
    "a module without a name": (module(text("") + b"h\x07"), "parts without a short name"),
    "a module with a number for a name": (module(b"K\x07h\x07"), "parts without a short name"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_bounded_time(name: str, tmp_path: Path) -> None:
    content, message = BOMBS[name]
    path = write(tmp_path, content)
    started = time.process_time()
    with pytest.raises(WeightsError, match=message) as caught:
        read_official(path)
    assert time.process_time() - started < 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"mapping_kwargs": {"num_layers": 131_072}},
        {"img_resolution": 131_072},
        {"z_dim": 131_072, "w_dim": 131_072, "c_dim": 131_072},
        {"synthesis_kwargs": {"channel_base": 131_072, "channel_max": 131_072}},
        {f"a{n}_kwargs": {f"b{n}_{m}": 1 for m in range(90)} for n in range(90)},
        {7: 1},
        {1 << 10**5: 1},
    ],
)
def test_options_that_ask_for_too_much(
    arrays: dict[str, np.ndarray[Any, Any]], tmp_path: Path, change: dict[Any, Any]
) -> None:
    network = read_official(write(tmp_path, snapshot(arrays))).G_ema
    network.init_kwargs.update(change)
    started = time.process_time()
    with pytest.raises(WeightsError, match=r"parameters do not fit|options without names, or too many"):
        generator_of(network)
    assert time.process_time() - started < 2


def test_a_storage_is_in_the_file_once(tmp_path: Path) -> None:
    """Asked for again, it would be there again."""
    stream = io.BytesIO()
    storage = torch.zeros(2_000_000).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    torch.save(typed, stream, _use_new_zipfile_serialization=False)
    saved_bytes = stream.getvalue()
    call = b"ctorch.storage\n_load_from_bytes\nq\x00B" + len(saved_bytes).to_bytes(4, "little") + saved_bytes
    content = b"\x80\x04](" + call + b"q\x01\x85R" + b"h\x00h\x01\x85R" * 60 + b"e."
    with pytest.raises(WeightsError, match="storages that are larger together than the file"):
        read_official(write(tmp_path, content))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_snapshot_is_an_ordinary_file_of_bounded_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pkl")
    with pytest.raises(WeightsError, match="not an ordinary file"):
        read_official(tmp_path / "pipe.pkl")
    (tmp_path / "large.pkl").touch()
    os.truncate(tmp_path / "large.pkl", 3 << 30)
    with pytest.raises(WeightsError, match="larger than 419,430,400 bytes"):
        read_official(tmp_path / "large.pkl")
