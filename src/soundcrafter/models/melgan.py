"""MelGAN (arXiv 1910.06711): log-mel to wave by transposed convolutions, full or multi-band."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.pqmf import PQMF
from soundcrafter.settings import check_at_least

_SLOPE = 0.2  # of every leaky ReLU
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


@dataclass(frozen=True, kw_only=True)
class MelGANConfig:
    """At hop 160 and 64 mels: ratios 8-5-2-2 have 4.01M parameters, 5-4-4-2 3.19M."""

    kind: Literal["melgan"] = "melgan"
    mel: MelConfig = field(default_factory=MelConfig)  # the spectrogram it reads
    channels: int = 512  # width after the first convolution, halved by each stage
    ratios: tuple[int, ...] = (8, 5, 2, 2)  # upsampling of each stage
    bands: Literal[1, 4] = 1  # generated sub-bands; 4 are merged by a PQMF
    res_layers: int = 3  # residual blocks per stage, with dilations 1, 3, 9, ...
    mel_mean: float = 0.0  # of the log-mel over the training data
    mel_std: float = 1.0  # of the log-mel over the training data

    def __post_init__(self) -> None:
        if not self.ratios or min(self.ratios) < 2:
            raise ValueError(f"ratios: got {self.ratios}; allowed: each 2 or more")
        samples = math.prod(self.ratios) * self.bands
        if samples != self.mel.hop:
            raise ValueError(
                f"ratios: got {self.ratios} x {self.bands} bands, {samples} samples per frame; "
                f"allowed: a product of the hop, {self.mel.hop}"
            )
        step = 2 ** len(self.ratios)
        if self.channels < step or self.channels % step:
            raise ValueError(
                f"channels: got {self.channels}; {len(self.ratios)} stages halve it, "
                f"allowed: multiples of {step}"
            )
        check_at_least(self, 1, "res_layers")
        if not self.mel_std > 0:
            raise ValueError(f"mel_std: got {self.mel_std}; allowed: above 0")

    @property
    def min_frames(self) -> int:
        """The smallest number of frames that `forward` accepts, because of reflection padding."""
        reach = 3 ** (self.res_layers - 1)
        return max(4, reach // self.ratios[0] + 1)

    @property
    def context(self) -> int:
        """Receptive field: the frames on each side that a frame's samples may depend on."""
        reach, rate = 3.0, 1  # the first convolution, in frames
        for ratio in self.ratios:
            reach += 1 / rate
            rate *= ratio
            reach += sum(3**layer for layer in range(self.res_layers)) / rate
        reach += 3 / rate
        return math.ceil(reach + (0 if self.bands == 1 else 2 * 31 / self.mel.hop)) + 1


class ResidualBlock(nn.Module):
    """A dilated and a pointwise convolution, with a pointwise convolution as shortcut."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(
            channels, channels, 3, dilation=dilation, padding=dilation, padding_mode="reflect"
        )
        self.conv2 = nn.Conv1d(channels, channels, 1)
        self.shortcut = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, N] -> [B, C, N]."""
        hidden = self.conv1(F.leaky_relu(x, _SLOPE))
        out = self.shortcut(x)
        out += self.conv2(F.leaky_relu(hidden, _SLOPE, inplace=True))
        return out


class UpsampleStage(nn.Module):
    """Transposed convolution to exactly `ratio` times the length, then residual blocks."""

    def __init__(self, channels: int, ratio: int, res_layers: int) -> None:
        super().__init__()
        # an odd ratio allows no symmetric padding; one more of each keeps the length exact
        self.upsample = nn.ConvTranspose1d(
            channels,
            channels // 2,
            2 * ratio,
            stride=ratio,
            padding=ratio // 2 + ratio % 2,
            output_padding=ratio % 2,
        )
        self.blocks = nn.ModuleList(
            ResidualBlock(channels // 2, 3**layer) for layer in range(res_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, N] -> [B, C / 2, N * ratio]. Overwrites x."""
        x = self.upsample(F.leaky_relu(x, _SLOPE, inplace=True))
        for block in self.blocks:
            x = block(x)
        return x


class MelGAN(nn.Module):
    """The generator, without weight norm; for training, see `apply_weight_norm`.

    Weights have torch's default initialisation. MelGAN's code draws them from N(0, .02), but its
    weight norm then overwrites them; narrow models with such weights would lose the signal.
    """

    def __init__(self, config: MelGANConfig) -> None:
        super().__init__()
        self.config = config
        channels, stages = config.channels, len(config.ratios)
        self.input = nn.Conv1d(config.mel.num_mels, channels, 7, padding=3, padding_mode="reflect")
        self.stages = nn.ModuleList(
            UpsampleStage(channels // 2**i, ratio, config.res_layers)
            for i, ratio in enumerate(config.ratios)
        )
        self.output = nn.Conv1d(
            channels // 2**stages, config.bands, 7, padding=3, padding_mode="reflect"
        )
        self.pqmf = PQMF(config.bands) if config.bands > 1 else None

    def sub_bands(self, mel: Tensor) -> Tensor:
        """mel [B, 1, T, F] -> sub-bands [B, bands, T * hop / bands] in (-1, 1).

        Raises ValueError for a mel of another shape or shorter than `config.min_frames`.
        """
        config = self.config
        config.mel.check_shape(mel, config.min_frames)
        x = (mel[:, 0].transpose(1, 2) - config.mel_mean) / config.mel_std
        x = self.input(x.to(self.input.weight.dtype))
        for stage in self.stages:
            x = stage(x)
        return self.output(F.leaky_relu(x, _SLOPE, inplace=True)).float().tanh()

    def join_bands(self, sub_bands: Tensor) -> Tensor:
        """sub-bands [B, bands, N / bands] -> wave [B, N]."""
        return sub_bands[:, 0] if self.pqmf is None else self.pqmf.synthesis(sub_bands)

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, 1, T, F] (as `config.mel` makes it) -> wave [B, T * hop]."""
        return self.join_bands(self.sub_bands(mel))


def apply_weight_norm(module: nn.Module) -> None:
    """Reparametrize every convolution's weight as g v / |v|, in place; outputs do not change.

    Salimans and Kingma, arXiv 1602.07868. This replaces the parameters, so create the optimizer
    afterwards. Convolutions that already have weight norm are skipped.
    """
    for child in list(module.modules()):
        if isinstance(child, _CONVOLUTIONS) and not is_parametrized(child, "weight"):
            weight_norm(child)


def fold_weight_norm(module: nn.Module) -> None:
    """Undo `apply_weight_norm`, in place; outputs do not change.

    Fold before casting the weights, so that the norm is computed in the precision of training.
    """
    for child in list(module.modules()):
        if isinstance(child, _CONVOLUTIONS) and is_parametrized(child, "weight"):
            remove_parametrizations(child, "weight", leave_parametrized=True)
