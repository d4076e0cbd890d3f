import hashlib
import json
import os
import shutil
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from progression import weights
from progression.errors import WeightsError
from progression.predict import load_predictor
from progression.stylegan2 import Generator
from progression.weights import MANIFEST, list_models, load_model, resolve, save_part
from tests.models import write_model


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with two parts, in a place where models are looked up by name."""
    monkeypatch.setenv(weights.ENVIRONMENT, str(tmp_path))
    folder = tmp_path / "mine"
    save_part(
        folder, "generator", {"w": torch.linspace(-1, 1, 7), "n": torch.arange(3)}, {"img_resolution": 64}
    )
    save_part(folder, "bank", {"latents": torch.eye(3)}, {"layers": [1, 2]}, dtype="float32")
    return folder


def part_file(folder: Path, part: str) -> Path:
    return folder / json.loads((folder / MANIFEST).read_text())["parts"][part]["file"]


def test_round_trip(model: Path) -> None:
    files = load_model("mine")
    assert (files.name, files.resolution, files.parts) == ("mine", 64, ("generator", "bank"))
    assert files.config("bank") == {"layers": [1, 2]}
    tensors = files.tensors("generator")
    assert tensors["w"].dtype == torch.float32
    torch.testing.assert_close(tensors["w"], torch.linspace(-1, 1, 7).half().float(), atol=0, rtol=0)
    torch.testing.assert_close(tensors["n"], torch.arange(3))
    torch.testing.assert_close(files.tensors("bank")["latents"], torch.eye(3), atol=0, rtol=0)
    assert files.verify() == ("generator", "bank")
    assert files.size_bytes("bank") == part_file(model, "bank").stat().st_size


def test_file_names_carry_the_hash_and_old_ones_go(model: Path) -> None:
    before = part_file(model, "bank")
    assert load_model(model).hashes()["bank"][:8] in before.name
    save_part(model, "bank", {"latents": torch.ones(3)}, {})
    assert not before.exists()
    assert len(list(model.glob("*.safetensors"))) == 2
    assert load_model(model).resolution == 64


def test_saving_the_same_again_changes_nothing(model: Path) -> None:
    before = (model / MANIFEST).read_bytes()
    save_part(model, "bank", {"latents": torch.eye(3)}, {"layers": [1, 2]}, dtype="float32")
    assert (model / MANIFEST).read_bytes() == before
    load_model(model).verify()


def test_lookup_by_name_and_by_path(model: Path, tmp_path: Path) -> None:
    assert resolve("mine") == model
    assert resolve(str(model)) == model
    assert ("mine", model) in list_models()
    with pytest.raises(WeightsError, match=r"no model 'other'.*mine"):
        resolve("other")
    with pytest.raises(WeightsError, match=r"no bank 'other'.*pass another --bank$"):
        load_model("other", option="--bank")
    with pytest.raises(WeightsError, match="no model"):
        load_model(tmp_path)
    with pytest.raises(WeightsError, match="no model"):
        resolve("../mine")


def test_missing_part_and_missing_file(model: Path) -> None:
    with pytest.raises(WeightsError, match="no part 'encoder'"):
        load_model(model).tensors("encoder")
    part_file(model, "bank").unlink()
    with pytest.raises(WeightsError, match=r"cannot read weights .*No such file"):
        load_model(model).verify()


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "swapped"])
def test_damaged_weights_are_refused(model: Path, damage: str) -> None:
    path = part_file(model, "bank")
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "changed":
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        shutil.copy(part_file(model, "generator"), path)
    with pytest.raises(WeightsError, match="SHA-256 differs: truncated or changed"):
        load_model(model).tensors("bank")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("resolution", 0),
        (
            "parts",
            {
                "bank": {
                    "file": "../../secret.safetensors",
                    "sha256": "0" * 64,
                    "dtype": "float16",
                    "config": {},
                }
            },
        ),
        ("parts", {"bank": {"file": "a.pkl", "sha256": "0" * 64, "dtype": "float16", "config": {}}}),
        ("card", "/etc/passwd"),
        ("surprise", 1),
    ],
)
def test_damaged_manifests_are_refused(model: Path, key: str, value: object) -> None:
    manifest = json.loads((model / MANIFEST).read_text())
    manifest[key] = value
    (model / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(WeightsError, match=f"damaged at {key}"):
        load_model(model)


def test_a_manifest_that_is_not_json(model: Path) -> None:
    (model / MANIFEST).write_text("{")
    with pytest.raises(WeightsError, match="damaged at its start"):
        load_model(model)


def test_values_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"generator\.w does not fit float16"):
        save_part(tmp_path, "generator", {"w": torch.tensor([1e6])}, {"resolution": 64})
    with pytest.raises(WeightsError, match=r"NaN or infinity"):
        save_part(tmp_path, "generator", {"w": torch.tensor([torch.nan])}, {"resolution": 64})
    with pytest.raises(WeightsError, match="resolution is unknown"):
        save_part(tmp_path, "generator", {"w": torch.ones(1)}, {})
    assert list(tmp_path.iterdir()) == []


def test_parts_that_processes_add_to_one_model_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    def add(part: str) -> None:
        save_part(tmp_path, part, {"w": torch.zeros(2)}, {}, name="m", resolution=16)

    parts = [f"part{i}" for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, parts))
    assert sorted(load_model(tmp_path).verify()) == parts
    assert not list(tmp_path.glob(".*"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("kind", ["pipe", "endless", "folder"])
def test_manifest_and_parts_are_ordinary_files(kind: str, model: Path) -> None:
    make: dict[str, Callable[[Path], None]] = {
        "pipe": os.mkfifo,
        "endless": lambda path: path.symlink_to("/dev/zero"),
        "folder": Path.mkdir,
    }
    path = part_file(model, "generator")
    path.unlink()
    make[kind](path)
    for read in (load_model("mine").tensors, load_model("mine").mapped):
        with pytest.raises(WeightsError, match="not an ordinary file"):
            read("generator")
    (model / MANIFEST).unlink()
    make[kind](model / MANIFEST)
    with pytest.raises(WeightsError, match=r"manifest\.json"):
        load_model(model)


def test_sizes_are_bounded(model: Path) -> None:
    os.truncate(part_file(model, "generator"), 1 << 33)  # sparse
    with pytest.raises(WeightsError, match="larger than 536,870,912 bytes"):
        load_model("mine").tensors("generator")
    os.truncate(model / MANIFEST, 1 << 30)
    with pytest.raises(WeightsError, match="larger than 4,194,304 bytes"):
        load_model("mine")


def rewritten(folder: Path, part: str, content: bytes) -> None:
    """Give a part other bytes, and the manifest their hash."""
    path, manifest = part_file(folder, part), json.loads((folder / MANIFEST).read_text())
    path.write_bytes(content)
    manifest["parts"][part]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (struct.pack("<Q", 10**8) + b" " * 10**8, "a table of tensors that is too long"),
        (struct.pack("<Q", 2**63) + b"{}", "a table of tensors that is too long"),
        (struct.pack("<Q", 2) + b"{}x", "not a safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "not a safetensors file"),
        (b"", "not a safetensors file"),
        (save({"w": torch.tensor([1.0, float("nan")])}), "NaN or infinity in w"),
        (save({"w": torch.tensor([float("inf")])}), "NaN or infinity in w"),
    ],
)
def test_parts_that_are_no_tensors(content: bytes, reason: str, model: Path) -> None:
    rewritten(model, "generator", content)
    with pytest.raises(WeightsError, match=reason):
        load_model("mine").tensors("generator")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole untrained model."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("generator/mapping_layers", 10**7),
        ("generator/channel_base", 1 << 40),
        ("generator/channel_max", 1 << 20),
        ("generator/z_dim", 10**9),
        ("generator/w_dim", 10**6),
        ("generator/c_dim", 10**9),
        ("generator/c_dim", -1),
        ("generator/img_resolution", 1 << 40),
        ("generator/img_resolution", 10**40),
        ("generator/img_channels", 10**9),
        ("generator/z_dim", "8"),
        ("generator/z_dim", None),
        ("generator/surprise", 1),
        ("encoder/encoder/width", 10**8),
        ("encoder/encoder/max_width", 10**9),
        ("encoder/encoder/hidden", 10**9),
        ("encoder/encoder/offset_rank", 10**8),
        ("encoder/encoder/num_ws", 10**8),
        ("encoder/encoder/resolution", 1 << 60),
        ("encoder/encoder/pool", 2),
        ("encoder/encoder", []),
        ("grader/networks", 10**7),
        ("grader/networks", [1]),
        ("grader/input_resolution", 10**6),
        ("grader/input_resolution", "x"),
        ("grader/architecture/stages/0/0", 10**7),
        ("grader/architecture/stages/0/4", 10**9),
        ("grader/architecture/stages", 1),
        ("grader/architecture", "x"),
        ("bank/built_with", "x"),
        ("bank/built_with", {}),
    ],
)
def test_a_configuration_that_its_tensors_do_not_bear_out(
    where: str, value: object, tiny: Path, tmp_path: Path
) -> None:
    """It is refused before a network is built."""
    folder = shutil.copytree(tiny, tmp_path / "model")
    manifest = json.loads((folder / MANIFEST).read_text())
    part, *steps, last = where.split("/")
    here = manifest["parts"][part]["config"]
    for step in steps:
        here = here[int(step) if step.isdigit() else step]
    here[int(last) if last.isdigit() else last] = value
    (folder / MANIFEST).write_text(json.dumps(manifest))
    started = time.process_time()
    with pytest.raises(WeightsError) as caught:
        load_predictor(folder, device="cpu", engine="torch")
    assert time.process_time() - started < 2
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_parts_of_two_models_are_not_mixed(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "model")
    torch.manual_seed(0)
    wide = Generator(8, 0, 24, 32, 1, mapping_layers=2, channel_base=256, channel_max=16)
    save_part(folder, "generator", wide.state_dict(), wide.config(), dtype="float32")
    manifest = json.loads((folder / MANIFEST).read_text())
    hashed = manifest["parts"]["generator"]["sha256"]
    manifest["parts"]["bank"]["config"]["built_with"]["generator"] = hashed
    manifest["parts"]["encoder"]["config"]["generator"] = hashed
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(WeightsError, match="are of different sizes"):
        load_predictor(folder, device="cpu", engine="torch")
