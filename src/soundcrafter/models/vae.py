"""The VAE, which maps log-mel spectrograms to the latents of the diffusion model and back."""

from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.attention import AttentionBlock
from soundcrafter.models.layers import (
    MAX_BLOCKS,
    Block,
    Downsample,
    ResBlock,
    Stride,
    Upsample,
    check_divisible,
    check_levels,
    checkpointed,
    norm_silu,
    total_stride,
)
from soundcrafter.settings import check_at_least, check_range

EPS = 1e-6  # of the group norms, as in the published checkpoints


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The size and layout of a VAE; the defaults are AudioLDM's (55.4M parameters)."""

    mel: MelConfig = field(default_factory=MelConfig)  # the spectrogram it encodes
    channels: int = 128  # width of the first level
    multipliers: tuple[int, ...] = (1, 2, 4)  # width of each level over `channels`
    strides: tuple[tuple[int, int], ...] = ((1, 1), (2, 2), (2, 2))  # on entering a level
    patch: int = 1  # patches of patch x patch mel cells are folded into channels
    res_blocks: int = 2  # residual blocks per level (one more in the decoder)
    decoder_channels: int = 0  # width of the decoder's last level; 0: like the encoder's first
    decoder_blocks: int = 0  # residual blocks per level of the decoder; 0: res_blocks + 1
    latent_channels: int = 8  # channels of the latent
    attention: bool = True  # in the middle of the encoder and the decoder
    mel_mean: float = 0.0  # of the log-mel over the training data
    mel_std: float = 1.0  # of the log-mel over the training data
    norm_groups: int = 32  # groups of every group norm

    def __post_init__(self) -> None:
        check_levels(
            self.channels, self.multipliers, self.strides, self.res_blocks, self.norm_groups
        )
        check_at_least(self, 1, "latent_channels", "patch")
        check_at_least(self, 0, "decoder_channels")
        check_range(self, 0, MAX_BLOCKS, "decoder_blocks")
        if self.decoder_channels % self.norm_groups:
            raise ValueError(
                f"decoder_channels: got {self.decoder_channels}; "
                f"allowed: multiples of norm_groups, {self.norm_groups}"
            )
        if not self.mel_std > 0.0:
            raise ValueError(f"mel_std: got {self.mel_std}; allowed: above 0")
        if self.mel.num_mels % self.stride[1]:
            raise ValueError(
                f"strides, patch: got a total frequency stride of {self.stride[1]}; "
                f"allowed: a divisor of the {self.mel.num_mels} mel bands"
            )

    @property
    def stride(self) -> Stride:
        """Downsampling from the spectrogram to the latent: (time, frequency)."""
        time, frequency = total_stride(self.strides)
        return time * self.patch, frequency * self.patch


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over unscaled latents: mean and log-variance [B, C, T, F], float32."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std * noise, for standard normal noise [B, C, T, F]."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Tensor:
        """KL divergence from the standard normal -> [B], in nats, summed over C, T and F.

        1/2 sum(mean^2 + var - 1 - log var) (Kingma & Welling 2013, appendix B).
        """
        terms = self.mean.square() + self.logvar.exp() - 1.0 - self.logvar
        return 0.5 * terms.flatten(1).sum(dim=1)


