"""Two sets of batch norms on one network."""

from __future__ import annotations

import torch
from torch import nn

from progression.train.second_norms import SecondNorms


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2)))


def test_each_set_sees_its_own_pictures() -> None:
    network = _network()
    second = SecondNorms(network)
    first = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x = torch.randn(8, 1, 4, 4) + 3
    with second.in_place():
        network.train()(x)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, first[name]), name
    assert all(int(norm.num_batches_tracked) == 1 for norm in second.norms)
    robust = second.robust(network).eval()
    network.eval()
    assert robust.state_dict().keys() == network.state_dict().keys()
    assert not torch.allclose(robust(x), network(x))
    assert robust[1] is not second.norms[0]


def test_unrecorded_batches_normalise_and_leave_nothing() -> None:
    network = _network().eval()
    second = SecondNorms(network).eval()
    before = {name: tensor.clone() for name, tensor in second.state_dict().items()}
    x = torch.randn(8, 1, 4, 4) + 3
    with second.in_place(), second.unrecorded():
        y = network(x)
    torch.testing.assert_close(y.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    for name, tensor in second.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(norm.training or not norm.track_running_stats for norm in second.norms)


def test_the_first_set_comes_back_after_an_error() -> None:
    network = _network()
    second = SecondNorms(network, but=network[2])
    assert len(second.norms) == 1
    first = network[1]
    try:
        with second.in_place():
            assert network[1] is second.norms[0]
            raise KeyError
    except KeyError:
        pass
    assert network[1] is first
