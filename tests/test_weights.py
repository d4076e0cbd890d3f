import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from progression import weights
from progression.errors import WeightsError
from progression.weights import MANIFEST, list_models, load_model, resolve, save_part


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
