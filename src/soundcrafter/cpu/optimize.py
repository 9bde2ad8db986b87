"""`optimize`: the same network, faster on a CPU."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from soundcrafter.cpu.attention import BlockedAttention
from soundcrafter.cpu.convolutions import FastConv1d, FastConv2d, FastConvTranspose1d
from soundcrafter.cpu.slabs import SlabDecoder, SlabResBlock
from soundcrafter.cpu.upsample import PhasedUpsample
from soundcrafter.models.attention import SelfAttention
from soundcrafter.models.layers import ResBlock, Upsample
from soundcrafter.models.vae import Decoder
from soundcrafter.precision import cpu_has_bf16

M = TypeVar("M", bound=nn.Module)


def optimize(model: M) -> M:
    """Make a network faster on a CPU, in place, and return it.

    Results are the same up to rounding, and so are the names of the parameters. Call this once the
    weights are loaded and cast to their dtype: those of convolutions must not change afterwards.
    With gradients enabled the network still works, at its former speed.
    """
    # oneDNN's convolutions of large batches are twice as fast in this order
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        fast, gains = _REPLACEMENTS.get(type(module), (None, None))
        if fast is not None and (gains is None or gains(module)):
            module.__class__ = fast
        if isinstance(module, PhasedUpsample):
            module.fold()
    return model


def _has_bf16(attention: SelfAttention) -> bool:
    return attention.query.weight.dtype == torch.bfloat16 and cpu_has_bf16()


# class of a module (not a subclass, which may compute something else) -> the faster class, and
# the modules it is for, where those are not all
_REPLACEMENTS: dict[type[nn.Module], tuple[type[nn.Module], Callable[[Any], bool] | None]] = {
    nn.Conv1d: (FastConv1d, FastConv1d.supports),
    nn.Conv2d: (FastConv2d, FastConv2d.supports),
    nn.ConvTranspose1d: (FastConvTranspose1d, FastConvTranspose1d.supports),
    SelfAttention: (BlockedAttention, _has_bf16),
    Upsample: (PhasedUpsample, None),
    ResBlock: (SlabResBlock, None),
    Decoder: (SlabDecoder, None),
}
