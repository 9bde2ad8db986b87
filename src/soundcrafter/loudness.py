"""Loudness as people perceive it: ITU-R BS.1770-4."""

import numpy as np
from numpy.typing import NDArray

from soundcrafter.audio import Wave, fit_length

# ITU-R BS.1770-4, tables 1 and 2: (b0, b1, b2), (1, a1, a2) at 48 kHz
_SHELF = (
    (1.53512485958697, -2.69169618940638, 1.19839281085285),
    (1.0, -1.69065929318241, 0.73248077421585),
)
_HIGHPASS = ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))
_BLOCK, _STEP = 0.4, 0.1  # seconds
_PIECE, _CONTEXT = 60.0, 2.0  # seconds filtered at once; before them, in which the filters settle
_ABSOLUTE, _RELATIVE = -70.0, -10.0  # LUFS and LU, of the gate


def loudness(wave: NDArray[np.float32], sample_rate: int) -> float:
    """Return the integrated loudness of wave [N] or [N, C] in LUFS (ITU-R BS.1770-4).

    The powers of channels, mono or left and right, add up. It is -inf for silence. The filters of
    the standard are applied in the frequency domain, so that any sample rate is possible. A wave
    shorter than a block of 0.4 s is padded with silence.
    """
    channels = wave.reshape(len(wave), -1).T
    powers = np.sum([_block_powers(channel, sample_rate) for channel in channels], axis=0)
    powers = powers[powers > _power(_ABSOLUTE)]
    if not len(powers):
        return -np.inf
    powers = powers[powers > powers.mean() * 10 ** (_RELATIVE / 10)]
    return float(-0.691 + 10 * np.log10(powers.mean()))


def _block_powers(wave: Wave, sample_rate: int) -> np.ndarray:
    """The mean powers of the blocks of wave [N], weighted."""
    block, step = round(_BLOCK * sample_rate), round(_STEP * sample_rate)
    wave = fit_length(wave, max(len(wave), block))
    piece, context = round(_PIECE * sample_rate), round(_CONTEXT * sample_rate)
    weighted = np.empty(len(wave))
    for start in range(
        0, len(wave), piece
    ):  # a transform of all of it would take 40 times its size
        before = max(0, start - context)
        found = _k_weighted(wave[before : start + piece], sample_rate)
        weighted[start : start + piece] = found[start - before :]
    energy = np.concatenate([[0.0], np.cumsum(weighted**2)])
    starts = np.arange(0, len(weighted) - block + 1, step)
    return np.asarray((energy[starts + block] - energy[starts]) / block)


def _power(lufs: float) -> float:
    return float(10 ** ((lufs + 0.691) / 10))


def _k_weighted(wave: Wave, sample_rate: int) -> np.ndarray:
    """wave [N] through the two filters, by a transform of twice the length to avoid wrapping."""
    size = 2 * len(wave)
    frequencies = np.minimum(np.fft.rfftfreq(size, 1 / sample_rate), 24_000)
    z = np.exp(-2j * np.pi * frequencies / 48_000)
    response = np.ones_like(z)
    for above, below in (_SHELF, _HIGHPASS):
        response *= np.polyval(above[::-1], z) / np.polyval(below[::-1], z)
    return np.fft.irfft(np.fft.rfft(wave.astype(np.float64), size) * response, size)[: len(wave)]
