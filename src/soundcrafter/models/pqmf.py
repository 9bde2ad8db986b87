"""Pseudo-quadrature mirror filters: a wave split into equal sub-bands and put together again."""

import math
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PQMF(nn.Module):
    """Cosine-modulated filter bank with near-perfect reconstruction.

    Nguyen, "Near-perfect-reconstruction pseudo-QMF banks" (1994), prototype by a Kaiser window as
    in Multi-band MelGAN (arXiv 2005.05106). `synthesis` is `bands` times the adjoint of
    `analysis`, so the pair has zero phase: the output is aligned with the input, without delay.
    The defaults (4 bands, 62 taps, cutoff .142, beta 9) reconstruct white noise at 64 dB; only the
    first and last 31 samples, where the filters reach past the ends, are damped.
    """

    filters: Tensor

    def __init__(
        self, bands: int = 4, taps: int = 62, cutoff: float = 0.142, beta: float = 9.0
    ) -> None:
        """`taps`: filter order, even; `cutoff`: of the prototype, in (0, 1) of Nyquist."""
        super().__init__()
        if bands < 1 or taps < 2 or taps % 2:
            raise ValueError(f"PQMF: bands {bands}, taps {taps}; bands >= 1, taps even and >= 2")
        if not 0 < cutoff < 1:
            raise ValueError(f"PQMF: cutoff {cutoff}; it must lie in (0, 1), 1 is Nyquist")
        self.bands = bands
        self.taps = taps
        self.cutoff = cutoff
        self.beta = beta
        self.register_buffer("filters", self._design(), persistent=False)

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
                padding=self.taps // 2,
            )

    def synthesis(self, sub_bands: Tensor) -> Tensor:
        """sub-bands [B, bands, N / bands] -> wave [B, N], float32."""
        with torch.autocast(sub_bands.device.type, enabled=False):
            wave = F.conv_transpose1d(
                sub_bands.float(),
                self.filters * self.bands,
                stride=self.bands,
                padding=self.taps // 2,
                output_padding=self.bands - 1,
            )
        return wave[:, 0]

    def _design(self) -> Tensor:
        """The analysis filters [bands, 1, taps + 1]."""
        n = torch.arange(self.taps + 1, dtype=torch.float64) - self.taps / 2
        window = torch.kaiser_window(
            self.taps + 1, periodic=False, beta=self.beta, dtype=torch.float64
        )
        prototype = self.cutoff * torch.sinc(self.cutoff * n) * window
        k = torch.arange(self.bands, dtype=torch.float64)[:, None]
        # alternating phases of pi/4 cancel the aliasing between neighbouring bands
        phase = (1 - 2 * (k % 2)) * math.pi / 4
        filters = 2 * prototype * torch.cos((2 * k + 1) * math.pi / (2 * self.bands) * n + phase)
        return filters[:, None].float()

    def _apply(self, fn: Callable[[Tensor], Any], recurse: bool = True) -> Self:
        """Follow the device but not the dtype: 8 bits of mantissa would let aliasing through."""
        super()._apply(fn, recurse)
        self.filters = self._design().to(self.filters.device)
        return self
