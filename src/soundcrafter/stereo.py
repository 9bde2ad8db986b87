"""A stereo image for a mono sound that collapses to that sound."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from soundcrafter.audio import Wave

SIDE = 0.22  # most power of the sides relative to the middle, in a third octave: -0.86 dB in mono
LOWEST = 150.0  # Hz; below it the sound stays in the middle
_WINDOW = 0.04  # seconds of a spectrum
_MEDIAN = 17  # frames, and bins, of the medians that tell noise from tones and clicks
_PIECE, _OVERLAP = 20.0, 1.0  # seconds processed at once, and shared by neighbouring pieces


def widen(wave: Wave, sample_rate: int) -> NDArray[np.float32]:
    """wave [N] -> left and right [N, 2], whose mean is the wave.

    The sides are wave + s and wave - s. s is the noise-like part of the sound with random phases,
    always the same ones, with about SIDE of its power in each third octave, so that
    (left + right) / 2 loses about 1 dB or less against them. Tones and clicks stay in the middle.
    Peaks may exceed those of the wave.
    """
    piece, overlap = round(_PIECE * sample_rate), round(_OVERLAP * sample_rate)
    side = np.zeros(len(wave), np.float32)
    for start in range(0, max(len(wave) - overlap, 1), piece - overlap):
        part = wave[start : start + piece]
        found = _side(part, sample_rate, seed=start)
        fade = min(overlap, len(part))
        # constant power: neighbouring pieces have other phases
        if start:
            found[:fade] *= np.sin(np.linspace(0, np.pi / 2, fade, dtype=np.float32))
        if start + piece < len(wave):
            found[-fade:] *= np.cos(np.linspace(0, np.pi / 2, fade, dtype=np.float32))
        side[start : start + piece] += found
    return np.stack([wave + side, wave - side], -1)


def _side(wave: Wave, sample_rate: int, seed: int) -> Wave:
    """The decorrelated noise of wave [N]."""
    n_fft = 4 * round(_WINDOW * sample_rate / 4)
    hop, window = n_fft // 4, torch.hann_window(n_fft)
    padded = F.pad(torch.from_numpy(np.ascontiguousarray(wave)), (n_fft, n_fft))
    spectrum = torch.stft(padded, n_fft, hop, window=window, return_complex=True)  # [bins, frames]
    noise = spectrum * _noisiness(spectrum.abs())
    phases = torch.rand(spectrum.shape, generator=torch.Generator().manual_seed(seed))
    turned = noise * torch.polar(torch.ones_like(phases), 2 * math.pi * phases)
    side = torch.istft(turned, n_fft, hop, window=window, length=len(padded))
    found = torch.stft(side, n_fft, hop, window=window, return_complex=True)
    found = found * _gains(noise, found, sample_rate)[:, None]
    side = torch.istft(found, n_fft, hop, window=window, length=len(padded))
    return side[n_fft : n_fft + len(wave)].numpy()


def _noisiness(magnitude: Tensor) -> Tensor:
    """How noise-like each bin is [bins, frames], 0 to 1.

    A tone has a high median over time, a click one over frequency; those of noise are alike
    (compare Fitzgerald 2010, harmonic/percussive separation by median filters).
    """
    over_time = _medians(magnitude)
    over_frequency = _medians(magnitude.T).T
    low, high = torch.minimum(over_time, over_frequency), torch.maximum(over_time, over_frequency)
    return (low / high.clamp(min=1e-9)).square()


def _medians(x: Tensor) -> Tensor:
    """Medians over the last dimension of x [M, N], repeated beyond its ends."""
    half = _MEDIAN // 2
    padded = F.pad(x[None], (half, half), mode="replicate")[0]
    return padded.unfold(1, _MEDIAN, 1).median(-1).values


def _gains(noise: Tensor, side: Tensor, sample_rate: int) -> Tensor:
    """The factor of each bin [bins] that brings the side to its share, by third octaves."""
    bins = len(noise)
    frequencies = torch.arange(bins) * sample_rate / (2 * (bins - 1))
    bands = torch.log2(frequencies.clamp(min=1.0) / LOWEST).mul(3).floor().long()
    gains = torch.zeros(bins)
    noisy, there = (x.abs().square().sum(1) for x in (noise, side))
    for band in range(int(bands.max()) + 1):
        inside = bands == band
        if bool(inside.any()) and float(there[inside].sum()) > 0:
            wanted = SIDE * float(noisy[inside].sum())  # at most SIDE of the sound's power
            gains[inside] = math.sqrt(wanted / float(there[inside].sum()))
    return gains
