"""From noise to a latent: shared by generation, training previews and benchmarks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from soundcrafter.diffusion.config import SamplingConfig
from soundcrafter.diffusion.guidance import Model, guided, prediction_to_denoiser
from soundcrafter.diffusion.samplers import SAMPLERS, Denoise, Noise
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.diffusion.windows import looped, windowed, with_batch_limit
from soundcrafter.progress import Progress


def sample(
    model: Model,
    schedule: Schedule,
    settings: SamplingConfig,
    noise: Tensor,
    cond: Tensor,
    *,
    uncond: Tensor,
    levels: Tensor | None = None,
    loop: bool = False,
    seeds: Sequence[int] = (),
    window: int | None = None,
    batch_limit: int | None = None,
    start: Tensor | None = None,
    strength: float = 1.0,
    mask: Tensor | None = None,
    callback: Progress | None = None,
) -> Tensor:
    """Denoise noise [B, C, T, F] in `settings.steps` guided steps; returns a latent [B, C, T, F].

    Args:
        model: see `guidance`.
        schedule: the model's noise schedule.
        settings: sampler, time steps and guidance.
        noise: initial noise [B, C, T, F].
        cond: condition [B, E], or [B, T', E] if it changes over time.
        uncond: what guidance moves away from, [E], [B, E] or [B, T', E]: the null condition or the
            embedding of a negative prompt.
        levels: for masked composition, the levels [B, K, T] of K events in each latent frame; cond
            is then [B, K, E], their conditions, and uncond [E] or [B, E]. See `guided`.
        loop: the latent's end is followed by its start, see `looped`.
        seeds: one per sample, for the noise that stochastic samplers add.
        window: latents of more frames than this are denoised in overlapping windows.
        batch_limit: the largest batch that the model gets at once.
        start: a given latent [B, C, T, F] to begin from.
        strength: share of the steps to take, 0 to 1, beginning from `start` with the noise of the
            first step taken; 1 begins from noise alone, 0 returns `start`.
        mask: 1 where the latent is generated, 0 where it keeps `start`, blended in between;
            broadcasts to the latent.
        callback: called with (steps done, all steps) after each step.

    Raises ValueError for arguments that do not match.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength: got {strength}; allowed: 0 to 1")
    if start is None and (strength < 1 or mask is not None):
        raise ValueError("start: required for a strength below 1 and for a mask")
    times = schedule.sampling_times(settings.steps, settings.spacing)
    times = times[len(times) - round(strength * len(times)) :].to(noise.device)
    if start is not None and not len(times):
        if callback is not None:
            callback(1, 1)
        return start
    denoise = _denoiser(model, schedule, settings, cond, uncond, levels, loop, window, batch_limit)
    x = noise
    if start is not None:
        noised = schedule.add_noise(start, noise, times[0])
        x = noised if strength < 1 else noise
        if mask is not None:
            mask = mask.to(x)
            x, denoise = torch.lerp(noised, x, mask), _inpainting(denoise, schedule, start, mask)
    sampler, extra = SAMPLERS[settings.sampler], dict[str, Any]()
    if sampler.adds_noise:
        extra["noise"] = step_noise(seeds, noise)
    if settings.end == "first_step":
        extra["final_alpha_bar"] = float(schedule.alpha_bar[0])
    x = sampler.function(denoise, x, times, schedule, callback=callback, **extra)
    return x if start is None or mask is None else torch.lerp(start, x, mask)


def step_noise(seeds: Sequence[int], like: Tensor) -> Noise:
    """The noise that a sampler adds at each step, shaped like `like` [B, ...].

    It depends only on a sample's own seed and the step, not on the batch. Raises ValueError unless
    there is one seed per sample.
    """
    if len(seeds) != len(like):
        raise ValueError(
            f"seeds: got {len(seeds)} for {len(like)} samples; expected one per sample"
        )

    def noise(step: int) -> Tensor:
        rows = []
        for seed in seeds:
            # an odd constant separates neighbouring seeds and steps; this is the golden ratio's
            generator = torch.Generator().manual_seed((seed * 0x9E3779B9 + step + 1) % (2**63 - 1))
            rows.append(torch.randn(like.shape[1:], generator=generator))
        return torch.stack(rows).to(like.device)

    return noise


def _denoiser(
    model: Model,
    schedule: Schedule,
    settings: SamplingConfig,
    cond: Tensor,
    uncond: Tensor,
    levels: Tensor | None,
    loop: bool,
    window: int | None,
    batch_limit: int | None,
) -> Denoise:
    """Build the guided denoiser; windowing and the batch limit apply inside guidance."""
    if batch_limit is not None:
        model = with_batch_limit(model, batch_limit)
    if window is not None:
        model = windowed(model, window, overlap=window // 4)
    if loop:
        model = looped(model)
    low, high, last = settings.guidance_from, settings.guidance_until, schedule.config.steps
    interval = None if (low, high) == (0.0, 1.0) else (low * last, high * last)
    predict = guided(model, cond, uncond, settings.guidance, interval, levels)
    return prediction_to_denoiser(predict, schedule)


def _inpainting(denoise: Denoise, schedule: Schedule, start: Tensor, mask: Tensor) -> Denoise:
    """A denoiser that returns `start` where the mask is 0.

    There x is always `start` with noise of the current level (compare RePaint: Lugmayr et al.,
    2022).
    """

    def inpaint(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x0, eps = denoise(x, t)
        alpha, sigma = schedule.coefficients(t)
        return torch.lerp(start, x0, mask), torch.lerp((x - alpha * start) / sigma, eps, mask)

    return inpaint
