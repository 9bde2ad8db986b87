"""The networks as they are exported: real numbers, and only operators that are common.

The spectral vocoder transforms frames thousands of times. The transforms are matrix products in two
stages here: runtimes for GPUs and browsers have those, but not all have an operator for the DFT.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.clap_audio import ClapAudio
from soundcrafter.models.griffin_lim import MOMENTUM, inverse_filters
from soundcrafter.models.spectral import FLOOR, MAX_GAIN, SpectralVocoder
from soundcrafter.models.vae import VAE


class DecoderGraph(nn.Module):
    """The decoder of a VAE."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent: Tensor) -> Tensor:
        """latent [B, C, T, F] -> log-mel [B, 1, T', F']."""
        return self.vae.decode(latent)


class AudioGraph(nn.Module):
    """The audio tower without its spectrogram."""

    def __init__(self, audio: ClapAudio) -> None:
        super().__init__()
        self.audio = audio

    def forward(self, mel: Tensor) -> Tensor:
        """log-mel [B, 1, T, F] -> [B, E], unit norm."""
        return self.audio.embed_mel(mel)


class PhaseStart(nn.Module):
    """What the rounds of Griffin-Lim begin with, see `griffin_lim`."""

    filters: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.frames, self.edges = Frames(config.n_fft, config.hop), _edges(config)
        filters = self.frames.dft.fold(inverse_filters(config, torch.device("cpu")))
        self.register_buffer("filters", filters.flatten(-2), persistent=False)

    def forward(self, mel: Tensor, phases: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log-mel [B, 1, T, F], phases [1, T + 2, bins] in cycles -> `PhaseRound`'s arguments."""
        dft = self.frames.dft
        found = (mel[:, 0].exp() @ self.filters).clamp(min=0.0)
        found = torch.cat([found[:, :1], found, found[:, -1:]], dim=1)
        # with the weights of the inverse, which every spectrum here goes through
        magnitude = found.unflatten(-1, (dft.rows, dft.kept)) * dft.weights
        angle = 2 * math.pi * dft.fold(phases)
        spectrum = torch.cat([magnitude * angle.cos(), magnitude * angle.sin()], -1)
        coverage = self.frames.coverage(spectrum, self.edges)
        return spectrum, torch.zeros_like(spectrum), magnitude, coverage


class PhaseRound(nn.Module):
    """One round of Griffin-Lim."""

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.frames, self.edges = Frames(config.n_fft, config.hop), _edges(config)

    def forward(
        self, spectrum: Tensor, previous: Tensor, magnitude: Tensor, coverage: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Folded spectra [B, T, ...] -> the next `spectrum` and `previous`."""
        wave = self.frames.wave(spectrum, coverage, self.edges)
        padded = F.pad(wave, self.edges, mode="reflect")
        rebuilt = self.frames.spectra(padded, spectrum.shape[1])
        step = rebuilt - MOMENTUM / (1 + MOMENTUM) * previous
        real, imag = step.chunk(2, dim=-1)
        scale = magnitude / (real * real + imag * imag).clamp(min=1e-32).sqrt()
        return torch.cat([real * scale, imag * scale], -1), rebuilt


class PhaseEnd(nn.Module):
    """The spectral vocoder after Griffin-Lim."""

    def __init__(self, vocoder: SpectralVocoder) -> None:
        super().__init__()
        self.vocoder, config = vocoder, vocoder.config
        self.long = Frames(config.mel.n_fft, config.mel.hop)
        self.short = Frames(config.n_fft, config.mel.hop)
        margin = (config.n_fft - config.mel.hop) // 2
        self.long_edges, self.edges = _edges(config.mel), (margin, margin)

    def forward(self, mel: Tensor, spectrum: Tensor, coverage: Tensor) -> Tensor:
        """log-mel [B, 1, T, F], the last `spectrum` -> wave [B, T * hop]."""
        network, config, short = self.vocoder, self.vocoder.config, self.short
        hop, count = config.mel.hop, mel.shape[2]
        source = self.long.wave(spectrum, coverage, self.long_edges)
        source = source.narrow(1, hop // 2, count * hop)
        real, imag = short.dft.unfold(
            short.spectra(F.pad(source, self.edges, mode="reflect"), count)
        )
        loudness = (real * real + imag * imag).sqrt().clamp(min=FLOOR).log()
        seen = (torch.cat([mel[:, 0], loudness], dim=-1) - config.mel_mean) / config.mel_std
        x = network.input(seen)
        for block in network.blocks:
            x = block(x)
        gain, more_real, more_imag = network.output(network.norm(x)).chunk(3, dim=-1)
        gain, envelope = gain.clamp(max=MAX_GAIN).exp(), mel[:, 0].exp() @ network.spread
        real, imag = real * gain + envelope * more_real, imag * gain + envelope * more_imag
        corrected = torch.cat([short.dft.fold(real), short.dft.fold(imag)], -1)
        return short.wave(
            corrected * short.dft.both_weights,
            short.coverage(corrected, self.edges),
            self.edges,
        )


def _edges(config: MelConfig) -> tuple[int, int]:
    """The samples that the frames of Griffin-Lim reach beyond both ends of a wave."""
    return config.n_fft // 2, config.n_fft // 2


class Frames(nn.Module):
    """Spectra of overlapping frames under a Hann window, and waves of spectra."""

    window: Tensor

    def __init__(self, size: int, hop: int) -> None:
        super().__init__()
        self.size, self.hop, self.steps = size, hop, -(-size // hop)
        self.dft = Dft(size)
        self.register_buffer("window", torch.hann_window(size), persistent=False)

    def spectra(self, wave: Tensor, count: int) -> Tensor:
        """wave [B, (T - 1) * hop + size], T -> folded spectra [B, T, ...], see `Dft`.

        T is given because the exporter takes minutes to find it out in each round.
        """
        hop, steps = self.hop, self.steps
        rows = F.pad(wave, (0, steps * hop - self.size)).unflatten(1, (count + steps - 1, hop))
        shifted = [rows.narrow(1, s, count) for s in range(steps)]
        return self.dft(torch.cat(shifted, dim=-1)[..., : self.size] * self.window)

    def wave(self, spectra: Tensor, coverage: Tensor, edges: tuple[int, int]) -> Tensor:
        """The least-squares inverse of `spectra` (Griffin and Lim 1984, eq. 6).

        Folded, weighted spectra [B, T, ...], `coverage` -> wave [B, N] without as many samples as
        `edges` say at both ends.
        """
        return self._overlap_add(self.dft.inverse(spectra) * self.window, edges) / coverage

    def coverage(self, spectra: Tensor, edges: tuple[int, int]) -> Tensor:
        """The squared windows that overlap at each sample of `wave`: [1, N]."""
        ones = torch.ones_like(spectra[:1, :, 0, :1])
        return self._overlap_add(ones * self.window.square(), edges)

    def _overlap_add(self, frames: Tensor, edges: tuple[int, int]) -> Tensor:
        """The sum of frames [B, T, size], hops apart, without its edges: [B, N]."""
        hop, steps = self.hop, self.steps
        padded = F.pad(frames, (0, steps * hop - self.size))
        total = F.pad(padded[..., :hop], (0, 0, 0, steps - 1))
        for s in range(1, steps):
            piece = padded[..., s * hop : (s + 1) * hop]
            total = total + F.pad(piece, (0, 0, s, steps - 1 - s))
        length = (frames.shape[1] - 1) * hop + self.size - sum(edges)
        return total.flatten(1).narrow(1, edges[0], length)


class Dft(nn.Module):
    """The DFT of real frames in two stages (Cooley and Tukey, 1965), for size = rows * columns.

    Bin k is at [k % rows, k // rows] of a *folded* spectrum [..., rows, columns // 2 + 1], which
    also has places for some bins above size / 2; they are to be ignored. Real and imaginary parts
    stand side by side in the last dimension.
    """

    first: Tensor
    second: Tensor
    first_inverse: Tensor
    second_inverse: Tensor
    cos: Tensor
    sin: Tensor
    weights: Tensor
    both_weights: Tensor

    def __init__(self, size: int) -> None:
        """Raises ValueError for an odd size."""
        super().__init__()
        if size % 2:
            raise ValueError(f"n_fft: got {size}; allowed in an export: even numbers")
        # an even number of columns near the square root takes the fewest products
        columns = min(
            (n for n in range(2, size + 1, 2) if size % n == 0), key=lambda n: n + size // n
        )
        rows, kept = size // columns, columns // 2 + 1
        self.size, self.rows, self.columns, self.kept = size, rows, columns, kept
        over_rows = _turns(rows, rows, rows)
        over_columns = _turns(columns, kept, columns)
        twiddle = _turns(rows, columns, size)
        bins = torch.arange(rows)[:, None] + rows * torch.arange(kept)
        weights = (2.0 / size) * (bins < size / 2) - (1.0 / size) * (bins == 0)
        weights = weights + (1.0 / size) * (bins == size / 2)
        tables = {
            "first": torch.cat([over_rows.cos(), -over_rows.sin()]),
            "second": _rotation(over_columns),
            "first_inverse": _rotation(over_columns).T.contiguous(),
            "second_inverse": torch.cat([over_rows.cos(), -over_rows.sin()], 1),
            "cos": twiddle.cos(),
            "sin": twiddle.sin(),
            "weights": weights,  # that make `inverse` the inverse, 0 above size / 2
            "both_weights": torch.cat([weights, weights], 1),
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Real frames [..., size] -> folded spectra [..., rows, 2 * kept]."""
        cells = frames.unflatten(-1, (self.rows, self.columns))
        real, imag = (self.first @ cells).chunk(2, dim=-2)
        real, imag = real * self.cos + imag * self.sin, imag * self.cos - real * self.sin
        return torch.cat([real, imag], -1) @ self.second

    def inverse(self, spectra: Tensor) -> Tensor:
        """Folded spectra [..., rows, 2 * kept], times `weights` -> real frames [..., size]."""
        real, imag = (spectra @ self.first_inverse).chunk(2, dim=-1)
        real, imag = real * self.cos - imag * self.sin, real * self.sin + imag * self.cos
        return (self.second_inverse @ torch.cat([real, imag], -2)).flatten(-2)

    def fold(self, bins: Tensor) -> Tensor:
        """One part of spectra [..., size / 2 + 1] -> [..., rows, kept]."""
        missing = self.rows * self.kept - bins.shape[-1]
        cells = F.pad(bins, (0, missing)).unflatten(-1, (self.kept, self.rows))
        return cells.transpose(-1, -2).contiguous()

    def unfold(self, spectra: Tensor) -> tuple[Tensor, Tensor]:
        """Folded spectra -> their real and imaginary parts [..., size / 2 + 1]."""
        real, imag = spectra.chunk(2, dim=-1)
        return self._in_order(real), self._in_order(imag)

    def _in_order(self, part: Tensor) -> Tensor:
        return part.transpose(-1, -2).flatten(-2)[..., : self.size // 2 + 1]


def _turns(rows: int, columns: int, whole: int) -> Tensor:
    """The angles 2 pi r c / whole [rows, columns], float64."""
    product = torch.arange(rows)[:, None] * torch.arange(columns)
    return 2 * torch.pi * (product % whole).double() / whole


def _rotation(angles: Tensor) -> Tensor:
    """Angles [N, K] -> the matrix [2 N, 2 K] that multiplies (real, imag) by exp(-i angle)."""
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])
