"""Griffin-Lim from a log-mel: the vocoder that needs no training, to be ahead of."""

from typing import Any

import torch
from torch import Tensor

from soundcrafter.mel import LogMel, MelConfig


@torch.no_grad()
def griffin_lim(
    mel: Tensor, config: MelConfig, *, iterations: int = 64, momentum: float = 0.99, seed: int = 0
) -> Tensor:
    """Log-mel [B, 1, T, F] (as `config` makes it) -> wave [B, T * hop].

    Magnitudes by least squares through the mel filters, negative ones set to zero; phases by the
    fast Griffin-Lim algorithm (Perraudin, Balazs, Sondergaard 2013) from random ones drawn from
    `seed`. Raises ValueError for other settings than the generator's: ln, magnitudes, "exact".
    """
    if (config.log, config.power, config.framing) != ("ln", 1, "exact"):
        raise ValueError("griffin_lim: needs a mel with log ln, power 1 and framing exact")
    magnitude = _magnitude(mel, config)
    # the first and last frame again: the wave reaches half a hop beyond their centres
    magnitude = torch.cat([magnitude[..., :1], magnitude, magnitude[..., -1:]], dim=-1)
    window = torch.hann_window(config.n_fft, device=mel.device)
    length = (magnitude.shape[-1] - 1) * config.hop
    sizes: dict[str, Any] = {"n_fft": config.n_fft, "hop_length": config.hop, "window": window}
    generator = torch.Generator().manual_seed(seed)
    angles = torch.rand(magnitude.shape, generator=generator).to(mel.device)
    phase = torch.polar(torch.ones_like(magnitude), 2 * torch.pi * angles)
    previous = torch.zeros_like(phase)
    for _ in range(iterations):
        wave = torch.istft(
            magnitude * phase, config.n_fft, config.hop, window=window, length=length
        )
        rebuilt = torch.stft(wave, **sizes, return_complex=True)
        # only the angle is kept, so this is the paper's step with alpha = momentum
        phase = rebuilt - (momentum / (1 + momentum)) * previous
        phase = phase / phase.abs().clamp(min=1e-16)
        previous = rebuilt
    wave = torch.istft(magnitude * phase, **sizes, length=length)
    begin = config.hop // 2
    return wave[:, begin : begin + mel.shape[2] * config.hop]


def _magnitude(mel: Tensor, config: MelConfig) -> Tensor:
    """Log-mel [B, 1, T, F] -> magnitudes [B, n_fft / 2 + 1, T]."""
    filters = LogMel(config).filters.to(mel.device)  # [bins, F]
    inverse = torch.linalg.pinv(filters.double()).float()  # [F, bins]
    return (mel[:, 0].exp() @ inverse).clamp(min=0.0).transpose(1, 2)
