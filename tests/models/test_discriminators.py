"""Discriminators and their losses: published size, shapes, hand-worked values."""

import math

import pytest
import torch

from soundcrafter.models.discriminators import (
    PatchDiscriminator,
    PatchDiscriminatorConfig,
    SpectrogramDiscriminatorConfig,
    VocoderDiscriminator,
    WaveDiscriminator,
    WaveDiscriminatorConfig,
    discriminator_hinge,
    feature_energy_distance,
    feature_matching,
    generator_hinge,
)
from soundcrafter.models.losses import FULL_BAND, SUB_BAND, stft_loss
from soundcrafter.models.melgan import apply_weight_norm, fold_weight_norm

NARROW = WaveDiscriminatorConfig(scales=2, channels=4, max_channels=16, layers=2)


def test_published_wave_size_and_shapes() -> None:
    model = WaveDiscriminator(WaveDiscriminatorConfig())
    assert sum(p.numel() for p in model.parameters()) == 16_913_859
    outputs = model(torch.randn(1, 8192))
    assert [len(maps) for maps in outputs] == [7, 7, 7]
    assert [tuple(m.shape[1:]) for m in outputs[0]] == [
        (16, 8192),
        (64, 2048),
        (256, 512),
        (1024, 128),
        (1024, 32),
        (1024, 32),
        (1, 32),
    ]
    assert [maps[0].shape[2] for maps in outputs] == [8192, 4096, 2048]


def test_narrow_wave_discriminator() -> None:
    model = WaveDiscriminator(NARROW)
    assert sum(p.numel() for p in model.parameters()) < 15_000
    for num_samples in (NARROW.min_samples, 1001):
        outputs = model(torch.randn(2, num_samples))
        assert len(outputs) == 2
        assert outputs[1][-1].shape[:2] == (2, 1)
    with pytest.raises(ValueError, match="allowed: 16 or more"):
        model(torch.randn(1, NARROW.min_samples - 1))


def test_wave_scales_see_the_pooled_wave() -> None:
    model = WaveDiscriminator(NARROW)
    wave = torch.randn(1, 64)
    pooled = torch.nn.functional.avg_pool1d(wave, 4, 2, 1, count_include_pad=False)
    torch.testing.assert_close(model(wave)[1][-1], model.scales[1](pooled[:, None])[-1])


def test_wave_discriminator_takes_weight_norm() -> None:
    model = WaveDiscriminator(NARROW)
    wave = torch.randn(1, 200)
    before = model(wave)[0][-1]
    apply_weight_norm(model)
    torch.testing.assert_close(model(wave)[0][-1], before)
    fold_weight_norm(model)
    torch.testing.assert_close(model(wave)[0][-1], before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 6}, "multiples of 4"),
        ({"channels": 8, "max_channels": 36}, "not divisible into groups"),
        ({"max_channels": 8}, "max_channels: got 8; allowed: 16 or more"),
        ({"scales": -1}, "scales"),
        ({"stride": 1}, "stride"),
    ],
)
def test_wave_config_refuses(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WaveDiscriminatorConfig(**changes)


def test_patch_discriminator() -> None:
    model = PatchDiscriminator(PatchDiscriminatorConfig())
    assert sum(p.numel() for p in model.parameters()) == 2_764_481
    maps = model(torch.randn(1, 1, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 7, 7),
        (1, 6, 6),
    ]
    small = PatchDiscriminatorConfig(channels=8, layers=2)
    assert PatchDiscriminator(small)(torch.randn(1, 1, 12, 12))[-1].shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match="allowed: 12 or more"):
        PatchDiscriminator(small)(torch.randn(1, 1, 40, 11))
    with pytest.raises(ValueError, match="norm_groups"):
        PatchDiscriminatorConfig(channels=10)


@pytest.mark.parametrize("groups", [0, 8])
def test_patch_sample_does_not_depend_on_its_batch(groups: int) -> None:
    model = PatchDiscriminator(PatchDiscriminatorConfig(channels=8, layers=2, norm_groups=groups))
    mel = torch.randn(3, 1, 32, 16)
    mel[1] = -11.5  # silence
    torch.testing.assert_close(model(mel)[-1][:1], model(mel[:1])[-1], rtol=1e-4, atol=1e-5)
    model(mel)[-1].sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_vocoder_discriminator() -> None:
    torch.manual_seed(0)
    wave = torch.randn(2, 4000)
    spectrograms = SpectrogramDiscriminatorConfig(
        resolutions=((512, 128), (128, 32)), channels=4, layers=2
    )
    both, alone = (
        VocoderDiscriminator(NARROW, spectrograms),
        VocoderDiscriminator(WaveDiscriminatorConfig(scales=0), spectrograms),
    )
    outputs = both(wave)
    assert len(outputs) == 4
    assert [tuple(m.shape[1:]) for m in outputs[2]] == [
        (4, 32, 65),  # frames, and bins by stride 4
        (8, 16, 33),
        (16, 8, 17),
        (16, 8, 17),
        (1, 8, 17),
    ]
    assert len(alone(wave)) == 2
    assert all(p.requires_grad for p in alone.parameters())
    assert not list(alone.waves.parameters())
    apply_weight_norm(both)
    torch.testing.assert_close(both(wave)[2][-1], outputs[2][-1])
    with pytest.raises(ValueError, match="at least one discriminator"):
        VocoderDiscriminator(WaveDiscriminatorConfig(scales=0), SpectrogramDiscriminatorConfig())
    with pytest.raises(ValueError, match="resolutions: got"):
        SpectrogramDiscriminatorConfig(resolutions=((32, 8),))


