"""Griffin-Lim for log-mels: a vocoder without training, and the input of the spectral one."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from soundcrafter.mel import LogMel
from soundcrafter.mel_bands import MelConfig

MOMENTUM = 0.99  # of the fast algorithm


@torch.no_grad()
def griffin_lim(
    mel: Tensor,
    config: MelConfig,
    *,
    iterations: int = 64,
    momentum: float = MOMENTUM,
    phases: Tensor | None = None,
) -> Tensor:
    """Log-mel [B, 1, T, F] (as `config` makes it) -> wave [B, T * hop].

    Magnitudes are the least-squares inverse of the mel filters, clamped to 0. Phases are estimated
    by the fast Griffin-Lim algorithm (Perraudin, Balazs, Sondergaard 2013), starting from `phases`
    [B or 1, T + 2, n_fft / 2 + 1] in cycles, by default `random_phases(T)`. Raises ValueError
    unless `check_invertible` accepts `config`.
    """
    check_invertible(config)
    n_fft, hop = config.n_fft, config.hop
    magnitude = _magnitude(mel, config)
    # repeat the first and last frame: the wave reaches half a hop beyond their centres
    magnitude = torch.cat([magnitude[:, :1], magnitude, magnitude[:, -1:]], dim=1)
    window = torch.hann_window(n_fft, device=mel.device)
    centred = slice(n_fft // 2, n_fft // 2 + (magnitude.shape[1] - 1) * hop)
    weights = overlap_add(window.square().expand(1, magnitude.shape[1], n_fft), hop)[:, centred]

    def inverse(spectrum: Tensor) -> Tensor:
        # not torch.istft, whose check of the window synchronizes with a GPU
        frames = torch.fft.irfft(spectrum, n_fft).mul_(window)
        return overlap_add(frames, hop)[:, centred].div_(weights)

    phases = random_phases(mel.shape[2], config) if phases is None else phases
    spectrum = torch.polar(magnitude, 2 * torch.pi * phases.to(mel.device))
    previous = torch.zeros_like(spectrum)
    for _ in range(iterations):
        wave = inverse(spectrum)
        rebuilt = torch.stft(wave, n_fft, hop, window=window, return_complex=True).transpose(1, 2)
        # only the angle matters, so this is the paper's step with alpha = momentum
        step = torch.sub(rebuilt, previous, alpha=momentum / (1 + momentum), out=previous)
        spectrum, previous = _with_magnitude(step, magnitude), rebuilt
    begin = hop // 2
    return inverse(spectrum)[:, begin : begin + mel.shape[2] * hop]


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    """Sum frames [B, T, N] that start `hop` samples apart -> [B, (T - 1) * hop + N].

    This is four times as fast as F.fold on a CPU.
    """
    count, size = frames.shape[1:]
    steps = -(-size // hop)
    rows = F.pad(frames, (0, steps * hop - size)).unflatten(2, (steps, hop))
    out = frames.new_zeros(len(frames), count + steps - 1, hop)
    for step in range(steps):
        out[:, step : step + count] += rows[:, :, step]
    return out.flatten(1)[:, : (count - 1) * hop + size]


def random_phases(frames: int, config: MelConfig, seed: int = 0) -> Tensor:
    """Uniform phases for a mel of `frames`: [1, frames + 2, n_fft / 2 + 1], in cycles, [0, 1).

    A batch shares them, and those of a longer mel begin with those of a shorter one, so that a
    sound depends neither on its batch nor on its length.
    """
    return PhaseStream(config, seed).between(0, frames + 2)


class PhaseStream:
    """Draws `random_phases` in pieces, because those of a long sound would be a huge tensor."""

    def __init__(self, config: MelConfig, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._rows = torch.empty(1, 0, config.n_fft // 2 + 1)
        self._start = 0  # row number of the first row in _rows

    def between(self, low: int, high: int) -> Tensor:
        """Rows low to high [1, high - low, n_fft / 2 + 1]; `low` must never decrease."""
        assert self._start <= low <= high, "rows are drawn in order"
        missing = high - self._start - self._rows.shape[1]
        shape = (1, max(missing, 0), self._rows.shape[2])
        drawn = torch.rand(shape, generator=self._generator)
        self._rows = torch.cat([self._rows, drawn], dim=1)[:, low - self._start :]
        self._start = low
        return self._rows[:, : high - low]


def check_invertible(config: MelConfig) -> None:
    """Raise ValueError for a mel that `griffin_lim` cannot invert."""
    if (config.log, config.power, config.framing) != ("ln", 1, "exact"):
        raise ValueError("mel: Griffin-Lim needs log ln, power 1 and framing exact")


def min_frames(config: MelConfig) -> int:
    """The smallest number of frames that `griffin_lim` accepts, because of reflection padding."""
    return config.n_fft // 2 // config.hop + 1


@cache
def inverse_filters(config: MelConfig, device: torch.device) -> Tensor:
    """The pseudo-inverse [F, n_fft / 2 + 1] of the mel filters."""
    filters = LogMel(config).filters  # [bins, F]
    return torch.linalg.pinv(filters.double()).float().to(device)


def _with_magnitude(x: Tensor, magnitude: Tensor) -> Tensor:
    """Set the magnitudes of complex x in place; zeros stay zero.

    This is three times as fast as dividing by abs.
    """
    power = (x.real * x.real).addcmul_(x.imag, x.imag)
    scale = power.clamp_(min=1e-32).rsqrt_().mul_(magnitude)
    x.real.mul_(scale)
    x.imag.mul_(scale)
    return x


def _magnitude(mel: Tensor, config: MelConfig) -> Tensor:
    """Log-mel [B, 1, T, F] -> magnitudes [B, T, n_fft / 2 + 1]."""
    return (mel[:, 0].exp() @ inverse_filters(config, mel.device)).clamp(min=0.0)
