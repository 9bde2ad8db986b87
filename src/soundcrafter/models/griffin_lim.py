"""Griffin-Lim from a log-mel: a vocoder that needs no training, and where a trained one begins."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from soundcrafter.mel import LogMel, MelConfig


@torch.no_grad()
def griffin_lim(
    mel: Tensor,
    config: MelConfig,
    *,
    iterations: int = 64,
    momentum: float = 0.99,
    turns: Tensor | None = None,
) -> Tensor:
    """Log-mel [B, 1, T, F] (as `config` makes it) -> wave [B, T * hop].

    Magnitudes by least squares through the mel filters, negative ones set to zero; phases by the
    fast Griffin-Lim algorithm (Perraudin, Balazs, Sondergaard 2013) from `turns`
    [B or 1, T + 2, n_fft / 2 + 1], in whole turns; by default those of `first_turns(T)`. Raises
    ValueError for other settings than the generator's: ln, magnitudes, "exact".
    """
    check_invertible(config)
    n_fft, hop = config.n_fft, config.hop
    magnitude = _magnitude(mel, config)
    # the first and last frame again: the wave reaches half a hop beyond their centres
    magnitude = torch.cat([magnitude[:, :1], magnitude, magnitude[:, -1:]], dim=1)
    window = torch.hann_window(n_fft, device=mel.device)
    centred = slice(n_fft // 2, n_fft // 2 + (magnitude.shape[1] - 1) * hop)
    weights = overlap_add(window.square().expand(1, magnitude.shape[1], n_fft), hop)[:, centred]

    def inverse(spectrum: Tensor) -> Tensor:
        # not torch.istft, which waits for a GPU to check the window
        frames = torch.fft.irfft(spectrum, n_fft).mul_(window)
        return overlap_add(frames, hop)[:, centred].div_(weights)

    turns = first_turns(mel.shape[2], config) if turns is None else turns
    spectrum = torch.polar(magnitude, 2 * torch.pi * turns.to(mel.device))
    previous = torch.zeros_like(spectrum)
    for _ in range(iterations):
        wave = inverse(spectrum)
        rebuilt = torch.stft(wave, n_fft, hop, window=window, return_complex=True).transpose(1, 2)
        # only the angle is kept, so this is the paper's step with alpha = momentum
        step = torch.sub(rebuilt, previous, alpha=momentum / (1 + momentum), out=previous)
        spectrum, previous = _scaled(step, magnitude), rebuilt
    begin = hop // 2
    return inverse(spectrum)[:, begin : begin + mel.shape[2] * hop]


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    """Add up frames [B, T, N] that begin `hop` samples apart -> [B, (T - 1) * hop + N]."""
    count, size = frames.shape[1:]
    steps = -(-size // hop)
    rows = F.pad(frames, (0, steps * hop - size)).unflatten(2, (steps, hop))
    out = frames.new_zeros(len(frames), count + steps - 1, hop)
    for step in range(steps):
        out[:, step : step + count] += rows[:, :, step]
    return out.flatten(1)[:, : (count - 1) * hop + size]


def first_turns(frames: int, config: MelConfig, seed: int = 0) -> Tensor:
    """Uniform phases for a mel of `frames`: [1, frames + 2, n_fft / 2 + 1] in [0, 1).

    Those of a shorter mel begin those of a longer one, and a batch shares them, so that neither
    length nor batch changes what a sound is made from.
    """
    return Turns(config, seed).between(0, frames + 2)


class Turns:
    """`first_turns` of a mel of any length, a stretch after another: those of a long sound at once
    would be its largest tensor."""

    def __init__(self, config: MelConfig, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._kept = torch.empty(1, 0, config.n_fft // 2 + 1)
        self._start = 0  # the row of the first that is kept

    def between(self, low: int, high: int) -> Tensor:
        """Rows low to high [1, high - low, n_fft / 2 + 1]. Later calls must not go back: what is
        before `low` is forgotten."""
        assert self._start <= low <= high, "rows come in order"
        missing = high - self._start - self._kept.shape[1]
        rows = (1, max(missing, 0), self._kept.shape[2])
        drawn = torch.rand(rows, generator=self._generator)
        self._kept = torch.cat([self._kept, drawn], dim=1)[:, low - self._start :]
        self._start = low
        return self._kept[:, : high - low]


def check_invertible(config: MelConfig) -> None:
    """Raise ValueError for a mel that `griffin_lim` cannot invert."""
    if (config.log, config.power, config.framing) != ("ln", 1, "exact"):
        raise ValueError("griffin_lim: needs a mel with log ln, power 1 and framing exact")


def least_frames(config: MelConfig) -> int:
    """The fewest frames that `griffin_lim` takes: reflection needs more samples than it pads."""
    return config.n_fft // 2 // config.hop + 1


def _scaled(x: Tensor, magnitude: Tensor) -> Tensor:
    """Complex x, in place, with its magnitudes changed to those; 0 where it is 0. A third of the
    time that abs and a division take."""
    power = (x.real * x.real).addcmul_(x.imag, x.imag)
    scale = power.clamp_(min=1e-32).rsqrt_().mul_(magnitude)
    x.real.mul_(scale)
    x.imag.mul_(scale)
    return x


def _magnitude(mel: Tensor, config: MelConfig) -> Tensor:
    """Log-mel [B, 1, T, F] -> magnitudes [B, T, n_fft / 2 + 1]."""
    return (mel[:, 0].exp() @ _inverse_filters(config, mel.device)).clamp(min=0.0)


@cache
def _inverse_filters(config: MelConfig, device: torch.device) -> Tensor:
    """The pseudo-inverse [F, n_fft / 2 + 1] of the mel filters."""
    filters = LogMel(config).filters  # [bins, F]
    return torch.linalg.pinv(filters.double()).float().to(device)