def test_feature_energy_by_hand() -> None:
    real, first, second = ([torch.full((1, 2), v), torch.zeros(1, 1)] for v in (0.0, 1.0, 3.0))
    # near: (1 + 3) / 2, apart: 2
    assert feature_energy_distance([real], [first], [second]).item() == pytest.approx(2.0 - 1.0)
    assert feature_energy_distance(real, real, real).item() == 0.0


def test_hinge_by_hand() -> None:
    real = [[torch.tensor([[[2.0, 0.5]]])], [torch.tensor([[[-1.0]]])]]
    fake = [[torch.tensor([[[-2.0, 0.0]]])], [torch.tensor([[[3.0]]])]]
    # scale 1: mean(0, .5) + mean(0, 1) = .75; scale 2: 2 + 4 = 6
    assert discriminator_hinge(real, fake).item() == pytest.approx(6.75)
    # scale 1: -mean(-2, 0) = 1; scale 2: -3
    assert generator_hinge(fake).item() == pytest.approx(-2.0)
    # one discriminator's own list is taken too
    assert discriminator_hinge(real[0], fake[0]).item() == pytest.approx(0.75)
    assert generator_hinge(fake[1]).item() == pytest.approx(-3.0)


def test_feature_matching_by_hand() -> None:
    logits = torch.tensor([[[100.0]]])
    real = [[torch.tensor([1.0, 2.0]), torch.tensor([0.0]), logits]] * 2
    fake = [
        [torch.tensor([1.0, 4.0]), torch.tensor([3.0]), -logits],
        [torch.tensor([0.0, 2.0]), torch.tensor([0.5]), -logits],
    ]
    # layer means 1, 3, .5, .5: their mean; the logits do not count
    assert feature_matching(real, fake).item() == pytest.approx(1.25)
    assert feature_matching(real[0], fake[0]).item() == pytest.approx(2.0)


def test_feature_matching_detaches_real() -> None:
    real = [[torch.ones(3, requires_grad=True), torch.zeros(1)]]
    fake = [[torch.zeros(3, requires_grad=True), torch.zeros(1)]]
    feature_matching(real, fake).backward()
    assert real[0][0].grad is None
    torch.testing.assert_close(fake[0][0].grad, torch.full((3,), -1 / 3))


def test_stft_loss_by_hand() -> None:
    """A wave at half the amplitude: convergence 1/2, log distance ln 2, at every resolution."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(2, 4000, generator=generator)
    expected = 0.5 + math.log(2)
    assert stft_loss(real, real / 2).item() == pytest.approx(expected, abs=1e-3)
    assert stft_loss(real, real / 2, FULL_BAND[:1]).item() == pytest.approx(expected, abs=1e-3)
    assert stft_loss(real, real).item() == 0
    sub_bands = real.reshape(2, 4, 1000)
    assert stft_loss(sub_bands, sub_bands / 2, SUB_BAND).item() == pytest.approx(expected, abs=1e-3)


def test_stft_loss_of_one_resolution_against_numpy() -> None:
    real, fake = torch.randn(1, 3000), torch.randn(1, 3000)
    window = torch.hann_window(600)
    real_mag, fake_mag = (
        torch.stft(x[0], 1024, 120, 600, window, return_complex=True).abs().numpy()
        for x in (real, fake)
    )
    convergence = ((real_mag - fake_mag) ** 2).sum() ** 0.5 / (real_mag**2).sum() ** 0.5
    log_distance = abs(torch.log(torch.tensor(real_mag / fake_mag))).mean()
    expected = float(convergence + log_distance)
    assert stft_loss(real, fake, FULL_BAND[:1]).item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("fake_level", [0.0, 0.1])
def test_stft_loss_of_silence_is_finite(fake_level: float) -> None:
    fake = (torch.randn(2, 3000) * fake_level).requires_grad_()
    loss = stft_loss(torch.zeros(2, 3000), fake)
    loss.backward()
    assert torch.isfinite(fake.grad).all()
    assert loss < 50  # a silent target bounds the loss


def test_stft_loss_is_the_mean_of_its_samples() -> None:
    real, fake = torch.randn(3, 3000) * torch.tensor([[1.0], [0.01], [0.0]]), torch.randn(3, 3000)
    single = torch.stack([stft_loss(real[i : i + 1], fake[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(stft_loss(real, fake), single.mean())


def test_stft_loss_ignores_autocast_and_inference_mode() -> None:
    real, fake = torch.randn(1, 3000), torch.randn(1, 3000, requires_grad=True)
    with torch.inference_mode():
        expected = stft_loss(real, fake.detach()).item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = stft_loss(real, fake)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert stft_loss(real.bfloat16(), fake.detach().bfloat16()).dtype == torch.float32


def test_stft_loss_refuses() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        stft_loss(torch.zeros(1, 3000), torch.zeros(1, 3001))
    with pytest.raises(ValueError, match="1025 or more"):
        stft_loss(torch.zeros(1, 1024), torch.zeros(1, 1024))
