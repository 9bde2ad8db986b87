"""HiFi-GAN (arXiv 2010.05646): log-mel to wave, the vocoder of AudioLDM's checkpoints."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.mel_bands import MelConfig

_SLOPE = 0.1  # of every leaky ReLU but the last
_LAST_SLOPE = 0.01  # torch's default


@dataclass(frozen=True, kw_only=True)
class HiFiGANConfig:
    """The defaults are AudioLDM's: 55.3M parameters at hop 160 and 64 mels."""

    kind: Literal["hifigan"] = "hifigan"
    mel: MelConfig = field(default_factory=MelConfig)  # the spectrogram it reads
    channels: int = 1024  # width after the first convolution, halved by each stage
    ratios: tuple[int, ...] = (5, 4, 2, 2, 2)  # upsampling of each stage
    kernels: tuple[int, ...] = (16, 16, 8, 4, 4)  # of each stage's transposed convolution
    res_kernels: tuple[int, ...] = (3, 7, 11)  # of the residual blocks that a stage averages
    dilations: tuple[int, ...] = (1, 3, 5)  # within each residual block

    def __post_init__(self) -> None:
        if not self.ratios or math.prod(self.ratios) != self.mel.hop:
            raise ValueError(
                f"ratios: got {self.ratios}, {math.prod(self.ratios)} samples per frame; "
                f"allowed: a product of the hop, {self.mel.hop}"
            )
        if len(self.kernels) != len(self.ratios):
            raise ValueError(f"kernels: got {len(self.kernels)}; allowed: one for each ratio")
        if any(k < r for k, r in zip(self.kernels, self.ratios, strict=True)):
            raise ValueError(f"kernels: got {self.kernels}; allowed: each at least its ratio")
        step = 2 ** len(self.ratios)
        if self.channels < step or self.channels % step:
            raise ValueError(
                f"channels: got {self.channels}; {len(self.ratios)} stages halve it, "
                f"allowed: multiples of {step}"
            )
        if not self.res_kernels or any(kernel % 2 == 0 for kernel in self.res_kernels):
            raise ValueError(
                f"res_kernels: got {self.res_kernels}; allowed: one or more odd numbers"
            )
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(
                f"dilations: got {self.dilations}; allowed: one or more positive numbers"
            )

    @property
    def min_frames(self) -> int:
        """The smallest number of frames that `forward` accepts."""
        return 1

    @property
    def context(self) -> int:
        """Receptive field: the frames on each side that a frame's samples may depend on."""
        reach, rate = 3.0, 1  # the first convolution, in frames
        widest = (max(self.res_kernels) - 1) // 2
        for ratio, kernel in zip(self.ratios, self.kernels, strict=True):
            reach += math.ceil(kernel / ratio) / rate
            rate *= ratio
            reach += widest * sum(dilation + 1 for dilation in self.dilations) / rate
        return math.ceil(reach + 3 / rate) + 1


class DilatedBlock(nn.Module):
    """Pairs of a dilated and a plain convolution, each pair with a residual connection."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_conv(channels, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_conv(channels, kernel, 1) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, N] -> [B, C, N]."""
        for conv1, conv2 in zip(self.convs1, self.convs2, strict=True):
            hidden = conv1(F.leaky_relu(x, _SLOPE))
            hidden = conv2(F.leaky_relu(hidden, _SLOPE, inplace=True))
            hidden += x
            x = hidden
        return x


class HiFiGAN(nn.Module):
    """The generator, without weight norm: that of published checkpoints is folded on import."""

    def __init__(self, config: HiFiGANConfig) -> None:
        super().__init__()
        self.config = config
        channels, stages = config.channels, len(config.ratios)
        self.conv_pre = nn.Conv1d(config.mel.num_mels, channels, 7, padding=3)
        self.stages = nn.ModuleList(_Stage(config, i) for i in range(stages))
        self.conv_post = nn.Conv1d(channels // 2**stages, 1, 7, padding=3)

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, 1, T, F] (as `config.mel` makes it) -> wave [B, T * hop] in (-1, 1).

        The transposed convolutions may produce a few extra samples, which are cut off the end.
        Raises ValueError for a mel of another shape.
        """
        self.config.mel.check_shape(mel)
        x = self.conv_pre(mel[:, 0].transpose(1, 2).to(self.conv_pre.weight.dtype))
        for stage in self.stages:
            x = stage(x)
        wave = self.conv_post(F.leaky_relu(x, _LAST_SLOPE, inplace=True)).float().tanh()[:, 0]
        return wave[:, : mel.shape[2] * self.config.mel.hop]


class _Stage(nn.Module):
    """Transposed convolution, then the mean of the residual blocks."""

    def __init__(self, config: HiFiGANConfig, index: int) -> None:
        super().__init__()
        channels = config.channels // 2**index
        kernel, ratio = config.kernels[index], config.ratios[index]
        self.upsample = nn.ConvTranspose1d(
            channels, channels // 2, kernel, stride=ratio, padding=(kernel - ratio) // 2
        )
        self.blocks = nn.ModuleList(
            DilatedBlock(channels // 2, kernel, config.dilations) for kernel in config.res_kernels
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, N] -> [B, C / 2, N'], N' about ratio * N. Overwrites x."""
        x = self.upsample(F.leaky_relu(x, _SLOPE, inplace=True))
        total = self.blocks[0](x)
        for block in self.blocks[1:]:
            total += block(x)
        return total / len(self.blocks)


def _conv(channels: int, kernel: int, dilation: int) -> nn.Conv1d:
    padding = dilation * (kernel - 1) // 2
    return nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=padding)
