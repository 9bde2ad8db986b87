"""Guidance and long latents: wrappers that turn a model into what a sampler calls.

A *model* is model(latent [B, C, T, F], t [B], cond [B, E] or [B, T', E]) -> prediction, as the
U-Net; a *predict* is the same with the condition closed over. They compose in one order:

    predict = guided(windowed(unet, window, overlap), cond, uncond, scale)
    latent = sample_ddim(prediction_to_denoiser(predict, schedule), noise, times, schedule)

`windowed` takes a model and returns a model, because it alone knows which part of a condition
timeline belongs to which window; `guided` then hands it both halves of the guided batch at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from soundcrafter.diffusion.samplers import Denoise
from soundcrafter.diffusion.schedule import Schedule

Model = Callable[[Tensor, Tensor, Tensor], Tensor]
Predict = Callable[[Tensor, Tensor], Tensor]


def guided(
    model: Model,
    cond: Tensor,
    uncond: Tensor,
    scale: float,
    interval: tuple[float, float] | None = None,
) -> Predict:
    """Classifier-free guidance (Ho and Salimans, 2022): uncond + scale (cond - uncond).

    cond [B, E] or [B, T', E]; uncond [E], [B, E] or [B, T', E]. Both halves go through the model as
    one batch of 2B; scale 1 needs the condition alone: one pass of B. So do times outside
    `interval` (lowest and highest t that are guided; Kynkäänniemi et al., 2024). Guided predictions
    are float32 (or wider), for scale magnifies rounding. ValueError where shapes do not fit.
    """
    cond, uncond = _match(cond, uncond)
    halves = torch.cat([cond, uncond])

    def predict(latent: Tensor, t: Tensor) -> Tensor:
        if len(latent) != len(cond):
            raise ValueError(f"latent: got {len(latent)} samples for {len(cond)} conditions")
        if scale == 1 or (interval and not interval[0] <= float(t[0]) <= interval[1]):
            return model(latent, t, cond)
        both = model(torch.cat([latent, latent]), torch.cat([t, t]), halves)
        given, free = both.to(torch.promote_types(both.dtype, torch.float32)).chunk(2)
        return free + scale * (given - free)

    return predict


def prediction_to_denoiser(predict: Predict, schedule: Schedule) -> Denoise:
    """The samplers' contract from a predict: one scalar t for the whole batch -> (x0, eps)."""

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        prediction = predict(x, t.expand(len(x)))
        return schedule.denoised(prediction, x, t)

    return denoise


def windowed(model: Model, window: int, overlap: int, batch: int = 1) -> Model:
    """The model over latents longer than `window` frames (dim 2), by overlapping windows.

    Windows start every window - overlap frames, the last one ends with the latent. Predictions are
    blended (MultiDiffusion: Bar-Tal et al., 2023) by triangular weights that sum to one on every
    frame. At most `batch` windows are in flight at once, so memory does not grow with length; the
    result does not depend on it. A latent of at most `window` frames goes to the model untouched.

    cond [B, E] holds for every window. cond [B, T', E] spans the whole latent, so each window gets
    its own part: the timeline is stretched to one entry per latent frame, then cut as the latent
    is. ValueError for overlap outside [0, window) or a batch below 1.
    """
    if not 0 <= overlap < window:
        raise ValueError(f"overlap: got {overlap}; allowed: 0 to {window - 1}, below the window")
    if batch < 1:
        raise ValueError(f"batch: got {batch}; must be at least 1")

    def long_model(latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        frames = latent.shape[2]
        if frames <= window:
            return model(latent, t, cond)
        timeline = stretch_timeline(cond, frames) if cond.ndim == 3 else cond
        starts = window_starts(frames, window, overlap)
        weights = blend_weights(starts, window, frames).to(latent.device)
        # float32 for the sum of weighted predictions, whatever the model computes in
        total = torch.zeros_like(latent, dtype=torch.promote_types(latent.dtype, torch.float32))
        for first in range(0, len(starts), batch):
            group = starts[first : first + batch]
            predictions = _predict_group(model, latent, t, timeline, group, window)
            for i, prediction in enumerate(predictions, first):
                span = slice(starts[i], starts[i] + window)
                total[:, :, span] += weights[i, :, None] * prediction
        return total

    return long_model


def in_parts(model: Model, rows: int) -> Model:
    """The model with at most `rows` of a batch in flight at once: memory does not grow with it.

    ValueError for rows below 1.
    """
    if rows < 1:
        raise ValueError(f"rows: got {rows}; must be at least 1")

    def split_model(latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        if len(latent) <= rows:
            return model(latent, t, cond)
        parts = zip(latent.split(rows), t.split(rows), cond.split(rows), strict=True)
        return torch.cat([model(*part) for part in parts])

    return split_model


def stretch_timeline(cond: Tensor, frames: int) -> Tensor:
    """cond [B, T', E] as [B, frames, E], linear in time, as the U-Net itself stretches it."""
    return functional.interpolate(cond.mT, size=frames, mode="linear").mT


def _predict_group(
    model: Model, latent: Tensor, t: Tensor, cond: Tensor, starts: list[int], window: int
) -> tuple[Tensor, ...]:
    spans = [slice(start, start + window) for start in starts]
    crops = torch.cat([latent[:, :, span] for span in spans])
    conds = torch.cat([cond[:, span] if cond.ndim == 3 else cond for span in spans])
    return model(crops, t.repeat(len(spans)), conds).chunk(len(spans))


def window_starts(frames: int, window: int, overlap: int) -> list[int]:
    """First frames of the windows over `frames`, more than a window: the last ends with them."""
    return [*range(0, frames - window, window - overlap), frames - window]


def blend_weights(starts: list[int], window: int, frames: int) -> Tensor:
    """float32 [windows, window]: triangles, scaled so that each frame's weights sum to one."""
    ramp = torch.arange(1, window + 1, dtype=torch.float64)
    triangle = torch.minimum(ramp, ramp.flip(0))
    sums = torch.zeros(frames, dtype=torch.float64)
    for start in starts:
        sums[start : start + window] += triangle
    return torch.stack([triangle / sums[start : start + window] for start in starts]).float()


def _match(cond: Tensor, uncond: Tensor) -> tuple[Tensor, Tensor]:
    """Both as [B, E], or both as [B, T', E]: a constant timeline equals its single vector."""
    shapes = f"cond {list(cond.shape)}, uncond {list(uncond.shape)}"
    if cond.ndim not in (2, 3) or uncond.ndim not in (1, 2, 3):
        raise ValueError(f"{shapes}; allowed: [B, E] or [B, T, E], and [E] for uncond")
    if uncond.ndim == 1:
        uncond = uncond[None]
    if cond.ndim == 3 and uncond.ndim == 2:
        uncond = uncond[:, None]
    if uncond.ndim == 3 and cond.ndim == 2:
        cond = cond[:, None].expand(-1, uncond.shape[1], -1)
    try:
        return cond, uncond.expand_as(cond)
    except RuntimeError:
        raise ValueError(f"{shapes}: batch, timeline and embedding sizes must agree") from None
