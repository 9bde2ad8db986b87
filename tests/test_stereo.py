"""Two channels from one: wide where the sound is noise, the same sound in mono."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from soundcrafter.audio import Wave, read_audio
from soundcrafter.export import Export
from soundcrafter.loudness import loudness
from soundcrafter.stereo import widen

RATE = 16_000


def noise(seconds: float = 3.0) -> Wave:
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def tone(seconds: float = 3.0, hertz: float = 1000.0) -> Wave:
    times = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def side_share(stereo: np.ndarray) -> float:
    """Power of the sides relative to the middle."""
    middle, side = stereo.mean(1), (stereo[:, 0] - stereo[:, 1]) / 2
    return float(np.square(side).sum() / np.square(middle).sum())


def mono_losses(stereo: np.ndarray) -> list[float]:
    """What (left + right) / 2 loses against the mean power of both, dB, in each third octave."""
    left, right = (np.fft.rfft(channel) for channel in stereo.T.astype(np.float64))
    frequencies = np.fft.rfftfreq(len(stereo), 1 / RATE)
    losses, low = [], 1000 * 2 ** (-25 / 6)  # the standard bands, from 63 Hz
    while low * 2 ** (1 / 3) < RATE / 2:
        band = (frequencies >= low) & (frequencies < low * 2 ** (1 / 3))
        both = (np.abs(left[band]) ** 2 + np.abs(right[band]) ** 2).sum() / 2
        mono = (np.abs((left[band] + right[band]) / 2) ** 2).sum()
        losses.append(10 * math.log10(both / mono) if mono > 0 else 0.0)
        low *= 2 ** (1 / 3)
    return losses


def test_noise_gets_wide_and_its_mean_is_the_wave():
    stereo = widen(noise(), RATE)
    assert (stereo.dtype, stereo.shape) == (np.float32, (3 * RATE, 2))
    np.testing.assert_allclose(stereo.mean(1), noise(), atol=1e-6)
    assert 0.6 < np.corrcoef(stereo.T)[0, 1] < 0.75


def test_tones_and_clicks_stay_in_the_middle():
    assert side_share(widen(tone(), RATE)) < 1e-3
    click = np.zeros(3 * RATE, np.float32)
    click[RATE] = 1.0
    assert side_share(widen(click, RATE)) < 0.01


@pytest.mark.parametrize("sound", ["noise", "tone and noise", "bursts", "recordings"])
def test_mono_loses_at_most_1_db_in_any_third_octave(sound, clips):
    if sound == "recordings":
        waves = [read_audio(file, RATE) for file in sorted(clips.rglob("*.ogg"))]
    else:
        bursts = noise() * (np.sin(np.arange(3 * RATE) / 2000) > 0.5)
        made = {"noise": noise(), "tone and noise": tone() + 0.1 * noise(), "bursts": bursts}
        waves = [made[sound].astype(np.float32)]
    for wave in waves:
        assert max(mono_losses(widen(wave, RATE))) < 1.0


def test_lows_stay_in_the_middle():
    stereo = widen(noise(), RATE)
    side = np.abs(np.fft.rfft(stereo[:, 0] - stereo[:, 1])) ** 2
    low = np.fft.rfftfreq(len(stereo), 1 / RATE) < 70
    assert side[low].mean() < 0.01 * side[~low].mean()


@pytest.mark.parametrize("seconds", [0.2, 19.0, 20.0, 45.0])
def test_any_length_and_always_the_same(seconds):
    wave = noise(seconds)
    stereo = widen(wave, RATE)
    np.testing.assert_array_equal(stereo, widen(wave, RATE))
    np.testing.assert_allclose(stereo.mean(1), wave, atol=1e-6)
    side = (stereo[:, 0] - stereo[:, 1]) / 2
    level = np.square(side[: len(side) // 1600 * 1600].reshape(-1, 1600)).mean(1)
    assert level.min() > 0.2 * np.median(level)  # no gap where pieces meet


def test_silence_stays_silence():
    assert not widen(np.zeros(RATE, np.float32), RATE).any()


def test_a_loop_is_wide_without_a_seam(tmp_path: Path):
    """The noise has no frequency above 750 Hz, so that a click at the seam would stand out."""
    for seed in range(10):
        spectrum = np.fft.rfft(np.random.default_rng(seed).normal(0, 1, 2 * RATE))
        spectrum[1500:] = 0
        wave = np.fft.irfft(spectrum).astype(np.float32)  # its end goes on at its start
        Export(stereo=True, depth="float").write(tmp_path / "a.wav", wave, RATE, loop=True)
        looped = soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
        side = looped[:, 0] - looped[:, 1]
        steps = np.abs(np.diff(side))
        assert side.any()
        assert abs(side[0] - side[-1]) <= steps.max()


def test_the_side_waits_for_a_sudden_sound():
    burst = np.zeros(3 * RATE, np.float32)
    burst[RATE:] = noise(2.0) * np.exp(-np.arange(2 * RATE) / 3000)
    side = np.diff(widen(burst, RATE))[:, 0]
    assert np.abs(side[RATE:]).max() > 0.1 * np.abs(burst).max()
    assert np.abs(side[: RATE - 80]).max() < 0.01 * np.abs(burst).max()  # 5 ms before


@pytest.mark.parametrize(("channels", "suffix"), [(3, ".mp3"), (9, ".flac"), (9, ".ogg")])
def test_more_channels_than_a_format_has(channels, suffix, tmp_path: Path):
    with pytest.raises(ValueError, match=f"got {channels} channels"):
        Export().write(tmp_path / f"a{suffix}", np.zeros((100, channels), np.float32), RATE)
    assert not list(tmp_path.iterdir())


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="expected one dimension"):
        widen(np.zeros((100, 2), np.float32), RATE)
    assert widen(np.zeros(0, np.float32), RATE).shape == (0, 2)


def test_peaks_are_limited_and_stereo_is_left_alone(tmp_path: Path):
    loud = (noise() / np.abs(noise()).max()).astype(np.float32)
    Export(stereo=True, depth="float").write(tmp_path / "a.wav", loud, RATE)
    assert np.abs(soundfile.read(tmp_path / "a.wav")[0]).max() <= 0.9901
    both = np.stack([noise(), -noise()], -1)
    Export(stereo=True, depth="float").write(tmp_path / "b.wav", both, RATE)
    np.testing.assert_allclose(soundfile.read(tmp_path / "b.wav")[0], both, atol=1e-7)


def test_loudness_of_channels_adds_up():
    """ITU-R BS.1770-4: a sine of 1 kHz (997 Hz) at full scale in one channel is -3.01 LKFS."""
    times = np.arange(10 * 48_000) / 48_000
    sine = np.sin(2 * np.pi * 997 * times).astype(np.float32)
    silent = np.zeros_like(sine)
    assert loudness(sine, 48_000) == pytest.approx(-3.01, abs=0.05)
    assert loudness(np.stack([sine, silent], -1), 48_000) == pytest.approx(-3.01, abs=0.05)
    assert loudness(np.stack([sine, sine], -1), 48_000) == pytest.approx(0.0, abs=0.05)
    assert loudness(np.stack([sine, -sine], -1), 48_000) == pytest.approx(0.0, abs=0.05)


def test_the_commands(run, tiny_model, tmp_path: Path):
    call = ("--model", tiny_model, "--steps", 2, "--stereo", "--lufs", -23, "--depth", "float")
    file = tmp_path / "a.wav"
    assert run("generate", "rain", "--seconds", 1, "-o", file, *call).code == 0
    assert soundfile.info(file).channels == 2
    assert (
        run("generate", "--from", file, "--model", tiny_model, "-o", tmp_path / "b.wav").code == 0
    )
    assert (tmp_path / "b.wav").read_bytes() == file.read_bytes()
    stems = tmp_path / "stems"
    done = run(
        "generate",
        "rain, then thunder",
        "-o",
        file,
        "--stems",
        stems,
        "--json",
        "--seconds",
        2,
        *call,
    )
    (facts,) = json.loads(done.out)
    parts = [soundfile.read(stem)[0] for stem in facts["stems"].values()]
    assert len(parts) == 2
    np.testing.assert_allclose(np.sum(parts, 0), soundfile.read(file)[0], atol=1e-5)
