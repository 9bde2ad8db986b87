"""How sounds are written to files: rate, bit depth, loudness."""

import math
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundcrafter.audio import (
    Depth,
    check_depth,
    check_rate,
    encode_audio,
    resample,
    write_audio,
)
from soundcrafter.loudness import loudness
from soundcrafter.settings import check_range
from soundcrafter.stereo import widen

RATES = (8_000, 192_000)  # Hz
PEAK = 0.99  # that a louder sound does not exceed
_CONTEXT = 0.1  # seconds of a loop before and after it that the resampler sees


@dataclass(frozen=True, kw_only=True)
class Export:
    """The format of exported files."""

    rate: int | None = None  # Hz; None: the sound's own
    depth: Depth = "16"  # bits of PCM, or float; ogg has none
    stereo: bool = False  # whether a mono sound gets two channels, see `widen`
    lufs: float | None = None  # integrated loudness (BS.1770); less where a peak would clip
    metadata: bool = True  # whether files contain how their sound was made

    def __post_init__(self) -> None:
        if self.rate is not None:
            check_range(self, *RATES, "rate")
        if self.lufs is not None:
            check_range(self, -70, 0, "lufs")
        if self.depth not in ("16", "24", "float"):
            raise ValueError(f"depth: got {self.depth!r}; allowed: 16, 24, float")

    def check(self, suffix: str) -> None:
        """Raise ValueError unless files with this suffix can have this format."""
        check_depth(suffix, self.depth)
        if self.rate is not None:
            check_rate(suffix, self.rate)

    def write(
        self,
        path: str | os.PathLike[str],
        wave: NDArray[np.float32],
        sample_rate: int,
        *,
        loop: bool = False,
        title: str = "",
        comment: str = "",
    ) -> None:
        """Write wave [N] or [N, C] to a wav, flac, ogg or mp3 file.

        Raises ValueError as `write_audio`.
        """
        wave, rate = self._converted(wave, sample_rate, loop)
        title, comment = self._metadata(title, comment)
        write_audio(path, wave, rate, loop=loop, depth=self.depth, title=title, comment=comment)

    def encode(
        self,
        wave: NDArray[np.float32],
        sample_rate: int,
        suffix: str = ".wav",
        *,
        loop: bool = False,
        title: str = "",
        comment: str = "",
    ) -> bytes:
        """The bytes of such a file. Raises ValueError as `encode_audio`."""
        wave, rate = self._converted(wave, sample_rate, loop)
        title, comment = self._metadata(title, comment)
        return encode_audio(
            wave, rate, suffix, loop=loop, depth=self.depth, title=title, comment=comment
        )

    def _metadata(self, title: str, comment: str) -> tuple[str, str]:
        return (title, comment) if self.metadata else ("", "")

    def gain(self, wave: NDArray[np.float32], sample_rate: int) -> float:
        """The factor that brings wave [N] or [N, C] to the loudness, as far as its peak allows."""
        if self.lufs is None:
            return 1.0
        found = loudness(wave, sample_rate)
        peak = float(np.abs(wave).max(initial=0.0))
        if not math.isfinite(found) or peak == 0:
            return 1.0
        return min(10 ** ((self.lufs - found) / 20), PEAK / peak)

    def _converted(
        self, wave: NDArray[np.float32], sample_rate: int, loop: bool
    ) -> tuple[NDArray[np.float32], int]:
        rate = self.rate or sample_rate
        if rate != sample_rate:
            wave = _resampled(wave, sample_rate, rate, loop)
        if self.stereo and wave.ndim == 1:
            wave = _widened(wave, rate, loop)
        factor = self.gain(wave, rate)
        return (wave if factor == 1 else (wave * factor).astype(np.float32)), rate


def _widened(wave: NDArray[np.float32], rate: int, loop: bool) -> NDArray[np.float32]:
    """Widen wave [N] to [N, 2], limited to PEAK."""
    stereo = widen(wave, rate, loop=loop)
    return stereo * np.float32(min(1.0, PEAK / max(float(np.abs(stereo).max(initial=0.0)), 1e-9)))


def _resampled(
    wave: NDArray[np.float32], from_rate: int, to_rate: int, loop: bool
) -> NDArray[np.float32]:
    """Resample wave [N] or [N, C]; a loop as if it went on at both ends."""
    columns = wave.reshape(len(wave), -1).T
    length = round(len(wave) * to_rate / from_rate)
    if not loop:
        return np.stack([resample(column, from_rate, to_rate) for column in columns], -1).reshape(
            length, *wave.shape[1:]
        )
    before = min(round(_CONTEXT * from_rate), len(wave))
    skipped = round(before * to_rate / from_rate)
    around = [np.concatenate([c[len(c) - before :], c, c[:before]]) for c in columns]
    found = [resample(c, from_rate, to_rate)[skipped : skipped + length] for c in around]
    return np.stack(found, -1).reshape(length, *wave.shape[1:])
