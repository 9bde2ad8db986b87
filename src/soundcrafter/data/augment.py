"""Augmentation of waves and captions: gain, mixing at a signal-to-noise ratio, joined captions."""

import numpy as np


def gain(wave: np.ndarray, db: float) -> np.ndarray:
    """Scale `wave` [N] by `db` decibels."""
    return (wave * np.float32(10 ** (db / 20))).astype(np.float32)


def mix(first: np.ndarray, second: np.ndarray, snr_db: float) -> np.ndarray:
    """Add `second` [N] to `first` [N] so that `first` is `snr_db` decibels above it.

    Power is the mean over non-zero samples: the silence a one-shot is padded with says nothing
    about how loud it is. Raises ValueError where the lengths differ or one of them is silent.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"mix: lengths {first.shape} and {second.shape} differ; they must be equal"
        )
    powers = [_power(first), _power(second)]
    if min(powers) == 0:
        raise ValueError("mix: a silent wave has no signal-to-noise ratio")
    scale = np.sqrt(powers[0] / (powers[1] * 10 ** (snr_db / 10)))
    return (first + np.float32(scale) * second).astype(np.float32)


def join_captions(first: str, second: str) -> str:
    """One caption for two sounds heard at once: "A dog barks." and "Rain falls" become
    "A dog barks and rain falls". A word in capitals ("TV") keeps them."""
    first, second = first.strip().removesuffix("."), second.strip()
    if not second[1:2].isupper():
        second = second[:1].lower() + second[1:]
    return f"{first} and {second}"


def _power(wave: np.ndarray) -> float:
    return float(np.dot(wave, wave)) / max(int(np.count_nonzero(wave)), 1)
