"""Steps that are recorded once and replayed: what a replay must not change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from progression.train.joint_trainer import Told
from progression.train.replay import WARM, Replayed
from tests.train.miniature import JOINT, joint, trained

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


def test_what_a_step_is_told_stays_in_place_and_follows_the_pictures_seen() -> None:
    config = replace(JOINT, batch=4, shift=3, warmup_kimg=0.1, codes=50)
    told = Told.of(config, torch.device("cpu"), torch.device("cpu"))
    places = [getattr(told, name).data_ptr() for name in vars(told)]
    told.tell(0, config, count=20, share=0.5)
    first = told.index.clone(), told.moves.clone()
    assert (told.share, told.judging, told.remembering) == (0.5, 0, 0)
    told.tell(100, config, count=20, share=0.25)
    assert (told.share, told.judging, told.remembering) == (0.25, 1, 1)
    assert not told.moves.equal(first[1])
    told.tell(0, config, count=20, share=0.5)
    assert told.index.equal(first[0]) and told.moves.equal(first[1])
    assert [getattr(told, name).data_ptr() for name in vars(told)] == places
    assert told.moves.min() >= 0 and told.moves.max() <= 6


@needs_cuda
def test_a_replayed_function_does_what_it_did_and_draws_anew() -> None:
    device = torch.device("cuda")
    rng = torch.Generator(device=device).manual_seed(0)
    total, given = torch.zeros(3, device=device), torch.ones([], device=device)

    def add() -> dict[str, torch.Tensor]:
        drawn = torch.rand(3, generator=rng, device=device)
        total.add_(given)
        return {"drawn": drawn.sum(), "total": total.sum()}

    replayed = Replayed(add, [rng])
    found = [replayed() for _ in range(WARM + 4)]
    given.fill_(10.0)
    last = replayed()
    assert [float(part["total"]) for part in found] == [3.0 * (i + 1) for i in range(WARM + 4)]
    assert float(last["total"]) == 3.0 * (WARM + 4) + 30.0
    assert len({float(part["drawn"]) for part in [*found, last]}) == WARM + 5


@needs_cuda
def test_replayed_steps_train_as_others_do() -> None:
    steps = 3 * WARM
    plain, replayed = (trained(joint("cuda", replay=replay), steps)["losses"] for replay in (False, True))
    for name in plain[0]:
        losses = [torch.tensor([step[name] for step in run if name in step]) for run in (plain, replayed)]
        torch.testing.assert_close(*losses, rtol=0.05, atol=1e-2, msg=name)
