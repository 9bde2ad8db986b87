"""The average of weights: its ramp, its borders, buffers and dtype."""

import pytest
import torch
from torch import nn

from soundcrafter.train.ema import Ema


def module(value: float) -> nn.Linear:
    made = nn.Linear(1, 1)
    made.register_buffer("count", torch.tensor(int(value)))
    with torch.no_grad():
        made.weight.fill_(value)
        made.bias.fill_(-value)
    return made


def test_decay_ramps_up_to_its_limit():
    network = module(0.0)
    ema = Ema(network, decay=0.25)
    expected, decays = 0.0, [1 / 10, 2 / 11, 3 / 12, 0.25, 0.25]  # (1 + n) / (10 + n), then .25
    for number, decay in enumerate(decays):
        value = float(number + 1)
        network.load_state_dict(module(value).state_dict())
        ema.update(network)
        expected = decay * expected + (1 - decay) * value
        assert float(ema.shadow.weight) == pytest.approx(expected, rel=1e-6)
        assert float(ema.shadow.bias) == pytest.approx(-expected, rel=1e-6)
        assert int(ema.shadow.count) == number + 1  # buffers are copied, not averaged
    assert ema.updates == 5


def test_decay_zero_is_a_copy():
    network = module(0.1)
    ema = Ema(network, decay=0.0)
    for value in (1.7, 0.3):
        network.load_state_dict(module(value).state_dict())
        ema.update(network)
        assert torch.equal(ema.shadow.weight, network.weight)


def test_shadow_is_apart_from_the_module():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    ema = Ema(network, decay=0.9)
    assert network.training
    assert not ema.shadow.training
    assert not any(p.requires_grad for p in ema.shadow.parameters())
    before = ema.shadow[0].weight.clone()
    with torch.no_grad():
        network[0].weight.add_(1.0)
    assert torch.equal(ema.shadow[0].weight, before)
