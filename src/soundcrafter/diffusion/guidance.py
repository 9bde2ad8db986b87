"""Guidance: turns a model into the function that a sampler calls.

A *model* is model(latent [B, C, T, F], t [B], cond [B, E] or [B, T', E]) -> prediction, like the
U-Net; a *predict* function is a model with its condition bound:

    predict = guided(unet, cond, uncond, scale)
    latent = sample_ddim(prediction_to_denoiser(predict, schedule), noise, times, schedule)
"""

from collections.abc import Callable

import torch
from torch import Tensor

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
    levels: Tensor | None = None,
) -> Predict:
    """Classifier-free guidance (Ho and Salimans, 2022): uncond + scale (cond - uncond).

    cond [B, E] or [B, T', E]; uncond [E], [B, E] or [B, T', E]. Both are evaluated in one batch of
    2B. With scale 1, and at times outside `interval` (the lowest and highest guided t;
    Kynkäänniemi et al., 2024), cond alone is evaluated, in a batch of B. Guided predictions are
    float32 or wider, because the scale magnifies rounding errors.

    With `levels` [B, K, T], cond is [B, K, E], the conditions of K events (see `diffusion.events`):
    each is evaluated on its own, in batches of (K + 1) B, and their predictions are averaged in
    each frame, weighted by level. At least one event has to sound in every frame.

    Raises ValueError for shapes that do not match.
    """
    batch, blend = len(cond), None
    if levels is not None:
        blend = _blend(cond, levels)
        cond = cond.flatten(0, 1)
        uncond = uncond.expand(batch, -1)
    else:
        cond, uncond = _match_shapes(cond, uncond)
    conds, each = torch.cat([cond, uncond]), len(cond) // max(batch, 1)

    def predict(latent: Tensor, t: Tensor) -> Tensor:
        if len(latent) != batch:
            raise ValueError(f"latent: got {len(latent)} samples for {batch} conditions")
        x, times = latent.repeat_interleave(each, 0), t.repeat_interleave(each, 0)
        if scale == 1 or (interval and not interval[0] <= float(t[0]) <= interval[1]):
            found = model(x, times, cond)
            return found if blend is None else blend(found)
        found = model(torch.cat([x, latent]), torch.cat([times, t]), conds)
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        conditional, unconditional = found.split([len(cond), batch])
        if blend is not None:
            conditional = blend(conditional)
        return unconditional + scale * (conditional - unconditional)

    return predict


def _blend(cond: Tensor, levels: Tensor) -> Callable[[Tensor], Tensor]:
    """The function that averages predictions of K events [B K, C, T, F] to [B, C, T, F]."""
    if cond.ndim != 3 or levels.ndim != 3 or cond.shape[:2] != levels.shape[:2]:
        raise ValueError(
            f"cond {list(cond.shape)}, levels {list(levels.shape)}; allowed: [B, K, E], [B, K, T]"
        )
    if not bool((levels >= 0).all() and (levels.sum(1) > 0).all()):
        raise ValueError("levels: must not be negative, and above 0 for one event in each frame")
    weights = (levels / levels.sum(1, keepdim=True))[:, :, None, :, None]

    def blend(predictions: Tensor) -> Tensor:
        apart = predictions.unflatten(0, cond.shape[:2])
        return (weights.to(apart) * apart).sum(1)

    return blend


def prediction_to_denoiser(predict: Predict, schedule: Schedule) -> Denoise:
    """The function that samplers take: x and one scalar t for the whole batch -> (x0, eps)."""

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        prediction = predict(x, t.expand(len(x)))
        return schedule.denoised(prediction, x, t)

    return denoise


def _match_shapes(cond: Tensor, uncond: Tensor) -> tuple[Tensor, Tensor]:
    """Expand both to [B, E], or both to [B, T', E]: a vector is a constant timeline."""
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
