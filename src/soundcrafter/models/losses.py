"""Losses without weights: spectral ones on waves, multi-scale and perceptual ones on mels."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
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


def log_magnitude(
    wave: Tensor, n_fft: int, hop: int, window: Tensor, floor: float = 1e-4
) -> Tensor:
    """wave [B, N] -> ln of the STFT magnitudes [B, n_fft / 2 + 1, T] over those of unit noise.

    Noise of RMS amplitude 1 has magnitudes about 1 whatever the window; `floor` is in that unit.
    """
    spectrum = torch.stft(wave.float(), n_fft, hop, window=window, return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1) / window.square().sum()
    return 0.5 * power.clamp(min=floor**2).log()  # before the root: no infinite gradient at 0


def energy(
    real: Tensor,
    first: Tensor,
    second: Tensor,
    resolutions: tuple[tuple[int, int], ...] = ((2048, 512), (512, 128), (128, 32)),
) -> Tensor:
    """Energy distance of spectrograms from two fakes [B, N] made from different noise. Scalar.

    d(real, fake) averaged over both, less half of d(first, second): smallest where fakes vary as
    the real ones do, while d alone asks for the median of all, a texture without grain (Gritsenko
    et al. 2020, eq. 5, arXiv 2008.01160). d is the mean absolute difference, bin by bin, of log
    magnitudes and of magnitudes over the real wave's RMS, mean over `resolutions` (n_fft, hop).
    """
    waves = torch.cat([real, first, second]).float()
    level = real.float().square().mean(1).sqrt().clamp(min=1e-2)[:, None, None]
    terms = []
    with torch.autocast(real.device.type, enabled=False):
        for n_fft, hop in resolutions:
            window = torch.hann_window(n_fft, device=real.device)
            logs = log_magnitude(waves, n_fft, hop, window).chunk(3)
            plain = [log.exp() / level for log in logs]
            for r, a, b in (logs, plain):
                near = 0.5 * ((r - a).abs().mean() + (r - b).abs().mean())
                terms.append(near - 0.5 * (a - b).abs().mean())
    return torch.stack(terms).sum() / len(resolutions)


def multi_scale_l1(real: Tensor, fake: Tensor, scales: Sequence[int] = (1,)) -> Tensor:
    """Mean absolute difference of mels [B, 1, T, F], mean over average poolings by `scales`.

    The coarse scales ask for the right level where the fine structure is noise. Scalar.
    """
    terms = [(F.avg_pool2d(fake, s) - F.avg_pool2d(real, s)).abs().mean() for s in scales]
    return torch.stack(terms).mean()


def perceptual_distance(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of feature maps [B, C, T, F] of unit channel vectors, sum over maps.

    LPIPS (arXiv 1801.03924, eq. 1) with all channel weights at 1. Scalar, float32.
    """
    terms = [
        (F.normalize(r.float(), dim=1) - F.normalize(f.float(), dim=1)).square().sum(1).mean()
        for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).sum()


def similarity_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean squared difference of two batches' similarities, of embeddings [B, D] and [B, E].

    Similarities are cosines between each two sounds, after the batch's mean is taken away. What
    is kept are relations, so that widths need not match and nothing else is learned (similarity-
    preserving distillation, Tung and Mori 2019, arXiv 1907.09682, on cosines). Scalar, float32.
    """

    def similarities(rows: Tensor) -> Tensor:
        unit = F.normalize(rows.float() - rows.float().mean(0), dim=1)
        return unit @ unit.T

    return (similarities(ours) - similarities(theirs)).square().mean()
