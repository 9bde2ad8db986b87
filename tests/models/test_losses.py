"""Losses without weights: hand-worked cases and what they are smallest for."""

import pytest
import torch
from torch import Tensor

from soundcrafter.models.losses import (
    energy_distance,
    log_magnitude,
    multi_scale_l1,
    perceptual_distance,
    similarity_distance,
)


def noise(seed: int, level: float = 0.1) -> Tensor:
    return level * torch.randn(4, 8000, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n_fft", "hop"), [(2048, 512), (128, 32)])
def test_unit_noise_has_magnitude_one(n_fft: int, hop: int) -> None:
    logs = log_magnitude(noise(0, 1.0), n_fft, hop, torch.hann_window(n_fft))
    assert logs.shape == (4, n_fft // 2 + 1, 8000 // hop + 1)
    assert logs.exp().square().mean().item() == pytest.approx(1.0, rel=0.05)
    silent = log_magnitude(torch.zeros(1, 8000), n_fft, hop, torch.hann_window(n_fft))
    assert silent.exp().unique().item() == pytest.approx(1e-4)


def test_energy_of_fakes_that_are_the_real_wave_is_zero() -> None:
    wave = noise(0)
    assert energy_distance(wave, wave, wave).item() == pytest.approx(0.0, abs=1e-6)


def test_energy_prefers_fresh_noise_to_one_grain_for_all() -> None:
    """Two equal fakes are charged their whole distance; two honest ones half of it."""
    real, first, second, other = (noise(seed) for seed in range(4))
    fresh = energy_distance(real, first, second).item()
    stuck = energy_distance(real, other, other).item()
    assert fresh == pytest.approx(0.5 * stuck, rel=0.05)
    # a smooth spectrum, an impulse train of the same power, is nearer than any grain; not by much
    clicks = torch.zeros(4, 8000)
    clicks[:, ::64] = 0.1 * 8.0
    assert fresh < energy_distance(real, clicks, clicks).item()


def test_energy_asks_for_the_right_level() -> None:
    real, first, second = (noise(seed) for seed in range(3))
    right = energy_distance(real, first, second)
    for factor in (0.5, 2.0):
        assert energy_distance(real, factor * first, factor * second) > right


def test_energy_has_a_finite_gradient_at_silence() -> None:
    silent = torch.zeros(2, 4096, requires_grad=True)
    energy_distance(torch.zeros(2, 4096), silent, silent).backward()
    assert silent.grad is not None
    assert silent.grad.isfinite().all()


def test_multi_scale_by_hand() -> None:
    real, fake = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    fake[..., ::2, :] = 1.0
    fake[..., 1::2, :] = -1.0  # rows that cancel in every pool of 2
    assert multi_scale_l1(real, fake).item() == 1.0
    assert multi_scale_l1(real, fake, (1, 2)).item() == 0.5
    assert multi_scale_l1(real, real + 3.0, (1, 2, 4)).item() == pytest.approx(3.0)


def test_perceptual_distance_by_hand() -> None:
    east = torch.tensor([3.0, 0.0]).reshape(1, 2, 1, 1)
    north = torch.tensor([0.0, 0.2]).reshape(1, 2, 1, 1)
    assert perceptual_distance([east], [north]).item() == pytest.approx(2.0)
    assert perceptual_distance([east, east], [5 * east, north]).item() == pytest.approx(2.0)


def test_similarity_distance_by_hand_and_whatever_the_widths():
    ours = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # centred: opposite, cosine -1
    theirs = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 2.0], [-1.0, -1.0, 2.0]])
    assert similarity_distance(ours, ours).item() == pytest.approx(0.0)
    # a rotation, a scale and an offset change no similarity
    turned = theirs[:, [1, 0, 2]] * 3.0 + torch.tensor([5.0, -2.0, 1.0])
    assert similarity_distance(theirs, turned).item() == pytest.approx(0.0, abs=1e-6)
    # centred rows (1, 0), (0, 1), (-1, -1) and, of the other batch, one direction: +, -, and 0
    line = torch.tensor([[1.0], [-1.0], [0.0]])
    known = torch.tensor([[1.0, 0.0, -(0.5**0.5)], [0.0, 1.0, -(0.5**0.5)], [0.0, 0.0, 1.0]])
    known = known.triu() + known.triu(1).T
    other = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    expected = (known - other).square().mean().item()
    assert similarity_distance(theirs, line).item() == pytest.approx(expected, rel=1e-5)
