"""Mono to stereo: the noise of a sound becomes wide, its tones and clicks stay in the centre."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundcrafter.audio import Wave, join_ends

_WINDOW = 0.04  # seconds of a Hann window
_OVERLAP = 4  # windows that each sample lies in
_MEDIAN = 17  # windows, and frequencies: of the two medians
_AT_ONCE = 1000  # windows, to bound memory
_SEED = 0  # of the phases: a sound always becomes the same stereo
_TURNS = np.exp(2j * np.pi * np.arange(64) / 64).astype(np.complex64)
_GAIN = 2.0  # of the side: white noise then reaches the limit below
_LIMIT = 0.2  # side / mid, in power: their sum is then 0.8 dB above the mid
# Hz, of sixths of an octave, from 99 Hz to 20 kHz; below them the windows cannot tell tones from
# noise, and everything stays in the centre
_EDGES = 1000 * 2 ** (np.arange(-20, 27) / 6)
_FADE = 0.02  # seconds at both ends of the side, which would start and end with a click
_RING = 0.1  # seconds in which the limiting filter rings
_BURST = 0.005  # seconds in which the side is never louder than the mid


def widen(wave: Wave, sample_rate: int, *, loop: bool = False) -> NDArray[np.float32]:
    """Make wave [N] stereo, [N, 2]: mid + side and mid - side.

    The mean of both channels is the wave. The side is a decorrelated copy of its noise: what
    remains below the medians of the spectrogram over time, which clicks exceed, and over frequency,
    which tones exceed (after Fitzgerald 2010), with random phases, always the same ones. In each
    third octave its power is at most about a fifth of the wave's: the mean of both channels is then
    less than 1 dB below their mean power. Peaks may exceed those of the wave. `loop`: the end of
    the wave is followed by its start. Raises ValueError for a wave of another shape.
    """
    wave = np.asarray(wave, np.float32)
    if wave.ndim != 1:
        raise ValueError(f"wave: got shape {wave.shape}; expected one dimension [N]")
    side = _side(wave, sample_rate, loop)
    return np.stack([wave + side, wave - side], axis=1)


def _side(wave: Wave, sample_rate: int, loop: bool) -> Wave:
    """The side signal [N] of wave [N]."""
    if not wave.any():
        return np.zeros_like(wave)
    size = _OVERLAP * max(1, round(_WINDOW * sample_rate / _OVERLAP))
    context, after = size + _MEDIAN // 2 * size // _OVERLAP, size if loop else 0
    around = np.pad(wave, (context, context + after), mode="wrap" if loop else "symmetric")
    noise = _noise(around, size)[context : context + len(wave) + after]
    noise = join_ends(noise[: len(wave)], noise[len(wave) :]) if loop else noise
    noise = _within_bursts(noise, wave, max(1, round(_BURST * sample_rate)), loop)
    return _within_bands(noise, wave, sample_rate, loop)


def _noise(wave: Wave, size: int) -> Wave:
    """The noise of wave [N], with random phases; its ends, of `size` and half a median, are not."""
    hop, half = size // _OVERLAP, _MEDIAN // 2
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    scale = _GAIN / np.square(window).sum() * hop
    frames = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop]
    random, found = np.random.default_rng(_SEED), np.zeros_like(wave)
    for first in range(half, len(frames) - half, _AT_ONCE):
        last = min(first + _AT_ONCE, len(frames) - half)
        spectrum = np.fft.rfft(frames[first - half : last + half] * window)
        level = np.abs(spectrum)
        mirrored = np.pad(level[half:-half], ((0, 0), (half, half)), mode="symmetric")
        floor = np.minimum(_median(level, 0), _median(mirrored, 1))
        spectrum, level = spectrum[half:-half], level[half:-half]
        turns = _TURNS[random.integers(0, len(_TURNS), level.shape, np.uint8)]
        spectrum *= turns * np.minimum(1, floor / np.maximum(level, 1e-30))
        parts = np.fft.irfft(spectrum, size) * (window * scale)
        for start, part in zip(range(first * hop, last * hop, hop), parts, strict=True):
            found[start : start + size] += part
    return found


def _median(levels: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """The running median along an axis, which becomes shorter by _MEDIAN - 1."""
    views = np.lib.stride_tricks.sliding_window_view(levels, _MEDIAN, axis=axis)
    return np.partition(views, _MEDIAN // 2, axis=-1)[..., _MEDIAN // 2]


def _within_bursts(side: Wave, mid: Wave, size: int, loop: bool) -> Wave:
    """Lower the side where it is louder than the mid for a moment, as before a sudden sound."""
    starts = np.arange(0, len(mid), size)
    counts = np.diff(starts, append=len(mid))
    powers = [np.add.reduceat(np.square(wave), starts) / counts for wave in (side, mid)]
    gains = np.sqrt(_ratio(powers[1], powers[0]))
    period = len(mid) if loop else None
    centres = starts + counts / 2
    return (side * np.interp(np.arange(len(mid)), centres, gains, period=period)).astype(np.float32)


def _within_bands(side: Wave, mid: Wave, sample_rate: int, loop: bool) -> Wave:
    """Limit the side to _LIMIT times the power of the mid in every sixth of an octave, and remove
    its bass.

    A third octave has two of these; so the limit holds on the slopes of other filters, too.
    """
    size = len(mid) if loop else _round_size(len(mid) + round(_RING * sample_rate))
    fade = round(_FADE * sample_rate)
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate)
    band = np.searchsorted(_EDGES, frequencies)

    def powers(spectrum: NDArray[Any]) -> NDArray[np.float64]:
        found = np.bincount(band, np.square(np.abs(spectrum)), len(_EDGES) + 1)[1:]
        return found.astype(np.float64)

    allowed = powers(np.fft.rfft(mid, size))
    if not loop:  # where only an abrupt start or end has a frequency, the side has none
        allowed = np.minimum(allowed, powers(np.fft.rfft(_faded(mid, fade), size)))
        side = _faded(side, fade)
    spectrum = np.fft.rfft(side, size)
    gains = np.sqrt(_ratio(_LIMIT * allowed, powers(spectrum)))
    # between neighbours the gain changes gradually, and nowhere exceeds that of its band
    centres = _EDGES * 2 ** (1 / 12)
    points = np.stack([_EDGES, centres], axis=1).ravel()
    values = np.stack([np.minimum(gains, np.append(0, gains[:-1])), gains], axis=1).ravel()
    spectrum *= np.interp(frequencies, points, values, left=0)
    limited = np.fft.irfft(spectrum, size)[: len(mid)].astype(np.float32)
    return limited if loop else _faded(limited, fade)


def _round_size(length: int) -> int:
    """A slightly greater length of small factors: transforms of others take much memory."""
    step = 2 ** max(0, int(np.log2(length / 256)))
    return -(-length // step) * step


def _faded(wave: Wave, fade: int) -> Wave:
    """A copy of wave [N] with fades of `fade` samples at both ends, at most half of it."""
    fade, faded = min(fade, len(wave) // 2), wave.copy()
    ramp = np.sin(np.pi / 2 * (np.arange(fade, dtype=np.float32) + 0.5) / max(1, fade)) ** 2
    faded[:fade] *= ramp
    faded[len(wave) - fade :] *= ramp[::-1]
    return faded


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """above / below, at most 1; where both are 0, 0."""
    return np.minimum(1, above / np.maximum(below, 1e-30))
