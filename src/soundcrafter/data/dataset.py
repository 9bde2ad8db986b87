"""Random crops and mixes of recordings for training, each a function of (seed, index)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from soundcrafter.audio import fit_length, limit_peak, normalize_peak, resample
from soundcrafter.data.augment import gain, join_captions, mix
from soundcrafter.data.cache import WaveCache
from soundcrafter.data.captions import exclude_captions, read_excluded
from soundcrafter.data.events import MAX_EVENTS, DrawnEvent, place_events
from soundcrafter.data.manifest import Manifest, Recording, exclude_low_rates
from soundcrafter.data.order import DRAW, VARIANT, DrawOrder, generator, kind_of
from soundcrafter.data.wordings import read_wordings

SILENCE = 1e-3  # crops with a lower peak (-60 dB of full scale) count as silent
SILENT_RETRIES = 4


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which recordings are used for training, and how they are cropped and mixed."""

    split: str = "train"  # split of the manifest
    label_column: str = "label"  # column of the manifest with the labels
    balance: Literal["label", "none"] = "label"  # uniform labels, or each recording once per epoch
    full_share: int = 1  # recordings that a label needs for its full share of the draws
    # How a short recording is padded. zero: followed by silence, as generation should do it too;
    # repeat: repeated to full length, as the CLAP towers expect their input.
    pad: Literal["zero", "repeat"] = "zero"
    variants: int = 0  # fixed crops per recording when data is encoded; 0: always new crops
    mix_probability: float = 0.0  # share of draws that mix two sounds of different labels
    mix_snr_db: tuple[float, float] = (-5.0, 5.0)  # range of the first sound's level over the other
    # share of the U-Net's draws that place one to three sounds of different labels in time
    timeline_probability: float = 0.0
    # largest share by which a recording is played faster and higher, or slower and lower
    speed: float = 0.0
    gain_db: float = 0.0  # maximum attenuation in dB; each draw is attenuated by 0 to this
    # Hz: leave out recordings made at a lower rate, which are silent in the upper band; 0: use all
    min_sample_rate: int = 0
    exclude_captions: tuple[str, ...] = ()  # csv files (or frozen:NAME) of captions to leave out
    caption: str = ""  # caption of recordings without one
    wordings: str = ""  # csv of alternative wordings of labels (see data/wordings.py); "": none
    wording_probability: float = 0.5  # share of captions that are replaced by such a wording
    cache_gb: float = 2.0  # memory for decoded recordings

    def __post_init__(self) -> None:
        if self.balance not in ("label", "none"):
            raise ValueError(f"balance: got {self.balance!r}; allowed: label, none")
        if self.full_share < 1:
            raise ValueError(f"full_share: got {self.full_share}; must be at least 1")
        if self.pad not in ("zero", "repeat"):
            raise ValueError(f"pad: got {self.pad!r}; allowed: zero, repeat")
        if self.variants < 0:
            raise ValueError(f"variants: got {self.variants}; must be 0 or more")
        for name in ("mix_probability", "timeline_probability", "wording_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; must be from 0 to 1")
        if self.mix_snr_db[0] > self.mix_snr_db[1]:
            raise ValueError(f"mix_snr_db: got {self.mix_snr_db}; the first must be the lower")
        if not 0 <= self.speed <= 0.5:
            raise ValueError(f"speed: got {self.speed}; must be from 0 to 0.5")
        if self.gain_db < 0:
            raise ValueError(f"gain_db: got {self.gain_db}; must be 0 or more")
        if self.min_sample_rate < 0:
            raise ValueError(f"min_sample_rate: got {self.min_sample_rate}; must be 0 or more")
        if self.cache_gb < 0:
            raise ValueError(f"cache_gb: got {self.cache_gb}; must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A sound drawn from the data."""

    wave: np.ndarray  # [N] float32
    caption: str | None  # of a mix: both captions joined
    label: str | None  # None for a mix and a timeline
    files: tuple[str, ...]  # relative to the manifest's root; several for a mix and a timeline
    events: tuple[DrawnEvent, ...] = ()  # of a timeline


@dataclass(frozen=True, kw_only=True)
class SoundBatch:
    """Draws stacked into a batch."""

    wave: Tensor  # [B, N] float32
    captions: tuple[str | None, ...]  # of each draw
    labels: tuple[str | None, ...]  # of each draw
    files: tuple[tuple[str, ...], ...]  # one or more per draw
    events: tuple[tuple[DrawnEvent, ...], ...]  # of each draw
    indices: tuple[int, ...]  # of the draws


class Sounds:
    """Draws of `num_samples` at `sample_rate` from a manifest; safe to use from several threads.

    A longer recording is cropped at a random position; a shorter one is padded at its end. Before
    padding, the mean of a crop is removed and its peak is scaled to `peak`, as in AudioLDM; with
    peak None the level is kept. A draw depends only on (seed, index), or with variants only on
    (seed, recording, variant). A recording that cannot be decoded is listed in `skipped` and
    replaced by the next one. Raises ValueError for invalid sizes and seeds, and if no recording is
    left after excluding.
    """

    def __init__(
        self,
        manifest: Manifest,
        config: DataConfig,
        *,
        sample_rate: int,
        num_samples: int,
        seed: int,
        peak: float | None = 0.5,
    ) -> None:
        if sample_rate < 1 or num_samples < 1:
            raise ValueError(f"got {num_samples} samples at {sample_rate} Hz; both must be above 0")
        if peak is not None and not 0 < peak <= 1:
            raise ValueError(f"peak: got {peak}; must be above 0 and at most 1, or None")
        if config.exclude_captions:
            manifest = exclude_captions(manifest, config.exclude_captions)
        if config.min_sample_rate:
            manifest = exclude_low_rates(manifest, config.min_sample_rate)
        self.manifest, self.config = manifest, config
        self.sample_rate, self.num_samples = sample_rate, num_samples
        self.seed, self.peak = seed, peak
        self.skipped: dict[str, str] = {}
        self.order = DrawOrder(
            [kind_of(r.label, r.caption, manifest.name(r)) for r in manifest.recordings],
            balance=config.balance,
            variants=config.variants,
            seed=seed,
            full_share=config.full_share,
        )
        self.wordings = (
            read_wordings(config.wordings, exclude=read_excluded(config.exclude_captions))
            if config.wordings
            else {}
        )
        self._cache = WaveCache(sample_rate, int(config.cache_gb * 1e9))

    def __len__(self) -> int:
        return len(self.manifest.recordings)

    def of_length(self, num_samples: int) -> "Sounds":
        """Return the same draws at another length, with the same cache and `skipped`."""
        other = copy.copy(self)
        other.num_samples = num_samples
        return other

    @property
    def all_skipped(self) -> dict[str, str]:
        """File -> reason, of files left out of the manifest or that could not be decoded so far."""
        return {**dict(self.manifest.skipped), **self.skipped}

    def draw(self, index: int) -> Draw:
        """Return the draw of an index, which may be any number of 0 or more.

        Raises ValueError if no recording at all can be decoded.
        """
        chosen, variant = self.order.choose(index)
        for recording in self.order.from_here(chosen):
            try:
                if self.config.variants:
                    return self.draw_variant(recording, variant)
                return self._draw(recording, generator(self.seed, DRAW, index))
            except ValueError as error:
                self._skip(recording, error)
        raise ValueError(f"none of the {len(self)} recordings can be decoded: {self.skipped}")

    def draw_variant(self, recording: int, variant: int) -> Draw:
        """Return a variant of the recording at an index of the manifest.

        Raises ValueError for a recording that cannot be decoded and a variant that does not exist.
        """
        if not 0 <= variant < self.config.variants:
            raise ValueError(f"variant: got {variant}; there are {self.config.variants}")
        return self._draw(recording, generator(self.seed, VARIANT, recording, variant))

    def batch(self, indices: Sequence[int]) -> SoundBatch:
        """Return the draws of `indices`, stacked."""
        draws = [self.draw(index) for index in indices]
        return SoundBatch(
            wave=torch.from_numpy(np.stack([draw.wave for draw in draws])),
            captions=tuple(draw.caption for draw in draws),
            labels=tuple(draw.label for draw in draws),
            files=tuple(draw.files for draw in draws),
            events=tuple(draw.events for draw in draws),
            indices=tuple(indices),
        )

    def _draw(self, recording: int, rng: np.random.Generator) -> Draw:
        item, config = self.manifest.recordings[recording], self.config
        if config.timeline_probability and rng.random() < config.timeline_probability:
            return self._timeline(recording, rng)
        wave, label = self._crop(recording, rng), item.label
        caption = self._caption(item, rng)
        files: tuple[str, ...] = (self.manifest.name(item),)
        if rng.random() < config.mix_probability and wave.any():
            partner = self._partner(recording, rng)
            if partner is not None:
                other, other_wave = self.manifest.recordings[partner[0]], partner[1]
                wave = self._level(mix(wave, other_wave, rng.uniform(*config.mix_snr_db)))
                caption = _joined(caption, self._caption(other, rng))
                label, files = None, (*files, self.manifest.name(other))
        if config.gain_db:
            wave = gain(wave, -rng.uniform(0, config.gain_db))
        return Draw(wave=wave, caption=caption, label=label, files=files)

    def _timeline(self, recording: int, rng: np.random.Generator) -> Draw:
        recordings, waves = [recording], [self._crop(recording, rng)]
        for _ in range(int(rng.integers(MAX_EVENTS)) if waves[0].any() else 0):
            partner = self._partner(recording, rng)
            if partner is not None and not self.order.same_kind(partner[0], recordings):
                recordings.append(partner[0])
                waves.append(partner[1])
        items = [self.manifest.recordings[number] for number in recordings]
        captions = [self._caption(item, rng) for item in items]
        files = tuple(self.manifest.name(item) for item in items)
        if not waves[0].any():
            return Draw(wave=waves[0], caption=captions[0], label=items[0].label, files=files)
        order = rng.permutation(len(items))
        wave, events = place_events(
            [waves[i] for i in order],
            [captions[i] for i in order],
            [files[i] for i in order],
            self.num_samples,
            self.config.mix_snr_db,
            rng,
        )
        caption = None if None in captions else ", ".join(map(str, captions))
        # only scaled: a mean removed from the whole would sound in the pauses
        scale = 1.0 if self.peak is None else self.peak / np.abs(wave).max()
        wave = limit_peak((wave * scale).astype(np.float32))
        if self.config.gain_db:
            wave = gain(wave, -rng.uniform(0, self.config.gain_db))
        return Draw(wave=wave, caption=caption, label=None, files=files, events=events)

    def _partner(self, recording: int, rng: np.random.Generator) -> tuple[int, np.ndarray] | None:
        for other in self.order.partners(recording, rng):
            try:
                wave = self._crop(other, rng)
            except ValueError as error:
                self._skip(other, error)
                continue
            if wave.any():
                return other, wave
        return None

    def _crop(self, recording: int, rng: np.random.Generator) -> np.ndarray:
        item, needed, played_at = self.manifest.recordings[recording], self.num_samples, 1.0
        if self.config.speed:
            played_at += rng.uniform(-self.config.speed, self.config.speed)
            needed = round(needed * played_at)
        spare = max(self._cache.num_samples(item) - needed, 0)
        for _ in range(1 + (SILENT_RETRIES if spare else 0)):
            start = int(rng.integers(spare + 1))
            wave = self._cache.crop(item, start, needed)
            if np.abs(wave).max() >= SILENCE:
                break
        if played_at != 1:
            wave = resample(wave, round(played_at * self.sample_rate), self.sample_rate)
        if self.peak is not None:
            wave = normalize_peak(wave, self.peak)
        return fit_length(wave, self.num_samples, self.config.pad)

    def _caption(self, item: Recording, rng: np.random.Generator) -> str | None:
        wordings = self.wordings.get(item.label or "", ())
        if wordings and rng.random() < self.config.wording_probability:
            return wordings[rng.integers(len(wordings))]
        return item.caption

    def _level(self, mixed: np.ndarray) -> np.ndarray:
        return limit_peak(mixed) if self.peak is None else normalize_peak(mixed, self.peak)

    def _skip(self, recording: int, error: ValueError) -> None:
        self.skipped[self.manifest.name(self.manifest.recordings[recording])] = str(error)


def _joined(first: str | None, second: str | None) -> str | None:
    return None if first is None or second is None else join_captions(first, second)
