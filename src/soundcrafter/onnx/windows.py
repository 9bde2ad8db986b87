"""`diffusion.windows` in NumPy: long arrays in overlapping windows."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def blend_windows(
    apply: Callable[[slice], Array], frames: int, window: int, overlap: int, scale: int = 1
) -> Array:
    """Blend apply(span) [B, C, window * scale, F] over the windows of `frames` frames.

    Returns [B, C, frames * scale, F]. The windows and their triangular weights are those of
    `diffusion.windows.blend_windows`.
    """
    starts = [*range(0, frames - window, window - overlap), frames - window]
    size = scale * window
    ramp = np.arange(1, size + 1, dtype=np.float64)
    triangle = np.minimum(ramp, ramp[::-1])
    sums = np.zeros(scale * frames)
    for start in starts:
        sums[scale * start : scale * start + size] += triangle
    total: Array | None = None
    for start in starts:
        piece = apply(slice(start, start + window))
        if total is None:
            total = np.zeros((*piece.shape[:2], scale * frames, piece.shape[3]), np.float32)
        span = slice(scale * start, scale * start + size)
        weight = (triangle / sums[span]).astype(np.float32)
        total[:, :, span] += weight[:, None] * piece
    assert total is not None
    return total
