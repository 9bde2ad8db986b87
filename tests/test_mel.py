"""LogMel against an independent numpy implementation, and its promises on shape and precision."""

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from soundcrafter.audio import read_audio
from soundcrafter.mel import LogMel
from soundcrafter.mel_bands import MelConfig

DB = {"log": "db", "power": 2, "floor": 1e-10, "framing": "center"}
LAION = {"sample_rate": 48000, "hop": 480, "fmin": 50.0, "fmax": 14000.0}


def slaney_hertz(mel: np.ndarray) -> np.ndarray:
    """Auditory Toolbox: 3 mel every 200 Hz up to 1 kHz, then 27 mel for a factor of 6.4."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def slaney_mel(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)


def edges(config: MelConfig) -> np.ndarray:
    """The F + 2 corner frequencies of the triangles, Hz."""
    if config.scale == "htk":
        low, high = (2595 * np.log10(1 + f / 700) for f in (config.fmin, config.fmax))
        return 700 * (10 ** (np.linspace(low, high, config.num_mels + 2) / 2595) - 1)
    low, high = slaney_mel(config.fmin), slaney_mel(config.fmax)
    return slaney_hertz(np.linspace(low, high, config.num_mels + 2))


def filterbank(config: MelConfig) -> np.ndarray:
    """The filters [F, n_fft // 2 + 1], a triangle at a time."""
    bins = np.arange(config.n_fft // 2 + 1) * config.sample_rate / config.n_fft
    corners = edges(config)
    rows = []
    for left, peak, right in zip(corners, corners[1:], corners[2:], strict=False):
        row = np.interp(bins, [left, peak, right], [0.0, 1.0, 0.0])
        rows.append(row * (2 / (right - left) if config.norm == "slaney" else 1))
    return np.array(rows)


def reference(wave: np.ndarray, config: MelConfig) -> np.ndarray:
    """The log-mel of one wave [N] as [T, F], in float64."""
    wave = wave.astype(np.float64)
    if config.framing == "exact":
        count = -(-len(wave) // config.hop)
        wave = np.append(wave, np.zeros(count * config.hop - len(wave)))
        pad = (config.n_fft - config.hop) // 2
    else:
        count, pad = len(wave) // config.hop + 1, config.n_fft // 2
    wave = np.concatenate([wave[pad:0:-1], wave, wave[-2 : -pad - 2 : -1]])
    window = scipy.signal.get_window("hann", config.n_fft)
    filters = filterbank(config)
    frames = []
    for i in range(count):
        frame = wave[i * config.hop : i * config.hop + config.n_fft]
        band = filters @ np.abs(scipy.fft.rfft(frame * window)) ** config.power
        band = np.maximum(band, config.floor)
        decibels = (20 if config.power == 1 else 10) * np.log10(band)
        frames.append(np.log(band) if config.log == "ln" else decibels)
    return np.array(frames)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scale": "htk", "norm": "none"},
        {"power": 2},
        {"log": "db"},
        {"framing": "center"},
        {"n_fft": 512, "hop": 128, "num_mels": 20, "fmin": 100.0, "fmax": 4000.0},
        DB,
        LAION | DB,
    ],
    ids=str,
)
def test_equals_the_independent_implementation(clips, changes):
    config = MelConfig(**changes)
    wave = read_audio(clips / "audio/antum_mod_sounds_0005.ogg", config.sample_rate)
    mel = LogMel(config)(torch.from_numpy(wave)[None])
    expected = reference(wave, config)
    assert mel.shape == (1, 1, *expected.shape)
    np.testing.assert_allclose(mel[0, 0].numpy(), expected, atol=5e-4)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("norm", ["slaney", "none"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        LAION,
        {"n_fft": 512, "num_mels": 20, "fmin": 100.0, "fmax": 4000.0},
        {"sample_rate": 44100, "n_fft": 2048, "num_mels": 128, "fmax": 22050.0},
        {"fmin": 1000.0, "num_mels": 8},  # slaney's scale turns logarithmic there
        {"fmax": 1000.0, "num_mels": 8},
        {"fmax": 999.0, "num_mels": 1},
        {"sample_rate": 11025, "n_fft": 511, "fmax": 5512.0, "framing": "center"},
    ],
    ids=str,
)
def test_filters_are_to_the_bit_those_of_transformers(changes, scale, norm):
    from transformers.audio_utils import mel_filter_bank

    config = MelConfig(**changes, scale=scale, norm=norm)
    expected = mel_filter_bank(
        num_frequency_bins=config.n_fft // 2 + 1,
        num_mel_filters=config.num_mels,
        min_frequency=config.fmin,
        max_frequency=config.fmax,
        sampling_rate=config.sample_rate,
        norm=None if norm == "none" else norm,
        mel_scale=scale,
    )
    assert torch.equal(LogMel(config).filters, torch.from_numpy(expected).float())


def test_ten_seconds_give_exactly_1024_frames():
    assert MelConfig().num_frames(163840) == 1024
    assert LogMel(MelConfig())(torch.zeros(1, 163840)).shape == (1, 1, 1024, 64)


@given(
    num_samples=st.integers(600, 3000), hop=st.sampled_from([100, 160, 256]), center=st.booleans()
)
@settings(deadline=None, max_examples=40)
def test_num_frames_is_the_number_of_frames(num_samples, hop, center):
    config = MelConfig(hop=hop, num_mels=8, framing="center" if center else "exact")
    frames = LogMel(config)(torch.zeros(1, num_samples)).shape[2]
    assert frames == config.num_frames(num_samples)
    assert frames == (num_samples // hop + 1 if center else int(np.ceil(num_samples / hop)))


def test_silence_is_the_floor():
    ln = LogMel(MelConfig())(torch.zeros(2, 1600))
    torch.testing.assert_close(ln, torch.full((2, 1, 10, 64), float(np.log(1e-5))))
    db = LogMel(MelConfig(**DB))(torch.zeros(1, 1600))
    torch.testing.assert_close(db, torch.full((1, 1, 11, 64), -100.0))


def test_rows_of_a_batch_are_independent():
    waves = torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))
    log_mel = LogMel(MelConfig())
    torch.testing.assert_close(log_mel(waves)[1:2], log_mel(waves[1:2]), atol=1e-5, rtol=1e-5)


