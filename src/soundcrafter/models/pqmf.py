"""PQMF: a filter bank that splits a wave into equal sub-bands and merges them again."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TAPS = 62  # filter order, even
_CUTOFF = 0.142  # of the prototype filter for 4 bands; 1 is Nyquist
_BETA = 9.0  # of the Kaiser window


class PQMF(nn.Module):
    """Cosine-modulated filter bank with near-perfect reconstruction.

    Nguyen, "Near-perfect-reconstruction pseudo-QMF banks" (1994), with the prototype filter of
    Multi-band MelGAN (arXiv 2005.05106), a Kaiser window. `synthesis` is `bands` times the adjoint
    of `analysis`, so the pair has zero phase and no delay. White noise is reconstructed at 64 dB,
    except for the first and last 31 samples, where the filters reach past the ends.
    """

    filters: Tensor

    def __init__(self, bands: int = 4) -> None:
        super().__init__()
        self.bands = bands
        self.register_buffer("filters", _analysis_filters(bands), persistent=False)

    def analysis(self, wave: Tensor) -> Tensor:
        """wave [B, N] -> sub-bands [B, bands, N / bands], float32. N: a multiple of bands."""
        if wave.shape[-1] % self.bands:
            raise ValueError(
                f"PQMF: {wave.shape[-1]} samples; the length must be a multiple of {self.bands}"
            )
        with torch.autocast(wave.device.type, enabled=False):
            return F.conv1d(
                wave[:, None].float(),
                self.filters,
                stride=self.bands,
                padding=_TAPS // 2,
            )

    def synthesis(self, sub_bands: Tensor) -> Tensor:
        """sub-bands [B, bands, N / bands] -> wave [B, N], float32."""
        with torch.autocast(sub_bands.device.type, enabled=False):
            wave = F.conv_transpose1d(
                sub_bands.float(),
                self.filters * self.bands,
                stride=self.bands,
                padding=_TAPS // 2,
                output_padding=self.bands - 1,
            )
        return wave[:, 0]


def _analysis_filters(bands: int) -> Tensor:
    """[bands, 1, taps + 1]."""
    n = torch.arange(_TAPS + 1, dtype=torch.float64) - _TAPS / 2
    window = torch.kaiser_window(_TAPS + 1, periodic=False, beta=_BETA, dtype=torch.float64)
    prototype = _CUTOFF * torch.sinc(_CUTOFF * n) * window
    k = torch.arange(bands, dtype=torch.float64)[:, None]
    # alternating phases of pi/4 cancel the aliasing between neighbouring bands
    phase = (1 - 2 * (k % 2)) * math.pi / 4
    filters = 2 * prototype * torch.cos((2 * k + 1) * math.pi / (2 * bands) * n + phase)
    return filters[:, None].float()
