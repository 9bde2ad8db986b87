"""3x3 convolutions, which can be packed: fewer products in bf16, by other weights."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.models.fast_conv import NARROW, conv2d
from soundcrafter.models.packed import can_pack, pack_weight, packed_linear, refuse_gradients

_HIGH = 8  # bands of a map, at least, whose frames are convolved in pairs
_WIDE = 128  # its channels, at least: sums cost less then than the products that they spare


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with stride 1 and zero padding; see `fast_conv` for what is fast."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self._packed: _OverTime | _Pairs | None = None

    @torch.no_grad()
    def pack(self, bands: int) -> None:
        """As `Linear.pack`, for good, where maps of so many bands gain from it; it holds 4/3 of the
        weight's numbers then. Once it is packed for one or two bands, maps have no others."""
        if self._packed is not None or not can_pack(self.weight):
            return
        if bands <= NARROW:
            self._packed = _OverTime(self.weight, self.bias, bands)
        elif bands >= _HIGH and min(self.weight.shape[:2]) >= _WIDE:
            self._packed = _Pairs(self.weight, self.bias)
        else:
            return
        self.weight.data = self.weight.new_empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T, F] -> [B, C', T, F]."""
        if self._packed is None:
            return conv2d(x, self.weight, self.bias, (1, 1))
        refuse_gradients()
        return self._packed(x)


class _OverTime:
    """A map of one or two bands is convolved over time alone: the channels of all bands are those
    of a frame, and the taps that would see nothing but padding fall away."""

    def __init__(self, weight: Tensor, bias: Tensor | None, bands: int) -> None:
        self.weight, self.bands = pack_weight(over_time(weight, bands)), bands
        self.bias = None if bias is None else bias.repeat(bands)

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, C, T, F] -> [B, C', T, F] in channels-last order."""
        assert x.shape[3] == self.bands, "packed for maps of another number of bands"
        made = packed_linear(frames_seen(x), self.weight, self.bias)
        return made.unflatten(2, (self.bands, -1)).permute(0, 3, 1, 2)


class _Pairs:
    """Two frames at once, from four convolutions over frequency alone instead of six.

    Of the taps a, b, c over time (a 1x3 filter each) and the frames p, q, r, s that two frames see,
    with u = (a + b + c) / 2 (q + r) and v = (a - b + c) / 2 (r - q) (Winograd 1980, F(2, 3)):

        a p + b q + c r = u + v + a (p - r)        a q + b r + c s = u - v - c (q - s)
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        first, middle, last = weight.float().split(1, dim=2)
        half = (first + last) / 2
        self.first, self.sum, self.difference, self.last = (
            taps.to(weight.dtype).contiguous(memory_format=torch.channels_last)
            for taps in (first, half + middle / 2, half - middle / 2, last)
        )
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, C, T, F] -> [B, C', T, F] in channels-last order."""
        frames = x.shape[2]
        if frames % 2:
            return self(F.pad(x, (0, 0, 0, 1)))[:, :, :frames]
        x = x.contiguous(memory_format=torch.channels_last)
        q, r = x[:, :, 0::2], x[:, :, 1::2]  # p is the r of the pair before, s the q of the next
        p_r, q_s = torch.empty_like(q), torch.empty_like(q)
        torch.sub(r[:, :, :-1], r[:, :, 1:], out=p_r[:, :, 1:])
        torch.neg(r[:, :, :1], out=p_r[:, :, :1])
        torch.sub(q[:, :, :-1], q[:, :, 1:], out=q_s[:, :, :-1])
        q_s[:, :, -1:] = q[:, :, -1:]
        convolve = partial(F.conv2d, padding=(0, 1))
        u, v = convolve(q + r, self.sum, self.bias), convolve(r - q, self.difference)
        shape = (len(x), u.shape[1], frames, u.shape[3])
        out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        torch.add(u + v, convolve(p_r, self.first), out=out[:, :, 0::2])
        torch.sub(u - v, convolve(q_s, self.last), out=out[:, :, 1::2])
        return out


def over_time(weight: Tensor, bands: int) -> Tensor:
    """The weight [C', C, 3, 3] of a convolution -> that of a linear layer [F C', 3 F C] which makes
    a frame of `bands`, F, from what `frames_seen` gives."""
    outputs, inputs = weight.shape[:2]
    rows = weight.new_zeros(bands, outputs, 3, bands, inputs)
    for made in range(bands):
        for seen in range(max(0, made - 1), min(bands, made + 2)):
            rows[made, :, :, seen] = weight[..., seen - made + 1].mT
    return rows.view(bands * outputs, -1)


def frames_seen(x: Tensor) -> Tensor:
    """x [B, C, T, F] -> each frame with the ones before and after it, [B, T, 3 F C]."""
    frames = x.permute(0, 2, 3, 1).contiguous().flatten(2)  # no copy where x is channels_last
    return F.pad(frames, (0, 0, 1, 1)).unfold(1, 3, 1).mT.flatten(2)
