"""Editing a given sound: its place in the result, what is regenerated, and how both are joined."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from soundcrafter.audio import Wave, limit_peak, read_audio, resample, to_mono
from soundcrafter.diffusion.config import SECONDS_RANGE
from soundcrafter.mel_bands import MelConfig, band_edges
from soundcrafter.sound import Sound

if TYPE_CHECKING:
    from torch import Tensor

Audio = Sound | tuple[np.ndarray, int] | str | os.PathLike[str]  # a sound, (wave, rate) or a file

PEAK = 0.5  # of what the VAE encodes, as in training
FADE = 0.02  # seconds of the cross-fade inside an edge of a region
VARY = 0.6  # default strength where all of a sound is regenerated


@dataclass(frozen=True, kw_only=True)
class Region:
    """A part of a given sound to regenerate."""

    start: float  # seconds from the start of the given sound
    end: float  # seconds
    low: float = 0.0  # Hz
    high: float | None = None  # Hz; None: up to the highest

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(
                f"region: got {self.start:g} to {self.end:g} s; the end must come after the start"
            )
        if not 0 <= self.low < (np.inf if self.high is None else self.high):
            top = "the top" if self.high is None else f"{self.high:g}"
            raise ValueError(f"region: got {self.low:g} to {top} Hz; allowed: 0 <= low < high")

    def overlaps(self, other: "Region") -> bool:
        """Whether both contain the same frequencies at the same time."""
        apart = self.end <= other.start or other.end <= self.start
        tops = [np.inf if region.high is None else region.high for region in (self, other)]
        return not (apart or tops[0] <= other.low or tops[1] <= self.low)

    @property
    def is_full_band(self) -> bool:
        """Whether it has no limits in frequency."""
        return self.low == 0 and self.high is None


def load_wave(audio: Audio, sample_rate: int, name: str = "init") -> Wave:
    """Load audio as wave [N] at a rate in Hz: resampled, and mixed to mono.

    Raises ValueError for audio that cannot be read, is silent, or has another length than 0.2 to
    600 s.
    """
    if isinstance(audio, Sound):
        audio = audio.wave, audio.sample_rate
    if isinstance(audio, tuple) and len(audio) == 2:
        wave, rate = _float_wave(audio, name)
    elif not isinstance(audio, str | os.PathLike):
        raise ValueError(f"{name}: allowed: a Sound, a file, or (samples, rate in Hz)")
    else:
        wave, rate = read_audio(audio, sample_rate), sample_rate
    low, high = SECONDS_RANGE
    if wave.ndim != 1 or not np.isfinite(wave).all():
        raise ValueError(f"{name}: allowed: finite samples of shape [N] or [N, channels]")
    if rate < 1 or not low <= len(wave) / rate <= high:
        raise ValueError(
            f"{name}: got {len(wave) / max(rate, 1):g} s; allowed: {low:g} to {high:g} s"
        )
    if not np.abs(wave).max() > 1e-5:
        raise ValueError(f"{name}: the sound is silent")
    return resample(np.ascontiguousarray(wave), rate, sample_rate)


def _float_wave(audio: tuple[Any, Any], name: str) -> tuple[Wave, int]:
    """A (wave, rate) pair as mono floats; integer samples are scaled to [-1, 1]."""
    samples, rate = np.asarray(audio[0]), audio[1]
    if np.ndim(rate) or not isinstance(rate, int | np.integer) or samples.dtype.kind not in "fiu":
        raise ValueError(f"{name}: allowed: a Sound, a file, or (samples, rate in Hz)")
    wave = samples.astype(np.float32)
    if samples.dtype.kind in "iu":
        limits = np.iinfo(samples.dtype)
        middle = 0.0 if samples.dtype.kind == "i" else (limits.max + 1) / 2
        wave = (wave - np.float32(middle)) / np.float32(limits.max + 1 - middle)
    return (to_mono(wave) if wave.ndim == 2 else wave), int(rate)


@dataclass(frozen=True, eq=False)
class Canvas:
    """A given sound in its place in the result, and the regions that are regenerated."""

    wave: Wave  # [N], silent where the given sound is not
    sample_rate: int  # Hz
    regions: tuple[Region, ...]  # empty: all of it
    is_extended: bool  # whether the result is longer than the given sound

    @classmethod
    def of(
        cls, wave: Wave, sample_rate: int, seconds: float, at: float, regions: Sequence[Region]
    ) -> "Canvas":
        """Place wave [N] at `at` seconds of a result.

        Besides the regions, what it does not cover is regenerated, with 20 ms of its end for the
        cross-fade. Raises ValueError for regions that are not in the sound, or overlap.
        """
        length, first = round(seconds * sample_rate), round(at * sample_rate)
        if first + len(wave) > length:
            raise ValueError(
                f"seconds: got {seconds:g}; allowed: at least "
                f"{(first + len(wave)) / sample_rate:g}, where the given sound ends"
            )
        placed = np.zeros(length, np.float32)
        placed[first : first + len(wave)] = wave
        end = len(wave) / sample_rate
        for region in regions:
            if region.end > end + 1 / sample_rate:
                raise ValueError(
                    f"region: got {region.start:g} to {region.end:g} s; allowed: 0 to {end:g} s"
                )
            if region.low >= sample_rate / 2:
                raise ValueError(f"region: got {region.low:g} Hz; allowed: below {sample_rate / 2}")
        ordered = sorted(regions, key=lambda region: region.start)
        for number, one in enumerate(ordered):
            for other in ordered[number + 1 :]:
                if one.overlaps(other):
                    raise ValueError(
                        f"regions: {one.start:g} to {one.end:g} s and {other.start:g} to "
                        f"{other.end:g} s overlap"
                    )
        placed_regions = [replace(r, start=r.start + at, end=r.end + at) for r in ordered]
        around = [(0.0, at + FADE), (at + end - FADE, seconds)]
        new = [
            Region(start=begin, end=stop)
            for begin, stop in around
            if round((stop - begin - FADE) * sample_rate) > 0
        ]
        return cls(placed, sample_rate, _merged([*placed_regions, *new]), bool(new))

    @property
    def scale(self) -> float:
        """What the wave is multiplied by before it is encoded."""
        return PEAK / float(np.abs(self.wave).max())

    def mask(self, frames: int, rows: int, frame_seconds: float, mel: MelConfig) -> "Tensor | None":
        """What of a latent is regenerated, [1, 1, frames, rows] from 0 to 1; None: all of it.

        A cell counts by the share of it that lies in a region.
        """
        # imported here: the ONNX runtime imports this module and has no torch
        import torch

        if not self.regions:
            return None
        mask = torch.zeros(frames, rows)
        edges = torch.arange(frames + 1) * frame_seconds
        bands = band_edges(mel, rows).tolist()
        for region in self.regions:
            time = _coverage(edges, region.start, region.end)
            high = bands[-1] if region.high is None else region.high
            frequency = _coverage(torch.tensor(bands), region.low, float(high))
            mask = torch.maximum(mask, time[:, None] * frequency)
        # what follows the end of the sound is no part of it
        mask[edges[:-1] >= len(self.wave) / self.sample_rate] = 1.0
        return mask[None, None]

    def join(self, generated: Wave) -> Wave:
        """Put the regions of a generated wave [N] into the given one, or replace all of it.

        Cross-fades lie inside the regions, so that all else is kept sample for sample.
        """
        generated = generated / np.float32(self.scale)
        if not self.regions:
            return limit_peak(generated)
        joined, change = self.wave.copy(), generated - self.wave
        for region in self.regions:
            part = change if region.is_full_band else self._band(change, region)
            joined += part * self._window(region)
        changed = joined != self.wave
        joined[changed] = joined[changed].clip(-1.0, 1.0)
        return joined

    def _window(self, region: Region) -> Wave:
        """1 inside a region, 0 outside it, with fades at the edges that lie in the sound [N]."""
        rate, length = self.sample_rate, len(self.wave)
        first, last = round(region.start * rate), min(round(region.end * rate), length)
        fade = min(round(FADE * rate), (last - first) // 2)
        ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(fade) + 0.5) / max(fade, 1))
        window = np.zeros(length, np.float32)
        window[first:last] = 1.0
        if first > 0:
            window[first : first + fade] = ramp
        if last < length:
            window[last - fade : last] = ramp[::-1]
        return window

    def _band(self, wave: Wave, region: Region) -> Wave:
        """Keep the frequencies of a region."""
        spectrum = np.fft.rfft(wave)
        frequencies = np.fft.rfftfreq(len(wave), 1 / self.sample_rate)
        high = np.inf if region.high is None else region.high
        spectrum[(frequencies < region.low) | (frequencies > high)] = 0
        return np.fft.irfft(spectrum, len(wave)).astype(np.float32)


def _merged(regions: Sequence[Region]) -> tuple[Region, ...]:
    """Join touching regions without limits in frequency, so that no fade lies between them."""
    merged: list[Region] = [region for region in regions if not region.is_full_band]
    last: Region | None = None
    for region in sorted((r for r in regions if r.is_full_band), key=lambda r: r.start):
        if last is not None and region.start <= last.end + FADE:
            last = replace(last, end=max(last.end, region.end))
        else:
            merged += [] if last is None else [last]
            last = region
    return (*merged, *(() if last is None else (last,)))


def _coverage(edges: "Tensor", low: float, high: float) -> "Tensor":
    """The share of each cell between neighbouring edges that lies between low and high."""
    begin, end = edges[:-1].clamp(low, high), edges[1:].clamp(low, high)
    return (end - begin) / (edges[1:] - edges[:-1]).clamp(min=1e-9)
