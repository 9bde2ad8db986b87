"""The metrics, as pure functions of numpy arrays, computed in float64."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from soundcrafter.mel import LogMel
from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.losses import stft_loss

Array = NDArray[np.float64]


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Fréchet distance of Gaussians fitted to features x [N, D] and y [M, D]; 0 or more.

    |mu_x - mu_y|^2 + Tr(S_x) + Tr(S_y) - 2 Tr (S_x S_y)^1/2 (Heusel et al. 2017, 1706.08500). With
    A = centred features / sqrt(N - 1) the last trace is the sum of the singular values of
    A_x A_y^T: it has no imaginary part, and is exact for N < D too. Its expectation depends on N.
    Raises ValueError for fewer than two rows, different D, and values that are not finite.
    """
    x, y = _features("x", x, 2), _features("y", y, 2)
    _same_width(x, y)
    mean = np.square(x.mean(0) - y.mean(0)).sum()
    roots = [_covariance_root(x), _covariance_root(y)]
    traces = sum(np.square(root).sum() for root in roots)
    cross = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return max(float(mean + traces - 2.0 * cross), 0.0)


def inception_score(probs: np.ndarray, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Inception score of class probabilities [N, K]: mean and standard deviation over splits.

    exp(mean KL(p || mean p)) in each split (Salimans et al. 2016, 1606.03498), after a shuffle by
    `seed`; from 1 to the smaller of K and N / splits. Raises ValueError for rows that are not
    distributions, and for fewer rows than splits.
    """
    probs = _distributions("probs", probs)
    check_splits(splits)
    if splits > len(probs):
        raise ValueError(f"splits: got {splits}; allowed: 1 to the number of rows, {len(probs)}")
    shuffled = probs[np.random.default_rng(seed).permutation(len(probs))]
    scores = [
        math.exp(_kl(part, part.mean(0, keepdims=True)).mean())
        for part in np.array_split(shuffled, splits)
    ]
    return float(np.mean(scores)), float(np.std(scores))


def check_splits(splits: int) -> None:
    """Raise ValueError for less than one split."""
    if splits < 1:
        raise ValueError(f"splits: got {splits}; at least 1")


def kl_divergence(reference: np.ndarray, generated: np.ndarray) -> float:
    """Mean KL(reference || generated) of paired class probabilities [N, K], in nats; 0 or more.

    Probabilities of `generated` count as at least 1e-7; zeros of `reference` contribute nothing.
    Raises ValueError for different shapes and rows that are not distributions.
    """
    reference, generated = _distributions("reference", reference), _distributions("gen", generated)
    _same_shape(reference, generated)
    return max(float(_kl(reference, generated.clip(min=1e-7)).mean()), 0.0)


def kernel_distance(
    x: np.ndarray, y: np.ndarray, subsets: int = 100, subset_size: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance (KID) of features x [N, D] and y [M, D]: mean and std over subsets.

    The unbiased MMD^2 with kernel (a.b / D + 1)^3 (Binkowski et al. 2018, 1801.01401). It is about
    0 for equal distributions, and may be slightly negative. Raises ValueError for subsets larger
    than N or M.
    """
    x, y = _features("x", x, 2), _features("y", y, 2)
    _same_width(x, y)
    if subsets < 1 or not 2 <= subset_size <= min(len(x), len(y)):
        raise ValueError(
            f"subsets, subset_size: got {subsets}, {subset_size}; allowed: 1 or more, and 2 to "
            f"{min(len(x), len(y))}"
        )
    rng = np.random.default_rng(seed)
    values = [
        _mmd(*(rows[rng.choice(len(rows), subset_size, replace=False)] for rows in (x, y)))
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


def clap_score(text: np.ndarray, audio: np.ndarray) -> float:
    """Mean cosine of paired embeddings text [N, E] and audio [N, E], in [-1, 1].

    Raises ValueError for different shapes and a vector of zeros, which has no direction.
    """
    text, audio = _features("text", text, 1), _features("audio", audio, 1)
    _same_shape(text, audio)
    norms = np.linalg.norm(text, axis=1) * np.linalg.norm(audio, axis=1)
    if not norms.all():
        raise ValueError(f"embedding {int(norms.argmin())} is zero: it has no direction")
    return float(((text * audio).sum(1) / norms).mean())


def density_coverage(
    real: np.ndarray, fake: np.ndarray, neighbours: int = 5
) -> tuple[float, float]:
    """Density (0 or more, 1 for equal distributions) and coverage (0 to 1) of fake [M, D] around
    real [N, D].

    Both use balls around the real samples that reach to their k-th neighbour (Naeem et al. 2020,
    2002.09797, eq. 3 and 4). Raises ValueError for fewer real rows than `neighbours` + 1.
    """
    real, fake = _features("real", real, 1), _features("fake", fake, 1)
    _same_width(real, fake)
    if not 1 <= neighbours < len(real):
        raise ValueError(f"neighbours: got {neighbours}; allowed: 1 to {len(real) - 1}")
    radii = np.sort(_distances(real, real), axis=1)[:, neighbours]  # column 0 is the point itself
    inside = _distances(real, fake) <= radii[:, None]
    return float(inside.sum() / (neighbours * len(fake))), float(inside.any(1).mean())


def stft_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Multi-resolution STFT distance of waves [N]; 0 or more, see models/losses.stft_loss.

    Raises ValueError for different lengths and waves of 1024 samples or fewer.
    """
    pair = _waves(real, fake)
    return float(stft_loss(pair[0], pair[1]))


def log_mel_distance(real: np.ndarray, fake: np.ndarray, mel: MelConfig) -> float:
    """Mean absolute difference of the log-mels of waves [N] at `mel.sample_rate`; 0 or more.

    In nats of amplitude for `mel.log` ln (1 nat is 8.7 dB). Raises ValueError for different
    lengths and waves too short for one frame.
    """
    pair = _waves(real, fake)
    log_mel = LogMel(mel)
    return float((log_mel(pair[0]) - log_mel(pair[1])).abs().mean())


def log_spectral_distance(
    real: np.ndarray, fake: np.ndarray, sample_rate: int, low: float, high: float
) -> float:
    """Log-spectral distance of waves [N] at `sample_rate` Hz in the band from `low` (included) to
    `high` (excluded) Hz; in dB, 0 or more.

    The mean over frames of sqrt(mean over the band's bins of (20 log10 |R| / |F|)^2) (Gray and
    Markel 1976), |R| and |F| the magnitudes of an STFT with a Hann window of 2048 samples and hop
    512, centred frames. Magnitudes of both count as at least 1e-4 of the largest one of `real` in
    any bin and frame (80 dB below it). Raises ValueError for different lengths, waves of 1024
    samples or fewer, a silent `real` and a band without a bin.
    """
    pair = _waves(real, fake)
    if len(real) <= 1024:
        raise ValueError(f"waves of {len(real)} samples; more than 1024 are needed")
    window = torch.hann_window(2048, dtype=torch.float64)
    bins = np.arange(1025) * sample_rate / 2048  # Hz
    inside = torch.from_numpy((bins >= low) & (bins < high))
    if not inside.any():
        raise ValueError(f"low, high: no bin from {low:g} to {high:g} Hz at {sample_rate} Hz")
    spectra = [
        torch.stft(wave[0].double(), 2048, 512, window=window, return_complex=True).abs()
        for wave in pair
    ]  # [bins, frames] each
    floor = float(spectra[0].max()) * 1e-4
    if floor == 0:
        raise ValueError("real: it is silent, so its largest magnitude is 0")
    levels = [20.0 * spectrum[inside].clamp(min=floor).log10() for spectrum in spectra]
    return float((levels[0] - levels[1]).square().mean(0).sqrt().mean())


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of the share hits / total at 95% confidence.

    Raises ValueError if total is 0 or hits are not between 0 and total.
    """
    if total < 1 or not 0 <= hits <= total:
        raise ValueError(f"hits of total: got {hits} of {total}; allowed: 0 to total, 1 or more")
    z = 1.96
    share, square = hits / total, z * z / total
    middle = (share + square / 2) / (1 + square)
    reach = z / (1 + square) * math.sqrt(share * (1 - share) / total + square / (4 * total))
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def retrieval(similarity: np.ndarray, relevant: np.ndarray) -> dict[str, tuple[float, float]]:
    """How well queries find their hits: metric -> (value, expected value by chance).

    similarity [Q, C] of queries and candidates, higher is nearer; relevant [Q, C] bool: the hits.
    r1, r5, r10: the share of queries with a hit among the first K candidates. map10: the mean over
    queries of average precision in the first 10, the sum of precision at each hit over
    min(hits, 10). median_rank: of the first hit, counted from 1.
    Ties count against the model: a hit ranks behind every wrong candidate of the same score, so
    that a model which gives all pairs the same score finds nothing by luck. Chance is exact for a
    random order: the expectation, and for median_rank the lowest rank at which at least half of
    the queries have found a hit.
    Raises ValueError for other shapes, values that are not finite and a query without a hit.
    """
    similarity, relevant = _features("similarity", similarity, 1), np.asarray(relevant)
    if relevant.dtype != bool or relevant.shape != similarity.shape:
        raise ValueError(
            f"relevant: got {relevant.dtype} {relevant.shape}; expected bool {similarity.shape}"
        )
    hits = relevant.sum(1)
    if not hits.all():
        raise ValueError(f"relevant: query {int(hits.argmin())} has no hit among the candidates")
    order = np.lexsort((relevant, -similarity), axis=1)  # by score, then wrong ones first
    ranked = np.take_along_axis(relevant, order, axis=1)
    first, top = ranked.argmax(1) + 1, ranked[:, :10]
    precision = top.cumsum(1) / np.arange(1, top.shape[1] + 1)
    found = {f"r{k}": float((first <= k).mean()) for k in (1, 5, 10)}
    found["map10"] = float(((precision * top).sum(1) / np.minimum(hits, 10)).mean())
    found["median_rank"] = float(np.median(first))
    chance = _retrieval_by_chance(hits, relevant.shape[1])
    return {name: (value, chance[name]) for name, value in found.items()}


def _retrieval_by_chance(hits: np.ndarray, candidates: int) -> dict[str, float]:
    """The figures of `retrieval` for queries with `hits` [Q] each, ranked at random."""
    counts, queries = np.unique(hits, return_counts=True)
    weights, hits = queries / queries.sum(), counts[:, None]  # [R], [R, 1]
    before = np.arange(candidates)
    # no hit in the first k: each is drawn from the wrong candidates among those left
    missed = np.cumprod((candidates - hits - before).clip(min=0) / (candidates - before), axis=1)
    within = 1.0 - weights @ missed  # [C], a hit among the first 1, 2, ...
    # a hit at rank i, and the expected number of hits before it
    earlier = before[:10] * (hits - 1) / max(candidates - 1, 1)
    precision = hits / candidates * (1.0 + earlier) / (before[:10] + 1)
    chance = {f"r{k}": float(within[min(k, candidates) - 1]) for k in (1, 5, 10)}
    chance["map10"] = float(weights @ (precision.sum(1) / np.minimum(counts, 10)))
    chance["median_rank"] = float((within >= 0.5 - 1e-12).argmax() + 1)
    return chance


def _covariance_root(x: Array) -> Array:
    """A [min(N, D), D] with A^T A the covariance of x [N, D]."""
    centred = (x - x.mean(0)) / math.sqrt(len(x) - 1)
    return centred if len(x) <= x.shape[1] else np.linalg.qr(centred).R


def _kl(p: Array, q: Array) -> Array:
    """KL(p || q) of each row, [N]."""
    ratio = np.log(np.where(p > 0, p, 1.0)) - np.log(np.where(q > 0, q, 1.0))
    return (p * ratio).sum(1)


def _mmd(x: Array, y: Array) -> float:
    def kernel(a: Array, b: Array) -> Array:
        return (a @ b.T / a.shape[1] + 1.0) ** 3

    n = len(x)
    within = [(k.sum() - np.trace(k)) / (n * (n - 1)) for k in (kernel(x, x), kernel(y, y))]
    return float(within[0] + within[1] - 2.0 * kernel(x, y).mean())


def _distances(x: Array, y: Array) -> Array:
    """Euclidean distances [N, M]."""
    return np.stack([np.linalg.norm(y - row, axis=1) for row in x])


def _features(name: str, x: np.ndarray, least: int) -> Array:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or len(x) < least or not x.shape[1]:
        raise ValueError(f"{name}: got shape {x.shape}; expected [N, D] with N at least {least}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name}: contains NaN or infinite values")
    return x


def _distributions(name: str, x: np.ndarray) -> Array:
    x = _features(name, x, 1)
    if (x < 0).any() or (np.abs(x.sum(1) - 1.0) > 1e-3).any():
        raise ValueError(f"{name}: each row must be probabilities, 0 or more with the sum 1")
    return x


def _same_width(x: Array, y: Array) -> None:
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of {x.shape[1]} and {y.shape[1]} dimensions; must be equal")


def _same_shape(x: Array, y: Array) -> None:
    if x.shape != y.shape:
        raise ValueError(f"pairs of shapes {x.shape} and {y.shape}; must be equal")


def _waves(real: np.ndarray, fake: np.ndarray) -> Sequence[torch.Tensor]:
    if real.ndim != 1 or real.shape != fake.shape:
        raise ValueError(f"waves of shapes {real.shape} and {fake.shape}; expected equal [N]")
    return [torch.from_numpy(np.asarray(wave, dtype=np.float32))[None] for wave in (real, fake)]
