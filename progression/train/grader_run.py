"""The training of one of the grader's networks: state, step, checkpoint, and the small file that stays at its end.

Every random draw of a step comes from (seed, fold, step), so a run that was killed at any moment goes on from its
last checkpoint as if nothing had happened (on a GPU: to its rounding, which is not the same twice).

On a GPU, pictures, labels and the order of an epoch stay there and nothing is read back but at checkpoints: a step of
so small a network is shorter than a wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from progression.data.dataset import Knees
from progression.errors import UsageError
from progression.risk.attack import perturb
from progression.risk.efficientnet import EfficientNet
from progression.train.augmentation import augment, mix
from progression.train.checkpoint import Checkpoints, load_checkpoint, save_checkpoint
from progression.train.grader_config import GraderConfig
from progression.train.grader_loss import Targets, grading_loss, make_targets
from progression.train.loop import changed_fields, held, picked
from progression.train.run_log import RunLog
from progression.train.second_norms import SecondNorms

CHECKPOINT, ENDED = "grader.ckpt", "ended.ckpt"


def frozen_part(network: EfficientNet, frozen_blocks: int) -> nn.ModuleList:
    """The layers that keep their weights and norms."""
    frozen = nn.ModuleList()
    if frozen_blocks >= 0:
        frozen.extend([network.stem, network.stem_norm, *list(network.blocks)[:frozen_blocks]])
    return frozen


class GraderRun:
    """One network's training."""

    def __init__(self, knees: Knees, rows: Tensor, *, fold: int, config: GraderConfig, device: str,
                 start: Callable[[], EfficientNet]) -> None:  # fmt: skip
        self.config, self.device, self.fold = config, torch.device(device), fold
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            # three resolutions at one batch size: few shapes to try, and the first guess is poor at depthwise ones
            torch.backends.cudnn.benchmark = True
            torch.backends.cudnn.benchmark_limit = 4
        self.images = held(knees.images, self.device)
        self.targets = make_targets(knees).to(self.device)
        self.rows = rows.numpy()
        torch.manual_seed(self._seed(0))
        self.network = start().to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.frozen = frozen_part(self.network, config.frozen_blocks)
        self.frozen.requires_grad_(False)
        self.average = deepcopy(self.network).requires_grad_(False)
        modules: dict[str, tuple[nn.Module, nn.Module]] = {"": (self.network, self.average)}
        self.second: SecondNorms | None = None
        if config.attack_steps:
            self.second = SecondNorms(self.network, but=self.frozen)
            self.average_second = SecondNorms(
                self.average, but=frozen_part(self.average, config.frozen_blocks)
            )
            modules["second_"] = (self.second, self.average_second)
        self._state = {
            prefix + name: module
            for prefix, pair in modules.items()
            for name, module in zip(("network", "average"), pair, strict=True)
        }
        trained = [p for new, _ in modules.values() for p in new.parameters() if p.requires_grad]
        decayed, plain = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            fused=True if on_gpu else None,
        )
        pairs = [
            pair
            for new, kept in modules.values()
            for pair in zip(kept.state_dict().values(), new.state_dict().values(), strict=True)
        ]
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]
        self.step = 0
        self.epoch_steps = len(rows) // config.batch_size
        self.total_steps = self.epoch_steps * len(config.resolutions)
        self._order: tuple[int, Tensor] | None = None

    def _seed(self, step: int) -> int:
        return (self.config.seed * 1_000_003 + self.fold) * 1_000_003 + step

    def _batch(self, epoch: int, position: int) -> Tensor:
        """Indices of a batch's knees, on the device; a new epoch's order goes there in one piece."""
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng((self.config.seed, self.fold, epoch))
            order = self.rows[rng.permutation(len(self.rows))]
            self._order = epoch, torch.as_tensor(order).to(self.device)
        return self._order[1][position * self.config.batch_size : (position + 1) * self.config.batch_size]

    def advance(self) -> Tensor:
        """One step; returns the loss, which nothing has waited for."""
        config = self.config
        epoch, position = divmod(self.step, self.epoch_steps)
        index = self._batch(epoch, position)
        seed = self._seed(1 + self.step)
        torch.manual_seed(seed)
        progress = (self.step + 1) / self.total_steps
        rate = min(progress / config.warmup, 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate * config.learning_rate
        x = augment(picked(self.images, index, self.device), config.resolutions[epoch])
        share = Random(seed).betavariate(config.mixup, config.mixup) if config.mixup else 1.0
        if share < 1:
            x = mix(x, share)
        x = x.contiguous(memory_format=torch.channels_last)
        loss_of = partial(self._loss, targets=self.targets.rows(index), share=share)
        self.optimiser.zero_grad(set_to_none=True)
        self._train_mode()
        loss = loss_of(x)
        loss.backward()
        if self.second is not None:
            loss = loss + self._learn_adversarial(x, loss_of, self.second)
        self.optimiser.step()
        self.step += 1
        self._follow(1 - min(config.ema_decay, self.step / (self.step + 10)))
        return loss.detach()

    def _train_mode(self) -> None:
        self.network.train()
        self.frozen.eval()

    def _loss(self, x: Tensor, *, targets: Targets, share: float) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            outputs = self.network(x)
        loss = grading_loss(outputs, targets, self.config)
        if share < 1:
            loss = share * loss + (1 - share) * grading_loss(outputs, targets.flip(), self.config)
        return loss

    def _learn_adversarial(
        self, x: Tensor, loss_of: Callable[[Tensor], Tensor], second: SecondNorms
    ) -> Tensor:
        """Gradients of the weighted loss on the batch's adversarial copy, found and seen through the second norms.

        The copy is sought without dropout, which would have it fool one thinned network of many, and leaves no trace
        in the norms.
        """
        config = self.config
        with second.in_place():
            self.network.eval()
            with second.unrecorded():
                y = perturb(x, loss_of, epsilon=config.attack_epsilon, steps=config.attack_steps)
            self._train_mode()
            loss = config.attack_weight * loss_of(y)
            loss.backward()
        return loss

    @torch.no_grad()
    def _follow(self, weight: float) -> None:
        """Draw the average toward the network; counters are copied."""
        kept, new = (list(tensors) for tensors in zip(*self._averaged, strict=True))
        torch._foreach_lerp_(kept, new, weight)
        if self._copied:
            kept, new = (list(tensors) for tensors in zip(*self._copied, strict=True))
            torch._foreach_copy_(kept, new)

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on."""
        state = {name: module.state_dict() for name, module in self._state.items()}
        rest = {
            "step": self.step,
            "config": asdict(self.config),
            "optimiser": self.optimiser.state_dict(),
        }
        return state | rest

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        for name, module in self._state.items():
            module.load_state_dict(state[name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]

    def end(self, path: Path, *, people: str) -> None:
        """Write what stays: the averaged network, and its second norms where it has them."""
        state = {name: module.state_dict() for name, module in self._state.items() if "average" in name}
        save_checkpoint(path, state | {"config": asdict(self.config), "people": people})


def ended_network(
    path: Path, *, config: GraderConfig, people: str, start: Callable[[], EfficientNet], robust: bool = False
) -> EfficientNet:
    """The network that `GraderRun.end` wrote, on the CPU.

    Parameters
    ----------
    people
        Digest of the subjects; folds trained on other people do not make one grader.
    robust
        With the norms of adversarial pictures in place of those of clean ones.

    Raises
    ------
    UsageError
        It was made with other settings or on other people.
    """
    state = load_checkpoint(path)
    _check_settings(path, state, config)
    if state["people"] != people:
        raise UsageError(
            f"{path} was trained on other people than the table's: use its table, or another run folder"
        )
    network = start()
    network.load_state_dict(state["average"])
    if robust:
        second = SecondNorms(network, but=frozen_part(network, config.frozen_blocks))
        second.load_state_dict(state["second_average"])
        network = second.robust(network)
    return network


def run_to_end(run: GraderRun, folder: Path, *, people: str) -> None:
    """Bring one network to its last step, from its checkpoint if there is one; `clear` then removes that.

    Raises
    ------
    UsageError
        The checkpoint was made with other settings.
    """
    checkpoints = Checkpoints(folder / CHECKPOINT)
    if (state := checkpoints.load()) is not None:
        _check_settings(checkpoints.path, state, run.config)
        run.load_state_dict(state)
    kimg = run.config.batch_size / 1000
    losses: list[Tensor] = []
    with RunLog(folder, total=run.total_steps * kimg, unit="kimg", done=run.step * kimg) as log:
        while run.step < run.total_steps:
            losses.append(run.advance())
            ended = run.step == run.total_steps
            if ended or run.step % run.config.checkpoint_steps == 0:
                log.write(run.step * kimg, {"loss": float(torch.stack(losses).double().mean())})
                losses.clear()
                if not ended:
                    checkpoints.save(run.state_dict())
        run.end(folder / ENDED, people=people)


def clear(folder: Path) -> None:
    """Remove the checkpoints of a network that has ended."""
    Checkpoints(folder / CHECKPOINT).remove()


def _check_settings(path: Path, state: dict[str, Any], config: GraderConfig) -> None:
    saved = state["config"]
    # what versions before wrote as text cannot be compared field by field
    changed = changed_fields(saved, config) if isinstance(saved, dict) else {"all, by an earlier version"}
    if changed:
        raise UsageError(
            f"{path} was made with other settings ({', '.join(sorted(changed))}): repeat them, or choose another "
            "run folder"
        )
