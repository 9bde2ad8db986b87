"""Loss functions: spectral losses of waves, multi-scale and perceptual losses of mels."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Resolutions = tuple[tuple[int, int, int], ...]  # (n_fft, hop, window) each

FULL_BAND: Resolutions = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
SUB_BAND: Resolutions = ((384, 30, 150), (683, 60, 300), (171, 10, 60))
_SILENCE = 1e-2  # RMS amplitude of the quietest target


def stft_loss(
    real: Tensor,
    fake: Tensor,
    resolutions: Resolutions = FULL_BAND,
) -> Tensor:
    """Multi-resolution STFT loss of waves [B, N] or sub-bands [B, K, N]. Scalar, float32.

    Parallel WaveGAN eq. 3-6 (arXiv 1910.11480): |R - F| / |R| (Frobenius) plus the L1 distance of
    the log magnitudes, mean over resolutions. Silent clips are handled in two ways: the first term
    is computed for each wave separately, so that a batch is the mean of its samples, and |R| is at
    least that of noise with RMS amplitude 0.01, so that a silent target keeps the term bounded.
    Raises ValueError for different shapes and for waves shorter than half an n_fft.
    """
    if real.shape != fake.shape:
        raise ValueError(
            f"stft_loss: got {list(real.shape)} and {list(fake.shape)}; allowed: equal shapes"
        )
    longest = max(n_fft for n_fft, _, _ in resolutions)
    if real.shape[-1] <= longest // 2:
        raise ValueError(
            f"stft_loss: got {real.shape[-1]} samples; allowed: {longest // 2 + 1} or more"
        )
    # torch.stft does not support bfloat16, and log magnitudes need the precision
    with torch.autocast(real.device.type, enabled=False):
        waves = torch.cat([real.reshape(-1, real.shape[-1]), fake.reshape(-1, fake.shape[-1])])
        terms = [_resolution_loss(waves.float(), *sizes) for sizes in resolutions]
    return torch.stack(terms).mean()


def _resolution_loss(waves: Tensor, n_fft: int, hop: int, size: int) -> Tensor:
    window = torch.hann_window(size, device=waves.device)
    spectrum = torch.stft(waves, n_fft, hop, size, window, return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1)
    # clamp before the root, whose gradient at zero is infinite
    real, fake = power.clamp(min=1e-7).sqrt().chunk(2)
    noise = _SILENCE * window.square().sum().sqrt()  # magnitude of such noise in one bin
    floor = noise * real[0].numel() ** 0.5
    error = (real - fake).flatten(1).norm(dim=1)
    convergence = error / torch.maximum(real.flatten(1).norm(dim=1), floor)
    return convergence.mean() + (real.log() - fake.log()).abs().mean()


def log_magnitude(wave: Tensor, n_fft: int, hop: int, window: Tensor) -> Tensor:
    """wave [B, N] -> ln of the STFT magnitudes [B, n_fft / 2 + 1, T], at least ln(1e-4).

    Magnitudes are normalized by the window: noise of RMS amplitude 1 has magnitudes of about 1.
    """
    spectrum = torch.stft(wave.float(), n_fft, hop, window=window, return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1) / window.square().sum()
    return 0.5 * power.clamp(min=1e-8).log()


def energy_distance(
    real: Tensor,
    first: Tensor,
    second: Tensor,
    resolutions: tuple[tuple[int, int], ...] = ((2048, 512), (512, 128), (128, 32)),
) -> Tensor:
    """Spectrogram energy distance of real waves and two fakes [B, N] from different noise. Scalar.

    d(real, fake), averaged over both fakes, minus half of d(first, second). Its minimum is where
    fakes vary as much as real sounds do; d alone would be minimized by their median, a texture
    without grain (Gritsenko et al. 2020, eq. 5, arXiv 2008.01160). d is the mean absolute
    difference of log magnitudes and of magnitudes relative to the real wave's RMS, averaged over
    `resolutions` (n_fft, hop).
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

    The coarse scales match the level where the fine structure is noise. Scalar.
    """
    terms = [(F.avg_pool2d(fake, s) - F.avg_pool2d(real, s)).abs().mean() for s in scales]
    return torch.stack(terms).mean()


def perceptual_distance(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of channel-normalized feature maps [B, C, T, F], summed over maps.

    LPIPS (arXiv 1801.03924, eq. 1) with all channel weights at 1. Scalar, float32.
    """
    terms = [
        (F.normalize(r.float(), dim=1) - F.normalize(f.float(), dim=1)).square().sum(1).mean()
        for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).sum()


def similarity_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of the similarity matrices of embeddings [B, D] and [B, E].

    Similarities are cosines between pairs of samples, after subtracting the batch's mean. Only
    relations are compared, so widths may differ and no projection is needed (similarity-preserving
    distillation, Tung and Mori 2019, arXiv 1907.09682, with cosines). Scalar, float32.
    """

    def similarities(rows: Tensor) -> Tensor:
        unit = F.normalize(rows.float() - rows.float().mean(0), dim=1)
        return unit @ unit.T

    return (similarities(first) - similarities(second)).square().mean()
