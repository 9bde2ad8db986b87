"""The only spectrogram of the project: a wave to a log-mel picture, time first."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """What a log-mel spectrogram is made of; the defaults are AudioLDM's at 16 kHz."""

    sample_rate: int = 16000  # Hz of the wave
    n_fft: int = 1024  # samples of the Hann window and of the Fourier transform
    hop: int = 160  # samples from one frame to the next
    num_mels: int = 64  # mel bands
    fmin: float = 0.0  # lower edge of the lowest band, Hz
    fmax: float = 8000.0  # upper edge of the highest band, Hz
    power: Literal[1, 2] = 1  # 1 sums magnitudes into bands, 2 powers
    log: Literal["ln", "db"] = "ln"  # natural logarithm, or decibels
    floor: float = 1e-5  # band values are raised to this before the logarithm
    norm: Literal["slaney", "none"] = "slaney"  # slaney: each filter has the same area
    scale: Literal["slaney", "htk"] = "slaney"  # the mel scale that spaces the bands
    framing: Literal["exact", "center"] = "exact"  # ceil(N / hop) frames, or N // hop + 1

    def __post_init__(self) -> None:
        for name in ("sample_rate", "n_fft", "hop", "num_mels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; allowed: 1 or more")
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise ValueError(
                f"fmin, fmax: got {self.fmin}, {self.fmax}; "
                f"allowed: 0 <= fmin < fmax <= sample_rate / 2 = {self.sample_rate / 2}"
            )
        if self.floor <= 0:
            raise ValueError(f"floor: got {self.floor}; allowed: more than 0")
        if self.framing == "exact" and (self.n_fft < self.hop or (self.n_fft - self.hop) % 2):
            raise ValueError(
                f"hop: got {self.hop} with n_fft {self.n_fft}; "
                "allowed with framing exact: n_fft - hop even and not negative"
            )

    @property
    def reflect_pad(self) -> int:
        """Samples reflected at each end; a wave must be longer than this."""
        return (self.n_fft - self.hop) // 2 if self.framing == "exact" else self.n_fft // 2

    def num_frames(self, num_samples: int) -> int:
        """The frames T of a wave of `num_samples`."""
        if self.framing == "exact":
            return -(-num_samples // self.hop)
        return num_samples // self.hop + 1


class LogMel(nn.Module):
    """Log-mel spectrogram, differentiable, in float32 whatever the surrounding precision is."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.register_buffer("filters", _filters(config), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """Turn wave [B, N] at `config.sample_rate` into mel [B, 1, T, F], float32.

        "exact" zero-pads the end to a multiple of hop and reflects (n_fft - hop) / 2 samples a
        side, as AudioLDM-training does; "center" reflects n_fft / 2, as librosa does. Unit: ln of
        the band value, or dB. Raises ValueError for another shape and for a wave not longer than
        `config.reflect_pad`.
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

    def _apply(self, fn: Callable[[Tensor], Any], recurse: bool = True) -> Self:
        """Follow the device but not the dtype: casting a model must not blur its spectrogram."""
        before = self.window
        super()._apply(fn, recurse)
        if self.window is before:  # already there
            return self
        device = self.window.device
        self.window = torch.hann_window(self.config.n_fft, device=device)
        self.filters = _filters(self.config).to(device)
        return self


def band_centres(config: MelConfig) -> NDArray[np.float64]:
    """The frequencies at which the mel bands peak, in Hz [F]."""
    return _corners(config)[1:-1]


def _filters(config: MelConfig) -> Tensor:
    """The triangular mel filters [n_fft // 2 + 1, F]: 0 at the corners, 1 at the centre, or with
    norm slaney an area of 1 (over Hz). To the bit those of transformers' `mel_filter_bank`."""
    # as there, the last bin is half the rate, rounded down: true of even n_fft and rates
    bins = np.linspace(0, config.sample_rate // 2, config.n_fft // 2 + 1)[:, None]
    corners = _corners(config)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if config.norm == "slaney":
        filters *= 2.0 / (right - left)
    return torch.from_numpy(filters).float()


def _corners(config: MelConfig) -> NDArray[np.float64]:
    """Where the triangles begin, peak and end, in Hz [F + 2]: at equal steps of the mel scale.

    htk: 2595 log10(1 + f / 700) (O'Shaughnessy 1987, as in HTK); slaney: 3 mel every 200 Hz up to
    1 kHz, then 27 mel for a factor of 6.4 (Slaney's Auditory Toolbox, as in librosa).
    """
    ends = np.array([config.fmin, config.fmax])
    if config.scale == "htk":
        low, high = 2595.0 * np.log10(1.0 + ends / 700.0)
        mels = np.linspace(low, high, config.num_mels + 2)
        return 700.0 * (np.power(10.0, mels / 2595.0) - 1.0)
    # below 1 kHz the branch that is not taken gets 1 kHz, for the logarithm of 0 warns
    logarithmic = 15.0 + np.log(np.maximum(ends, 1000.0) / 1000.0) * (27.0 / np.log(6.4))
    low, high = np.where(ends >= 1000.0, logarithmic, 3.0 * ends / 200.0)
    mels = np.linspace(low, high, config.num_mels + 2)
    hertz = 1000.0 * np.exp(np.log(6.4) / 27.0 * (mels - 15.0))
    return np.where(mels >= 15.0, hertz, 200.0 * mels / 3.0)
