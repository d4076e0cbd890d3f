"""Directions found on a tiny model, stored by the command, and used by a prediction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from progression.cli import run
from progression.data.dataset import Knees
from progression.errors import UsageError
from progression.latent.directions import Directions
from progression.latent.part import EncoderPart, load_generator
from progression.risk.grader import Grader
from progression.train.directions import _two_sets, train_directions
from progression.weights import load_model
from tests.models import RESOLUTION, W_DIM, write_model

PEOPLE = 20


def knees() -> Knees:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((2 * PEOPLE, 1, 4, 4), dtype=np.float32))
    big = torch.nn.functional.interpolate(coarse, size=RESOLUTION, mode="bilinear")
    return Knees(
        (big[:, 0] * 255).round().to(torch.uint8),
        np.array([f"s{i // 2}" for i in range(2 * PEOPLE)]),
        np.array(["left", "right"] * PEOPLE),
        np.full(2 * PEOPLE, -1),
        np.full((2 * PEOPLE, 1), -1),
        np.zeros(1),
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


def test_people_are_in_one_set_only() -> None:
    given = knees()
    fit, other = _two_sets(given, 100, 100, seed=0)
    assert len(fit) == 32 and len(other) == 8
    assert not set(given.subject[fit]) & set(given.subject[other])
    first, second = _two_sets(given, 3, 2, seed=0)
    assert first.tolist() == fit[:3].tolist() and second.tolist() == other[:2].tolist()


def test_all_attributes_of_a_model(model: Path) -> None:
    files = load_model(model)
    parts = (
        load_generator(files),
        EncoderPart.load(files),
        Grader.from_tensors(files.tensors("grader"), files.config("grader")),
    )
    told: list[str] = []
    found = train_directions(*parts, knees(), progress=told.append).directions
    assert found.names == ("grade", "exposure", "contrast", "size", "left")
    assert found.effect.shape == (5, W_DIM) and bool(found.effect.isfinite().all())
    assert len(told) == 3
    again = train_directions(*parts, knees()).directions
    assert torch.equal(found.effect, again.effect)
    one_side = replace(knees(), side=np.full(2 * PEOPLE, "left"))
    assert train_directions(*parts, one_side).directions.names == ("grade", "exposure", "contrast", "size")
    with pytest.raises(UsageError, match="at least five people"):
        train_directions(*parts, knees().select(range(4)))


def test_the_command(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, rows = knees(), []
    for i, picture in enumerate(given.images):
        Image.fromarray(picture.numpy()).resize((64, 64)).save(tmp_path / f"{i}.png")
        rows.append({"subject": given.subject[i], "side": given.side[i], "months": 0, "image": f"{i}.png"})
    pd.DataFrame(rows).assign(split="train").to_csv(tmp_path / "visits.csv", index=False)
    arguments = f"train directions {tmp_path}/visits.csv --model {model} --save {model} --device cpu"
    assert run(arguments.split()) == 0
    assert "directions for grade, exposure, contrast, size, left" in capsys.readouterr().out
    files = load_model(model)
    assert Directions.load(files).names[-1] == "left"
    assert files.config("directions")["training"] == {"knees": 40, "seed": 0}
