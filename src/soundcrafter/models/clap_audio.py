"""CLAP's audio tower: embeds audio in the space shared with text."""

from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.mel import LogMel
from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.conv_tower import ConvTower
from soundcrafter.models.layers import checkpoint_calls, evaluating
from soundcrafter.settings import check_at_least, check_range

_MAX_SECONDS = 600.0
_PATCH = 4  # HTS-AT's patches are 4 x 4 cells of the spectrogram


@dataclass(frozen=True, kw_only=True)
class ClapAudioConfig:
    """The audio tower: HTS-AT (arXiv 2202.00874) or our compact convolutional `ConvTower`."""

    tower: Literal["conv", "htsat"] = "conv"  # conv is fast on CPUs; htsat is LAION CLAP's
    mel: MelConfig = field(default_factory=MelConfig)  # the spectrogram it reads
    embed_dim: int = 512  # of the shared space
    width: int = 96  # channels of the first stage, doubled by each further one
    depths: tuple[int, ...] = (2, 2, 6, 2)  # blocks of each stage
    heads: tuple[int, ...] = (4, 8, 16, 32)  # attention heads of each stage; htsat only
    spec_size: int = 256  # side of the square the spectrogram is folded into; htsat only
    window: int = 8  # side of an attention window, in patches; htsat only
    max_seconds: float = 10.0  # longer sounds are averaged over windows of this length
    mel_mean: float = 0.0  # of the log-mel over the training data
    mel_std: float = 1.0  # of the log-mel over the training data

    def __post_init__(self) -> None:
        check_at_least(self, 1, "embed_dim", "width")
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"depths: got {self.depths}; allowed: one or more positive numbers")
        if not self.mel_std > 0:
            raise ValueError(f"mel_std: got {self.mel_std}; allowed: above 0")
        check_range(self, 0, _MAX_SECONDS, "max_seconds")
        if self.max_samples < self.min_samples:
            raise ValueError(
                f"max_seconds: got {self.max_seconds}; "
                f"allowed: {self.min_samples / self.mel.sample_rate:g} or more"
            )
        if self.tower == "conv" and self.width % 8:
            raise ValueError(f"width: got {self.width}; allowed with tower conv: multiples of 8")
        if self.tower == "htsat":
            self._check_htsat()

    def _check_htsat(self) -> None:
        """Reject settings with which transformers' ClapAudioModel fails, or resamples silently."""
        if len(self.heads) != len(self.depths):
            raise ValueError(f"heads: got {self.heads}; allowed: one for each stage")
        for i, heads in enumerate(self.heads):
            if heads < 1 or self.width * 2**i % heads:
                raise ValueError(
                    f"heads: got {heads} in stage {i}; allowed: divisors of {self.width * 2**i}"
                )
        bands, reduction = self.mel.num_mels, _PATCH * 2 ** (len(self.depths) - 1)
        if bands % reduction:
            raise ValueError(
                f"mel.num_mels: got {bands}; "
                f"allowed with {len(self.depths)} stages of htsat: multiples of {reduction}"
            )
        if self.spec_size < bands or self.spec_size % bands:
            raise ValueError(
                f"spec_size: got {self.spec_size}; allowed: multiples of mel.num_mels, {bands}"
            )
        last = self.spec_size // reduction
        if self.window < 1 or last % self.window:
            allowed = ", ".join(str(n) for n in range(1, last + 1) if last % n == 0)
            raise ValueError(
                f"window: got {self.window}; the last stage of spec_size {self.spec_size} is "
                f"{last} patches wide, allowed: {allowed}"
            )
        most = self.spec_size * (self.spec_size // bands)
        longest = (most - self.mel.num_frames(0)) * self.mel.hop / self.mel.sample_rate
        if self.mel.num_frames(self.max_samples) > most:
            raise ValueError(
                f"max_seconds: got {self.max_seconds}; allowed with spec_size {self.spec_size}, "
                f"which holds {most} frames: up to {longest:g}"
            )

    @property
    def max_samples(self) -> int:
        """Samples of the longest sound that is embedded without windows."""
        return round(self.max_seconds * self.mel.sample_rate)

    @property
    def min_samples(self) -> int:
        """Shorter sounds are repeated to this many samples: at least 16 frames and one n_fft."""
        return max(self.mel.n_fft, 16 * self.mel.hop)


class ClapAudio(nn.Module):
    """Wave to a unit vector. With tower htsat, `tower` is transformers' own module."""

    def __init__(self, config: ClapAudioConfig) -> None:
        super().__init__()
        self.config = config
        self.log_mel = LogMel(config.mel)
        self.tower: Any = _htsat(config) if config.tower == "htsat" else _conv(config)
        self._norm_frozen = False

    def forward(self, wave: Tensor) -> Tensor:
        """wave [B, N] at `config.mel.sample_rate` -> [B, E], unit norm, float32.

        Short sounds are repeated (htsat: to its fixed length, like LAION's "repeatpad"). Long ones
        are cut into windows of max_seconds, the last one aligned to the end, whose embeddings are
        averaged. Raises ValueError for another shape and for an empty wave.
        """
        if wave.ndim != 2 or not wave.shape[1]:
            raise ValueError(f"wave: got shape {tuple(wave.shape)}; expected [B, N], N > 0")
        windows = _windows(self._repeat_short(wave), self.config.max_samples, dim=1)
        # one window at a time, so that memory does not grow with the length
        return _unit_mean([self.embed_mel(self.log_mel(window)) for window in windows])

    def spectrogram(self, wave: Tensor) -> Tensor:
        """The first max_seconds of wave [B, N] -> mel [B, 1, T, F] for `embed_mel`."""
        return self.log_mel(self._repeat_short(wave)[:, : self.config.max_samples])

    def embed_mel(self, mel: Tensor) -> Tensor:
        """mel [B, 1, T, F] from `spectrogram` -> [B, E], unit norm, float32."""
        return F.normalize(self._embed(mel).float(), dim=-1)

    def embed_long_mel(self, mel: Tensor) -> Tensor:
        """Like `embed_mel`, for mels of any length, in windows of max_seconds."""
        size = self.config.mel.num_frames(self.config.max_samples)
        return _unit_mean([self.embed_mel(window) for window in _windows(mel, size, dim=2)])

    def checkpoint_blocks(self) -> None:
        """Enable gradient checkpointing of each block: less memory, more time."""
        if self.config.tower == "htsat":
            layers = self.tower.audio_model.audio_encoder.layers
            checkpoint_calls(block for layer in layers for block in layer.blocks)
        else:
            checkpoint_calls(self.tower.blocks)

    def freeze_norm(self) -> None:
        """Let HTS-AT's BatchNorm use its stored statistics even in training mode.

        Otherwise embeddings in training depend on their batch and on the number of processes.
        """
        self._norm_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Like nn.Module.train, but a frozen norm stays in evaluation mode."""
        super().train(mode)
        if self._norm_frozen:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    # no_grad, not inference_mode: the result may condition a model in training
    @torch.no_grad()
    def embed(self, wave: np.ndarray | Tensor, sample_rate: int) -> Tensor:
        """For inference, in evaluation mode and on this module's device; see `Clap.embed_audio`."""
        # copied, because torch supports neither read-only nor reversed arrays
        batch = torch.from_numpy(np.array(wave)) if isinstance(wave, np.ndarray) else wave
        batch = batch.float()
        if batch.ndim not in (1, 2) or not batch.numel():
            raise ValueError(f"wave: got shape {tuple(batch.shape)}; expected [N] or [B, N], N > 0")
        if not torch.isfinite(batch).all():
            raise ValueError("wave: contains NaN or infinite samples")
        batch = torch.atleast_2d(batch)
        rate = self.config.mel.sample_rate
        if sample_rate != rate:
            # imported here, so that embedding at the tower's own rate needs no audio libraries
            from soundcrafter.audio import resample

            rows = [resample(row, sample_rate, rate) for row in batch.cpu().numpy()]
            batch = torch.from_numpy(np.stack(rows))
        with evaluating(self):
            return self(batch.to(next(self.parameters()).device))

    def _embed(self, mel: Tensor) -> Tensor:
        dtype = next(self.tower.parameters()).dtype
        if self.config.tower == "htsat":
            # HTS-AT normalises with its own BatchNorm
            return self.tower(input_features=mel.to(dtype)).audio_embeds
        return self.tower(((mel - self.config.mel_mean) / self.config.mel_std).to(dtype))

    def _repeat_short(self, wave: Tensor) -> Tensor:
        num_samples = wave.shape[1]
        if self.config.tower == "htsat" and num_samples < self.config.max_samples:
            wave = wave.repeat(1, self.config.max_samples // num_samples)
            return F.pad(wave, (0, self.config.max_samples - wave.shape[1]))
        if num_samples < self.config.min_samples:
            wave = wave.repeat(1, -(-self.config.min_samples // num_samples))
            return wave[:, : self.config.min_samples]
        return wave


def _windows(x: Tensor, size: int, dim: int) -> list[Tensor]:
    """Windows of at most `size` along a dimension; the last one is aligned to the end."""
    length = x.shape[dim]
    if length <= size:
        return [x]
    return [x.narrow(dim, min(at, length - size), size) for at in range(0, length, size)]


def _unit_mean(embeddings: list[Tensor]) -> Tensor:
    """The mean of embeddings [B, E], normalized to unit vectors."""
    return F.normalize(torch.stack(embeddings, dim=1).mean(1), dim=-1)


def _conv(config: ClapAudioConfig) -> nn.Module:
    return ConvTower(config.mel.num_mels, config.width, config.depths, config.embed_dim)


def _htsat(config: ClapAudioConfig) -> Any:
    # imported here, because importing transformers takes seconds
    from transformers import ClapAudioConfig as HtsatConfig
    from transformers import ClapAudioModelWithProjection

    tower: Any = ClapAudioModelWithProjection(
        HtsatConfig(
            window_size=config.window,
            num_mel_bins=config.mel.num_mels,
            spec_size=config.spec_size,
            patch_embeds_hidden_size=config.width,
            hidden_size=config.width * 2 ** (len(config.depths) - 1),
            projection_dim=config.embed_dim,
            depths=config.depths,
            num_attention_heads=config.heads,
            num_hidden_layers=len(config.depths),
            hidden_dropout_prob=0.0,
        )
    )
    norm = tower.audio_model.audio_encoder.batch_norm
    norm.running_mean.fill_(config.mel_mean)
    norm.running_var.fill_(config.mel_std**2)
    return tower
