"""Encodes a manifest with a model's VAE and CLAP, to train the U-Net on the result."""

from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from soundcrafter.data.latent_writer import encode_latents
from soundcrafter.device import choose_device
from soundcrafter.files import locked
from soundcrafter.progress import Progress
from soundcrafter.train.recipe import Recipe
from soundcrafter.train.sources import AudioSource, Encoders, audio_sources, encoded_folder
from soundcrafter.train.unfinished import warn_of_unfinished


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
    progress: Progress | None = None,
) -> Path:
    """Write the latents and embeddings that the diffusion stage of `recipe` draws from `data`; for
    earlier phases of a curriculum into the subfolders phase-1, phase-2, ... of `out`. `shard_mib`
    writes shards of about that size instead of safetensors files.

    The model folder needs `vae` and `clap_audio`, and `clap_text` if the condition is text. Returns
    the index file of the full resolution. Parts that were not trained to the end are used with a
    warning, or with `allow_unfinished` without. Raises ValueError if data.variants is 0.
    """
    target = choose_device(device)
    with locked(out):
        encoders = Encoders(recipe, folder)
        if not allow_unfinished:
            warn_of_unfinished((folder, part) for part in encoders.parts)
        curriculum = recipe.diffusion.phases()
        sources = audio_sources(recipe, data, encoders, curriculum)
        for phase, source in zip(curriculum.phases, sources, strict=True):
            index = _encode_phase(
                source,
                encoded_folder(out, phase, curriculum.phases[-1]),
                target,
                dtype=dtype,
                batch_size=batch_size,
                shard_mib=shard_mib,
                progress=progress,
            )
    return index


@torch.no_grad()
def _encode_phase(
    source: AudioSource,
    out: Path,
    device: torch.device,
    *,
    dtype: str,
    batch_size: int,
    shard_mib: float | None,
    progress: Progress | None,
) -> Path:
    encoders, config = source.encoders, source.config
    resolution = {} if config.pool == 1 else {"pool": config.pool, "grid": config.grid}

    def posterior(wave: Tensor) -> tuple[Tensor, Tensor]:
        found = encoders.posterior(wave, config, device)
        return found.mean, found.logvar

    def embed_text(captions: list[str]) -> Tensor:
        return encoders.embed_text(captions, device)

    return encode_latents(
        source.sounds,
        out,
        posterior=posterior,
        embed_audio=lambda wave: encoders.embed_audio(wave, device),
        embed_text=embed_text if encoders.text is not None else None,
        metadata={
            **source.trained_against,
            "clap_text": encoders.text_id,
            "latent_scale": source.latent_scale,
            **resolution,
        },
        batch_size=batch_size,
        shard_mib=shard_mib,
        dtype=dtype,  # type: ignore[arg-type]  # checked by encode_latents
        progress=progress,
    )
