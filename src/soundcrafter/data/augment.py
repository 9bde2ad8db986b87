"""Augmentation of waves, spectrograms and captions."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class DistortionConfig:
    """The maximum distortions of the spectrograms that a classifier is trained on; 0 is none."""

    tilt: float = 0.0  # change of level at both ends of the spectrum, in nats
    band_shift: int = 0  # in mel bands
    time_mask: float = 0.0  # masked share of the frames
    band_mask: float = 0.0  # masked share of the bands

    def __post_init__(self) -> None:
        for name in ("tilt", "band_shift"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}; must not be negative")
        for name in ("time_mask", "band_mask"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; allowed: 0 to 1")


def distort(mel: Tensor, config: DistortionConfig, rng: np.random.Generator, fill: float) -> None:
    """Tilt, shift and mask one spectrogram [T, F] in place (SpecAugment, arXiv 1904.08779).

    Masked values become `fill`.
    """
    bands = mel.shape[1]
    slope = torch.linspace(-1.0, 1.0, bands, device=mel.device)
    mel += slope * float(rng.uniform(-config.tilt, config.tilt))
    shift = int(rng.integers(-config.band_shift, config.band_shift + 1))
    if shift:
        places = (torch.arange(bands, device=mel.device) + shift).clamp(0, bands - 1)
        mel.copy_(mel[:, places])
    for axis, longest in ((mel, config.time_mask), (mel.T, config.band_mask)):
        width = int(rng.integers(0, int(longest * len(axis)) + 1))
        begin = int(rng.integers(0, len(axis) - width + 1))
        axis[begin : begin + width] = fill


def gain(wave: np.ndarray, db: float) -> np.ndarray:
    """Scale `wave` [N] by `db` decibels."""
    return (wave * np.float32(10 ** (db / 20))).astype(np.float32)


def mix(first: np.ndarray, second: np.ndarray, snr_db: float) -> np.ndarray:
    """Add `second` [N] to `first` [N], scaled so that `first` is `snr_db` decibels louder.

    Power is the mean over non-zero samples, so padding with silence does not change it. Raises
    ValueError if the lengths differ or one of the waves is silent.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"mix: lengths {first.shape} and {second.shape} differ; they must be equal"
        )
    powers = [power(first), power(second)]
    if min(powers) == 0:
        raise ValueError("mix: a silent wave has no signal-to-noise ratio")
    scale = np.sqrt(powers[0] / (powers[1] * 10 ** (snr_db / 10)))
    return (first + np.float32(scale) * second).astype(np.float32)


def join_captions(first: str, second: str) -> str:
    """Join the captions of two simultaneous sounds: "A dog barks." and "Rain falls" become
    "A dog barks and rain falls". A first word in capitals ("TV") stays in capitals."""
    first, second = first.strip().removesuffix("."), second.strip()
    if not second[1:2].isupper():
        second = second[:1].lower() + second[1:]
    return f"{first} and {second}"


def power(wave: np.ndarray) -> float:
    """The mean square of the non-zero samples of wave [N]."""
    return float(np.dot(wave, wave)) / max(int(np.count_nonzero(wave)), 1)
