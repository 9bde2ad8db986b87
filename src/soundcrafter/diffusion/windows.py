"""Process long latents and large batches in pieces, so that memory does not grow with them.

`windowed`, `looped` and `with_batch_limit` take a model and return one, so they go inside `guided`:

    predict = guided(windowed(unet, window, overlap), cond, uncond, scale)
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from soundcrafter.diffusion.guidance import Model


def windowed(model: Model, window: int, overlap: int) -> Model:
    """A model that evaluates latents longer than `window` frames (dim 2) in overlapping windows.

    Predictions are blended (MultiDiffusion: Bar-Tal et al., 2023), see `blend_windows`. A latent of
    at most `window` frames is passed to the model unchanged.

    cond [B, E] applies to every window. cond [B, T', E] spans the whole latent: the timeline is
    resampled to one entry per latent frame, and each window gets its own part. Raises ValueError
    for an overlap outside [0, window).
    """
    if not 0 <= overlap < window:
        raise ValueError(f"overlap: got {overlap}; allowed: 0 to {window - 1}, below the window")

    def windowed_model(latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        frames = latent.shape[2]
        if frames <= window:
            return model(latent, t, cond)
        timeline = stretch_timeline(cond, frames) if cond.ndim == 3 else None

        def predict(span: slice) -> Tensor:
            return model(latent[:, :, span], t, cond if timeline is None else timeline[:, span])

        return blend_windows(predict, frames, window, overlap)

    return windowed_model


def looped(model: Model) -> Model:
    """A model for latents whose end is followed by their start.

    At every time step the latent is rolled by another number of frames, so that no edge stays one.
    """

    def looped_model(latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        # multiples of the golden ratio spread evenly over the frames
        shift = round(float(t[0]) * 0.6180339887 * latent.shape[2]) % latent.shape[2]
        if cond.ndim == 3:
            cond = stretch_timeline(cond, latent.shape[2]).roll(shift, 1)
        return model(latent.roll(shift, 2), t, cond).roll(-shift, 2)

    return looped_model


def with_batch_limit(model: Model, limit: int) -> Model:
    """A model that evaluates at most `limit` samples of a batch at once.

    Raises ValueError for a limit below 1.
    """
    if limit < 1:
        raise ValueError(f"limit: got {limit}; allowed: 1 or more")

    def limited_model(latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        parts = zip(latent.split(limit), t.split(limit), cond.split(limit), strict=True)
        return torch.cat([model(*part) for part in parts])

    return limited_model


def blend_windows(
    apply: Callable[[slice], Tensor], frames: int, window: int, overlap: int, scale: int = 1
) -> Tensor:
    """Blend apply(span) [B, C, window * scale, F] over the windows of a longer sequence.

    Returns [B, C, frames * scale, F], float32 or wider. Each span has `window` frames, and windows
    start every window - overlap frames; the last one ends with the sequence. Triangular weights sum
    to one on every frame. Windows are evaluated one at a time.
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
    """The first frame of each window; the last window ends with the sequence."""
    return [*range(0, frames - window, window - overlap), frames - window]


def blend_weights(starts: list[int], window: int, frames: int) -> Tensor:
    """Triangular weights [windows, window], float32, scaled to sum to one on every frame."""
    ramp = torch.arange(1, window + 1, dtype=torch.float64)
    triangle = torch.minimum(ramp, ramp.flip(0))
    sums = torch.zeros(frames, dtype=torch.float64)
    for start in starts:
        sums[start : start + window] += triangle
    return torch.stack([triangle / sums[start : start + window] for start in starts]).float()


def stretch_timeline(cond: Tensor, frames: int) -> Tensor:
    """Linear resampling, as in the U-Net: cond [B, T', E] -> [B, frames, E]."""
    return F.interpolate(cond.mT, size=frames, mode="linear").mT
