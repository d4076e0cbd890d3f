"""A second set of batch norms for one network: dual batch normalisation.

Adversarial pictures have other statistics than clean ones; norms of their own keep them from spoiling each other's
(AdvProp, arXiv 1911.09665; for radiographs Han et al., Nat Commun 2021). All other weights are shared, so the network
stays what it was, its state dict too, and the set put in its place makes the robust network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class SecondNorms(nn.Module):
    """Copies of a network's batch norms that can take their place.

    Parameters
    ----------
    network
        Whose norms; it is not a part of this module.
    but
        Parts of it that keep one set: frozen layers, whose norms do not adapt to either kind of picture.
    """

    def __init__(self, network: nn.Module, but: nn.Module | None = None) -> None:
        super().__init__()
        left_out = set() if but is None else {id(module) for module in but.modules()}
        self._places = [
            (parent, name)
            for parent in network.modules()
            for name, child in parent.named_children()
            if isinstance(child, nn.BatchNorm2d) and id(child) not in left_out
        ]
        self.norms = nn.ModuleList(deepcopy(getattr(parent, name)) for parent, name in self._places)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the network normalises by this set."""
        first = [getattr(parent, name) for parent, name in self._places]
        self._put(list(self.norms))
        try:
            yield
        finally:
            self._put(first)

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Within, this set normalises by each batch's statistics, and does not add them to the running ones."""
        training = [norm.training for norm in self.norms]
        self._set(tracked=False, training=[True] * len(training))
        try:
            yield
        finally:
            self._set(tracked=True, training=training)

    def robust(self, network: Network) -> Network:
        """A copy of the network with this set in place."""
        with self.in_place():
            return deepcopy(network)

    def _put(self, norms: list[nn.Module]) -> None:
        for (parent, name), norm in zip(self._places, norms, strict=True):
            setattr(parent, name, norm)

    def _set(self, *, tracked: bool, training: list[bool]) -> None:
        for norm, mode in zip(self.norms, training, strict=True):
            assert isinstance(norm, nn.BatchNorm2d)
            norm.track_running_stats = tracked
            norm.train(mode)
