"""Exponential moving average of weights, which is exported and evaluated."""

import copy

import torch
from torch import nn

from soundcrafter.train.sharding import whole


class Ema:
    """A moving average of a module's weights in fp32.

    The decay ramps up as (1 + n) / (10 + n) over updates n, so that early weights are forgotten.
    With a decay of 0 the shadow is a plain copy.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.shadow = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the shadow towards `module`: shadow <- decay * shadow + (1 - decay) * module."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        source = {name: whole(p) for name, p in module.named_parameters()}
        target = dict(self.shadow.named_parameters())
        torch._foreach_lerp_(
            [target[name] for name in target], [source[name] for name in target], 1 - decay
        )
        buffers = dict(module.named_buffers())
        for name, buffer in self.shadow.named_buffers():
            buffer.copy_(buffers[name])
