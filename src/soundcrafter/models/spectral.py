"""The spectral vocoder: Griffin-Lim, and a network at frame rate that corrects its spectrum.

Like Vocos (arXiv 2306.00814) it consists of ConvNeXt blocks and one inverse STFT, which is fast on
a CPU. Unlike Vocos it does not predict phases: steady tones need a phase that advances consistently
over seconds, more than the receptive field of a few frames. The phases come from Griffin-Lim, which
starts from random ones; they also provide the noise that textures need. The network starts as the
identity, so training begins at the quality of Griffin-Lim.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.mel import LogMel
from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.griffin_lim import check_invertible, griffin_lim, min_frames, overlap_add
from soundcrafter.settings import check_at_least

FLOOR = 1e-4  # magnitudes are clamped to at least this before the logarithm
MAX_GAIN = 5.0  # of a bin, in nats


@dataclass(frozen=True, kw_only=True)
class SpectralConfig:
    """The defaults have 3.52M parameters."""

    kind: Literal["spectral"] = "spectral"
    mel: MelConfig = field(default_factory=MelConfig)  # the spectrogram it reads
    n_fft: int = 640  # of the corrected spectrum; shorter than the mel's, for sharp attacks
    iterations: int = 16  # of Griffin-Lim
    width: int = 256  # channels of the blocks
    blocks: int = 8  # ConvNeXt blocks
    kernel: int = 7  # frames of a block's convolution, odd
    mel_mean: float = 0.0  # of the log-mel over the training data
    mel_std: float = 1.0  # of the log-mel over the training data

    def __post_init__(self) -> None:
        check_invertible(self.mel)
        check_at_least(self, 1, "iterations", "width", "blocks", "kernel")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel: got {self.kernel}; allowed: odd numbers")
        if self.n_fft < 2 * self.mel.hop or (self.n_fft - self.mel.hop) % 2:
            raise ValueError(
                f"n_fft: got {self.n_fft}; allowed: at least two hops of {self.mel.hop}, "
                "with n_fft - hop even"
            )
        if not self.mel_std > 0:
            raise ValueError(f"mel_std: got {self.mel_std}; allowed: above 0")

    @property
    def min_frames(self) -> int:
        """The smallest number of frames that `forward` accepts, because of reflection padding."""
        return max(min_frames(self.mel), self.n_fft // 2 // self.mel.hop + 1)

    @property
    def context(self) -> int:
        """Receptive field: the frames on each side that a frame's samples may depend on.

        Each iteration of Griffin-Lim mixes the frames whose windows overlap.
        """
        rounds = (self.iterations + 1) * math.ceil(self.mel.n_fft / self.mel.hop)
        return rounds + self.blocks * (self.kernel // 2) + 2 * math.ceil(self.n_fft / self.mel.hop)


class FrameBlock(nn.Module):
    """ConvNeXt block over frames (arXiv 2201.03545), with an expansion factor of 3."""

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
    """Spectrum of Griffin-Lim x predicted gain + predicted deterministic part."""

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

    def forward(self, mel: Tensor, phases: Tensor | None = None) -> Tensor:
        """mel [B, 1, T, F] (as `config.mel` makes it) -> wave [B, T * hop], float32.

        phases: initial phases, see `griffin_lim`. Raises ValueError for a mel of another shape or
        shorter than `config.min_frames`.
        """
        config = self.config
        config.mel.check_shape(mel, config.min_frames)
        with torch.autocast(mel.device.type, enabled=False):
            mel = mel.float()
            source = griffin_lim(mel, config.mel, iterations=config.iterations, phases=phases)
            spectrum = self._stft(source)  # [B, T, bins]
            loudness = spectrum.abs().clamp(min=FLOOR).log()
        seen = (torch.cat([mel[:, 0], loudness], dim=-1) - config.mel_mean) / config.mel_std
        x = self.input(seen.to(self.input.weight.dtype))
        for block in self.blocks:
            x = block(x)
        corrections = self.output(self.norm(x))
        with torch.autocast(mel.device.type, enabled=False):
            gain, real, imag = corrections.float().chunk(3, dim=-1)
            envelope = mel[:, 0].exp() @ self.spread
            deterministic = torch.complex(envelope * real, envelope * imag)
            return self._istft(spectrum * gain.clamp(max=MAX_GAIN).exp() + deterministic)

    def _stft(self, wave: Tensor) -> Tensor:
        """wave [B, T * hop] -> spectrum [B, T, bins], with its frames centred like the mel's."""
        margin = (self.config.n_fft - self.config.mel.hop) // 2
        wave = F.pad(wave, (margin, margin), mode="reflect")
        frames = wave.unfold(1, self.config.n_fft, self.config.mel.hop)
        return torch.fft.rfft(frames * self.window)

    def _istft(self, spectrum: Tensor) -> Tensor:
        """The least-squares inverse of `_stft` (Griffin and Lim 1984, eq. 6)."""
        n_fft, hop = self.config.n_fft, self.config.mel.hop
        frames = torch.fft.irfft(spectrum, n_fft) * self.window  # [B, T, n_fft]
        count, margin = frames.shape[1], (n_fft - hop) // 2
        weights = self.window.square().expand(1, count, n_fft)
        inner = slice(margin, margin + count * hop)  # outside it the weights may be zero
        return overlap_add(frames, hop)[:, inner] / overlap_add(weights, hop)[:, inner]


def _spread(config: SpectralConfig) -> Tensor:
    """The matrix [F, bins] from mel bands to approximate magnitudes of the shorter window."""
    bands = LogMel(config.mel).filters  # [bins of the mel, F]
    short = LogMel(MelConfig(**{**vars(config.mel), "n_fft": config.n_fft})).filters
    mixed = short / short.sum(1, keepdim=True).clamp(min=1e-8)
    return (mixed / bands.sum(0)).T * (config.n_fft / config.mel.n_fft)
