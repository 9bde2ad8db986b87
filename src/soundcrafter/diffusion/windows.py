"""Long latents and large batches in pieces, so that memory does not grow with them.

`windowed` and `in_parts` take a model and return a model, so they go inside `guided`:

    predict = guided(windowed(unet, window, overlap), cond, uncond, scale)
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from soundcrafter.diffusion.guidance import Model


def windowed(model: Model, window: int, overlap: int) -> Model:
    """The model over latents longer than `window` frames (dim 2), by overlapping windows.

    Predictions are blended (MultiDiffusion: Bar-Tal et al., 2023), see `blend_windows`. A latent of
    at most `window` frames goes to the model untouched.

    cond [B, E] holds for every window. cond [B, T', E] spans the whole latent, so each window gets
    its own part: the timeline is stretched to one entry per latent frame, then cut as the latent
    is. ValueError for an overlap outside [0, window).
    """
    if not 0 <= overlap < window:
        raise ValueError(f"overlap: got {overlap}; allowed: 0 to {window - 1}, below the window")

    def long_model(latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        frames = latent.shape[2]
        if frames <= window:
            return model(latent, t, cond)
        timeline = stretch_timeline(cond, frames) if cond.ndim == 3 else None

        def predict(span: slice) -> Tensor:
            return model(latent[:, :, span], t, cond if timeline is None else timeline[:, span])

        return blend_windows(predict, frames, window, overlap)

    return long_model


def in_parts(model: Model, rows: int) -> Model:
    """The model with at most `rows` of a batch in flight at once. ValueError for rows below 1."""
    if rows < 1:
        raise ValueError(f"rows: got {rows}; must be at least 1")

    def split_model(latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        if len(latent) <= rows:
            return model(latent, t, cond)
        parts = zip(latent.split(rows), t.split(rows), cond.split(rows), strict=True)
        return torch.cat([model(*part) for part in parts])

    return split_model


def blend_windows(
    apply: Callable[[slice], Tensor], frames: int, window: int, overlap: int, scale: int = 1
) -> Tensor:
    """Blend apply(span), [B, C, window * scale, F], over overlapping windows of more than `window`
    frames: [B, C, frames * scale, F], float32 or wider.

    Each span holds `window` frames. Windows start every window - overlap frames; the last one ends
    with the frames. Triangular weights sum to one on every frame. One window is in flight at once.
    """
    starts = window_starts(frames, window, overlap)
    weights = blend_weights([scale * start for start in starts], scale * window, scale * frames)
    total: Tensor | None = None
    for start, weight in zip(starts, weights, strict=True):
        piece = apply(slice(start, start + window))
        if total is None:
            dtype = torch.promote_types(piece.dtype, torch.float32)
            total = piece.new_zeros(*piece.shape[:2], scale * frames, piece.shape[3], dtype=dtype)
        span = slice(scale * start, scale * (start + window))
        total[:, :, span] += weight.to(piece.device)[:, None] * piece
    assert total is not None
    return total


def window_starts(frames: int, window: int, overlap: int) -> list[int]:
    """First frames of the windows over more than `window` frames: the last one ends with them."""
    return [*range(0, frames - window, window - overlap), frames - window]


def blend_weights(starts: list[int], window: int, frames: int) -> Tensor:
    """float32 [windows, window]: triangles, scaled so that each frame's weights sum to one."""
    ramp = torch.arange(1, window + 1, dtype=torch.float64)
    triangle = torch.minimum(ramp, ramp.flip(0))
    sums = torch.zeros(frames, dtype=torch.float64)
    for start in starts:
        sums[start : start + window] += triangle
    return torch.stack([triangle / sums[start : start + window] for start in starts]).float()


def stretch_timeline(cond: Tensor, frames: int) -> Tensor:
    """cond [B, T', E] as [B, frames, E], linear in time, as the U-Net itself stretches it."""
    return functional.interpolate(cond.mT, size=frames, mode="linear").mT
