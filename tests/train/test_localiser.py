import numpy as np
import torch

from progression.data.films import KINDS, FilmMaker, MadeFilm, Shown
from progression.localise.network import SIDE, Cells
from progression.train.localiser import LocaliserConfig, batch, loss, targets, train_localiser, usual
from progression.types import Side
from tests.fakes import knee


def test_targets_by_hand() -> None:
    """A film of 192 x 96 is laid 48 pixels below the top; (50, 25) is then cell (12, 18) and half a cell on."""
    film = MadeFilm(np.zeros((96, 192), np.float32), (Shown((50.0, 25.0), 96.0, 5.0, Side.LEFT),), "implant")
    of = targets([film])
    assert of.heat[0].flatten().argmax() == 18 * 48 + 12
    torch.testing.assert_close(of.offset[0, :, 18, 12], torch.tensor([0.0, -0.25]))
    torch.testing.assert_close(of.log_side[0, 18, 12], torch.tensor(0.5).log())
    assert of.tilt[0, 18, 12] == 0.5 and of.near[0, 18, 12] == 1 and of.near[0, 0, 0] == 0
    assert KINDS[int(of.kind[0])] == "implant"


def _said(of, **changed):  # type: ignore[no-untyped-def]
    said = {
        "heat": 20 * (of.heat > 0.85).float() - 10,
        "offset": of.offset,
        "log_side": of.log_side,
        "tilt": of.tilt,
        "kind": 20 * torch.nn.functional.one_hot(of.kind, len(KINDS)).float(),
    }
    return Cells(**(said | changed))


def test_loss_is_least_at_the_truth() -> None:
    film = MadeFilm(np.zeros((192, 192), np.float32), (Shown((90.0, 90.0), 96.0, 5.0, Side.LEFT),), "knees")
    of = targets([film])
    best = float(loss(_said(of), of))
    assert best < 0.01
    for changed in (
        {"heat": -10 * torch.ones_like(of.heat)},
        {"offset": of.offset + 0.5},
        {"log_side": of.log_side + 0.1},
        {"tilt": of.tilt - 0.3},
        {"kind": torch.zeros(1, len(KINDS))},
    ):
        assert float(loss(_said(of, **changed), of)) > best + 0.05


def test_a_run_is_repeatable_and_learns() -> None:
    knees = torch.from_numpy(np.stack([(knee(64, seed) * 255).astype(np.uint8) for seed in range(2)]))
    config = LocaliserConfig(steps=3, batch=4)
    first, second = (train_localiser(knees, config=config) for _ in range(2))
    for name, one in first.network.state_dict().items():
        torch.testing.assert_close(one, second.network.state_dict()[name], msg=name)
    x, of = batch(FilmMaker(knees), config, 0)
    assert x.shape == (4, 1, SIDE, SIDE) and float(x.min()) >= 0 and float(x.max()) <= 1
    long = train_localiser(knees, config=LocaliserConfig(steps=25, batch=4))
    assert float(loss(long.network(x), of)) < float(loss(first.network(x), of))


def test_what_is_usual_leaves_out_what_is_never_seen() -> None:
    """A network that has learnt nothing finds no knee: only exposure and sharpness have a range."""
    knees = torch.from_numpy((knee(64) * 255).astype(np.uint8))[None]
    blind = train_localiser(knees, config=LocaliserConfig(steps=1, batch=2))
    found = usual(blind, [knee(96, seed) for seed in range(4)])
    assert set(found) == {"contrast", "sharpness"}
    assert all(low < high for low, high in found.values())
