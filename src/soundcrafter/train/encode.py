"""Encodes a manifest with a model's VAE and CLAP, to train the U-Net on the result."""

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from soundcrafter.data.latent_writer import Contents, encode_latents, encode_shard
from soundcrafter.device import choose_device
from soundcrafter.files import locked
from soundcrafter.progress import Progress
from soundcrafter.train.recipe import Recipe
from soundcrafter.train.sources import AudioSource, Encoders, audio_sources, encoded_folder
from soundcrafter.train.unfinished import warn_of_unfinished
from soundcrafter.workers import Pool


@dataclass(frozen=True, kw_only=True)
class EncodeTools:
    """What a process needs to encode: the recordings through the encoders, in each phase."""

    encoders: Encoders
    sources: list[AudioSource]
    device: torch.device
    dtype: str
    batch_size: int
    shard_mib: float | None

    @classmethod
    def open(
        cls,
        recipe: Recipe,
        data: str | PathLike[str],
        folder: Path,
        *,
        device: str = "auto",
        dtype: str = "float32",
        batch_size: int = 16,
        shard_mib: float | None = None,
    ) -> "EncodeTools":
        encoders = Encoders(recipe, folder)
        return cls(
            encoders=encoders,
            sources=audio_sources(recipe, data, encoders, recipe.diffusion.phases()),
            device=choose_device(device),
            dtype=dtype,
            batch_size=batch_size,
            shard_mib=shard_mib,
        )

    def options(self, phase: int) -> dict[str, Any]:
        """The arguments of `encode_latents` in a phase."""
        source, device = self.sources[phase], self.device
        encoders, config = source.encoders, source.config
        resolution = {} if config.pool == 1 else {"pool": config.pool, "grid": config.grid}

        def posterior(wave: Tensor) -> tuple[Tensor, Tensor]:
            found = encoders.posterior(wave, config, device)
            return found.mean, found.logvar

        def embed_text(captions: list[str]) -> Tensor:
            return encoders.embed_text(captions, device)

        return {
            "posterior": posterior,
            "embed_audio": lambda wave: encoders.embed_audio(wave, device),
            "embed_text": embed_text if encoders.text is not None else None,
            "metadata": {
                **source.trained_against,
                "clap_text": encoders.text_id,
                "latent_scale": source.latent_scale,
                **resolution,
            },
            "batch_size": self.batch_size,
            "shard_mib": self.shard_mib,
            "dtype": self.dtype,
        }


@dataclass(frozen=True)
class _ShardJob:
    """One shard of a phase."""

    phase: int
    out: Path
    number: int


def encode_data(
    recipe: Recipe,
    data: str | PathLike[str],
    folder: Path,
    out: Path,
    *,
    device: str = "auto",
    dtype: str = "float32",
    batch_size: int = 16,
    shard_mib: float | None = None,
    allow_unfinished: bool = False,
    workers: Pool[EncodeTools] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the latents and embeddings that the diffusion stage of `recipe` draws from `data`; for
    earlier phases of a curriculum into the subfolders phase-1, phase-2, ... of `out`. `shard_mib`
    writes shards of about that size instead of safetensors files.

    The model folder needs `vae` and `clap_audio`, and `clap_text` if the condition is text. Returns
    the index file of the full resolution. `workers` with the same tools make the shards, in a
    folder that they share. Parts that were not trained to the end are used with a warning, or with
    `allow_unfinished` without. Raises ValueError if data.variants is 0.
    """
    with locked(out), torch.no_grad():
        tools = EncodeTools.open(
            recipe,
            data,
            folder,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            shard_mib=shard_mib,
        )
        if not allow_unfinished:
            warn_of_unfinished((folder, part) for part in tools.encoders.parts)
        phases = recipe.diffusion.phases().phases
        for number, phase in enumerate(phases):
            index = _encode_phase(
                tools, number, encoded_folder(out, phase, phases[-1]), workers, progress
            )
    return index


def _encode_phase(
    tools: EncodeTools,
    phase: int,
    out: Path,
    workers: Pool[EncodeTools] | None,
    progress: Progress | None,
) -> Path:
    def elsewhere(numbers: list[int]) -> Iterator[tuple[int, Contents]]:
        assert workers is not None
        return workers.map(_encode_shard, [_ShardJob(phase, out, number) for number in numbers])

    return encode_latents(
        tools.sources[phase].sounds,
        out,
        **tools.options(phase),
        progress=progress,
        elsewhere=None if workers is None else elsewhere,
    )


@torch.no_grad()
def _encode_shard(tools: EncodeTools, job: _ShardJob) -> tuple[int, Contents]:
    sounds, options = tools.sources[job.phase].sounds, tools.options(job.phase)
    return job.number, encode_shard(sounds, job.out, job.number, **options)
