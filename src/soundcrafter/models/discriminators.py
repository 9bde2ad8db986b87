"""Discriminators of waves, their spectrograms and mels, and the adversarial losses."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.models.losses import log_magnitude
from soundcrafter.settings import check_at_least

_SLOPE = 0.2  # of every leaky ReLU
_GROUP = 4  # channels per group in the strided convolutions of the wave discriminator

# feature maps of one network with its logits last, or a list of these, one per network
Outputs = Sequence[Tensor] | Sequence[Sequence[Tensor]]


@dataclass(frozen=True, kw_only=True)
class WaveDiscriminatorConfig:
    """The defaults are MelGAN's: three scales, 16.91M parameters."""

    scales: int = 3  # networks (0: none), each on the wave at half the rate of the one before
    channels: int = 16  # width of the first layer, a multiple of 4
    max_channels: int = 1024  # width of the widest layer
    layers: int = 4  # strided layers
    stride: int = 4  # of each strided layer, which is also wider by this factor

    def __post_init__(self) -> None:
        check_at_least(self, 0, "scales")
        check_at_least(self, 1, "layers")
        check_at_least(self, 2, "stride")
        check_at_least(self, _GROUP, "channels")
        check_at_least(self, self.channels, "max_channels")
        if self.channels % _GROUP:
            raise ValueError(f"channels: got {self.channels}; allowed: multiples of {_GROUP}")
        for narrow, wide in itertools.pairwise(self.widths):
            if wide % (narrow // _GROUP) or wide % _GROUP:
                raise ValueError(
                    f"max_channels: got {self.max_channels}; widths {self.widths} are not "
                    f"divisible into groups, try {self.channels * self.stride ** (self.layers - 1)}"
                )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the first layer and of each strided layer."""
        return tuple(
            min(self.channels * self.stride**i, self.max_channels) for i in range(self.layers + 1)
        )

    @property
    def min_samples(self) -> int:
        """Shortest wave: reflection padding at the coarsest scale needs 8 samples."""
        return 8 * 2 ** (self.scales - 1)


class _WaveScale(nn.Module):
    """The network of one scale: a wide first filter, grouped strided layers, two more layers."""

    def __init__(self, config: WaveDiscriminatorConfig) -> None:
        super().__init__()
        widths, stride = config.widths, config.stride
        self.layers = nn.ModuleList(
            [nn.Conv1d(1, widths[0], 15, padding=7, padding_mode="reflect")]
        )
        for narrow, wide in itertools.pairwise(widths):
            self.layers.append(
                nn.Conv1d(
                    narrow,
                    wide,
                    10 * stride + 1,
                    stride=stride,
                    padding=5 * stride,
                    groups=narrow // _GROUP,
                )
            )
        last = min(2 * widths[-1], config.max_channels)
        self.layers.append(nn.Conv1d(widths[-1], last, 5, padding=2))
        self.logits = nn.Conv1d(last, 1, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _SLOPE)
            maps.append(x)
        return [*maps, self.logits(x)]


class WaveDiscriminator(nn.Module):
    """MelGAN's multi-scale discriminator (arXiv 1910.06711), built without weight norm."""

    def __init__(self, config: WaveDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.scales = nn.ModuleList(_WaveScale(config) for _ in range(config.scales))

    def forward(self, wave: Tensor) -> list[list[Tensor]]:
        """wave [B, N] -> for each scale its feature maps [B, C, N'], the logits [B, 1, N'] last.

        Raises ValueError for a wave shorter than `config.min_samples`.
        """
        if wave.shape[-1] < self.config.min_samples:
            raise ValueError(
                f"WaveDiscriminator: got {wave.shape[-1]} samples; "
                f"allowed: {self.config.min_samples} or more"
            )
        x = wave[:, None]
        outputs = []
        for i, scale in enumerate(self.scales):
            if i:
                x = F.avg_pool1d(x, 4, stride=2, padding=1, count_include_pad=False)
            outputs.append(scale(x))
        return outputs


@dataclass(frozen=True, kw_only=True)
class SpectrogramDiscriminatorConfig:
    """Small networks on log magnitudes at several resolutions, strided early to be fast."""

    resolutions: tuple[tuple[int, int], ...] = ()  # (n_fft, hop) of each network
    channels: int = 16  # width of the first layer
    layers: int = 2  # layers of stride 2, each twice as wide as the one before

    def __post_init__(self) -> None:
        for n_fft, hop in self.resolutions:
            if n_fft < 64 or n_fft % 2 or not 0 < hop <= n_fft:
                raise ValueError(
                    f"resolutions: got {(n_fft, hop)}; allowed: an even n_fft of 64 or more, "
                    "and a hop of 1 to n_fft"
                )
        check_at_least(self, 1, "channels", "layers")


class _SpectrogramScale(nn.Module):
    """The network of one resolution: a stride of 4 in frequency, then strides of 2 in both."""

    window: Tensor

    def __init__(self, n_fft: int, hop: int, config: SpectrogramDiscriminatorConfig) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        widths = [config.channels * 2**i for i in range(config.layers + 1)]
        self.layers = nn.ModuleList(
            [nn.Conv2d(1, widths[0], (3, 9), stride=(1, 4), padding=(1, 4))]
        )
        for narrow, wide in itertools.pairwise(widths):
            self.layers.append(nn.Conv2d(narrow, wide, 3, stride=2, padding=1))
        self.layers.append(nn.Conv2d(widths[-1], widths[-1], 3, padding=1))
        self.logits = nn.Conv2d(widths[-1], 1, 3, padding=1)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, wave: Tensor) -> list[Tensor]:
        with torch.autocast(wave.device.type, enabled=False):
            x = log_magnitude(wave, self.n_fft, self.hop, self.window)
        x, maps = (x.transpose(1, 2)[:, None] + 3.0) / 3.0, []  # about zero mean, unit variance
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _SLOPE)
            maps.append(x)
        return [*maps, self.logits(x)]


