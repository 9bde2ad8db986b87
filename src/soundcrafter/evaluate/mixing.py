"""Two sounds put together by hand, as a sound designer would: at once, or one after the other."""

import numpy as np

from soundcrafter.audio import Wave, fit_length, normalize_peak

GAP = 0.3  # seconds of silence before each of two sounds in order
LEVEL = 0.1  # root mean square of each sound: two of them seldom pass full scale
ACTIVE = 1e-3  # frames with less than this share of the loudest one's power are pauses
EVENT = 0.1  # an event begins and ends where it passes this share of its highest level
_FRAME = 0.02  # seconds


def at_once(first: Wave, second: Wave, sample_rate: int, seconds: float) -> tuple[Wave, Wave]:
    """Two waves -> two layers [N] of equal level that last all the time; their sum is the mix.

    A shorter sound starts again until the time is over.
    """
    length = round(seconds * sample_rate)
    pair = (fit_length(normalize_peak(wave), length, "repeat") for wave in (first, second))
    one, two = (_equal(wave, sample_rate) for wave in pair)
    return one, two


def in_order(
    first: Wave, second: Wave, sample_rate: int, seconds: float
) -> tuple[Wave, Wave, tuple[float, float]]:
    """Two waves -> two layers [N] of equal level, whose sum is the sequence, and when each begins,
    in seconds.

    Each is cut to its event, GAP after the start and after the first one's end, and to half of the
    time.
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
    """wave [N] at the root mean square LEVEL, pauses not counted."""
    powers = _powers(wave, sample_rate)
    level = np.sqrt(powers[powers >= ACTIVE * powers.max()].mean())
    return wave if level == 0 else (wave * (LEVEL / level)).astype(np.float32)


def _event(wave: Wave, sample_rate: int) -> Wave:
    """wave [N] without the quiet before and after its event."""
    powers = _powers(wave, sample_rate)
    loud = np.flatnonzero(powers >= EVENT**2 * powers.max())
    frame = len(wave) // len(powers)
    return wave[loud[0] * frame : (loud[-1] + 1) * frame]


def _powers(wave: Wave, sample_rate: int) -> np.ndarray:
    """Mean power of each frame of wave [N], at least one."""
    frame = min(round(_FRAME * sample_rate), len(wave))
    return np.square(wave[: len(wave) // frame * frame].reshape(-1, frame)).mean(1)
