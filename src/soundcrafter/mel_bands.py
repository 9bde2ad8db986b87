"""Log-mel spectrograms without torch: their settings, their bands, and one in NumPy."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from soundcrafter.settings import check_range

_FRAMES_AT_ONCE = 1024  # bounds the memory of a long spectrogram


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """The parameters of a log-mel spectrogram; the defaults are AudioLDM's at 16 kHz."""

    sample_rate: int = 16000  # Hz of the wave
    n_fft: int = 1024  # samples of the Hann window and the Fourier transform
    hop: int = 160  # samples from one frame to the next
    num_mels: int = 64  # mel bands
    fmin: float = 0.0  # lower edge of the lowest band, Hz
    fmax: float = 8000.0  # upper edge of the highest band, Hz
    power: Literal[1, 2] = 1  # 1: bands sum magnitudes; 2: bands sum powers
    log: Literal["ln", "db"] = "ln"  # natural logarithm, or decibels
    floor: float = 1e-5  # band values are clamped to at least this before the logarithm
    norm: Literal["slaney", "none"] = "slaney"  # slaney: all filters have the same area
    scale: Literal["slaney", "htk"] = "slaney"  # which mel scale
    framing: Literal["exact", "center"] = "exact"  # ceil(N / hop) frames, or N // hop + 1

    def __post_init__(self) -> None:
        check_range(self, 1, 768_000, "sample_rate")
        check_range(self, 1, 65_536, "n_fft", "hop")
        check_range(self, 1, 1024, "num_mels")
        check_range(self, 1e-30, 1e30, "floor")
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise ValueError(
                f"fmin, fmax: got {self.fmin}, {self.fmax}; "
                f"allowed: 0 <= fmin < fmax <= sample_rate / 2 = {self.sample_rate / 2}"
            )
        if self.framing == "exact" and (self.n_fft < self.hop or (self.n_fft - self.hop) % 2):
            raise ValueError(
                f"hop: got {self.hop} with n_fft {self.n_fft}; "
                "allowed with framing exact: an even n_fft - hop that is not negative"
            )

    @property
    def reflect_pad(self) -> int:
        """Samples of reflection padding at each end; a wave must be longer than this."""
        return (self.n_fft - self.hop) // 2 if self.framing == "exact" else self.n_fft // 2

    @property
    def log_floor(self) -> float:
        """The value of silence in a log-mel spectrogram."""
        if self.log == "ln":
            return math.log(self.floor)
        return 20.0 / self.power * math.log10(self.floor)

    def power_of(self, log_mel: NDArray[np.float32]) -> NDArray[np.float32]:
        """The power in each cell of a log-mel spectrogram of any shape."""
        if self.log == "ln":
            return np.exp(np.float32(2 / self.power) * log_mel)
        return np.power(np.float32(10.0), log_mel / np.float32(10.0))

    def num_frames(self, num_samples: int) -> int:
        """The number of frames T for a wave of `num_samples`."""
        if self.framing == "exact":
            return -(-num_samples // self.hop)
        return num_samples // self.hop + 1

    def check_shape(self, mel: Any, min_frames: int = 1) -> None:
        """Raise ValueError unless mel is [B, 1, T, num_mels] with T at least `min_frames`."""
        fits = mel.ndim == 4 and mel.shape[1] == 1 and mel.shape[3] == self.num_mels
        if not fits or mel.shape[2] < min_frames:
            raise ValueError(
                f"mel: got shape {list(mel.shape)}; allowed: [B, 1, T, {self.num_mels}] "
                f"with T at least {min_frames}"
            )


def log_mel(wave: NDArray[np.float32], config: MelConfig) -> NDArray[np.float32]:
    """The values of `mel.LogMel` for wave [N]: [T, F]."""
    if config.framing == "exact":
        wave = np.pad(wave, (0, -len(wave) % config.hop))
    wave = np.pad(wave, config.reflect_pad, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.n_fft) / config.n_fft)
    frames, filters = sliding_window_view(wave, config.n_fft)[:: config.hop], mel_filters(config)
    pieces = [
        np.abs(np.fft.rfft(frames[i : i + _FRAMES_AT_ONCE] * window)) ** config.power @ filters
        for i in range(0, len(frames), _FRAMES_AT_ONCE)
    ]
    bands = np.maximum(np.concatenate(pieces), config.floor)
    logs = np.log(bands) if config.log == "ln" else np.log10(bands) * (20.0 / config.power)
    return logs.astype(np.float32)


def band_centres(config: MelConfig) -> NDArray[np.float64]:
    """The frequencies at which the mel bands peak, in Hz [F]."""
    return _corners(config)[1:-1]


def band_edges(config: MelConfig, groups: int) -> NDArray[np.float64]:
    """The limits of `groups` equal groups of neighbouring mel bands, in Hz [groups + 1].

    The outermost are 0 and half the sample rate.
    """
    corners = _corners(config)
    between = (corners[:-1] + corners[1:]) / 2  # the edges of the bands
    edges = between[np.round(np.linspace(0, config.num_mels, groups + 1)).astype(int)]
    edges[0], edges[-1] = 0.0, config.sample_rate / 2
    return edges


def mel_filters(config: MelConfig) -> NDArray[np.float32]:
    """The triangular mel filters [n_fft // 2 + 1, F].

    They are 0 at the corners and 1 at the centre, or have an area of 1 (over Hz) with norm slaney.
    The values equal those of transformers' `mel_filter_bank` exactly.
    """
    # like there, the last bin is half the rate, rounded down: exact for an even n_fft and rate
    bins = np.linspace(0, config.sample_rate // 2, config.n_fft // 2 + 1)[:, None]
    corners = _corners(config)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if config.norm == "slaney":
        filters *= 2.0 / (right - left)
    return filters.astype(np.float32)


def _corners(config: MelConfig) -> NDArray[np.float64]:
    """The corner frequencies of the triangles in Hz [F + 2], equally spaced on the mel scale.

    htk: 2595 log10(1 + f / 700) (O'Shaughnessy 1987, as in HTK); slaney: 3 mel every 200 Hz up to
    1 kHz, then 27 mel for a factor of 6.4 (Slaney's Auditory Toolbox, as in librosa).
    """
    ends = np.array([config.fmin, config.fmax])
    if config.scale == "htk":
        low, high = 2595.0 * np.log10(1.0 + ends / 700.0)
        mels = np.linspace(low, high, config.num_mels + 2)
        return 700.0 * (np.power(10.0, mels / 2595.0) - 1.0)
    # np.where evaluates both branches, and the logarithm of 0 would warn
    logarithmic = 15.0 + np.log(np.maximum(ends, 1000.0) / 1000.0) * (27.0 / np.log(6.4))
    low, high = np.where(ends >= 1000.0, logarithmic, 3.0 * ends / 200.0)
    mels = np.linspace(low, high, config.num_mels + 2)
    hertz = 1000.0 * np.exp(np.log(6.4) / 27.0 * (mels - 15.0))
    return np.where(mels >= 15.0, hertz, 200.0 * mels / 3.0)
