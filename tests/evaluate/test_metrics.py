import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from soundcrafter.evaluate.metrics import (
    clap_score,
    density_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    kl_divergence,
    log_mel_distance,
    log_spectral_distance,
    stft_distance,
    wilson_interval,
)
from soundcrafter.mel_bands import MelConfig


def features(n: int, d: int, seed: int = 0, mean: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + mean


def distributions(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(k, 0.3), n)


def trusted_frechet(x: np.ndarray, y: np.ndarray) -> float:
    """The usual form with a matrix square root, here by eigenvalues of S_x S_y."""
    covariances = [np.cov(rows, rowvar=False) for rows in (x, y)]
    values = scipy.linalg.eigvals(covariances[0] @ covariances[1])
    cross = np.sqrt(np.clip(values.real, 0, None)).sum()
    mean = np.square(x.mean(0) - y.mean(0)).sum()
    return float(mean + sum(np.trace(c) for c in covariances) - 2 * cross)


class TestFrechetDistance:
    @pytest.mark.parametrize(("n", "m", "d"), [(50, 60, 8), (500, 40, 16), (33, 34, 32)])
    def test_equals_eigenvalues_and_sqrtm(self, n, m, d):
        x, y = features(n, d, 1), features(m, d, 2, mean=0.7)
        assert frechet_distance(x, y) == pytest.approx(trusted_frechet(x, y), rel=1e-6)
        root = scipy.linalg.sqrtm(np.cov(x, rowvar=False) @ np.cov(y, rowvar=False)).real
        traces = np.trace(np.cov(x, rowvar=False)) + np.trace(np.cov(y, rowvar=False))
        wanted = np.square(x.mean(0) - y.mean(0)).sum() + traces - 2 * np.trace(root)
        assert frechet_distance(x, y) == pytest.approx(wanted, rel=1e-6)

    def test_equals_torchmetrics(self):
        from torchmetrics.image.fid import _compute_fid

        x, y = features(80, 12, 3), features(70, 12, 4, mean=1.0)
        parts = [torch.from_numpy(v) for r in (x, y) for v in (r.mean(0), np.cov(r, rowvar=False))]
        assert frechet_distance(x, y) == pytest.approx(float(_compute_fid(*parts)), rel=1e-6)

    def test_fewer_rows_than_dimensions(self):
        x, y = features(5, 20, 5), features(7, 20, 6, mean=0.3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = trusted_frechet(x, y)
        assert frechet_distance(x, y) == pytest.approx(wanted, rel=1e-5)

    def test_one_dimension_by_hand(self):
        x, y = np.array([[0.0], [2.0]]), np.array([[3.0], [7.0]])  # std sqrt 2 and sqrt 8
        assert frechet_distance(x, y) == pytest.approx(16 + 2 + 8 - 2 * 4)

    def test_constant_features(self):
        x, y = np.full((4, 3), 1.0), np.full((6, 3), 3.0)
        assert frechet_distance(x, y) == pytest.approx(12.0)
        assert frechet_distance(x, x) == 0.0

    @given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 12), st.integers(0, 99))
    def test_symmetric_and_blind_to_order_and_rotation(self, n, m, d, seed):
        x, y = features(n, d, seed), features(m, d, seed + 1, mean=0.5)
        value = frechet_distance(x, y)
        assert value >= 0
        rotation = scipy.stats.ortho_group.rvs(d, random_state=seed) if d > 1 else np.eye(1)
        for other in (
            frechet_distance(y, x),
            frechet_distance(x[::-1], y),
            frechet_distance(x @ rotation, y @ rotation),
        ):
            assert other == pytest.approx(value, rel=1e-6, abs=1e-6)
        assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-8 * np.square(x).sum() + 1e-9)

    @pytest.mark.parametrize(
        ("x", "y", "words"),
        [
            (np.ones((1, 3)), np.ones((4, 3)), "N at least 2"),
            (np.ones((4, 3)), np.ones((4, 2)), "must be equal"),
            (np.full((4, 3), np.nan), np.ones((4, 3)), "NaN"),
            (np.ones(4), np.ones((4, 3)), "expected"),
        ],
    )
    def test_what_cannot_be_measured(self, x, y, words):
        with pytest.raises(ValueError, match=words):
            frechet_distance(x, y)


