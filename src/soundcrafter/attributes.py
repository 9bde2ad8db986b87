"""Attributes of sounds that a signal processor can change, such as bright or reverberant.

CLAP learned few such words from captions. But it hears the difference: that between the embeddings
of a sound and of the same sound changed by an effect is a direction that a prompt can be moved in.
"""

from collections.abc import Callable

import numpy as np

from soundcrafter.audio import Wave, fit_length, normalize_peak, resample

Effect = Callable[[Wave, int], Wave]  # wave [N] and its rate in Hz -> [N]

_TILT = 1.5  # exponent of a frequency in a tilt: 9 dB an octave
_PITCH = 2 ** (5 / 12)  # a fourth
_REVERB = 2.5  # seconds in which the reverberation falls by 60 dB
_PARTIALS = (1.0, 2.76, 5.40, 8.93)  # of a free bar, relative to the lowest


def effect_of(description: str) -> tuple[Effect, float] | None:
    """The effect that a description names, and 1 or, for its opposite, -1; None if it names none.

    Words like "more" and "very" before it do not count, nor does the ending of a comparative.
    """
    words = description.lower().replace("-", " ").split()
    while words and words[0] in ("more", "less", "very", "a", "an", "some", "sounding"):
        words = words[1:]
    return _EFFECTS.get(" ".join(words))


def _tilt(wave: Wave, rate: int, exponent: float) -> Wave:
    spectrum = np.fft.rfft(wave)
    frequencies = np.maximum(np.fft.rfftfreq(len(wave), 1 / rate), 50.0)
    tilted = np.fft.irfft(spectrum * (frequencies / 1000) ** exponent, len(wave))
    return tilted.astype(np.float32)


def _brighten(wave: Wave, rate: int) -> Wave:
    return _tilt(wave, rate, _TILT)


def _darken(wave: Wave, rate: int) -> Wave:
    return _tilt(wave, rate, -_TILT)


def _reverberate(wave: Wave, rate: int) -> Wave:
    """Half of the sound, and noise that decays exponentially."""
    count = round(_REVERB * rate)
    noise = np.random.default_rng(0).standard_normal(count)
    response = noise * 10 ** (-3 * np.arange(count) / count)
    return _add(wave, _convolve(wave, response / np.linalg.norm(response)), 0.5)


def _move_away(wave: Wave, rate: int) -> Wave:
    return _reverberate(_darken(wave, rate), rate)


def _ring(wave: Wave, rate: int) -> Wave:
    """The sound through a metal bar."""
    times = np.arange(round(0.5 * rate)) / rate
    partials = [440.0 * ratio for ratio in _PARTIALS if 440.0 * ratio < rate / 2]
    tones = np.stack([np.sin(2 * np.pi * f * times) for f in partials])
    response = tones.sum(0) * np.exp(-8 * times)
    return _add(wave, _convolve(wave, response / np.linalg.norm(response)), 0.5)


def _overdrive(wave: Wave, rate: int) -> Wave:
    return np.tanh(16 * wave).astype(np.float32)


def _lower(wave: Wave, rate: int) -> Wave:
    return fit_length(resample(wave, rate, round(rate * _PITCH)), len(wave))


def _raise(wave: Wave, rate: int) -> Wave:
    return fit_length(resample(wave, round(rate * _PITCH), rate), len(wave), "repeat")


def _convolve(wave: Wave, response: np.ndarray) -> Wave:
    """Convolve wave [N] with a response, cut to [N]."""
    size = len(wave) + len(response)
    spectrum = np.fft.rfft(wave, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[: len(wave)].astype(np.float32)


def _add(wave: Wave, effect: Wave, dry: float) -> Wave:
    return (dry * wave + effect).astype(np.float32)


_NAMES: dict[Effect, tuple[str, str]] = {
    _brighten: ("bright brighter crisp sharp shrill", ""),
    _darken: ("dark darker dull duller muffled", ""),
    _reverberate: ("reverberant reverb reverberation echo echoing echoes echoey", "dry dryer"),
    _move_away: ("distant far faraway", "close closer near nearer"),
    _ring: ("metallic metal ringing", ""),
    _overdrive: ("distorted distortion overdriven", "clean cleaner"),
    _lower: ("deep deeper low lower", ""),
    _raise: ("high higher squeaky", ""),
}
_EFFECTS: dict[str, tuple[Effect, float]] = {
    word: (effect, sign)
    for effect, names in _NAMES.items()
    for sign, words in zip((1.0, -1.0), names, strict=True)
    for word in words.split()
}
_EFFECTS |= {"low pitched": (_lower, 1.0), "high pitched": (_raise, 1.0)}


def apply(effect: Effect, wave: Wave, rate: int) -> Wave:
    """Apply an effect to wave [N] at the level that embeddings are made at."""
    return normalize_peak(effect(normalize_peak(wave), rate))
