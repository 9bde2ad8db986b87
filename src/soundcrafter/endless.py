"""Sounds without an end: windows that each continue the one before."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from soundcrafter.audio import limit_peak
from soundcrafter.conditions import Conditions
from soundcrafter.generator import Generator, Given
from soundcrafter.request import GenerateRequest
from soundcrafter.timeline import Timeline

OVERLAP = 4  # the part of a window that it shares with the one before: one in OVERLAP


def endless(model: Generator, request: GenerateRequest) -> Iterator[np.ndarray]:
    """Yield waves [N] at the model's rate that together are one sound without an end.

    A window has the length of the request; its first quarter is the last one of the window before,
    kept as in inpainting, so that the sound goes on. Window k uses the noise of seed + k. All are
    scaled alike, so that the first does not exceed full scale.
    """
    frames = model.latent_frames(request.seconds)
    overlap = max(1, frames // OVERLAP)
    stride, context = model.vae.config.stride[0], model.vocoder.config.context
    if (frames - overlap) * stride <= context:
        least = math.ceil((context / stride + 1) * OVERLAP / (OVERLAP - 1)) + 1
        raise ValueError(
            f"window: got {request.seconds:g} s; allowed with this model: at least "
            f"{math.ceil(10 * least * model.codec.frame_seconds) / 10:g} s"
        )
    scale: np.float32 | None = None
    for wave in model.codec.stream(_windows(model, request, frames, overlap), overlap):
        if scale is None:
            peak = float(np.abs(wave).max(initial=0.0))
            scale = np.float32(float(np.abs(limit_peak(wave)).max(initial=0.0)) / max(peak, 1e-9))
        yield (wave * scale).clip(-1.0, 1.0)


def _windows(
    model: Generator, request: GenerateRequest, frames: int, overlap: int
) -> Iterator[torch.Tensor]:
    """The latents [1, C, frames, F] of the windows."""
    (job,) = request.jobs()
    assert not isinstance(job.prompt, Timeline), "a timeline has an end"
    with torch.inference_mode():
        cond = model.embed_prompt(job.prompt, request, Given())
        conds = Conditions((), cond[None])
        uncond = model.embed_negative(job.negative)[None]
    given, seed = Given(), job.seed
    while True:
        with torch.inference_mode():
            noise = model.noise_of(seed, frames).to(model.device)
            latent = model.sample_latent(request, noise, conds, uncond, [seed], given)
        yield latent
        start = torch.zeros_like(latent)
        start[:, :, :overlap] = latent[:, :, -overlap:]
        mask = torch.ones(1, 1, frames, 1, device=latent.device)
        mask[:, :, :overlap] = 0.0
        given = replace(given, start=start, mask=mask)
        seed = (seed + 1) % 2**64
