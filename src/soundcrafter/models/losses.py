"""Spectral losses on waves: the multi-resolution STFT loss."""

import torch
from torch import Tensor

Resolutions = tuple[tuple[int, int, int], ...]  # (n_fft, hop, window) each

FULL_BAND: Resolutions = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
SUB_BAND: Resolutions = ((384, 30, 150), (683, 60, 300), (171, 10, 60))


def stft_loss(
    real: Tensor,
    fake: Tensor,
    resolutions: Resolutions = FULL_BAND,
    *,
    silence: float = 1e-2,
) -> Tensor:
    """Multi-resolution STFT loss of waves [B, N] or sub-bands [B, K, N]. Scalar, float32.

    Parallel WaveGAN eq. 3-6 (arXiv 1910.11480): |R - F| / |R| (Frobenius) plus the L1 of the log
    magnitudes, mean over resolutions. Two choices keep it sound for clips with silence: the
    first term is taken for each wave by itself, so that a batch is the mean of its samples, and
    |R| counts at least as much as noise of RMS amplitude `silence`, so that a silent target
    bounds it. Raises ValueError for different shapes and waves shorter than half an n_fft.
    """
    if real.shape != fake.shape:
        raise ValueError(f"stft_loss: {tuple(real.shape)} against {tuple(fake.shape)}; must equal")
    longest = max(n_fft for n_fft, _, _ in resolutions)
    if real.shape[-1] <= longest // 2:
        raise ValueError(
            f"stft_loss: {real.shape[-1]} samples; more than {longest // 2} are needed"
        )
    # torch.stft has no bfloat16, and a log magnitude needs the precision
    with torch.autocast(real.device.type, enabled=False):
        waves = torch.cat([real.reshape(-1, real.shape[-1]), fake.reshape(-1, fake.shape[-1])])
        terms = [_resolution_loss(waves.float(), *sizes, silence) for sizes in resolutions]
    return torch.stack(terms).mean()


def _resolution_loss(waves: Tensor, n_fft: int, hop: int, size: int, silence: float) -> Tensor:
    # made on each call: a cached one outlives inference mode and device moves, and saves nothing
    window = torch.hann_window(size, device=waves.device)
    spectrum = torch.stft(waves, n_fft, hop, size, window, return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1)
    # the clamp is before the root, whose gradient at zero is infinite
    real, fake = power.clamp(min=1e-7).sqrt().chunk(2)
    noise = silence * window.square().sum().sqrt()  # the magnitude of such noise in one bin
    floor = noise * real[0].numel() ** 0.5
    error = (real - fake).flatten(1).norm(dim=1)
    convergence = error / torch.maximum(real.flatten(1).norm(dim=1), floor)
    return convergence.mean() + (real.log() - fake.log()).abs().mean()
