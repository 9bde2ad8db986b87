"""Balancing simultaneous sounds, so that each can be heard beside the others."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from soundcrafter.audio import Wave
from soundcrafter.mel import LogMel, MelConfig

COMPRESSION = 0.3  # loudness grows with about this power of a sound's power (Stevens)
FRAMES = 4  # of the mel spectrogram in one cell
SILENCE = 1e-6  # of a sound's highest power
STEP = 0.5  # LU
SWEEPS = 2  # over all sounds

Power = NDArray[np.float32]


def mel_power(wave: Wave, mel: MelConfig) -> Power:
    """The power of wave [N] in cells of FRAMES frames and one mel band, [T, F]; 0 for silence."""
    with torch.inference_mode():
        log_mel = LogMel(mel)(torch.from_numpy(wave)[None])[0, 0]
    power = np.exp(2 * log_mel.numpy())
    power = np.pad(power, ((0, -len(power) % FRAMES), (0, 0)))
    found: Power = power.reshape(-1, FRAMES, power.shape[1]).mean(1)
    found[found < SILENCE * found.max()] = 0.0
    return found


def heard_shares(powers: Sequence[Power], gains: Sequence[float]) -> list[float]:
    """The share of each simultaneous sound that is heard, given powers [T, F] and gains in dB.

    A sound is heard in the cells where its power exceeds the sum of the others; a cell counts by
    its loudness.
    """
    scaled = [power * 10 ** (gain / 10) for power, gain in zip(powers, gains, strict=True)]
    total = np.sum(scaled, axis=0)
    weights = [power**COMPRESSION for power in scaled]
    return [
        float((weight * (2 * power > total)).sum() / max(float(weight.sum()), 1e-9))
        for power, weight in zip(scaled, weights, strict=True)
    ]


def balance_gains(powers: Sequence[Power], limit: float) -> list[float]:
    """Gains in dB, at most limit / 2 up or down, such that the sound that is heard least is heard
    best; 0 for sounds on which that does not depend."""
    gains = [0.0] * len(powers)
    options = [*np.arange(0.0, limit / 2 + STEP / 4, STEP / 2)]
    for _ in range(SWEEPS):
        for k in range(len(powers)):
            found = []
            for gain in sorted({sign * option for option in options for sign in (1, -1)}):
                tried = [*gains[:k], float(gain), *gains[k + 1 :]]
                found.append((min(heard_shares(powers, tried)), -abs(gain), float(gain)))
            gains[k] = max(found)[2]
    return gains
