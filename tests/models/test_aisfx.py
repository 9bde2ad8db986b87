import copy

import numpy as np
import pytest
import torch
from torch import nn

from soundcrafter.mel import LogMel
from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.aisfx import AiSFX, FrontEnd, MelReader

WIDTHS = (4, 6, 8, 10)
FINE = {"sample_rate": 32_000, "hop": 320, "num_mels": 128, "fmax": 16_000.0}
MELS = {
    "16 kHz": MelConfig(),
    "32 kHz, short window": MelConfig(n_fft=1024, **FINE),
    "32 kHz, long window": MelConfig(n_fft=2048, **FINE),
}
every_mel = pytest.mark.parametrize("mel", MELS.values(), ids=MELS.keys())


@pytest.fixture
def network() -> AiSFX:
    torch.manual_seed(0)
    return AiSFX(WIDTHS)


def test_maps_are_taken_before_the_pooling(network):
    x = torch.rand(2, 1, 100, 96)
    maps = network.maps(x)
    assert [tuple(one.shape[1:]) for one in maps] == [(4, 100, 96), (6, 50, 48), (8, 25, 24)]
    assert len(network.maps(x, 4)) == 4
    assert torch.equal(network.maps(x, 1)[0], maps[0])
    assert all((one >= 0).all() and (one > 0).any() for one in maps)


def test_the_embedding_pools_frequency_then_time(network):
    x = torch.rand(2, 1, 100, 96)
    last = network.maps(x, 4)[-1].numpy()
    assert last.shape == (2, 10, 12, 12)
    np.testing.assert_allclose(network(x).numpy(), last.mean(3).max(2), rtol=1e-5)


def test_it_stays_as_it_is_in_training(network):
    state = copy.deepcopy(network.state_dict())
    around = nn.Sequential(network).train()
    x = torch.rand(2, 1, 32, 96, requires_grad=True)
    around(x).sum().backward()
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_the_front_end_equals_numpy():
    wave = np.random.default_rng(0).standard_normal(44_100).astype("f4") * 0.3
    padded, window = np.pad(wave, 1024), np.hanning(2049)[:-1]
    frames = [padded[i : i + 2048] * window for i in range(0, len(wave) + 1, 1024)]
    power = np.abs(np.fft.rfft(frames)) ** 2
    top = 2595 * np.log10(1 + 22_050 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, 98) / 2595) - 1)
    hertz = np.linspace(0, 22_050, 1025)[:, None]
    rise = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    filters = np.minimum(rise, fall).clip(0)
    expected = np.log10(1e4 * power @ (filters / filters.sum(0)) + 1) / 9.457798957824707
    found = FrontEnd()(torch.from_numpy(wave)[None])
    assert found.shape == (1, 1, 44, 96)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=1e-5)


def noise(mel: MelConfig, bandwidth: float) -> tuple[np.ndarray, np.ndarray]:
    """Five seconds of noise below `bandwidth` Hz, the same at aiSFX's rate and at the mel's."""
    generator = np.random.default_rng(0)
    phases = np.exp(2j * np.pi * generator.random(int(5 * bandwidth)))
    waves = []
    for rate in (44_100, mel.sample_rate):
        spectrum = np.zeros(5 * rate // 2 + 1, dtype=complex)
        spectrum[1 : len(phases)] = phases[1:]
        waves.append(np.fft.irfft(spectrum, 5 * rate) * rate)
    return waves[0], waves[1]


def sine(mel: MelConfig, hertz: float) -> tuple[np.ndarray, np.ndarray]:
    first, second = (
        np.sin(2 * np.pi * hertz * np.arange(5 * rate) / rate) for rate in (44_100, mel.sample_rate)
    )
    return first, second


def powers(mel: MelConfig, waves: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean band powers [96] by the front end (peak 1), and by the reader (peak 0.5)."""
    full, half = (
        torch.from_numpy(wave * peak / np.abs(waves[0]).max()).float()[None]
        for wave, peak in zip(waves, (1.0, 0.5), strict=True)
    )
    wanted, found = FrontEnd()(full), MelReader(mel)(LogMel(mel)(half))
    assert abs(wanted.shape[2] - found.shape[2]) <= 1
    first, second = (
        ((10 ** (9.457798957824707 * x[0, 0, 5:-5].double()) - 1) / 1e4).mean(0).numpy()
        for x in (wanted, found)
    )
    return first, second


@every_mel
def test_the_reader_hears_noise_at_the_front_ends_level(mel):
    wanted, found = powers(mel, noise(mel, mel.fmax))
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(32.5), 98)[1:-1] / 2595) - 1)
    below, above = centres < 0.95 * mel.fmax, centres > 1.05 * mel.fmax
    decibels = 10 * np.log10(found[below] / wanted[below])
    assert np.abs(decibels).max() < 1.5
    assert abs(decibels.mean()) < 0.7
    assert (found[above] == 0).all()


@every_mel
def test_the_reader_hears_a_sine_where_it_is(mel):
    wanted, found = powers(mel, sine(mel, 1000.0))
    assert found.argmax() == wanted.argmax() == 24
    assert abs(10 * np.log10(found.max() / wanted.max())) < 4.0
    assert abs(10 * np.log10(found.sum() / wanted.sum())) < 3.0


def test_the_reader_hears_an_event_when_it_is():
    wave = torch.zeros(1, 5 * 16_000)
    wave[0, 3 * 16_000] = 0.5
    frames = MelReader(MelConfig())(LogMel(MelConfig())(wave))[0, 0].sum(1)
    assert frames.argmax() / 43.066 == pytest.approx(3.0, abs=0.03)


@every_mel
def test_the_reader_is_silent_in_silence(mel):
    silence = LogMel(mel)(torch.zeros(1, mel.sample_rate))
    assert MelReader(mel)(silence).abs().max() < 1e-3


def test_every_frame_of_the_mel_gets_a_gradient(network):
    mel = torch.full((2, 1, 250, 64), -3.0, requires_grad=True)
    heard = MelReader(MelConfig())(mel)
    assert heard.shape == (2, 1, 108, 96)
    heard.sum().backward()
    assert mel.grad is not None
    assert (mel.grad > 0).all()
    loud = torch.full((1, 1, 250, 64), 500.0)
    assert torch.isfinite(MelReader(MelConfig())(loud)).all()


def test_the_reader_reads_in_float32_and_waits_for_no_value():
    reader, mel = MelReader(MelConfig()), torch.randn(1, 1, 250, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = reader(mel)
    assert torch.equal(found, reader(mel))
    assert not reader.state_dict()
    # one graph: reading a value of a tensor, as a CUDA graph may not, would break it
    whole = torch.compile(reader, backend="eager", fullgraph=True)
    assert torch.equal(whole(mel), found)


def test_other_mels_are_refused():
    with pytest.raises(ValueError, match="power 1, log ln"):
        MelReader(MelConfig(power=2))
    with pytest.raises(ValueError, match="power 1, log ln"):
        MelReader(MelConfig(log="db"))
    with pytest.raises(ValueError, match="num_mels: got 128 with n_fft 256"):
        MelReader(MelConfig(n_fft=256, num_mels=128))
