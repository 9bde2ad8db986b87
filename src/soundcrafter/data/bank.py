"""Training data in the memory of one device, where batches are drawn without the CPU.

A GPU trains faster than threads can decode. Here every recording is decoded once, and a batch is
drawn by a few operations on the device.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from soundcrafter.audio import normalize_peak, read_audio
from soundcrafter.data.dataset import SILENCE, Sounds
from soundcrafter.data.latents import Latents
from soundcrafter.data.manifest import Manifest

LOADING_THREADS = 16
_FULL_SCALE = 32767.0  # peak of each recording, stored as int16


class SoundBank:
    """The recordings of a `Sounds` on a device, cropped, normalised and mixed there.

    Draws come from the device's torch generator. They have the same distribution as those of
    `Sounds`, except that silent crops are not drawn again. Recordings that cannot be decoded are
    added to `sounds.skipped`. Raises ValueError for pad "repeat" and speed, and if no
    recording can be decoded.
    """

    def __init__(self, sounds: Sounds, device: torch.device) -> None:
        if sounds.config.pad != "zero":
            raise ValueError(f"pad: got {sounds.config.pad}; allowed on a device: zero")
        if sounds.config.speed:
            raise ValueError(f"speed: got {sounds.config.speed}; allowed on a device: 0")
        self.config, self.num_samples, self.peak = sounds.config, sounds.num_samples, sounds.peak
        waves, failures = load_waves(sounds.manifest, sounds.sample_rate)
        sounds.skipped.update(failures)
        lengths = torch.tensor([len(wave) for wave in waves])
        if not lengths.any():
            raise ValueError(f"none of the {len(waves)} recordings can be decoded: {failures}")
        self._lengths = lengths.to(device)
        self._starts = (lengths.cumsum(0) - lengths).to(device)
        self._samples = torch.from_numpy(np.concatenate(waves)).to(device)
        self._choice = Choice(torch.from_numpy(sounds.order.chances()) * (lengths > 0), device)

    def draw(self, count: int) -> Tensor:
        """Random crops [count, num_samples], float32, on the device."""
        wave = self._level(self._crops(count))
        config, device = self.config, wave.device
        if config.mix_probability:
            low, high = config.mix_snr_db
            snr = low + (high - low) * torch.rand(count, 1, device=device)
            other = self._level(self._crops(count))
            scale = (_power(wave) / _power(other).clamp(min=1e-12)).sqrt() * 10 ** (-snr / 20)
            mixed = self._level(wave + scale * other)
            chosen = torch.rand(count, 1, device=device) < config.mix_probability
            wave = torch.where(chosen, mixed, wave)
        if config.gain_db:
            db = -config.gain_db * torch.rand(count, 1, device=device)
            wave = wave * 10 ** (db / 20)
        return wave

    def _crops(self, count: int) -> Tensor:
        device = self._samples.device
        found = self._choice.draw(count)
        lengths = self._lengths[found]
        spare = (lengths - self.num_samples).clamp(min=0)
        begin = (torch.rand(count, device=device) * (spare + 1)).long().minimum(spare)
        places = begin[:, None] + torch.arange(self.num_samples, device=device)
        inside = places < lengths[:, None]
        places = (self._starts[found][:, None] + places).clamp(max=len(self._samples) - 1)
        wave = self._samples[places].float() / _FULL_SCALE
        mean = (wave * inside).sum(1, keepdim=True) / inside.sum(1, keepdim=True)
        return (wave - mean) * inside

    def _level(self, wave: Tensor) -> Tensor:
        """Scale each wave [N] of a batch to the peak of the sounds; silence stays silent."""
        if self.peak is None:
            return wave
        loudest = wave.abs().amax(1, keepdim=True)
        return torch.where(loudest < SILENCE, wave, wave * (self.peak / loudest.clamp(min=SILENCE)))


class LatentBank:
    """All encoded draws of a `Latents` on a device, drawn by their probabilities.

    Data in half precision is kept in half precision, and drawn in float32.
    """

    def __init__(self, latents: Latents, device: torch.device) -> None:
        tensors, chances = latents.table()
        self._tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        self._choice = Choice(chances, device)

    def draw(self, count: int) -> dict[str, Tensor]:
        """mean and logvar [count, C, T, F], audio_embedding and, if encoded, text_embedding
        [count, E] or [count, K, E], levels [count, K, T], float32, on the device."""
        rows = self._choice.draw(count)
        return {name: tensor[rows].float() for name, tensor in self._tensors.items()}


class Choice:
    """Draws indices by weight on a device. Unlike torch.multinomial it does not synchronise."""

    def __init__(self, weights: Tensor, device: torch.device) -> None:
        """`weights`: [N], not negative and not all zero."""
        weights = weights.double()
        self._last = int(weights.nonzero()[-1])
        self._bounds = (weights.cumsum(0) / weights.sum()).float().to(device)

    def draw(self, count: int) -> Tensor:
        """[count] int64."""
        places = torch.rand(count, device=self._bounds.device)
        # right=True never chooses an index of weight zero
        return torch.searchsorted(self._bounds, places, right=True).clamp(max=self._last)


@lru_cache(maxsize=1)
def load_waves(
    manifest: Manifest, sample_rate: int
) -> tuple[tuple[np.ndarray, ...], dict[str, str]]:
    """Decode all recordings of a manifest.

    Returns waves [N] at `sample_rate`, int16, with the peak at full scale, and file -> reason for
    recordings that cannot be decoded, whose waves are empty. The last result is cached for the next
    training stage.
    """
    failures: dict[str, str] = {}

    def load(number: int) -> np.ndarray:
        item = manifest.recordings[number]
        try:
            wave = read_audio(item.sound, sample_rate, start=item.start, seconds=item.seconds)
        except ValueError as error:
            failures[manifest.name(item)] = str(error)
            return np.empty(0, np.int16)
        return np.rint(normalize_peak(wave, 1.0) * _FULL_SCALE).astype(np.int16)

    with ThreadPoolExecutor(LOADING_THREADS) as threads:
        return tuple(threads.map(load, range(len(manifest.recordings)))), failures


def _power(wave: Tensor) -> Tensor:
    """Mean square of the non-zero samples, [B, N] -> [B, 1], as in `augment.mix`."""
    return wave.square().sum(1, keepdim=True) / (wave != 0).sum(1, keepdim=True).clamp(min=1)