def test_float32_under_autocast():
    waves = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    log_mel = LogMel(MelConfig())
    expected = log_mel(waves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(log_mel(waves), expected)


def test_no_state_and_finite_gradient_on_silence():
    log_mel = LogMel(MelConfig())
    assert not log_mel.state_dict()
    wave = torch.zeros(1, 2000)
    wave[0, :200] = torch.sin(torch.arange(200) * 0.3)
    wave.requires_grad_()
    log_mel(wave).sum().backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()
    assert wave.grad.abs().sum() > 0


@pytest.mark.parametrize(("framing", "pad"), [("exact", 432), ("center", 512)])
def test_wave_too_short_for_the_reflection(framing, pad):
    log_mel = LogMel(MelConfig(framing=framing))
    log_mel(torch.zeros(1, pad + 1))
    with pytest.raises(ValueError, match=f"got {pad} samples; allowed: {pad + 1} or more"):
        log_mel(torch.zeros(1, pad))
    with pytest.raises(ValueError, match="shape"):
        log_mel(torch.zeros(2000))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fmax": 8001.0}, "fmax"),
        ({"fmin": -1.0}, "fmin"),
        ({"fmin": 8000.0}, "fmin"),
        ({"hop": 161}, "even"),
        ({"hop": 2048}, "not negative"),
        ({"hop": 0}, "hop"),
        ({"num_mels": 0}, "num_mels"),
        ({"floor": 0.0}, "floor"),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        MelConfig(**changes)
