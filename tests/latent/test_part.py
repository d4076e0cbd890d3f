"""The encoder part: stored whole, refused when damaged; and the bank commands that stand on it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from progression.cli import run
from progression.encoder import Encoder, EncoderConfig
from progression.errors import WeightsError
from progression.latent.bank import TrajectoryBank, check_built_with
from progression.latent.part import (
    EncoderPart,
    code_figures,
    encode_keys,
    from_bytes,
    load_generator,
    read_encoder,
)
from progression.latent.typicality import Typicality
from progression.latent.whiten import Whitening
from progression.stylegan2 import Generator
from progression.weights import load_model, save_part


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    generator = Generator(16, 0, 16, 16, 1, 2, 64, 8).eval()
    save_part(folder, "generator", generator.state_dict(), generator.config(), dtype="float32")
    encoder = Encoder(EncoderConfig(resolution=16, num_ws=6, w_dim=16, width=4, hidden=16)).eval()
    torch.nn.init.normal_(encoder.base.weight, std=0.3)
    torch.nn.init.normal_(encoder.offset_out, std=0.01)
    whitening = Whitening.of(generator, samples=500)
    encoder.w_mean.copy_(whitening.w_mean)
    with torch.no_grad():
        pictures = generator(torch.randn(50, 16))
        figures = code_figures(generator, whitening, encoder(pictures), pictures)
    EncoderPart(encoder, whitening, Typicality.fit(*figures)).save(folder, training={"kimg": 0})
    return folder


def test_half_precision_round_trip(folder: Path) -> None:
    files = load_model(folder)
    part, generator = EncoderPart.load(files), load_generator(files)
    assert files.config("encoder")["training"] == {"kimg": 0}
    with torch.no_grad():
        pictures = generator(torch.randn(200, 16, generator=torch.Generator().manual_seed(1)))
    typical = part.typical(generator, pictures)
    assert ((typical >= 0) & (typical <= 1)).all()
    assert 0.3 < float(typical.mean()) < 0.7
    ws, error, radius = part.figures(generator, pictures[:3])
    torch.testing.assert_close(ws, part.encoder(pictures[:3]))
    assert error.shape == radius.shape == (3,)


def test_keys(folder: Path) -> None:
    files = load_model(folder)
    encoder = read_encoder(files).eval()
    images = torch.randint(0, 256, (5, 16, 16), dtype=torch.uint8)
    keys = encode_keys(encoder, images, batch=2)
    torch.testing.assert_close(keys, encoder(from_bytes(images)).mean(dim=1).detach())
    assert from_bytes(torch.tensor([[[0, 255]]], dtype=torch.uint8)).tolist() == [[[[-1.0, 1.0]]]]


def test_damaged_parts(tmp_path: Path) -> None:
    save_part(tmp_path, "encoder", {"a": torch.zeros(1)}, {"encoder": {"resolution": 16}}, resolution=16)
    save_part(tmp_path, "generator", {"a": torch.zeros(1)}, {"z_dim": 16})
    files = load_model(tmp_path)
    with pytest.raises(WeightsError, match=r"encoder of model .* is damaged"):
        EncoderPart.load(files)
    with pytest.raises(WeightsError, match=r"generator of model .* is damaged"):
        load_generator(files)


def write_cohort(folder: Path, *, visits_with_pictures: int) -> Path:
    """Twelve people, both knees, three visits; noise for pictures."""
    rng = np.random.default_rng(0)
    rows = []
    for person in range(12):
        for side in ("left", "right"):
            grade = person % 4
            for visit, months in enumerate((0, 24, 48)):
                name = f"{person}{side}{months}.png" if visit < visits_with_pictures else ""
                if name:
                    Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(folder / name)
                rows.append((f"P{person}", side, months, name, min(grade + visit * (person % 3 == 0), 4)))
    table = pd.DataFrame(rows, columns=["subject", "side", "months", "image", "grade"])
    table.to_csv(folder / "visits.csv", index=False)
    return folder / "visits.csv"


def test_build_graded_then_synthesise(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_cohort(tmp_path, visits_with_pictures=1)
    model = str(folder)
    assert run(["bank", "build", str(table), "--out", str(tmp_path / "real"), "--model", model]) == 0
    assert "24 trajectories (graded) of 12 subjects" in capsys.readouterr().out
    bank = TrajectoryBank.load(load_model(tmp_path / "real"))
    check_built_with(load_model(tmp_path / "real"), load_model(folder))
    assert bank.interval_months.tolist() == [48.0] * 24
    assert run(["bank", "index", str(tmp_path / "real")]) == 0
    assert "finds 100.0% of the 5 nearest" in capsys.readouterr().out
    assert TrajectoryBank.load(load_model(tmp_path / "real")).index is not None
    made = ["bank", "synthesise", str(tmp_path / "real"), "--out", str(tmp_path / "made"), "--model", model]
    assert run([*made, "--count", "50"]) == 0
    assert "passed: True" in capsys.readouterr().out
    assert set(TrajectoryBank.load(load_model(tmp_path / "made")).kind) == {"synthetic"}


def test_build_imaged(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_cohort(tmp_path, visits_with_pictures=3)
    build = ["bank", "build", str(table), "--model", str(folder), "--out"]
    assert run([*build, str(tmp_path / "real")]) == 0
    assert "24 trajectories (imaged)" in capsys.readouterr().out
    assert run([*build, str(tmp_path / "steps"), "--consecutive"]) == 0
    assert len(TrajectoryBank.load(load_model(tmp_path / "steps"))) == 48
    assert run([*build, str(tmp_path / "x"), "--kind", "graded", "--consecutive"]) == 2
    assert "expected --kind imaged" in capsys.readouterr().err
    assert run([*build, str(tmp_path / "x"), "--split", "val"]) == 2
    assert "no row with a picture has split 'val'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "real").iterdir()) == [
        "bank",
        "manifest.json",
    ]
