"""The path length step that both trainings of a generator take (arXiv 1912.04958 App. B)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from progression.stylegan2.losses import path_length_penalty
from progression.train.distributed import Part, Rounds


def path_gradients(
    rounds: Rounds,
    lengths_of: Callable[[Part], Tensor],
    mean: Tensor,
    *,
    weight: float,
    parameters: Iterable[nn.Parameter],
) -> tuple[Tensor, Tensor]:
    """Gradients of weight · mean (length − a)² in `parameters`; returns that mean without weight, and the new a.

    The running mean a takes in this batch's lengths first, so that all of them must be known before any gradient:
    with several goes pictures are rendered twice, lest the graphs of all goes be held at once.

    Parameters
    ----------
    rounds : how the batch is shared
    lengths_of : `path_lengths` of a part's pictures, (n,), with their graph
    mean : a
    """
    found, graphs = [], []
    for part in rounds:
        lengths = lengths_of(part)
        found.append(lengths.detach())
        if rounds.team.goes == 1:
            graphs.append(lengths)
        del lengths
    _, mean = path_length_penalty(rounds.team.gather(found), mean)

    def loss_of(part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        lengths = graphs.pop() if graphs else lengths_of(part)
        penalty = (lengths - mean).square().mean()
        return penalty * weight, {"penalty": penalty}

    return rounds.backward(loss_of, parameters)["penalty"], mean
