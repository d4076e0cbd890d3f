from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from progression.data.films import FilmMaker, MadeFilm, Shown
from progression.data.markers import Letter
from progression.errors import UsageError
from progression.localise.find import KINDS
from progression.localise.network import LETTERS, SIDE, Cells
from progression.train import localiser
from progression.train.localiser import LocaliserConfig, batch, loss, targets, train_localiser, usual
from progression.types import Side
from tests.fakes import knee


def test_targets_by_hand() -> None:
    """A film of 192 x 96 is laid 48 pixels below the top; (50, 25) is then cell (12, 18) and half a cell on."""
    metal = np.zeros((96, 192), np.float32)
    metal[40, 50] = 1
    film = MadeFilm(
        np.zeros((96, 192), np.float32),
        (Shown((50.0, 25.0), 96.0, 5.0, Side.LEFT),),
        "implant",
        metal,
        (Letter((90.0, 30.0), 9.0, "mirrored L"),),
    )
    of = targets([film])
    assert of.heat[0].flatten().argmax() == 18 * 48 + 12
    torch.testing.assert_close(of.offset[0, :, 18, 12], torch.tensor([0.0, -0.25]))
    torch.testing.assert_close(of.log_side[0, 18, 12], torch.tensor(0.5).log())
    assert of.tilt[0, 18, 12] == 0.5 and of.near[0, 18, 12] == 1 and of.near[0, 0, 0] == 0
    assert KINDS[int(of.kind[0])] == "knees" and of.any_metal[0] == 1
    assert of.metal[0].nonzero().tolist() == [[22, 12]]
    assert of.letters[0].flatten().argmax() == LETTERS.index("mirrored L") * 48**2 + 19 * 48 + 22


def _said(of, **changed):  # type: ignore[no-untyped-def]
    said = {
        "heat": 20 * (of.heat > 0.85).float() - 10,
        "offset": of.offset,
        "log_side": of.log_side,
        "tilt": of.tilt,
        "metal": 40 * (of.metal > 0.5).float() - 20,
        "letters": 20 * (of.letters > 0.85).float() - 10,
        "kind": 20 * torch.nn.functional.one_hot(of.kind, len(KINDS)).float(),
    }
    return Cells(**(said | changed))


def test_loss_is_least_at_the_truth() -> None:
    film = MadeFilm(
        np.zeros((192, 192), np.float32),
        (Shown((90.0, 90.0), 96.0, 5.0, Side.LEFT),),
        "implant",
        np.pad(np.ones((16, 16), np.float32), 88),
        (Letter((150.0, 90.0), 9.0, "R"),),
    )
    of = targets([film])
    best = float(loss(_said(of), of))
    assert best < 0.01
    for changed in (
        {"heat": -10 * torch.ones_like(of.heat)},
        {"offset": of.offset + 0.5},
        {"log_side": of.log_side + 0.1},
        {"tilt": of.tilt - 0.3},
        {"kind": torch.zeros(1, len(KINDS))},
        {"metal": -10 * torch.ones_like(of.metal)},
        {"letters": -10 * torch.ones_like(of.letters)},
        {"letters": 20 * (of.letters.flip(1) > 0.85).float() - 10},
    ):
        assert float(loss(_said(of, **changed), of)) > best + 0.05


@pytest.fixture
def knees() -> torch.Tensor:
    return torch.from_numpy(np.stack([(knee(64, seed) * 255).astype(np.uint8) for seed in range(2)]))


def test_a_run_learns(knees: torch.Tensor, tmp_path: Path) -> None:
    config = LocaliserConfig(steps=3, batch=4)
    first = train_localiser(knees, tmp_path / "first", config=config)
    x, of = batch(FilmMaker(knees), config, 0)
    assert x.shape == (4, 1, SIDE, SIDE) and float(x.min()) >= 0 and float(x.max()) <= 1
    long = train_localiser(knees, tmp_path / "long", config=replace(config, steps=25))
    assert float(loss(long.network(x), of)) < float(loss(first.network(x), of))


class Killed(Exception):
    pass


def test_killed_and_resumed_equals_uninterrupted(
    knees: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, steps, original = LocaliserConfig(steps=6, batch=3), [], batch

    def die(maker: FilmMaker, config: LocaliserConfig, step: int) -> object:
        steps.append(step)
        if len(steps) == 4:
            raise Killed
        return original(maker, config, step)

    whole = train_localiser(knees, tmp_path / "whole", config=config)
    monkeypatch.setattr(localiser, "batch", die)
    with pytest.raises(Killed):
        train_localiser(knees, tmp_path / "cut", config=config, checkpoint_seconds=0.0)
    cut = train_localiser(knees, tmp_path / "cut", config=config)
    assert steps == [0, 1, 2, 3, 3, 4, 5]
    for name, value in whole.network.state_dict().items():
        assert value.equal(cut.network.state_dict()[name]), name
    again = train_localiser(knees, tmp_path / "cut", config=config)
    assert len(steps) == 7 and again.network.head.weight.equal(whole.network.head.weight)
    with pytest.raises(UsageError, match="holds a run with another seed"):
        train_localiser(knees, tmp_path / "cut", config=replace(config, seed=1))


def test_what_is_usual_leaves_out_what_is_never_seen(knees: torch.Tensor, tmp_path: Path) -> None:
    """A network that has learnt nothing finds no knee: only exposure and sharpness have a range."""
    blind = train_localiser(knees, tmp_path, config=LocaliserConfig(steps=1, batch=2))
    found = usual(blind, [knee(96, seed) for seed in range(4)])
    assert set(found) == {"contrast", "sharpness"}
    assert all(low < high for low, high in found.values())
