"""1D convolutions, and what vocoders put between them; fast on a CPU. Maps are [B, C, N]."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.models.fast_conv import fast_conv


class Conv1d(nn.Conv1d):
    """nn.Conv1d; on a CPU over [B, N, C], where the channels of a sample lie side by side.

    oneDNN's kernels for that order keep their speed with the few channels and many samples of a
    vocoder's last stages, where those for torch's own order lose most of it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, N] -> [B, C', N'], in channels-last order too."""
        if x.device.type != "cpu":
            return super().forward(x)
        (padding,) = self.padding if isinstance(self.padding, tuple) else (0,)
        assert self.padding_mode in ("zeros", "reflect"), "what vocoders use"
        if self.padding_mode == "reflect" and padding:
            x, padding = F.pad(_flat(x), (padding, padding, 0, 0), mode="reflect").squeeze(2), 0
        return _conv(
            x, self.weight, self.bias, padding, self.stride[0], self.dilation[0], self.groups
        )


class ConvTranspose1d(nn.ConvTranspose1d):
    """nn.ConvTranspose1d; on a CPU one ordinary convolution, whose channels are the phases.

    Output position q * stride + p takes tap j * stride + p from input q - j, for every j. In
    channels-last order the phases p already lie in their places, so nothing is moved; torch's own
    form writes out a column for every tap.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """x [B, C, N] -> [B, C', N']."""
        plain = self.groups == 1 and self.dilation == (1,) and output_size is None
        if x.device.type != "cpu" or not plain:
            return super().forward(x, output_size)
        assert isinstance(self.padding, tuple), "torch has no padding by name here"
        (stride,), (padding,), (extra,) = self.stride, self.padding, self.output_padding
        inputs, outputs, kernel = self.weight.shape
        taps = math.ceil(kernel / stride)
        # one copy, for the first weights of a vocoder are larger than any of its maps
        phased = self.weight.new_zeros(stride, outputs, taps, inputs)
        for j in range(taps):  # the taps from last to first
            of_tap = self.weight[:, :, j * stride : (j + 1) * stride].permute(2, 1, 0)
            phased[: len(of_tap), :, taps - 1 - j] = of_tap
        weight = phased.view(-1, taps, inputs).mT  # [stride * C', C, taps]
        bias = None if self.bias is None else self.bias.repeat(stride)
        phases = _conv(x, weight, bias, taps - 1)
        wave = phases.mT.reshape(len(x), -1, outputs).mT  # [B, C', (N + taps - 1) * stride]
        length = (x.shape[2] - 1) * stride - 2 * padding + kernel + extra
        if padding + length > wave.shape[2]:
            # output_padding may reach beyond the last tap, where only the bias is
            return super().forward(x)
        return wave[:, :, padding : padding + length]


def activated(x: Tensor, slope: float) -> Tensor:
    """Leaky ReLU of x. Without gradients it overwrites x, which must be the caller's alone."""
    return F.leaky_relu(x, slope, inplace=not torch.is_grad_enabled())


def summed(x: Tensor, other: Tensor) -> Tensor:
    """x + other. Without gradients it overwrites x, which must be the caller's alone."""
    return x + other if torch.is_grad_enabled() else x.add_(other)


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """x [B, C, N], weight [C', C / groups, k] -> [B, C', N'], by fewer products where that gains,
    else as a flat 2D convolution."""
    if stride == groups == 1:
        fast = fast_conv(weight[..., None], bias, x[..., None], (padding, 0), dilation)
        if fast is not None:
            return fast(x[..., None]).squeeze(3)
    flat = weight[:, :, None]
    made = F.conv2d(_flat(x), flat, bias, (1, stride), (0, padding), (1, dilation), groups)
    return made.squeeze(2)


def _flat(x: Tensor) -> Tensor:
    """[B, C, N] -> [B, C, 1, N] in channels-last order: no copy where x is in that order."""
    return x[:, :, None].contiguous(memory_format=torch.channels_last)
