"""Sounds without an end: windows that each continue the one before."""

import math
from collections.abc import Iterator

import numpy as np
import torch

from soundcrafter.audio import limit_peak
from soundcrafter.conditions import Conditions
from soundcrafter.generator import Generator, Given
from soundcrafter.request import GenerateRequest
from soundcrafter.timeline import Timeline

OVERLAP = 4  # the part of a window that it shares with the one before: one in OVERLAP
_QUIET = math.log(100)  # nats below the loudest of a mel: 40 dB


def endless(model: Generator, request: GenerateRequest) -> Iterator[np.ndarray]:
    """Yield waves [N] at the model's rate that together are one sound without an end.

    A window has the length of the request; its first quarter is the last one of the window before,
    kept as in inpainting, so that the sound goes on. After a quarter of silence, in which a single
    sound has ended, the window begins anew, because what continues silence is silence. Window k
    uses the noise of seed + k. All are scaled alike, so that the first does not exceed full scale.
    """
    stride, context = model.vae.config.stride[0], model.vocoder.config.context
    frames = model.latent_frames(request.seconds)
    overlap = max(1, frames // OVERLAP)
    if (frames - overlap) * stride <= context:
        least = math.ceil((context / stride + 1) * OVERLAP / (OVERLAP - 1)) + 1
        raise ValueError(
            f"window: got {request.seconds:g} s; allowed with this model: at least "
            f"{math.ceil(10 * least * model.codec.frame_seconds) / 10:g} s"
        )
    windows = _windows(model, request, frames, overlap)
    return _scaled(model.codec.stream(windows, overlap * stride))


def _windows(
    model: Generator, request: GenerateRequest, frames: int, overlap: int
) -> Iterator[torch.Tensor]:
    """The log-mels [1, 1, T, F] of the windows."""
    (job,) = request.jobs()
    assert not isinstance(job.prompt, Timeline), "a timeline has an end"
    with torch.inference_mode():
        cond = model.embed_prompt(job.prompt, request, Given())
        conds = Conditions((), cond[None])
        uncond = model.embed_negative(job.negative)[None]
    given, seed = Given(), job.seed
    while True:
        noise = model.noise_of(seed, frames).to(model.device)
        with torch.inference_mode():
            latent = model.sample_latent(request, noise, conds, uncond, [seed], given)
        mel = model.decode(latent)
        yield mel
        last = mel[:, :, -overlap * model.vae.config.stride[0] :]
        is_over = bool(last.max() < mel.max() - _QUIET)
        given = Given() if is_over else _continuing(latent, overlap)
        seed = (seed + 1) % 2**64


def _continuing(latent: torch.Tensor, overlap: int) -> Given:
    """What a window is given that begins with the end of the last latent [1, C, T, F]."""
    start = torch.zeros_like(latent)
    start[:, :, :overlap] = latent[:, :, -overlap:]
    mask = latent.new_ones(1, 1, latent.shape[2], 1)
    mask[:, :, :overlap] = 0.0
    return Given(start=start, mask=mask)


def _scaled(waves: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Scale all waves as the first needs it."""
    scale: np.float32 | None = None
    for wave in waves:
        if scale is None:
            peak = max(float(np.abs(wave).max(initial=0.0)), 1e-9)
            scale = np.float32(float(np.abs(limit_peak(wave)).max(initial=0.0)) / peak)
        yield (wave * scale).clip(-1.0, 1.0)
