"""From noise to a latent: the one way that generation, training previews and benchmarks share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from soundcrafter.diffusion.guidance import Model, guided, prediction_to_denoiser
from soundcrafter.diffusion.samplers import SAMPLERS, STOCHASTIC, Denoise, Noise
from soundcrafter.diffusion.schedule import Schedule, Spacing
from soundcrafter.diffusion.windows import in_parts, windowed
from soundcrafter.progress import Progress

SECONDS_RANGE = (0.2, 600.0)
MAX_SEED = 2**64 - 1  # the largest that torch's generators take
MAX_STEPS = 10_000
MAX_CANDIDATES = 100


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How a model makes a sound where the caller does not say otherwise."""

    sampler: Literal["ddim", "ddpm", "euler", "heun", "dpmpp", "lcm"] = "ddim"  # see samplers.py
    spacing: Spacing = "trailing"  # choice of time steps
    # What the last step leaves: no noise, or that of the first training step (AudioLDM's ddim).
    end: Literal["clean", "first_step"] = "clean"
    steps: int = 25  # sampling steps; guidance and heun each double the U-Net evaluations of one
    guidance: float = 2.5  # strength of classifier-free guidance; 1 turns it off
    # Guidance is applied between these fractions of the training steps, from none to all noise.
    guidance_from: float = 0.0
    guidance_until: float = 1.0
    reuse: int = 1  # steps that share the U-Net's inner levels; 1: each computes its own
    negative: str = ""  # what guidance leads away from; empty: the null condition
    candidates: int = 1  # initial noises drafted for each sound; CLAP chooses one
    draft_steps: int = 4  # sampling steps of a draft
    seconds: float = 5.0  # length of a sound
    window: float = 30.0  # seconds beyond which overlapping windows are denoised

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler: got {self.sampler!r}; allowed: {', '.join(SAMPLERS)}")
        for name in ("steps", "draft_steps", "reuse"):
            check_range(name, getattr(self, name), 1, MAX_STEPS)
        check_range("candidates", self.candidates, 1, MAX_CANDIDATES)
        if self.end == "first_step" and self.sampler != "ddim":
            raise ValueError(f"end: got {self.end} with sampler {self.sampler}; allowed with ddim")
        if self.reuse > 1 and self.sampler == "heun":  # which evaluates each time twice
            raise ValueError(f"reuse: got {self.reuse} with sampler heun; allowed: 1")
        if not 0 <= self.guidance_from < self.guidance_until <= 1:
            raise ValueError(
                f"guidance_from, guidance_until: got {self.guidance_from}, {self.guidance_until}; "
                "two rising numbers from 0 to 1"
            )
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise ValueError(f"guidance: got {self.guidance:g}; at least 0")
        low, high = SECONDS_RANGE
        if not low <= self.seconds <= high:  # nan fails too
            raise ValueError(f"seconds: got {self.seconds:g}; allowed: {low:g} to {high:g}")
        if not self.window > 0:
            raise ValueError(f"window: got {self.window:g}; it must be above 0")


def check_range(name: str, value: int, least: int, most: int) -> None:
    """Raise ValueError for a setting that is not within these bounds."""
    if not least <= value <= most:
        raise ValueError(f"{name}: got {value}; allowed: {least} to {most}")


def sample(
    model: Model,
    schedule: Schedule,
    settings: SamplingConfig,
    noise: Tensor,
    cond: Tensor,
    *,
    uncond: Tensor,
    seeds: Sequence[int] = (),
    window: int | None = None,
    rows: int | None = None,
    start: Tensor | None = None,
    strength: float = 1.0,
    mask: Tensor | None = None,
    callback: Progress | None = None,
) -> Tensor:
    """Denoise noise [B, C, T, F] by `settings.steps` guided steps: a latent [B, C, T, F].

    `settings` choose the sampler, its times and where it ends, and the guidance. cond [B, E], or
    [B, T', E] where the condition changes over time; uncond [E], [B, E] or [B, T', E] is what
    guidance leads away from: the null condition or a negative prompt's. seeds: one per row, for the
    noise that stochastic samplers add. window: latents of more frames are denoised by overlapping
    windows. rows: the most of a batch that the model gets at once.

    start [B, C, T, F] is a given latent. strength, 0 to 1, is the share of the steps that are
    taken, from the start with as much noise as is left then; 1 begins with noise alone, 0 returns
    the start. mask, which broadcasts to the latent, is 1 where it is made anew and 0 where it keeps
    the start; between them both are blended. ValueError for what does not fit.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength: got {strength}; allowed: 0 to 1")
    if start is None and (strength < 1 or mask is not None):
        raise ValueError("start: strength below 1 and mask need a latent to start from")
    times = schedule.sampling_times(settings.steps, settings.spacing)
    times = times[len(times) - round(strength * len(times)) :]
    if start is not None and not len(times):
        return start
    denoise, x = _denoiser(model, schedule, settings, cond, uncond, window, rows), noise
    if start is not None:
        noised = schedule.add_noise(start, noise, times[0])
        x = noised if strength < 1 else noise
        if mask is not None:
            mask = mask.to(x)
            x, denoise = torch.lerp(noised, x, mask), _keeping(denoise, schedule, start, mask)
    extra: dict[str, Any] = {}
    if settings.sampler in STOCHASTIC:
        extra["noise"] = step_noise(seeds, noise)
    if settings.end == "first_step":
        extra["final_alpha_bar"] = float(schedule.alpha_bar[0])
    x = SAMPLERS[settings.sampler](denoise, x, times, schedule, callback=callback, **extra)
    return x if start is None or mask is None else torch.lerp(start, x, mask)


def step_noise(seeds: Sequence[int], like: Tensor) -> Noise:
    """What a sampler adds at each step, shaped like `like` [B, ...]: it depends on a sample's own
    seed and the step alone, whatever the batch. ValueError where a seed is missing."""
    if len(seeds) != len(like):
        raise ValueError(f"seeds: got {len(seeds)} for {len(like)} samples; one per sample")

    def noise(step: int) -> Tensor:
        rows = []
        for seed in seeds:
            # any odd constant spreads neighbouring seeds and steps; this is the golden ratio's
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
    window: int | None,
    rows: int | None,
) -> Denoise:
    """guided(windowed(in_parts(model))): the guided batch [2B, C, T, F] is cut into windows along
    time, and each window into parts along the batch; both are joined before guidance."""
    if rows is not None:
        model = in_parts(model, rows)
    if window is not None:
        model = windowed(model, window, overlap=window // 4)
    low, high, last = settings.guidance_from, settings.guidance_until, schedule.config.steps
    interval = None if (low, high) == (0.0, 1.0) else (low * last, high * last)
    predict = guided(model, cond, uncond, settings.guidance, interval)
    return prediction_to_denoiser(predict, schedule)


def _keeping(denoise: Denoise, schedule: Schedule, start: Tensor, mask: Tensor) -> Denoise:
    """The denoiser, to which the latent is known where the mask is 0: there every sampler's x stays
    the start with noise of the step's level (compare RePaint: Lugmayr et al., 2022)."""

    def keep(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x0, eps = denoise(x, t)
        alpha, sigma = schedule.coefficients(t)
        return torch.lerp(start, x0, mask), torch.lerp((x - alpha * start) / sigma, eps, mask)

    return keep
