"""From latents to waves in pieces that bound memory: `codec` in NumPy."""

from collections.abc import Callable

import numpy as np

from soundcrafter.onnx.folder import LatentSettings, VocoderSettings
from soundcrafter.onnx.noise import TorchGenerator
from soundcrafter.onnx.windows import Array, blend_windows

PIECE_SECONDS = 10.24  # longer latents are decoded in overlapping windows

Vocode = Callable[[Array, Array | None], Array]  # mel [1, 1, T, F], phases -> wave [1, N]


def decode(
    latent: Array, run: Callable[[Array], Array], settings: LatentSettings, frame_seconds: float
) -> Array:
    """latent [1, C, T, F] -> log-mel [1, 1, T', F']; `run` is the decoder."""
    window, frames = round(PIECE_SECONDS / frame_seconds), latent.shape[2]
    if frames <= window:
        return run(latent)
    return blend_windows(
        lambda span: run(latent[:, :, span]), frames, window, window // 4, settings.mel_frames
    )


def vocode(mel: Array, run: Vocode, settings: VocoderSettings) -> Array:
    """log-mel [1, 1, T, F] -> wave [N]; see `codec.vocode_in_pieces`. `run` is the vocoder."""
    count, context, hop = mel.shape[2], settings.context, settings.mel.hop
    piece = max(round(settings.piece_seconds * settings.mel.sample_rate / hop), 6 * context)
    phases = _Phases(settings.phase_bins) if settings.phase_bins else None
    if count <= piece + context:
        return run(mel, None if phases is None else phases.between(0, count + 2))[0]
    out = np.empty(count * hop, np.float32)
    end = 0
    while end < count:
        start, low = end, max(end - context, 0)
        end = min(low + piece, count)
        high = min(end + context, count)
        wave = run(mel[:, :, low:high], None if phases is None else phases.between(low, high + 2))
        out[start * hop : end * hop] = wave[0, (start - low) * hop : (end - low) * hop]
    return out


class _Phases:
    """`models.griffin_lim.PhaseStream`, seed 0."""

    def __init__(self, bins: int) -> None:
        self._generator, self._start = TorchGenerator(0), 0
        self._rows = np.empty((0, bins), np.float32)

    def between(self, low: int, high: int) -> Array:
        """Rows low to high [1, high - low, bins]; `low` never decreases."""
        missing = max(high - self._start - len(self._rows), 0)
        drawn = self._generator.rand((missing, self._rows.shape[1]))
        self._rows = np.concatenate([self._rows, drawn])[low - self._start :]
        self._start = low
        return self._rows[None, : high - low]
