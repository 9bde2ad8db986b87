"""`optimize` makes a network faster on a CPU."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from soundcrafter.cpu.blocked_attention import BlockedAttention
from soundcrafter.cpu.convolutions import FastConv1d, FastConv2d, FastConvTranspose1d
from soundcrafter.cpu.slabs import SlabDecoder, SlabResBlock
from soundcrafter.cpu.upsample import PolyphaseUpsample
from soundcrafter.models.attention import SelfAttention
from soundcrafter.models.layers import ResBlock, Upsample
from soundcrafter.models.vae import Decoder
from soundcrafter.precision import cpu_has_bf16

M = TypeVar("M", bound=nn.Module)


def optimize(model: M) -> M:
    """Make a network faster on a CPU, in place, and return it.

    Results are the same up to rounding, and parameters keep their names. Call this after the
    weights have been loaded and cast, because those of convolutions must not change afterwards. The
    network still supports gradients, at its former speed.
    """
    # oneDNN's convolutions of large batches are twice as fast in this memory format
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        fast, condition = _REPLACEMENTS.get(type(module), (None, None))
        if fast is not None and (condition is None or condition(module)):
            # The faster classes are subclasses that only compute differently. New modules would
            # have to take over parameters, submodules, mode and hooks one by one, and could not
            # replace `model` itself.
            module.__class__ = fast
        if isinstance(module, PolyphaseUpsample):
            module.fold()
    return model


def _has_bf16(attention: SelfAttention) -> bool:
    return attention.query.weight.dtype == torch.bfloat16 and cpu_has_bf16()


# class -> its faster subclass, and a condition on the module. Modules of other subclasses are not
# replaced, because they may compute something else.
_REPLACEMENTS: dict[type[nn.Module], tuple[type[nn.Module], Callable[[Any], bool] | None]] = {
    nn.Conv1d: (FastConv1d, FastConv1d.supports),
    nn.Conv2d: (FastConv2d, FastConv2d.supports),
    nn.ConvTranspose1d: (FastConvTranspose1d, FastConvTranspose1d.supports),
    SelfAttention: (BlockedAttention, _has_bf16),
    Upsample: (PolyphaseUpsample, None),
    ResBlock: (SlabResBlock, None),
    Decoder: (SlabDecoder, None),
}