class VocoderDiscriminator(nn.Module):
    """MelGAN's discriminators of the wave, and discriminators of its spectrograms."""

    def __init__(
        self, waves: WaveDiscriminatorConfig, spectrograms: SpectrogramDiscriminatorConfig
    ) -> None:
        super().__init__()
        if not waves.scales and not spectrograms.resolutions:
            raise ValueError(
                "discriminator.scales, spectrograms.resolutions: got 0 and none; "
                "allowed: at least one discriminator"
            )
        self.waves = WaveDiscriminator(waves)
        self.spectrograms = nn.ModuleList(
            _SpectrogramScale(n_fft, hop, spectrograms) for n_fft, hop in spectrograms.resolutions
        )

    def forward(self, wave: Tensor) -> list[list[Tensor]]:
        """wave [B, N] -> for each network its feature maps, the logits last."""
        maps = self.waves(wave) if self.waves.config.scales else []
        return maps + [network(wave) for network in self.spectrograms]


@dataclass(frozen=True, kw_only=True)
class PatchDiscriminatorConfig:
    """pix2pix's PatchGAN: each logit classifies one patch of the spectrogram."""

    channels: int = 64  # width of the first layer, doubled by each further one, up to 8 times
    layers: int = 3  # layers of stride 2
    norm_groups: int = 8  # groups of the normalisation; 0: none

    def __post_init__(self) -> None:
        check_at_least(self, 1, "channels", "layers")
        check_at_least(self, 0, "norm_groups")
        if self.norm_groups and 2 * self.channels % self.norm_groups:
            raise ValueError(
                f"norm_groups: got {self.norm_groups}; allowed: divisors of {2 * self.channels} "
                "(twice channels), or 0 for none"
            )

    @property
    def min_size(self) -> int:
        """Smallest number of frames and of mel bands that gives one logit."""
        return 3 * 2**self.layers


