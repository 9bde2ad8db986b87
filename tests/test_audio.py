"""Sound files round-trip, faults name the file, and waves get the rate, level and length asked."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from soundcrafter.audio import (
    AUDIO_SUFFIXES,
    WRITE_SUFFIXES,
    AudioInfo,
    audio_info,
    channels_cancel,
    fit_length,
    limit_peak,
    list_audio,
    normalize_peak,
    read_audio,
    resample,
    write_audio,
)
from soundcrafter.files import replacing

RATE = 16000


def tone(seconds: float = 0.5, hertz: float = 440.0, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype("f4")


def waves(low: float = -4.0, high: float = 4.0, min_size: int = 1):
    sample = st.floats(low, high, width=32)
    return st.lists(sample, min_size=min_size, max_size=60).map(lambda x: np.array(x, dtype="f4"))


def test_imports_no_torch_and_no_codec():
    code = (
        "import sys, soundcrafter.audio;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'soundfile', 'soxr')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("suffix", WRITE_SUFFIXES)
def test_write_then_read(tmp_path, suffix):
    path = tmp_path / f"tone{suffix}"
    write_audio(path, tone(), RATE)
    assert audio_info(path) == AudioInfo(RATE, 8000)
    assert audio_info(path).seconds == 0.5
    wave = read_audio(path, RATE)
    assert wave.shape == (8000,)
    assert wave.dtype == np.float32
    lossy = {".ogg": 0.02, ".mp3": 0.05}
    inside = slice(1000, -1000) if suffix == ".mp3" else slice(None)  # it blurs a sudden start
    tolerance = lossy.get(suffix, 0.5 / 32768 + 1e-7)
    np.testing.assert_allclose(wave[inside], tone()[inside], atol=tolerance)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_same_wave_same_bytes_and_a_rewrite_changes_nothing(tmp_path, suffix):
    first, second, third = (tmp_path / f"{name}{suffix}" for name in "abc")
    noise = np.random.default_rng(0).uniform(-1.2, 1.2, 5000).astype("f4")
    write_audio(first, noise, RATE)
    write_audio(second, noise, RATE)
    write_audio(third, read_audio(first, RATE), RATE)
    assert first.read_bytes() == second.read_bytes() == third.read_bytes()
    assert soundfile.info(first).subtype == "PCM_16"


def test_write_clips(tmp_path):
    write_audio(tmp_path / "a.wav", np.array([3.0, -3.0, 0.25], dtype="f4"), RATE)
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert samples.tolist() == [32767, -32768, 8192]


def test_write_long_ogg(tmp_path):
    write_audio(tmp_path / "long.ogg", np.zeros(RATE * 300, dtype="f4"), RATE)
    assert audio_info(tmp_path / "long.ogg").num_samples == RATE * 300


def test_write_replaces_an_old_file_and_takes_upper_case(tmp_path):
    path = tmp_path / "A.WAV"
    path.write_bytes(b"old")
    write_audio(path, tone(), RATE)
    assert len(read_audio(path, RATE)) == 8000


def test_write_faults(tmp_path):
    with pytest.raises(ValueError, match=r"x\.aac.*\.wav, \.flac, \.ogg, \.mp3"):
        write_audio(tmp_path / "x.aac", tone(), RATE)
    with pytest.raises(ValueError, match=r"x\.wav.*No such file or directory"):
        write_audio(tmp_path / "missing" / "x.wav", tone(), RATE)
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(ValueError, match=r"folder\.wav.*directory"):
        write_audio(tmp_path / "folder.wav", tone(), RATE)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"x\.wav.*Not a directory"):
        write_audio(tmp_path / "file" / "x.wav", tone(), RATE)
    with pytest.raises(ValueError, match="shape"):
        write_audio(tmp_path / "x.wav", np.zeros((2, 10, 2), dtype="f4"), RATE)
    with pytest.raises(ValueError, match="NaN"):
        write_audio(tmp_path / "x.wav", np.array([0.0, np.nan], dtype="f4"), RATE)
    for rate in (0, 200_001):
        with pytest.raises(ValueError, match=f"sample_rate: got {rate}"):
            write_audio(tmp_path / "x.ogg", tone(), rate)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.wav"]


def break_off_while_replacing(path):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError


def test_a_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "a.wav").write_text("old")
    with pytest.raises(KeyError):
        break_off_while_replacing(tmp_path / "a.wav")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.wav", "old")]


def test_read_mp3(tmp_path):
    path = tmp_path / "tone.mp3"
    soundfile.write(path, tone(1.0, rate=44100), 44100, format="MP3")
    wave = read_audio(path, RATE)
    assert abs(len(wave) - RATE) < 2000  # an encoder adds a delay of about two mp3 frames
    assert np.abs(np.fft.rfft(wave[4000:12000])).argmax() * 2 == 440


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".aif", "AIFF"), (".aiff", "AIFF"), (".au", "AU"), (".caf", "CAF"), (".oga", "OGG")],
)
def test_read_other_formats(tmp_path, suffix, kind):
    assert suffix in AUDIO_SUFFIXES
    soundfile.write(tmp_path / f"a{suffix}", tone(), RATE, format=kind)
    np.testing.assert_allclose(read_audio(tmp_path / f"a{suffix}", RATE), tone(), atol=0.02)


def test_read_opus(tmp_path):
    path = tmp_path / "a.opus"
    soundfile.write(path, tone(rate=48000), 48000, format="OGG", subtype="OPUS")
    assert abs(len(read_audio(path, RATE)) - 8000) < 100


def test_read_averages_channels(tmp_path):
    stereo = np.stack([tone(), np.zeros(8000, dtype="f4")], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav", RATE), tone() / 2, atol=1e-7)


def test_read_a_part(tmp_path):
    ramp = np.linspace(-1, 1, RATE, dtype="f4")
    soundfile.write(tmp_path / "a.wav", ramp, RATE, subtype="FLOAT")
    part = read_audio(tmp_path / "a.wav", RATE, start=0.25, seconds=0.5)
    np.testing.assert_array_equal(part, ramp[4000:12000])
    assert len(read_audio(tmp_path / "a.wav", RATE, start=0.75, seconds=9.0)) == 4000


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_read_a_part_has_the_exact_length_at_any_rate(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(2.0, rate=rate), rate)
    for seconds in (0.1, 0.333, 1.00001):
        part = read_audio(tmp_path / "a.wav", RATE, start=0.5, seconds=seconds)
        assert len(part) == round(seconds * RATE)


def test_read_resamples(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1.0, rate=44100), 44100, subtype="FLOAT")
    wave = read_audio(tmp_path / "a.wav", RATE)
    assert wave.shape == (RATE,)
    np.testing.assert_allclose(wave[500:-500], tone(1.0)[500:-500], atol=1e-3)


def test_read_faults(tmp_path):
    write_audio(tmp_path / "good.wav", tone(), RATE)
    (tmp_path / "garbage.wav").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "garbage.mp3").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "nothing.ogg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "folder.wav").mkdir()
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), RATE, subtype="FLOAT")
    for name, reason in [
        ("absent.wav", "no such file"),
        ("folder.wav", "is not a file"),
        ("garbage.wav", "cannot read"),
        ("garbage.mp3", ""),
        ("nothing.ogg", "cannot read"),
        ("notes.txt", r"cannot read \.txt; allowed: \.wav"),
        ("empty.wav", "no sound"),
    ]:
        with pytest.raises(ValueError, match=f"{name}.*{reason}"):
            read_audio(tmp_path / name, RATE)
        with pytest.raises(ValueError, match=f"{name}.*{reason}"):
            audio_info(tmp_path / name)
    with pytest.raises(ValueError, match=r"nan\.wav: contains NaN"):
        read_audio(tmp_path / "nan.wav", RATE)
    with pytest.raises(ValueError, match=r"good\.wav: start 0.5 s is past its end at 0.5 s"):
        read_audio(tmp_path / "good.wav", RATE, start=0.5)
    for wrong in ({"start": -1.0}, {"start": float("nan")}, {"seconds": 0.0}):
        with pytest.raises(ValueError, match="allowed"):
            read_audio(tmp_path / "good.wav", RATE, **wrong)
    with pytest.raises(ValueError, match="sample_rate"):
        read_audio(tmp_path / "good.wav", 0)


@given(
    wave=waves(-1.0, 1.0),
    rates=st.sampled_from([(16000, 48000), (44100, 16000), (8000, 16000), (22050, 32000)]),
)
@settings(deadline=None)
def test_resample_length(wave, rates):
    resampled = resample(wave, *rates)
    assert len(resampled) == round(len(wave) * rates[1] / rates[0])
    assert resampled.dtype == np.float32
    assert np.isfinite(resampled).all()


def test_resample_keeps_the_sound_and_removes_aliases():
    there_and_back = resample(resample(tone(1.0), RATE, 48000), 48000, RATE)
    np.testing.assert_allclose(there_and_back[500:-500], tone(1.0)[500:-500], atol=1e-4)
    above_nyquist = resample(tone(1.0, 10000.0, 48000), 48000, RATE)
    assert np.abs(above_nyquist[500:-500]).max() < 1e-3
    with pytest.raises(ValueError, match="to_rate"):
        resample(tone(), RATE, 0)


@given(wave=waves(), peak=st.floats(0.01, 1.0))
def test_normalize_peak(wave, peak):
    level = normalize_peak(wave, peak)
    assert level.dtype == np.float32
    if np.abs(wave - wave.mean(dtype="f8")).max() < 1e-6:
        assert not level.any()
    else:
        assert np.abs(level).max() == pytest.approx(peak, rel=1e-5)
        assert abs(level.mean(dtype="f8")) < 1e-6


def test_normalize_peak_of_a_constant_is_silence():
    for value in (0.0, 0.3, -1.0):
        assert not normalize_peak(np.full(999, value, dtype="f4")).any()
    assert normalize_peak(np.zeros(0, dtype="f4")).shape == (0,)


@given(wave=waves(), peak=st.floats(0.01, 1.0))
def test_limit_peak(wave, peak):
    limited = limit_peak(wave, peak)
    if float(np.abs(wave).max()) <= peak:  # not in float32, to which numpy would round the peak
        np.testing.assert_array_equal(limited, wave)
    else:
        assert np.abs(limited).max() == pytest.approx(peak, rel=1e-5)
        np.testing.assert_allclose(limited * np.abs(wave).max(), wave * peak, atol=1e-5)


@given(wave=waves(), num_samples=st.integers(0, 200), data=st.data())
def test_fit_length(wave, num_samples, data):
    start = data.draw(st.integers(0, len(wave) - 1))
    zero = fit_length(wave, num_samples, start=start)
    repeat = fit_length(wave, num_samples, "repeat", start)
    assert len(zero) == len(repeat) == num_samples
    for i in range(num_samples):
        assert repeat[i] == wave[(start + i) % len(wave)]
        assert zero[i] == (wave[start + i] if start + i < len(wave) else 0)


def test_fit_length_copies_and_refuses():
    wave = tone()
    fit_length(wave, 10)[:] = 9
    fit_length(wave, 10, "repeat")[:] = 9
    np.testing.assert_array_equal(wave, tone())
    assert fit_length(np.zeros(0, dtype="f4"), 3).tolist() == [0, 0, 0]
    for arguments in ((-1,), (5, "zero", -1), (5, "zero", 8000), (5, "mirror")):
        with pytest.raises(ValueError, match="allowed"):
            fit_length(wave, *arguments)
    with pytest.raises(ValueError, match="empty"):
        fit_length(np.zeros(0, dtype="f4"), 3, "repeat")


def test_clips_are_what_their_table_says(clips):
    rows = list(csv.DictReader((clips / "sounds.csv").open(newline="")))
    credits = (clips / "CREDITS.md").read_text()
    assert len(rows) == 6
    for row in rows:
        info = audio_info(clips / row["file"])
        assert info.sample_rate == int(row["sample_rate"])
        assert info.seconds == pytest.approx(float(row["seconds"]), abs=0.002)
        assert row["licence"] == "CC0"
        assert row["file"] in credits
        assert row["attribution"] in credits
        assert np.abs(read_audio(clips / row["file"], RATE)).max() > 0.01


def test_channels_in_opposite_phase_are_no_silence(tmp_path):
    left = tone()
    pairs = {"opposite": (left, -left), "one": (left, 0 * left), "both": (left, 0.5 * left)}
    found = {}
    for name, channels in pairs.items():
        soundfile.write(tmp_path / f"{name}.wav", np.stack(channels, 1), RATE, subtype="FLOAT")
        found[name] = read_audio(tmp_path / f"{name}.wav", RATE)
    np.testing.assert_allclose(found["opposite"], left, atol=1e-6)
    np.testing.assert_allclose(found["one"], left / 2, atol=1e-6)
    np.testing.assert_allclose(found["both"], 0.75 * left, atol=1e-6)
    noise = np.random.default_rng(0).normal(size=(1000, 2)).astype("f4")
    assert not channels_cancel(noise)  # independent channels lose 3 dB
    alone = np.zeros((100, 6), "f4")
    alone[:, 4] = 1.0
    assert not channels_cancel(alone)  # 5.1 sound from one speaker
    assert channels_cancel(np.stack([left, -0.7 * left], 1))


def test_list_audio_follows_links_once_and_leaves_hidden_names_out(tmp_path):
    data, other = tmp_path / "data", tmp_path / "other"
    for name in ("b.wav", "a/c.FLAC", ".trash/d.wav", "a/.ipynb_checkpoints/e.wav", "notes.txt"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(b"")
    (data / ".f.wav").write_bytes(b"")
    other.mkdir()
    (other / "g.ogg").write_bytes(b"")
    (data / "link").symlink_to(other)
    (other / "back").symlink_to(data)  # a loop
    names = [file.relative_to(data).as_posix() for file in list_audio(data)]
    assert names == ["a/c.FLAC", "b.wav", "link/g.ogg"]
