"""Faster versions of torch's convolution layers for CPUs. 1D maps are [B, C, N]."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.cpu.fast_conv import conv2d, fast_conv


class FastConv2d(nn.Conv2d):
    """nn.Conv2d with stride 1 and zero padding; see `fast_conv.conv2d`."""

    padding: tuple[int, int]

    @staticmethod
    def supports(conv: nn.Conv2d) -> bool:
        """Whether this class can compute that convolution, possibly faster."""
        plain = conv.stride == conv.dilation == (1, 1) and conv.groups == 1
        padded = isinstance(conv.padding, tuple) and conv.padding_mode == "zeros"
        return plain and padded and conv.kernel_size != (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T, F] -> [B, C', T', F']."""
        return conv2d(x, self.weight, self.bias, self.padding)


class FastConv1d(nn.Conv1d):
    """nn.Conv1d in channels-last order.

    With the few channels and many samples of a vocoder's last stages, oneDNN's kernels are much
    faster in this order.
    """

    padding: tuple[int]

    @staticmethod
    def supports(conv: nn.Conv1d) -> bool:
        """Whether this class can compute that convolution."""
        return isinstance(conv.padding, tuple) and conv.padding_mode in ("zeros", "reflect")

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, N] -> [B, C', N'] in channels-last order."""
        (padding,), (stride,), (dilation,) = self.padding, self.stride, self.dilation
        if self.padding_mode == "reflect" and padding:
            x, padding = F.pad(_flat(x), (padding, padding, 0, 0), mode="reflect").squeeze(2), 0
        return _conv1d(x, self.weight, self.bias, padding, stride, dilation, self.groups)


class FastConvTranspose1d(nn.ConvTranspose1d):
    """nn.ConvTranspose1d as one ordinary convolution whose channels are the phases of the output.

    Output q * stride + p is the sum over j of tap j * stride + p times input q - j. In
    channels-last order the phases p are already in place, so that no data is moved; torch's own
    implementation writes a column for every tap.
    """

    padding: tuple[int]

    @staticmethod
    def supports(conv: nn.ConvTranspose1d) -> bool:
        """Whether this class can compute that convolution."""
        # output_padding may reach beyond the last tap, where the output is just the bias
        taps = math.ceil(conv.kernel_size[0] / conv.stride[0])
        rest = taps * conv.stride[0] - conv.kernel_size[0]
        overhang = conv.output_padding[0] - int(conv.padding[0])
        return conv.groups == 1 and conv.dilation == (1,) and overhang <= rest

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """x [B, C, N] -> [B, C', N']."""
        if output_size is not None:
            return super().forward(x, output_size)
        (stride,), (padding,), (extra,) = self.stride, self.padding, self.output_padding
        inputs, outputs, kernel = self.weight.shape
        taps = math.ceil(kernel / stride)
        # copied only once, because the first weights of a vocoder are larger than any of its maps
        phased = self.weight.new_zeros(stride, outputs, taps, inputs)
        for j in range(taps):  # in reverse order
            tap = self.weight[:, :, j * stride : (j + 1) * stride].permute(2, 1, 0)
            phased[: len(tap), :, taps - 1 - j] = tap
        weight = phased.view(-1, taps, inputs).mT  # [stride * C', C, taps]
        bias = None if self.bias is None else self.bias.repeat(stride)
        phases = _conv1d(x, weight, bias, taps - 1)
        wave = phases.mT.reshape(len(x), -1, outputs).mT  # [B, C', (N + taps - 1) * stride]
        length = (x.shape[2] - 1) * stride - 2 * padding + kernel + extra
        return wave[:, :, padding : padding + length]


def _conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """F.conv1d: x [B, C, N], weight [C', C / groups, k] -> [B, C', N']."""
    if stride == groups == 1:
        fast = fast_conv(weight[..., None], bias, x[..., None], (padding, 0), dilation)
        if fast is not None:
            return fast(x[..., None]).squeeze(3)
    flat = weight[:, :, None]
    made = F.conv2d(_flat(x), flat, bias, (1, stride), (0, padding), (1, dilation), groups)
    return made.squeeze(2)


def _flat(x: Tensor) -> Tensor:
    """[B, C, N] -> [B, C, 1, N] in channels-last order; no copy if x is in that order."""
    return x[:, :, None].contiguous(memory_format=torch.channels_last)
