"""Balancing simultaneous sounds, so that each can be heard beside the others."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from soundcrafter.audio import Wave, fit_length
from soundcrafter.mel_bands import MelConfig, log_mel

COMPRESSION = 0.3  # loudness grows with about this power of a sound's power (Stevens)
FRAMES = 4  # of the mel spectrogram in one cell
SILENCE = 1e-6  # of a sound's highest power
PIECE = 500  # cells that are computed at once
STEP = 0.5  # LU
SWEEPS = 2  # over all sounds

Power = NDArray[np.float32]


def mel_power(wave: Wave, mel: MelConfig) -> Power:
    """The power of wave [N] in cells of FRAMES frames and one mel band, [T, F]; 0 for silence."""
    pieces, cell = [], FRAMES * mel.hop
    for start in range(0, len(wave), PIECE * cell):  # bounds the memory of a long scene
        piece = wave[start : start + PIECE * cell]
        # whole cells, and enough samples for the transform
        piece = fit_length(piece, max(-(-len(piece) // cell) * cell, mel.n_fft))
        power = mel.power_of(log_mel(piece, mel))
        power = power[: len(power) // FRAMES * FRAMES]
        pieces.append(power.reshape(-1, FRAMES, power.shape[1]).mean(1))
    found: Power = np.concatenate(pieces)
    if not wave.any():
        found[:] = 0.0
    found[found < SILENCE * found.max()] = 0.0
    return found


def heard_shares(powers: Sequence[Power], gains: Sequence[float]) -> list[float]:
    """The share of each simultaneous sound that is heard, given powers [T, F] and gains in dB.

    A sound is heard in the cells where its power exceeds the sum of the others; a cell counts by
    its loudness.
    """
    return _shares(powers, [power**COMPRESSION for power in powers], gains)


def _shares(
    powers: Sequence[Power], loudness: Sequence[Power], gains: Sequence[float]
) -> list[float]:
    factors = [np.float32(10 ** (gain / 10)) for gain in gains]
    total = np.sum([power * f for power, f in zip(powers, factors, strict=True)], axis=0)
    return [
        float(loud[2 * factor * power > total].sum() / max(float(loud.sum()), 1e-9))
        for power, loud, factor in zip(powers, loudness, factors, strict=True)
    ]


def balance_gains(powers: Sequence[Power], limit: float) -> list[float]:
    """Gains in dB, at most limit / 2 up or down, such that the least audible sound is as audible as
    possible; 0 for sounds on which that does not depend, and for silence."""
    audible = [k for k, power in enumerate(powers) if power.any()]
    if len(audible) < len(powers):
        balanced = balance_gains([powers[k] for k in audible], limit) if audible else []
        by_place = dict(zip(audible, balanced, strict=True))
        return [by_place.get(k, 0.0) for k in range(len(powers))]
    loudness = [power**COMPRESSION for power in powers]  # a gain scales all cells alike
    gains = [0.0] * len(powers)
    options = [*np.arange(0.0, limit / 2 + STEP / 4, STEP / 2)]
    for _ in range(SWEEPS):
        for k in range(len(powers)):
            found = []
            for gain in sorted({sign * option for option in options for sign in (1, -1)}):
                tried = [*gains[:k], float(gain), *gains[k + 1 :]]
                found.append((min(_shares(powers, loudness, tried)), -abs(gain), float(gain)))
            gains[k] = max(found)[2]
    return gains
