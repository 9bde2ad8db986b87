"""The audio tower, in NumPy."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from soundcrafter.audio import resample
from soundcrafter.mel_bands import log_mel
from soundcrafter.onnx.folder import AudioSettings
from soundcrafter.onnx.windows import Array


class AudioTower:
    """Embeds sounds in the space shared with text, see `models.clap_audio.ClapAudio`."""

    def __init__(self, settings: AudioSettings, run: Callable[[Array], Array]) -> None:
        """`run` maps a mel [1, 1, T, F] to its embedding [1, E]."""
        self.settings, self._run = settings, run
        self._max_samples = round(settings.max_seconds * settings.mel.sample_rate)

    def embed(self, wave: Array, sample_rate: int) -> NDArray[np.float32]:
        """wave [N] -> [E], unit norm."""
        wave = resample(wave, sample_rate, self.settings.mel.sample_rate)
        if len(wave) < self.settings.min_samples:
            wave = np.resize(wave, self.settings.min_samples)
        windows = [wave[span] for span in _windows(len(wave), self._max_samples)]
        return self._mean([log_mel(window, self.settings.mel)[None, None] for window in windows])

    def embed_mel(self, mel: Array) -> NDArray[np.float32]:
        """mel [1, 1, T, F] of any length -> [E], unit norm."""
        size = self.settings.mel.num_frames(self._max_samples)
        return self._mean([mel[:, :, span] for span in _windows(mel.shape[2], size)])

    def _mean(self, mels: list[Array]) -> NDArray[np.float32]:
        found = np.mean([self._run(mel)[0] for mel in mels], axis=0)
        return unit(found)


def unit(vector: Array) -> NDArray[np.float32]:
    """A vector [E] scaled to unit length."""
    return vector / np.float32(max(float(np.linalg.norm(vector)), 1e-12))


def _windows(length: int, size: int) -> list[slice]:
    """Windows of at most `size`; the last one is aligned to the end."""
    if length <= size:
        return [slice(0, length)]
    starts = [min(at, length - size) for at in range(0, length, size)]
    return [slice(start, start + size) for start in starts]
