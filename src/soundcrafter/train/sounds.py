"""Data shared by the stages: recordings, segment lengths, and what identifies them."""

import dataclasses
from collections.abc import Callable
from os import PathLike
from typing import Any, Literal

from soundcrafter.data.dataset import DataConfig, Sounds
from soundcrafter.data.manifest import read_manifest
from soundcrafter.mel_bands import MelConfig
from soundcrafter.settings import to_dict


def open_sounds(
    data: str | PathLike[str],
    config: DataConfig,
    *,
    mel: MelConfig,
    num_samples: int,
    seed: int,
    need_caption: bool = False,
    pad: Literal["zero", "repeat"] | None = None,
    finite: bool = False,
    timelines: bool = False,
    labels: Callable[[str | None], str] | None = None,
) -> Sounds:
    """A stage's draws from a manifest, folder or shards. `pad` overrides data.pad; `labels` maps
    the label of each recording.

    Only `finite` draws are limited to data.variants, which are meant for encoding; others take new
    crops without end. Only with `timelines` does data.timeline_probability apply.
    """
    manifest = read_manifest(
        data,
        split=config.split,
        label_column=config.label_column,
        need_caption=need_caption and not config.caption,
    )
    recordings = tuple(
        dataclasses.replace(
            recording,
            caption=recording.caption or config.caption or recording.caption,
            label=labels(recording.label) if labels is not None else recording.label,
        )
        for recording in manifest.recordings
    )
    manifest = dataclasses.replace(manifest, recordings=recordings)
    variants = config.variants if finite else 0
    config = dataclasses.replace(config, pad=pad or config.pad, variants=variants)
    if not timelines:
        config = dataclasses.replace(config, timeline_probability=0.0)
    return Sounds(manifest, config, sample_rate=mel.sample_rate, num_samples=num_samples, seed=seed)


def segment_samples(seconds: float, mel: MelConfig, frame_multiple: int = 1) -> int:
    """The number of samples nearest to `seconds` with a multiple of `frame_multiple` frames."""
    unit = mel.hop * frame_multiple
    return max(1, round(seconds * mel.sample_rate / unit)) * unit


def data_identity(sounds: Sounds) -> dict[str, Any]:
    """What determines the draws: settings and the list of recordings."""
    settings = to_dict(sounds.config)
    del settings["cache_gb"]  # only affects speed
    # absent from the identities of older runs
    for name in ("caption", "min_sample_rate", "timeline_probability", "speed"):
        if not settings[name]:
            del settings[name]
    return {**settings, "recordings": sounds.manifest.fingerprint()}