class TestInceptionScore:
    def test_bounds_by_hand(self):
        assert inception_score(np.tile(np.eye(4), (5, 1)), splits=1)[0] == pytest.approx(4.0)
        assert inception_score(np.full((10, 4), 0.25), splits=2) == pytest.approx((1.0, 0.0))

    def test_equals_scipy(self):
        probs = distributions(40, 6)
        shuffled = probs[np.random.default_rng(3).permutation(40)]
        scores = []
        for part in np.split(shuffled, 4):
            entropies = [scipy.stats.entropy(row, part.mean(0)) for row in part]
            scores.append(math.exp(np.mean(entropies)))
        found = inception_score(probs, splits=4, seed=3)
        assert found == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-6)

    def test_refusals(self):
        with pytest.raises(ValueError, match="splits"):
            inception_score(distributions(3, 4), splits=4)
        with pytest.raises(ValueError, match="probabilities"):
            inception_score(np.ones((3, 4)), splits=1)


class TestKl:
    def test_equals_torchmetrics_and_scipy(self):
        from torchmetrics.functional import kl_divergence as trusted

        p, q = distributions(30, 8, 1), distributions(30, 8, 2).clip(1e-6)
        q /= q.sum(1, keepdims=True)
        found = kl_divergence(p, q)
        assert found == pytest.approx(np.mean(scipy.stats.entropy(p, q, axis=1)), rel=1e-6)
        both = torch.from_numpy(p.clip(1e-12)), torch.from_numpy(q)
        assert found == pytest.approx(float(trusted(*both)), rel=1e-5)

    def test_zeros_and_one_row(self):
        assert kl_divergence(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])) == pytest.approx(
            math.log(2)
        )
        assert kl_divergence(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])) == pytest.approx(
            math.log(1e7)
        )

    def test_a_shuffle_of_pairs_raises_it(self):
        p = distributions(50, 8)
        assert kl_divergence(p, p) == 0.0
        assert kl_divergence(p, np.roll(p, 1, axis=0)) > 0.5


class TestKernelDistance:
    def test_equals_torchmetrics_on_whole_sets(self):
        from torchmetrics.image.kid import poly_mmd

        x, y = features(20, 5, 1), features(20, 5, 2, mean=0.5)
        found, spread = kernel_distance(x, y, subsets=2, subset_size=20)
        wanted = float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y)))
        assert found == pytest.approx(wanted, rel=1e-6)
        assert spread == pytest.approx(0.0, abs=1e-6 * abs(wanted))

    def test_about_zero_for_one_distribution(self):
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((2, 400, 6))
        near, _ = kernel_distance(x, y)
        far, _ = kernel_distance(x, y + 1.0)
        assert abs(near) < 0.05 < far

    def test_subsets_too_large(self):
        with pytest.raises(ValueError, match="subset_size"):
            kernel_distance(features(10, 3), features(20, 3), subset_size=11)


def test_clap_score():
    text = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert clap_score(text, text * 3) == pytest.approx(1.0)
    assert clap_score(text, text[::-1]) == pytest.approx(0.0)
    assert clap_score(text, -text) == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="direction"):
        clap_score(text, np.zeros((2, 2)))