class VAE(nn.Module):
    """Log-mel [B, 1, T, F] <-> latent [B, C, T / time stride, F / frequency stride].

    It normalises the spectrogram and scales the latent: `encode` returns latents of about unit
    variance once `latent_scale` is set. Every other tensor has a counterpart of the same shape in
    diffusers' AutoencoderKL. `checkpointing` saves the memory of activations by computing them
    twice.
    """

    latent_scale: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        latent = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)
        self.register_buffer("latent_scale", torch.tensor(1.0))

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution, for the adaptive adversarial weight."""
        return self.decoder.conv_out.weight

    def posterior(self, mel: Tensor) -> Posterior:
        """mel [B, 1, T, F] -> the distribution of its unscaled latent, log-variance in [-30, 20].

        Raises ValueError unless T and F are multiples of `config.stride`.
        """
        check_divisible(mel, self.config.stride, "mel")
        normal = (mel - self.config.mel_mean) / self.config.mel_std
        cells = F.pixel_unshuffle(normal.to(self.quant_conv.weight.dtype), self.config.patch)
        hidden = self.encoder(cells, self.checkpointing)
        mean, logvar = self.quant_conv(hidden).float().chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))

    def encode(self, mel: Tensor, noise: Tensor | None = None) -> Tensor:
        """mel [B, 1, T, F] -> scaled latent, float32: the mode, or a sample if noise is given.

        Raises ValueError unless T and F are multiples of `config.stride`.
        """
        posterior = self.posterior(mel)
        latent = posterior.mean if noise is None else posterior.sample(noise)
        return latent * self.latent_scale

    def decode(self, latent: Tensor) -> Tensor:
        """Scaled latent [B, C, T, F] -> log-mel [B, 1, T * time stride, F * frequency stride].

        Float32, in the units of `config.mel`.
        """
        unscaled = (latent / self.latent_scale).to(self.post_quant_conv.weight.dtype)
        cells = self.decoder(self.post_quant_conv(unscaled), self.checkpointing)
        mel = F.pixel_shuffle(cells, self.config.patch)
        return mel.float() * self.config.mel_std + self.config.mel_mean


class Encoder(nn.Module):
    """Normalised mel [B, patch^2, T, F] -> input of `VAE.quant_conv`."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(config.patch**2, widths[0], 3, padding=1)
        self.levels = nn.ModuleList()
        inputs = widths[0]
        for level, width in enumerate(widths):
            blocks: list[nn.Module] = _blocks(config, inputs, width, config.res_blocks)
            if level + 1 < len(widths):
                blocks.append(Downsample(width, config.strides[level + 1], asymmetric=True))
            self.levels.append(nn.ModuleList(blocks))
            inputs = width
        self.middle = _middle(config, widths[-1])
        self.norm_out = nn.GroupNorm(config.norm_groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor, checkpointing: bool) -> Tensor:
        x = self.conv_in(x)
        for level in self.levels:
            x = _run_all(level, checkpointing, x)
        x = _run_all(self.middle, checkpointing, x)
        return self.conv_out(norm_silu(self.norm_out, x))


class Decoder(nn.Module):
    """Output of `VAE.post_quant_conv` -> normalised mel [B, patch^2, T, F]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels = config.decoder_channels or config.channels
        count = config.decoder_blocks or config.res_blocks + 1
        widths = [channels * multiplier for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.middle = _middle(config, widths[-1])
        self.levels = nn.ModuleList()
        inputs = widths[-1]
        for level, width in reversed(list(enumerate(widths))):
            blocks: list[nn.Module] = _blocks(config, inputs, width, count)
            if level > 0:
                blocks.append(Upsample(width, config.strides[level]))
            self.levels.append(nn.ModuleList(blocks))
            inputs = width
        self.norm_out = nn.GroupNorm(config.norm_groups, widths[0], eps=EPS)
        self.conv_out = nn.Conv2d(widths[0], config.patch**2, 3, padding=1)

    def forward(self, x: Tensor, checkpointing: bool) -> Tensor:
        x = _run_all(self.middle, checkpointing, self.conv_in(x))
        for level in self.levels:
            x = _run_all(level, checkpointing, x)
        return self.output(x)

    def output(self, x: Tensor) -> Tensor:
        """The output layers: x [B, C, T, F] -> normalised mel [B, patch^2, T, F]."""
        return self.conv_out(norm_silu(self.norm_out, x))


def _blocks(config: VAEConfig, inputs: int, width: int, count: int) -> list[nn.Module]:
    widths = [inputs] + [width] * count
    return [
        Block(ResBlock(before, after, norm_groups=config.norm_groups, eps=EPS))
        for before, after in pairwise(widths)
    ]


def _middle(config: VAEConfig, width: int) -> nn.ModuleList:
    first, second = (ResBlock(width, width, norm_groups=config.norm_groups, eps=EPS) for _ in "12")
    attention = AttentionBlock(width, norm_groups=config.norm_groups) if config.attention else None
    return nn.ModuleList([Block(first, attention), Block(second)])


def _run_all(level: nn.Module, checkpointing: bool, x: Tensor) -> Tensor:
    for module in level.children():
        x = checkpointed(module, checkpointing, x)
    return x
