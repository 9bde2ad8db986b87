"""From latent to wave in pieces: a long sound takes no more memory than a short one."""

import torch
from torch import Tensor

from soundcrafter.cpu.memory import trim_heap
from soundcrafter.diffusion.guidance import blend_weights, window_starts
from soundcrafter.models.griffin_lim import Turns
from soundcrafter.models.spectral import SpectralVocoder
from soundcrafter.models.vae import VAE
from soundcrafter.models.vocoder import Vocoder


def decode(vae: VAE, latent: Tensor, window: int) -> Tensor:
    """latent [B, C, T, F] -> log-mel [B, 1, T * time stride, F * frequency stride].

    A latent longer than `window` frames goes through the decoder by overlapping windows, whose
    spectrograms are blended: its group norms and attention look at all they are given, so that
    windows alone would not meet.
    """
    frames = latent.shape[2]
    if frames <= window:
        return vae.decode(latent)
    ratio = vae.config.stride[0]
    starts = window_starts(frames, window, window // 4)
    weights = blend_weights([ratio * start for start in starts], ratio * window, ratio * frames)
    total = torch.zeros(len(latent), 1, ratio * frames, vae.config.mel.num_mels)
    total = total.to(latent.device)
    for start, weight in zip(starts, weights.to(latent.device), strict=True):
        piece = vae.decode(latent[:, :, start : start + window])
        total[:, :, ratio * start : ratio * (start + window)] += weight[:, None] * piece
    return total


def vocode(vocoder: Vocoder, mel: Tensor, frames: int) -> Tensor:
    """log-mel [B, 1, T, F] -> wave [B, T * hop], by pieces that see `frames` and one context more.

    Each piece sees as far to both sides as the vocoder reaches (`config.context`), so that the
    wave is the one of the whole but for rounding.
    """
    count, config = mel.shape[2], vocoder.config
    context, hop = config.context, config.mel.hop
    frames = max(frames, 6 * context)  # else too much of a piece would be made twice
    if count <= frames + context:
        return vocoder(mel)
    turns = Turns(config.mel) if isinstance(vocoder, SpectralVocoder) else None
    out = torch.empty(len(mel), count * hop, device=mel.device)
    end = 0
    while end < count:
        start, low = end, max(end - context, 0)
        end = min(low + frames, count)
        high = min(end + context, count)
        piece = mel[:, :, low:high]
        extra = () if turns is None else (turns.between(low, high + 2),)
        wave = vocoder(piece, *extra)
        out[:, start * hop : end * hop] = wave[:, (start - low) * hop : (end - low) * hop]
        trim_heap()  # what pieces of several sizes leave would add up
    return out