class TestDensityCoverage:
    def test_equals_a_plain_loop(self):
        real, fake = features(25, 4, 1), features(15, 4, 2)
        k, inside, covered = 3, 0, 0
        for i, point in enumerate(real):
            others = sorted(np.linalg.norm(point - q) for j, q in enumerate(real) if j != i)
            hits = sum(np.linalg.norm(point - q) <= others[k - 1] for q in fake)
            inside, covered = inside + hits, covered + (hits > 0)
        assert density_coverage(real, fake, k) == pytest.approx((inside / (k * 15), covered / 25))

    def test_far_and_equal(self):
        real = features(30, 3)
        assert density_coverage(real, real)[1] == 1.0
        assert density_coverage(real, real + 1e6) == (0.0, 0.0)
        with pytest.raises(ValueError, match="neighbours"):
            density_coverage(real[:5], real)


class TestWaves:
    def test_noise_rises_with_its_level_and_silence_is_finite(self):
        rng = np.random.default_rng(0)
        wave, noise = rng.standard_normal((2, 8000)).astype(np.float32) * 0.1
        mel = MelConfig()
        for distance in (stft_distance, lambda a, b: log_mel_distance(a, b, mel)):
            assert distance(wave, wave) == pytest.approx(0.0, abs=1e-6)
            levels = [distance(wave, wave + gain * noise) for gain in (0.1, 0.3, 1.0)]
            assert levels == sorted(levels)
            assert math.isfinite(distance(np.zeros(8000, np.float32), wave))

    def test_a_gain_by_hand(self):
        wave = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
        found = log_mel_distance(wave, wave * math.e, MelConfig())
        assert found == pytest.approx(1.0, rel=1e-4)

    def test_log_spectral_distance_by_hand(self):
        """An impulse has a flat spectrum, as high as the window where it lies: frames centred at
        0, 512, ..., 2048 see sample 1024 with 0, 1/2, 1, 1/2 and 0 of its height."""
        real = np.zeros(2048, np.float32)
        real[1024] = 0.05
        for band in ((0, 8000), (8000, 16_000)):
            found = [log_spectral_distance(real, f * real, 32_000, *band) for f in (1, 10, 0.1)]
            # 20 dB in three of five frames; both are at the floor in the two others
            assert found == pytest.approx([0.0, 12.0, 12.0], abs=1e-4)
            half = 20 * math.log10(2)
            silent = log_spectral_distance(real, 0 * real, 32_000, *band)
            assert silent == pytest.approx((80 + 2 * (80 - half)) / 5, rel=1e-5)

    def test_log_spectral_distance_of_a_band(self):
        real = np.random.default_rng(0).standard_normal(32_000).astype(np.float32) * 0.1
        spectrum = np.fft.rfft(real)
        spectrum[8000:] = 0  # bins of 1 Hz
        fake = np.fft.irfft(spectrum).astype(np.float32)
        low, high = (
            log_spectral_distance(real, fake, 32_000, *band) for band in ((0, 8000), (8000, 16_000))
        )
        assert low < 1.0
        assert 50 < high < 80
        for bad, fault in (
            ((np.zeros(1024, np.float32),) * 2, "more than 1024"),
            ((np.zeros(4000, np.float32),) * 2, "silent"),
            ((real, real[1:]), "equal"),
        ):
            with pytest.raises(ValueError, match=fault):
                log_spectral_distance(*bad, 32_000, 0, 8000)
        with pytest.raises(ValueError, match="no bin from 8000 to 9000 Hz at 15000 Hz"):
            log_spectral_distance(real, fake, 15_000, 8000, 9000)

    def test_lengths_must_be_equal(self):
        with pytest.raises(ValueError, match="equal"):
            stft_distance(np.zeros(4000, np.float32), np.zeros(4001, np.float32))


def test_wilson_interval_equals_scipy():
    for hits, total in ((0, 8), (5, 8), (251, 335), (8, 8)):
        wanted = scipy.stats.binomtest(hits, total).proportion_ci(method="wilson")
        assert wilson_interval(hits, total) == pytest.approx(tuple(wanted), rel=1e-3, abs=1e-9)
    with pytest.raises(ValueError, match="allowed"):
        wilson_interval(9, 8)
