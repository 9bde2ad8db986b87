"""The spectral vocoder: Griffin-Lim at birth, aligned with its mel, equal in any batch."""

import pytest
import torch
from torch import Tensor

from soundcrafter.mel import LogMel
from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.griffin_lim import griffin_lim, random_phases
from soundcrafter.models.melgan import MelGAN, MelGANConfig
from soundcrafter.models.spectral import SpectralConfig, SpectralVocoder
from soundcrafter.models.vocoder import VocoderConfig, build_vocoder
from soundcrafter.settings import from_dict, to_dict

MEL = MelConfig()


def tiny(**changes: object) -> SpectralVocoder:
    torch.manual_seed(0)
    settings = {"width": 16, "blocks": 2, "iterations": 2, "mel_mean": -5.0, "mel_std": 3.0}
    return SpectralVocoder(SpectralConfig(**{**settings, **changes})).eval()


def awake(**changes: object) -> SpectralVocoder:
    """One whose network says something, as after training."""
    vocoder = tiny(**changes)
    torch.nn.init.normal_(vocoder.output.weight, std=0.1)
    return vocoder


def noise(batch: int, samples: int) -> Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))


def test_size_of_the_defaults() -> None:
    count = sum(p.numel() for p in SpectralVocoder(SpectralConfig()).parameters())
    assert count == 3_521_219


def test_it_begins_as_griffin_lim() -> None:
    vocoder, mel = tiny(), LogMel(MEL)(noise(2, 8000))
    made = vocoder(mel)
    plain = griffin_lim(mel, MEL, iterations=2)
    assert made.shape == (2, 8000)
    torch.testing.assert_close(made, plain, atol=1e-5, rtol=1e-4)


def test_its_spectrum_inverts() -> None:
    vocoder, wave = tiny(), noise(2, 3200)
    spectrum = vocoder._stft(wave)
    assert spectrum.shape == (2, 20, 321)
    torch.testing.assert_close(vocoder._istft(spectrum), wave, atol=1e-5, rtol=1e-4)


def test_a_frame_of_the_network_lies_on_its_mel_frame() -> None:
    vocoder, mel = awake(kernel=1), LogMel(MEL)(noise(1, 16000))
    with torch.no_grad():
        still = vocoder(mel)
        # the network alone hears of the change: the phases and magnitudes it mends stay
        seen = vocoder.input.register_forward_pre_hook(
            lambda _, given: (given[0].index_add(1, torch.tensor([50]), torch.ones(1, 1, 385)),)
        )
        moved = vocoder(mel)
        seen.remove()
    places = ((moved - still).abs()[0] > 1e-6).nonzero()
    assert abs(places.float().mean().item() - 50.5 * MEL.hop) < 80
    assert places.max() - places.min() < vocoder.config.n_fft


def test_batch_and_length_do_not_change_a_sound() -> None:
    vocoder, mel = awake(), LogMel(MEL)(noise(3, 8000))
    with torch.no_grad():
        together, alone = vocoder(mel), vocoder(mel[1:2])
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-4)
    assert torch.equal(random_phases(10, MEL), random_phases(50, MEL)[:, :12])


def test_other_phases_make_another_sound_of_the_same_mel() -> None:
    vocoder, mel = tiny(), LogMel(MEL)(noise(2, 8000))
    phases = torch.cat([random_phases(50, MEL, seed=s) for s in (1, 2)])
    made = vocoder(mel[:1].repeat(2, 1, 1, 1), phases)
    assert (made[0] - made[1]).abs().mean() > 0.5 * made.abs().mean()
    heard = LogMel(MEL)(made)
    assert (heard[0] - heard[1]).abs().mean() < 0.7


def test_fewest_frames() -> None:
    vocoder = awake()
    least = vocoder.config.min_frames
    assert vocoder(torch.randn(1, 1, least, 64) - 5).shape == (1, least * 160)
    with pytest.raises(ValueError, match=f"at least {least}"):
        vocoder(torch.randn(1, 1, least - 1, 64))
    with pytest.raises(ValueError, match=r"allowed: \[B, 1, T, 64\]"):
        vocoder(torch.randn(1, 1, 10, 63))


def test_silence_and_autocast_are_finite() -> None:
    vocoder, silence = awake(), LogMel(MEL)(torch.zeros(1, 3200))
    with torch.autocast("cpu", torch.bfloat16):
        made = vocoder(silence)
    assert made.dtype == torch.float32
    assert made.isfinite().all()
    assert made.abs().max() < 0.01


def test_every_weight_learns() -> None:
    vocoder = awake()
    vocoder(LogMel(MEL)(noise(2, 4800))).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vocoder.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": 4}, "kernel"),
        ({"n_fft": 641}, "n_fft"),
        ({"n_fft": 300}, "n_fft"),
        ({"blocks": 0}, "blocks"),
        ({"mel_std": 0.0}, "mel_std"),
        ({"mel": MelConfig(power=2)}, "power 1"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpectralConfig(**changes)


def test_settings_name_their_kind() -> None:
    for config in (SpectralConfig(width=8), MelGANConfig(channels=64)):
        assert from_dict(VocoderConfig, to_dict(config)) == config
    assert isinstance(build_vocoder(SpectralConfig(width=8)), SpectralVocoder)
    assert isinstance(build_vocoder(MelGANConfig(channels=64)), MelGAN)
    old = to_dict(MelGANConfig())
    del old["kind"]  # written before there was another one
    assert from_dict(VocoderConfig, old) == MelGANConfig()
    with pytest.raises(ValueError, match="kind: got 'wavenet'; allowed: melgan, spectral"):
        from_dict(VocoderConfig, {"kind": "wavenet"})
