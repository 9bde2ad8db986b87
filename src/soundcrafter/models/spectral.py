"""A vocoder at frame rate: a few rounds of Griffin-Lim, and a network that mends their spectrum.

Like Vocos (arXiv 2306.00814) it is ConvNeXt blocks and one inverse STFT, which a CPU likes. Unlike
Vocos it invents no phase: steady tones need one that advances over seconds, more than blocks of a
few frames can count. Griffin-Lim brings it, from random phases, which are also the noise that
textures are made of. The network starts as the identity: training begins at its quality.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.mel import LogMel, MelConfig
from soundcrafter.models.griffin_lim import check_invertible, griffin_lim, least_frames, overlap_add

_QUIET = 1e-4  # magnitudes are raised to this before the logarithm
_LOUDEST = 5.0  # most that a bin is amplified, nats


@dataclass(frozen=True, kw_only=True)
class SpectralConfig:
    """The defaults have 3.52M parameters."""

    kind: Literal["spectral"] = "spectral"
    mel: MelConfig = field(default_factory=MelConfig)  # the spectrogram it reads
    n_fft: int = 640  # window of the spectrum that is mended; shorter than the mel's: attacks
    iterations: int = 16  # of Griffin-Lim
    width: int = 256  # channels of the blocks
    blocks: int = 8
    kernel: int = 7  # frames a block sees, odd
    mel_mean: float = 0.0  # of the log-mel over the training data
    mel_std: float = 1.0  # of the log-mel over the training data

    def __post_init__(self) -> None:
        check_invertible(self.mel)
        for name in ("iterations", "width", "blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; it must be at least 1")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel: got {self.kernel}; it must be odd")
        if self.n_fft < 2 * self.mel.hop or (self.n_fft - self.mel.hop) % 2:
            raise ValueError(
                f"n_fft: got {self.n_fft}; at least two hops of {self.mel.hop}, "
                "and an even number of samples more than one"
            )
        if not self.mel_std > 0:
            raise ValueError(f"mel_std: got {self.mel_std}; it must be positive")

    @property
    def min_frames(self) -> int:
        """The fewest frames a forward takes: reflection needs more samples than it pads."""
        return max(least_frames(self.mel), self.n_fft // 2 // self.mel.hop + 1)

    @property
    def context(self) -> int:
        """Frames to each side that a frame's samples depend on, at most: each round of Griffin-Lim
        mixes the frames whose windows overlap."""
        rounds = (self.iterations + 1) * math.ceil(self.mel.n_fft / self.mel.hop)
        return rounds + self.blocks * (self.kernel // 2) + 2 * math.ceil(self.n_fft / self.mel.hop)


class FrameBlock(nn.Module):
    """ConvNeXt block over frames (arXiv 2201.03545): depthwise convolution, norm, 3x MLP."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 3 * width)
        self.contract = nn.Linear(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, C] -> [B, T, C]."""
        hidden = self.norm(self.depthwise(x.transpose(1, 2)).transpose(1, 2))
        return x + self.contract(F.gelu(self.expand(hidden), approximate="tanh"))


class SpectralVocoder(nn.Module):
    """Log-mel -> wave: spectrum of Griffin-Lim x learned gain + learned deterministic part."""

    window: Tensor
    spread: Tensor

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.config = config
        bins = config.n_fft // 2 + 1
        self.input = nn.Linear(config.mel.num_mels + bins, config.width)
        self.blocks = nn.ModuleList(
            FrameBlock(config.width, config.kernel) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.width)
        self.output = nn.Linear(config.width, 3 * bins)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.register_buffer("spread", _spread(config), persistent=False)

    def forward(self, mel: Tensor, turns: Tensor | None = None) -> Tensor:
        """mel [B, 1, T, F] (as `config.mel` makes it) -> wave [B, T * hop], float32.

        `turns`: the random phases it begins with, see `griffin_lim`. Raises ValueError for a mel
        of another shape and one shorter than `config.min_frames`.
        """
        config, bands = self.config, self.config.mel.num_mels
        if mel.ndim != 4 or mel.shape[1] != 1 or mel.shape[3] != bands:
            raise ValueError(f"vocoder: mel of {tuple(mel.shape)}; expected [B, 1, T, {bands}]")
        if mel.shape[2] < config.min_frames:
            raise ValueError(
                f"vocoder: {mel.shape[2]} frames; it needs at least {config.min_frames}"
            )
        with torch.autocast(mel.device.type, enabled=False):
            mel = mel.float()
            source = griffin_lim(mel, config.mel, iterations=config.iterations, turns=turns)
            spectrum = self._stft(source)  # [B, T, bins]
            loudness = spectrum.abs().clamp(min=_QUIET).log()
        seen = (torch.cat([mel[:, 0], loudness], dim=-1) - config.mel_mean) / config.mel_std
        x = self.input(seen.to(self.input.weight.dtype))
        for block in self.blocks:
            x = block(x)
        mended = self.output(self.norm(x))
        with torch.autocast(mel.device.type, enabled=False):
            gain, real, imag = mended.float().chunk(3, dim=-1)
            envelope = mel[:, 0].exp() @ self.spread
            fixed = torch.complex(envelope * real, envelope * imag)
            return self._inverse(spectrum * gain.clamp(max=_LOUDEST).exp() + fixed)

    def _stft(self, wave: Tensor) -> Tensor:
        """wave [B, T * hop] -> spectrum [B, T, bins], its frames centred as the mel's are."""
        margin = (self.config.n_fft - self.config.mel.hop) // 2
        wave = F.pad(wave, (margin, margin), mode="reflect")
        frames = wave.unfold(1, self.config.n_fft, self.config.mel.hop)
        return torch.fft.rfft(frames * self.window)

    def _inverse(self, spectrum: Tensor) -> Tensor:
        """The least-squares inverse of `_stft` (Griffin and Lim 1984, eq. 6)."""
        n_fft, hop = self.config.n_fft, self.config.mel.hop
        frames = torch.fft.irfft(spectrum, n_fft) * self.window  # [B, T, n_fft]
        count, margin = frames.shape[1], (n_fft - hop) // 2
        weights = self.window.square().expand(1, count, n_fft)
        inner = slice(margin, margin + count * hop)  # beyond it weights may be zero
        return overlap_add(frames, hop)[:, inner] / overlap_add(weights, hop)[:, inner]


def _spread(config: SpectralConfig) -> Tensor:
    """The matrix [F, bins] from band values to about the magnitudes of the shorter window."""
    bands = LogMel(config.mel).filters  # [bins of the mel, F]
    short = LogMel(MelConfig(**{**vars(config.mel), "n_fft": config.n_fft})).filters
    mixed = short / short.sum(1, keepdim=True).clamp(min=1e-8)
    return (mixed / bands.sum(0)).T * (config.n_fft / config.mel.n_fft)
