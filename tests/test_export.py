"""Files in the formats that engines and editors want: rate, depth, loudness."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from soundcrafter.audio import encode_audio
from soundcrafter.export import Export
from soundcrafter.loudness import loudness
from soundcrafter.sound import Sound

RATE = 16_000


def tone(seconds: float = 1.0, hertz: float = 440.0, level: float = 0.3) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


@pytest.mark.parametrize(
    ("suffix", "depth", "subtype", "error"),
    [
        (".wav", "16", "PCM_16", 2**-16),
        (".wav", "24", "PCM_24", 2**-24),
        (".wav", "float", "FLOAT", 0.0),
        (".flac", "24", "PCM_24", 2**-24),
        (".ogg", "16", "VORBIS", 0.05),
    ],
)
def test_depths(tmp_path: Path, suffix: str, depth, subtype: str, error: float) -> None:
    file = tmp_path / f"a{suffix}"
    Export(depth=depth).write(file, tone(), RATE)
    assert soundfile.info(file).subtype == subtype
    read = soundfile.read(file)[0]
    assert np.abs(read - tone()).max() <= error + 1e-9


@pytest.mark.parametrize(
    ("suffix", "depth", "allowed"),
    [(".flac", "float", "16, 24"), (".ogg", "24", "16"), (".wav", "8", "16, 24, float")],
)
def test_depths_that_a_format_does_not_have(suffix: str, depth, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"depth: got '{depth}'.* allowed: {allowed}"):
        encode_audio(tone(), RATE, suffix, depth=depth)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000])
def test_mp3_keeps_length_metadata_and_sound(tmp_path: Path, rate: int) -> None:
    file = tmp_path / "a.mp3"
    Export(rate=rate).write(file, tone(), RATE, title="rain", comment='{"a": 1}')
    read, found = soundfile.read(file, dtype="float32")
    assert (found, len(read)) == (rate, rate)
    inside = slice(rate // 4, 3 * rate // 4)
    wanted = np.sin(2 * np.pi * 440 * np.arange(rate) / rate) * 0.3
    assert np.corrcoef(read[inside], wanted[inside])[0, 1] > 0.99
    with soundfile.SoundFile(file) as opened:
        assert (opened.title, opened.comment) == ("rain", '{"a": 1}')


def test_mp3_has_few_rates_and_no_depths(run, tmp_path: Path) -> None:
    call = ("generate", "rain", "-o", tmp_path / "a.mp3")
    assert "rate: got 96000 for .mp3; allowed: 8000," in run(*call, "--rate", 96_000).refused()
    assert "depth: got '24' for .mp3; allowed: 16" in run(*call, "--depth", 24).refused()
    assert not (tmp_path / "a.mp3").exists()


def test_rate_keeps_length_and_pitch(tmp_path: Path) -> None:
    for wave in (tone(), np.stack([tone(), tone(hertz=880.0)], 1)):
        file = tmp_path / "a.wav"
        Export(rate=48_000, depth="float").write(file, wave, RATE)
        read, rate = soundfile.read(file, always_2d=True)
        assert (rate, len(read)) == (48_000, 48_000)
        for column, hertz in zip(read.T, (440, 880), strict=False):
            assert np.argmax(np.abs(np.fft.rfft(column))) == hertz


def test_a_loop_stays_seamless_at_another_rate(tmp_path: Path) -> None:
    wave = tone(1.0, 440.0)  # whole periods
    Sound(wave, RATE, "tone", 0, None, loop=True).save(
        tmp_path / "a.wav", Export(rate=44_100, depth="float")
    )
    read, rate = soundfile.read(tmp_path / "a.wav")
    assert (rate, len(read)) == (44_100, 44_100)
    exact = 0.3 * np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100)
    assert np.abs(read - exact).max() < 1e-3  # at its ends, too
    assert b"smpl" in (tmp_path / "a.wav").read_bytes()


def test_loudness_as_far_as_the_peak_allows(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    for lufs in (-30.0, -23.0):
        Export(lufs=lufs, depth="float").write(file, tone(2.0), RATE)
        assert loudness(soundfile.read(file)[0].astype(np.float32), RATE) == pytest.approx(
            lufs, abs=0.05
        )
    Export(lufs=0.0).write(file, tone(2.0), RATE)
    assert np.abs(soundfile.read(file)[0]).max() == pytest.approx(0.99, abs=1e-3)
    Export(lufs=-23.0).write(file, 0 * tone(), RATE)
    assert not soundfile.read(file)[0].any()


def test_what_no_file_can_have() -> None:
    for options, fault in (
        ({"rate": 1000}, "rate: got 1000; allowed: 8000 to 192000"),
        ({"lufs": 3.0}, "lufs: got 3.0; allowed: -70 to 0"),
        ({"lufs": math.nan}, "lufs: got nan"),
        ({"depth": "8"}, "depth: got '8'; allowed: 16, 24, float"),
    ):
        with pytest.raises(ValueError, match=fault):
            Export(**options)


def test_the_commands_write_them(run, tiny_model: Path, tmp_path: Path) -> None:
    options = ("--rate", 48_000, "--depth", "24", "--lufs", -23, "--model", tiny_model)
    fast = ("--steps", 1, "--candidates", 1)
    run("generate", "rain", "--seconds", 1, "-o", tmp_path / "a.wav", *options, *fast)
    run("edit", tmp_path / "a.wav", "-o", tmp_path / "b.flac", *options, *fast)
    stems = ("--stems", tmp_path / "stems", "--seconds", 2)
    run("generate", "rain and wind", "-o", tmp_path / "c.wav", *stems, *options, *fast)
    for name in ("a.wav", "b.flac", "c.wav", "stems/rain.wav"):
        info = soundfile.info(tmp_path / name)
        assert (info.samplerate, info.subtype) == (48_000, "PCM_24"), name
    waves = [soundfile.read(tmp_path / "stems" / f"{n}.wav")[0] for n in ("rain", "wind")]
    np.testing.assert_allclose(sum(waves), soundfile.read(tmp_path / "c.wav")[0], atol=1e-4)
    refused = run("generate", "rain", "-o", tmp_path / "d.ogg", "--depth", "24", *fast)
    assert "depth: got '24' for .ogg; allowed: 16" in refused.refused()
    refused = run("generate", "rain", "-o", tmp_path / "d.wav", "--rate", 5, *fast)
    assert "rate: got 5; allowed: 8000 to 192000" in refused.refused()
    assert not list(tmp_path.glob("d.*"))
