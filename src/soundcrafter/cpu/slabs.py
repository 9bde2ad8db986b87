"""Process the VAE's large maps in slabs of a few frames, to save memory and fit the cache."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.cpu.fast_conv import fast_conv
from soundcrafter.models.layers import ResBlock
from soundcrafter.models.vae import Decoder

# Tensors of at least _SLABS_FROM elements are processed in slabs of `_SLAB` elements.
_SLABS_FROM = 2**22
_SLAB = 2**20


class SlabResBlock(ResBlock):
    """A residual block that processes large maps in slabs, and may then overwrite its input."""

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """See `ResBlock`."""
        if self.conditioning is not None or not _is_large(x):
            return super().forward(x, emb)
        outputs = self.conv1.out_channels
        shape = (len(x), outputs, *x.shape[2:])
        h = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last).zero_()
        _add_norm_silu_conv(self.norm1, self.conv1, x, h)
        out = x
        if self.shortcut is not None:
            # a 1x1 convolution mixes no positions, so its output can overwrite its input
            out = x[:, :outputs] if outputs < x.shape[1] else torch.empty_like(h)
            for start, end in _slabs(x):
                out[:, :, start:end] = self.shortcut(x[:, :, start:end])
        _add_norm_silu_conv(self.norm2, self.conv2, h, out)
        return out


class SlabDecoder(Decoder):
    """A decoder whose output layers process large maps in slabs."""

    def output(self, x: Tensor) -> Tensor:
        """See `Decoder.output`."""
        if not _is_large(x):
            return super().output(x)
        out = x.new_zeros(len(x), self.conv_out.out_channels, *x.shape[2:])
        _add_norm_silu_conv(self.norm_out, self.conv_out, x, out)
        return out


def _is_large(x: Tensor) -> bool:
    return x.numel() >= _SLABS_FROM and not torch.is_grad_enabled()


def _slabs(x: Tensor) -> list[tuple[int, int]]:
    """The (start, end) frames of the slabs of x [B, C, T, F]."""
    frames, rows = x.shape[2], max(1, _SLAB // x[:, :, 0].numel())
    return [(start, min(start + rows, frames)) for start in range(0, frames, rows)]


def _add_norm_silu_conv(norm: nn.GroupNorm, conv: nn.Conv2d, x: Tensor, out: Tensor) -> None:
    """Add conv(silu(norm(x))), with a 3x3 convolution, to `out` in place, slab by slab.

    x [B, C, T, F], out [B, C', T, F]. No other tensors of their size are allocated.
    """
    frames, spans = x.shape[2], _slabs(x)
    scale, shift = _affine(norm, x, spans)
    plain = partial(F.conv2d, weight=conv.weight, bias=conv.bias, padding=(0, 1))
    convolve = fast_conv(conv.weight, conv.bias, x[:, :, : spans[0][1]], (0, 1)) or plain
    for start, end in spans:
        low, high = max(start - 1, 0), min(end + 1, frames)
        seen = F.silu(torch.addcmul(shift, x[:, :, low:high], scale), inplace=True)
        ends = (low - start + 1, end + 1 - high)  # rows of zero padding
        if any(ends):
            seen = F.pad(seen, (0, 0, *ends))
        out[:, :, start:end] += convolve(seen)


def _affine(norm: nn.GroupNorm, x: Tensor, spans: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """The scale and shift [B, C, 1, 1] by which the group norm normalizes x [B, C, T, F]."""
    total = torch.zeros(x.shape[:2], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for start, end in spans:
        slab = x[:, :, start:end].float()
        total += slab.sum((2, 3))
        squares += slab.square().sum((2, 3))
    groups = (norm.num_groups, -1)
    mean = total.unflatten(1, groups).mean(2, keepdim=True) / x[0, 0].numel()
    power = squares.unflatten(1, groups).mean(2, keepdim=True) / x[0, 0].numel()
    inverse_std = (power - mean.square() + norm.eps).rsqrt()
    weight = norm.weight.double().unflatten(0, groups)
    scale = (inverse_std * weight).flatten(1)
    shift = norm.bias.double() - (mean * inverse_std * weight).flatten(1)
    return scale.to(x.dtype)[..., None, None], shift.to(x.dtype)[..., None, None]
