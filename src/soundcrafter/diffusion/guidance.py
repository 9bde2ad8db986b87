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
) -> Predict:
    """Classifier-free guidance (Ho and Salimans, 2022): uncond + scale (cond - uncond).

    cond [B, E] or [B, T', E]; uncond [E], [B, E] or [B, T', E]. Both are evaluated in one batch of
    2B. With scale 1, and at times outside `interval` (the lowest and highest guided t;
    Kynkäänniemi et al., 2024), cond alone is evaluated, in a batch of B. Guided predictions are
    float32 or wider, because the scale magnifies rounding errors. Raises ValueError for shapes that
    do not match.
    """
    cond, uncond = _match_shapes(cond, uncond)
    halves = torch.cat([cond, uncond])

    def predict(latent: Tensor, t: Tensor) -> Tensor:
        if len(latent) != len(cond):
            raise ValueError(f"latent: got {len(latent)} samples for {len(cond)} conditions")
        if scale == 1 or (interval and not interval[0] <= float(t[0]) <= interval[1]):
            return model(latent, t, cond)
        both = model(torch.cat([latent, latent]), torch.cat([t, t]), halves)
        conditional, unconditional = both.to(torch.promote_types(both.dtype, torch.float32)).chunk(
            2
        )
        return unconditional + scale * (conditional - unconditional)

    return predict


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
