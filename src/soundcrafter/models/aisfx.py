"""aiSFX (Ma and Lerch, ISMIR 2022): a CNN trained on professional sound-effect libraries.

It serves as a teacher in training and as an embedder in evaluation. `convert` loads its weights.
"""

from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.mel import LogMel
from soundcrafter.mel_bands import MelConfig

# for its filters and sizes; the rest of aiSFX's spectrogram differs from LogMel
_MEL = MelConfig(
    sample_rate=44_100,
    n_fft=2048,
    hop=1024,
    num_mels=96,
    fmax=22_050.0,
    power=2,
    norm="none",
    scale="htk",
    framing="center",
)
SAMPLE_RATE = _MEL.sample_rate  # Hz
FRAME_RATE = _MEL.sample_rate / _MEL.hop  # frames per second
_INPUT_SCALE = 9.457798957824707  # the largest log10 of its training data


class AiSFX(nn.Module):
    """The embedding network, frozen: no gradients for its parameters, no BatchNorm updates."""

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256, 512)) -> None:
        super().__init__()
        inputs = (1, *widths[:-1])
        self.blocks = nn.ModuleList(map(_Block, inputs, widths))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode when the surrounding model is trained."""
        return super().train(False)

    def maps(self, x: Tensor, blocks: int = 3) -> list[Tensor]:
        """The feature maps of the first `blocks` blocks, after the ReLU and before the pooling.

        x [B, 1, T, 96] is the scaled log-mel of FrontEnd or MelReader, with T at least 8. Map n
        (from 0) is [B, widths[n], T // 2^n, 96 // 2^n].
        """
        maps = []
        for number, block in enumerate(self.blocks[:blocks]):
            x = block(x if number == 0 else F.max_pool2d(x, 2))
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 1, T, 96], see `maps` -> embeddings [B, widths[-1]].

        The last map is averaged over frequency and maximized over time.
        """
        return self.maps(x, len(self.blocks))[-1].mean(3).amax(2)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class FrontEnd(nn.Module):
    """Waves at 44.1 kHz -> the scaled log-mel that aiSFX takes, as its package computes it."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(_MEL.n_fft), persistent=False)
        self.register_buffer("filters", _unit_sum(_MEL), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """wave [B, N] of peak 1, at SAMPLE_RATE -> [B, 1, N // 1024 + 1, 96], float32."""
        with torch.autocast(device_type=wave.device.type, enabled=False):
            spectrum = torch.stft(
                wave.float(),
                _MEL.n_fft,
                _MEL.hop,
                window=self.window,
                pad_mode="constant",
                return_complex=True,
            )
            power = torch.view_as_real(spectrum).square().sum(-1)
            return _scale(power.transpose(1, 2) @ self.filters).unsqueeze(1)


class MelReader(nn.Module):
    """Converts our log-mel to an approximation of FrontEnd's, without the wave.

    It is differentiable and has no learned parameters. A band's value divided by the sum of its
    filter is the mean magnitude in the band. The squares of these are interpolated to the
    frequencies of aiSFX's Fourier transform, and aiSFX's filters are applied. Levels are exact for
    white noise; a sine in a wide band is too low (with the default mel by 3 dB at 1 kHz and 9 dB at
    4 kHz). Frequencies above the mel's fmax are silent.
    """

    matrix: Tensor

    def __init__(self, mel: MelConfig) -> None:
        """Raises ValueError unless the mel is the natural log of summed magnitudes, without empty
        bands."""
        super().__init__()
        if mel.power != 1 or mel.log != "ln":
            raise ValueError(
                f"power, log: got {mel.power}, {mel.log}; allowed with aiSFX: power 1, log ln"
            )
        if not LogMel(mel).filters.sum(0).all():
            raise ValueError(
                f"num_mels: got {mel.num_mels} with n_fft {mel.n_fft}; allowed: fewer, as some "
                "bands contain no frequency of the Fourier transform"
            )
        self._rate_ratio = FRAME_RATE * mel.hop / mel.sample_rate
        self.register_buffer("matrix", _power_matrix(mel), persistent=False)

    def forward(self, log_mel: Tensor) -> Tensor:
        """log_mel [B, 1, T, F] of a wave of peak 0.5 -> [B, 1, T', 96] for AiSFX, at FRAME_RATE.

        The wave must have at least 0.2 s. The result is float32.
        """
        with torch.autocast(device_type=log_mel.device.type, enabled=False):
            # no sound comes near e^10, but the square of a network's first outputs could overflow
            power = (2.0 * log_mel.float().clamp(max=10.0)).exp() @ self.matrix
            frames = log_mel.shape[2]
            weights = _averaging(frames, round(frames * self._rate_ratio), power.device)
            return _scale(weights @ power)


def _scale(power: Tensor) -> Tensor:
    return (1e4 * power + 1.0).log10() / _INPUT_SCALE


def _unit_sum(mel: MelConfig) -> Tensor:
    """The mel filters [n_fft // 2 + 1, F], normalized to a sum of 1 each (librosa's norm=1)."""
    filters = LogMel(mel).filters
    return filters / filters.sum(0)


def _power_matrix(mel: MelConfig) -> Tensor:
    """The matrix [F, 96] from squared band values of `mel` to band powers of aiSFX."""
    filters = LogMel(mel).filters.double()
    hertz = torch.linspace(0, mel.sample_rate / 2, len(filters)).double()
    centres = (hertz @ filters / filters.sum(0)).numpy()
    bins = np.linspace(0, SAMPLE_RATE / 2, _MEL.n_fft // 2 + 1)
    bands = np.eye(mel.num_mels)
    to_bins = np.stack([np.interp(bins, centres, band) for band in bands])
    to_bins[:, bins > mel.fmax] = 0.0
    # For white noise of a given density, power is proportional to the sample rate and the FFT size
    # (both windows are Hann), and it is 4 / pi times the squared mean magnitude (Rayleigh). aiSFX's
    # waves have a peak of 1 instead of 0.5, a factor of 4.
    gain = 4.0 * (4.0 / np.pi) * (SAMPLE_RATE * _MEL.n_fft) / (mel.sample_rate * mel.n_fft)
    means = gain / filters.sum(0).square()
    return (means[:, None] * torch.from_numpy(to_bins) @ _unit_sum(_MEL).double()).float()


def _averaging(frames: int, outputs: int, device: torch.device) -> Tensor:
    """Weights [outputs, frames] that average `frames` over `outputs` intervals of equal length.

    Each frame is weighted by its overlap with the interval.
    """
    ends = torch.arange(1, outputs + 1, device=device)[:, None] * (frames / outputs)
    starts = ends - frames / outputs
    first = torch.arange(frames, device=device)
    shared = torch.minimum(ends, first + 1) - torch.maximum(starts, first)
    return shared.clamp(min=0.0) * (outputs / frames)
