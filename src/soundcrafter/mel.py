"""Log-mel spectrograms, time first. All parts of the project use this implementation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.mel_bands import MelConfig, mel_filters


class LogMel(nn.Module):
    """Differentiable log-mel spectrogram, in float32 whatever the surrounding precision."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.register_buffer("filters", torch.from_numpy(mel_filters(config)), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """wave [B, N] at `config.sample_rate` -> mel [B, 1, T, F], float32, in ln units or dB.

        "exact" zero-pads the end to a multiple of hop and reflects (n_fft - hop) / 2 samples on
        each side, as AudioLDM's training code does; "center" reflects n_fft / 2, as librosa does.
        Raises ValueError for another shape and for a wave not longer than `config.reflect_pad`.
        """
        config = self.config
        if wave.ndim != 2:
            raise ValueError(f"wave: got shape {tuple(wave.shape)}; expected [B, N]")
        if wave.shape[1] <= config.reflect_pad:
            raise ValueError(
                f"wave: got {wave.shape[1]} samples; allowed: {config.reflect_pad + 1} or more"
            )
        with torch.autocast(device_type=wave.device.type, enabled=False):
            bands = self._bands(wave.float()).clamp(min=config.floor)
            if config.log == "ln":
                return bands.log().unsqueeze(1)
            return (bands.log10() * (20.0 / config.power)).unsqueeze(1)

    def _bands(self, wave: Tensor) -> Tensor:
        """The band values before the logarithm, [B, T, F]."""
        config = self.config
        if config.framing == "exact":
            wave = F.pad(wave, (0, -wave.shape[1] % config.hop))
        wave = F.pad(wave, (config.reflect_pad, config.reflect_pad), mode="reflect")
        spectrum = torch.stft(
            wave,
            config.n_fft,
            config.hop,
            window=self.window,
            center=False,
            return_complex=True,
        )
        if config.power == 1:
            values = spectrum.abs()
        else:
            values = torch.view_as_real(spectrum).square().sum(-1)
        return values.transpose(1, 2) @ self.filters