class PatchDiscriminator(nn.Module):
    """PatchGAN (arXiv 1611.07004) with GroupNorm where the original has BatchNorm.

    BatchNorm would make a sample depend on its batch and on the number of processes, and would
    normalise real and fake batches by different statistics. GroupNorm uses one sample only and,
    with few groups, keeps the relative levels of channels, which InstanceNorm removes. Weights have
    torch's default initialisation: with pix2pix's N(0, .02), the outputs of narrow layers are
    almost zero, and the discriminator learns nothing for hundreds of steps.
    """

    def __init__(self, config: PatchDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * min(2**i, 8) for i in range(config.layers + 1)]
        self.layers = nn.ModuleList([nn.Conv2d(1, widths[0], 4, stride=2, padding=1)])
        self.norms = nn.ModuleList([nn.Identity()])
        for i in range(1, config.layers + 1):
            stride = 2 if i < config.layers else 1
            self.layers.append(nn.Conv2d(widths[i - 1], widths[i], 4, stride=stride, padding=1))
            self.norms.append(
                nn.GroupNorm(config.norm_groups, widths[i]) if config.norm_groups else nn.Identity()
            )
        self.logits = nn.Conv2d(widths[-1], 1, 4, padding=1)

    def forward(self, mel: Tensor) -> list[Tensor]:
        """mel [B, 1, T, F] -> feature maps [B, C, T', F'], the logits [B, 1, T', F'] last.

        Raises ValueError if T or F is below `config.min_size`.
        """
        if min(mel.shape[2:]) < self.config.min_size:
            raise ValueError(
                f"PatchDiscriminator: got {mel.shape[2]} frames x {mel.shape[3]} bands; "
                f"allowed: {self.config.min_size} or more of each"
            )
        x, maps = mel, []
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.leaky_relu(norm(layer(x)), _SLOPE)
            maps.append(x)
        return [*maps, self.logits(x)]


def discriminator_hinge(real: Outputs, fake: Outputs) -> Tensor:
    """Sum over networks of mean(relu(1 - D(real))) + mean(relu(1 + D(fake))). Scalar.

    MelGAN eq. 1 (arXiv 1910.06711). The caller detaches the fake wave.
    """
    pairs = zip(_networks(real), _networks(fake), strict=True)
    return torch.stack(
        [F.relu(1 - r[-1].float()).mean() + F.relu(1 + f[-1].float()).mean() for r, f in pairs]
    ).sum()


def generator_hinge(fake: Outputs) -> Tensor:
    """Sum over networks of mean(-D(fake)). Scalar. MelGAN eq. 2."""
    return torch.stack([-maps[-1].float().mean() for maps in _networks(fake)]).sum()


def feature_matching(real: Outputs, fake: Outputs) -> Tensor:
    """Mean absolute difference of the feature maps, averaged over networks and layers. Scalar.

    MelGAN eq. 3. The logits do not count as features, and no gradient flows into `real`. (In
    MelGAN's code the default size has 4.8 times this mean, 4/5 x 1/3 x 18 maps; its weight is 10.)
    """
    terms = [(r.detach() - f).abs().mean() for r, f in _features(real, fake)]
    return torch.stack(terms).mean()


def feature_energy_distance(real: Outputs, first: Outputs, second: Outputs) -> Tensor:
    """`feature_matching` of two fakes from different noise, minus half of their distance. Scalar.

    See `losses.energy_distance`.
    """
    between = [(a - b).abs().mean() for a, b in _features(first, second)]
    near = 0.5 * (feature_matching(real, first) + feature_matching(real, second))
    return near - 0.5 * torch.stack(between).mean()


def _features(left: Outputs, right: Outputs) -> list[tuple[Tensor, Tensor]]:
    """Pairs of corresponding feature maps, without the logits."""
    return [
        (a.float(), b.float())
        for left_maps, right_maps in zip(_networks(left), _networks(right), strict=True)
        for a, b in zip(left_maps[:-1], right_maps[:-1], strict=True)
    ]


def _networks(outputs: Outputs) -> list[Sequence[Tensor]]:
    if isinstance(outputs[0], Tensor):
        return [outputs]  # type: ignore[list-item]
    return list(outputs)  # type: ignore[arg-type]
