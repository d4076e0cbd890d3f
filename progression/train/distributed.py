"""One batch, computed by several processes and in several goes, with the numbers that one process gets in one go.

A batch is cut into P parts, P = processes × goes; part p has rows p, p + P, p + 2P, … so that a group of the
discriminator's minibatch deviation (rows i mod N/group) stays in one part. What is random is drawn for the whole
batch by every process and cut likewise. Losses are means over rows, hence gradients of parts are averaged. What looks
across parts is told them: batch norm between processes (`WholeBatchNorm`), all path lengths and codes by
`Team.gather`. Only batch norm sees less than the whole batch when there are several goes.

Gradients are summed by a plain all-reduce after the backward passes. DistributedDataParallel would do it in between,
but expects one backward pass for one forward pass: R1 and path lengths differentiate twice, and networks are frozen in
turn.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from progression.errors import UsageError

PATIENCE = timedelta(hours=2)
"""How long processes wait for the first one, which alone measures and writes."""


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that `torchrun` started, if it did; yields this one's device.

    Inside, all processes but the first are silent.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        timeout=PATIENCE,
        device_id=device if device.type == "cuda" else None,
    )
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere) if dist.get_rank() else nullcontext():
            yield device
    finally:
        dist.destroy_process_group()


class _Draws(TorchFunctionMode):
    """Inside, torch.rand and torch.randn draw for the whole batch and give a part's rows."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function not in (torch.rand, torch.randn):
            return function(*args, **(kwargs or {}))
        rows, *rest = args if isinstance(args[0], int) else args[0]
        return self.part.of(function((rows * self.part.count, *rest), **(kwargs or {})))


@dataclass(frozen=True)
class Part:
    """Rows index, index + count, … of a batch, computed by their process in its go number `go`."""

    index: int = 0
    count: int = 1
    go: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the first part that its process computes."""
        return self.go == 0

    def of(self, whole: Tensor) -> Tensor:
        """This part's rows of a tensor with one row for each of the whole batch."""
        return whole if self.count == 1 else whole[self.index :: self.count]

    def draws(self) -> AbstractContextManager[Any]:
        """Inside, networks that draw a number for each row of their part get those of the whole batch's draws."""
        return nullcontext() if self.count == 1 else _Draws(self)


@dataclass(frozen=True)
class Team:
    """The processes that share a run, and in how many goes each does its share of a batch.

    Attributes
    ----------
    rank, size : number of this process, and of all
    goes : micro-batches a step, whose gradients are accumulated
    """

    rank: int = 0
    size: int = 1
    goes: int = 1

    @classmethod
    def here(cls, goes: int = 1) -> Team:
        """This process's team: the default process group, if there is one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), goes)
        return cls(goes=goes)

    @property
    def leads(self) -> bool:
        """Whether this process is the one that measures and writes."""
        return self.rank == 0

    @property
    def parts(self) -> int:
        """P."""
        return self.size * self.goes

    def check(self, rows: int, *, groups_of: int = 1) -> None:
        """Refuse a batch whose rows, in whole groups, P parts cannot share evenly.

        Raises
        ------
        UsageError
            If it is no multiple of P · groups_of.
        """
        if rows % (self.parts * groups_of):
            groups = f" in groups of {groups_of}" if groups_of > 1 else ""
            raise UsageError(
                f"{self.size} processes x {self.goes} micro-batches cannot share {rows} pictures{groups} evenly: "
                f"expected a multiple of {self.parts * groups_of}; choose another --batch"
            )

    def rounds(self, *sources: torch.Generator) -> Rounds:
        """This process's parts of a batch, each of which draws the same numbers from `sources`."""
        return Rounds(self, sources)

    def gather(self, parts: Sequence[Tensor]) -> Tensor:
        """The whole batch's rows, in order, of one tensor (n, …) a go and process; without gradient."""
        if self.parts == 1:
            return parts[0].detach()
        found = []
        for part in parts:
            own = part.detach().contiguous()
            others = [torch.empty_like(own) for _ in range(self.size)]
            if self.size > 1:
                dist.all_gather(others, own)
            found += others if self.size > 1 else [own]
        return torch.stack(found, dim=1).flatten(0, 1)

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes; each then has the sums."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, piece in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(piece.view(gradient.shape))

    def mean(self, values: dict[str, float], device: torch.device) -> dict[str, float]:
        """Means over processes of values that every one has."""
        if self.size == 1 or not values:
            return values
        total = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return dict(zip(values, (total / self.size).tolist(), strict=True))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it is so in any process."""
        return self.mean({"flag": float(flag)}, device)["flag"] > 0


class Rounds:
    """Iterates over this process's parts; each go, and each iteration, starts from the same state of `sources`."""

    def __init__(self, team: Team, sources: Sequence[torch.Generator]) -> None:
        self.team = team
        self.starts = [(source, source.get_state()) for source in sources] if team.goes > 1 else []

    def __iter__(self) -> Iterator[Part]:
        for go in range(self.team.goes):
            for source, state in self.starts:
                source.set_state(state)
            yield Part(go * self.team.size + self.team.rank, self.team.parts, go)

    def backward(
        self,
        loss_of: Callable[[Part], tuple[Tensor, dict[str, Tensor]]],
        parameters: Iterable[nn.Parameter],
    ) -> dict[str, Tensor]:
        """Gradients, in `parameters`, of the mean of a loss over all parts of all processes.

        Returns the means over this process's goes of the scalars that `loss_of` gives beside the loss, detached.
        """
        found: list[dict[str, Tensor]] = []
        for part in self:
            loss, scalars = loss_of(part)
            (loss / self.team.parts).backward()
            found.append({name: value.detach() for name, value in scalars.items()})
        self.team.sum_gradients(parameters)
        return {name: torch.stack([scalars[name] for scalars in found]).mean() for name in found[0]}


class _Sum(torch.autograd.Function):
    """Sum over processes: the gradient to a process's share is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class WholeBatchNorm(nn.BatchNorm2d):
    """Batch norm over the rows of all processes, on any device (torch's SyncBatchNorm has no CPU kernel)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        size, over = dist.get_world_size(), (0, 2, 3)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        y = x.float()
        mean = _Sum.apply(y.mean(dim=over)) / size
        y = y - mean[:, None, None]
        variance = _Sum.apply(y.square().mean(dim=over)) / size
        with torch.no_grad():
            count = size * x.numel() // x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = (variance + self.eps).rsqrt() * self.weight
        return (y * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def share_statistics(network: nn.Module, team: Team) -> None:
    """Make the batch norms of a network `WholeBatchNorm`s, where there are several processes."""
    if team.size > 1:
        for module in network.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = WholeBatchNorm  # same parameters, same state
