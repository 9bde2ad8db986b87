"""Encoding a manifest once with a model's VAE and CLAP, for training the U-Net from it."""

from pathlib import Path

import torch
from torch import Tensor

from soundcrafter.data.encode import Progress, encode
from soundcrafter.pipeline import choose_device
from soundcrafter.train.diffusion import AudioSource
from soundcrafter.train.recipe import Recipe


def encode_data(
    recipe: Recipe,
    data: Path,
    folder: Path,
    out: Path,
    *,
    device: str = "auto",
    dtype: str = "float32",
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Path:
    """Write what the diffusion stage of `recipe` draws from `data` as latents and embeddings.

    The model folder needs `vae` and `clap_audio`, and `clap_text` where the condition is text.
    Returns the index file. Raises ValueError where the recipe's data.variants is 0.
    """
    target = choose_device(device)
    with_text = recipe.diffusion.text_share > 0
    source = AudioSource(recipe, data, folder, with_text)

    def posterior(wave: Tensor) -> tuple[Tensor, Tensor]:
        found = source.posterior(wave, target)
        return found.mean, found.logvar

    with torch.no_grad():
        return encode(
            source.sounds,
            out,
            posterior=posterior,
            embed_audio=lambda wave: source.embed_audio(wave, target),
            embed_text=(lambda captions: source.embed_text(captions, target))
            if with_text
            else None,
            metadata={
                **source.trained_against,
                "clap_text": source.text_id,
                "latent_scale": source.latent_scale,
            },
            batch_size=batch_size,
            dtype=dtype,  # type: ignore[arg-type]  # encode() refuses other names
            progress=progress,
        )
