"""A cache of decoded recordings. The samples never depend on what is cached."""

import math
import threading

import numpy as np

from soundcrafter.audio import read_audio
from soundcrafter.data.manifest import Recording

# Recordings are decoded in blocks, so that a crop of a long file needs only a part of it. A margin
# around each block feeds the resampler's filter, so that the samples do not depend on what else
# was decoded.
BLOCK_SECONDS = 16
MARGIN_SECONDS = 1

BlockKey = tuple[str, float, float, int]  # file, start, seconds, number of the block


class WaveCache:
    """Reads crops of recordings at one sample rate and keeps up to `limit` bytes of decoded blocks.

    Blocks are stored as int16, each with its own scale, so that quiet recordings keep their
    resolution. A full cache evicts nothing: recordings are read in random order, so new blocks
    would not be more useful than old ones.
    """

    def __init__(self, sample_rate: int, limit: int) -> None:
        self._sample_rate, self._limit, self._size = sample_rate, limit, 0
        self._blocks: dict[BlockKey, tuple[np.ndarray, np.float32]] = {}
        self._failures: dict[BlockKey, str] = {}
        self._lock = threading.Lock()

    def num_samples(self, recording: Recording) -> int:
        """Return the length at this sample rate. Raises ValueError for an unreadable file."""
        if recording.seconds <= BLOCK_SECONDS:
            return len(self._block(recording, 0)[0])
        return int(recording.seconds * self._sample_rate)

    def crop(self, recording: Recording, start: int, num_samples: int) -> np.ndarray:
        """Return the samples from `start` as float32 [N], with N less than `num_samples` if the
        recording ends earlier.

        Raises ValueError for an unreadable file and for one that ends before `start`.
        """
        size = BLOCK_SECONDS * self._sample_rate
        end = min(start + num_samples, math.ceil(recording.seconds * self._sample_rate))
        parts = [np.empty(0, np.float32)]
        for number in range(start // size, math.ceil(end / size)):
            samples, scale = self._block(recording, number)
            first = number * size
            parts.append(samples[max(start - first, 0) : end - first].astype(np.float32) * scale)
        wave = np.concatenate(parts)
        if not len(wave):
            raise ValueError(f"{recording.file}: shorter than the stated {recording.seconds:g} s")
        return wave

    def _block(self, recording: Recording, number: int) -> tuple[np.ndarray, np.float32]:
        key = (str(recording.file), recording.start, recording.seconds, number)
        block = self._blocks.get(key)
        if block is not None:
            return block
        if key in self._failures:
            raise ValueError(self._failures[key])
        try:
            block = _quantize(self._decode(recording, number))
        except ValueError as error:
            self._failures[key] = str(error)
            raise
        with self._lock:
            if key not in self._blocks and self._size + block[0].nbytes <= self._limit:
                self._blocks[key] = block
                self._size += block[0].nbytes
        return block

    def _decode(self, recording: Recording, number: int) -> np.ndarray:
        before = MARGIN_SECONDS if number else 0
        begin = number * BLOCK_SECONDS - before
        seconds = min(before + BLOCK_SECONDS + MARGIN_SECONDS, recording.seconds - begin)
        start = recording.start + begin
        wave = read_audio(recording.sound, self._sample_rate, start=start, seconds=seconds)
        return wave[before * self._sample_rate :][: BLOCK_SECONDS * self._sample_rate]


def _quantize(wave: np.ndarray) -> tuple[np.ndarray, np.float32]:
    peak = float(np.abs(wave).max(initial=0.0))
    scale = np.float32((peak or 1.0) / 32767)
    return np.clip(np.rint(wave / scale), -32767, 32767).astype(np.int16), scale
