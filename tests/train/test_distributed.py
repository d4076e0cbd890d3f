"""One batch on several processes or in several goes: the numbers of one process in one go."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from progression.errors import UsageError
from progression.train.checkpoint import load_checkpoint, save_checkpoint
from progression.train.distributed import Part, Team
from progression.train.gan_trainer import GanConfig, GanTrainer
from tests.train.miniature import STEPS, gan, joint, tensors_of, trained

CLOSE = 1e-5
ROOT = Path(__file__).parents[2]


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Losses equal to 1e-5 of themselves, tensors in norm, random sources exactly.

    Losses may also differ by 1e-7: a divergence sums logarithms that are rounded to about that.

    Adam makes a step of full size of a gradient that is rounded from 0, hence norms and not single numbers.
    """
    for one, other in zip(found["losses"], expected["losses"], strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value == pytest.approx(other[name], rel=CLOSE, abs=1e-7), name
    a, b = found["state"], expected["state"]
    assert a["seen_images"] == b["seen_images"]
    assert a.get("ada") == pytest.approx(b.get("ada"), nan_ok=True)
    for name in {"rng", "host_rng"} & a.keys():
        assert a[name].equal(b[name]), name
    for part in ("networks", "average", "path_mean", "codes"):
        if part in a:
            expected_tensors = tensors_of(b[part], part)
            for name, value in tensors_of(a[part], part).items():
                wanted = expected_tensors[name]
                assert float((value - wanted).norm()) <= CLOSE * float(wanted.norm()) + 1e-8, name


def as_two_processes(*arguments: str) -> list[str]:
    """Run python with these arguments as two processes, as torchrun would; what each printed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    shared["PYTHONPATH"] = str(ROOT)
    started = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = [process.communicate(timeout=120) for process in started]
    assert all(process.returncode == 0 for process in started), ended
    return [out for out, _ in ended]


def test_two_processes_train_what_one_does_and_go_on_from_its_checkpoint(tmp_path: Path) -> None:
    half = joint()
    first = trained(half, 1)
    save_checkpoint(tmp_path / "joint-half.pt", half.state_dict())
    printed = as_two_processes("-m", "tests.train.miniature", str(tmp_path))
    refused, said = printed[0].splitlines()
    assert "run is being written by process" in refused and said == "written by the first process"
    assert printed[1] == ""
    assert_same(load_checkpoint(tmp_path / "gan.pt"), trained(gan()))
    assert_same(load_checkpoint(tmp_path / "r3gan.pt"), trained(gan(loss="r3gan")))
    rest = trained(half, STEPS - 1)
    assert first["losses"][0].keys() == rest["losses"][1].keys()  # a path length step on each side
    assert_same(load_checkpoint(tmp_path / "joint.pt"), rest)


def test_micro_batches_of_the_joint_run_differ_by_batch_norm_alone() -> None:
    results = []
    for goes in (1, 2):
        trainer = joint(accumulate=goes)
        trainer.encoder.eval()  # batch norm by its running means
        results.append(trained(trainer))
    assert_same(results[1], results[0])


def test_a_part_keeps_groups_of_the_minibatch_deviation_whole() -> None:
    rows = torch.arange(24)
    groups = rows % (24 // 4)  # as `minibatch_std` has it, groups of 4
    for parts in (2, 3, 6):
        for index in range(parts):
            own = Part(index, parts).of(rows)
            grouped = torch.arange(len(own)) % (len(own) // 4)
            for group in grouped.unique():
                assert len(groups[own[grouped == group]].unique()) == 1


@pytest.mark.parametrize("draw", [torch.rand, torch.randn])
def test_a_part_draws_its_rows_of_the_whole_batch(draw: Any) -> None:
    whole = draw((6, 2, 2), generator=torch.Generator().manual_seed(0))
    for index in range(3):
        source = torch.Generator().manual_seed(0)
        with Part(index, 3).draws():
            found, sizes = draw((2, 2, 2), generator=source), draw(2, 1, generator=source)
        assert found.equal(whole[index::3]) and sizes.shape == (2, 1)
        assert draw(2, 2).shape == (2, 2)


def test_parts_are_put_together_in_order() -> None:
    whole = torch.arange(12).reshape(6, 2)
    team = Team(goes=3)
    assert team.gather([part.of(whole) for part in team.rounds()]).equal(whole)


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    images = torch.zeros(16, 16, 16, dtype=torch.uint8)
    with pytest.raises(
        UsageError, match=r"cannot share 8 pictures in groups of 4 evenly: .* a multiple of 16"
    ):
        GanTrainer(GanConfig(resolution=16, batch=8, accumulate=4), images)
    with pytest.raises(UsageError, match="cannot share 8 pictures evenly: expected a multiple of 3"):
        joint(accumulate=3)
