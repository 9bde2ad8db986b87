"""Combining two sounds as a sound designer would: at once, or one after the other."""

import numpy as np

from soundcrafter.audio import Wave, fit_length, normalize_peak

GAP = 0.3  # seconds of silence before each of two ordered sounds
LEVEL = 0.1  # root mean square of each sound; the sum of two seldom exceeds full scale
ACTIVE = 1e-3  # frames with less power than this, relative to the loudest one, are pauses
EVENT = 0.1  # an event begins and ends where it crosses this share of its highest level
_FRAME = 0.02  # seconds


def at_once(first: Wave, second: Wave, sample_rate: int, seconds: float) -> tuple[Wave, Wave]:
    """Return two layers [N] of equal level and full length, whose sum is the mix.

    A shorter sound is repeated.
    """
    length = round(seconds * sample_rate)
    pair = (fit_length(normalize_peak(wave), length, "repeat") for wave in (first, second))
    one, two = (_equal(wave, sample_rate) for wave in pair)
    return one, two


def in_order(
    first: Wave, second: Wave, sample_rate: int, seconds: float
) -> tuple[Wave, Wave, tuple[float, float]]:
    """Return two layers [N] of equal level, whose sum is the sequence, and their onsets in seconds.

    Each is trimmed to its event and to half of the time. The first begins after GAP, the second
    GAP after the end of the first.
    """
    length, gap = round(seconds * sample_rate), round(GAP * sample_rate)
    most = (length - 2 * gap) // 2
    one, two = (
        _equal(_event(normalize_peak(wave), sample_rate)[:most], sample_rate)
        for wave in (first, second)
    )
    starts = gap, gap + len(one) + gap
    layers = [np.zeros(length, dtype=np.float32) for _ in starts]
    for layer, wave, start in zip(layers, (one, two), starts, strict=True):
        layer[start : start + len(wave)] = wave
    return layers[0], layers[1], (starts[0] / sample_rate, starts[1] / sample_rate)


def _equal(wave: Wave, sample_rate: int) -> Wave:
    """wave [N] scaled to the root mean square LEVEL, not counting pauses."""
    powers = _powers(wave, sample_rate)
    level = np.sqrt(powers[powers >= ACTIVE * powers.max()].mean())
    return wave if level == 0 else (wave * (LEVEL / level)).astype(np.float32)


def _event(wave: Wave, sample_rate: int) -> Wave:
    """wave [N] without the quiet parts before and after its event."""
    powers = _powers(wave, sample_rate)
    loud = np.flatnonzero(powers >= EVENT**2 * powers.max())
    frame = len(wave) // len(powers)
    return wave[loud[0] * frame : (loud[-1] + 1) * frame]


def _powers(wave: Wave, sample_rate: int) -> np.ndarray:
    """The mean power of each frame of wave [N]; at least one frame."""
    frame = min(round(_FRAME * sample_rate), len(wave))
    return np.square(wave[: len(wave) // frame * frame].reshape(-1, frame)).mean(1)
