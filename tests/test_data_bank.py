"""Draws on a device: the distribution of Sounds, without its order."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from soundcrafter.audio import write_audio
from soundcrafter.data.bank import SoundBank
from soundcrafter.data.dataset import DataConfig, Sounds
from soundcrafter.data.manifest import Manifest, Recording, read_manifest

RATE = 8000


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    """Tones: three of label a at 200, 300 and 400 Hz, one of b at 1000 Hz, 0.5 to 2 s long."""
    recordings = []
    tones = [("a", 200, 2.0), ("a", 300, 2.0), ("a", 400, 2.0), ("b", 1000, 0.5)]
    for label, hertz, seconds in tones:
        wave = 0.1 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)
        file = tmp_path / f"{hertz}.wav"
        write_audio(file, wave.astype(np.float32), RATE)
        recordings.append(Recording(file=file, label=label, seconds=seconds))
    return Manifest(root=tmp_path, recordings=tuple(recordings))


def bank(manifest: Manifest, **config) -> SoundBank:
    sounds = Sounds(manifest, DataConfig(**config), sample_rate=RATE, num_samples=RATE, seed=0)
    return SoundBank(sounds, torch.device("cpu"))


def pitches(wave: torch.Tensor) -> list[int]:
    return (torch.fft.rfft(wave).abs().argmax(1)).tolist()  # a second: bins are 1 Hz apart


def test_draws_are_levelled_crops_in_the_shares_of_sounds(manifest):
    torch.manual_seed(0)
    wave = bank(manifest, full_share=2).draw(600)
    assert wave.shape == (600, RATE)
    torch.testing.assert_close(wave.abs().amax(1), torch.full((600,), 0.5), atol=1e-3, rtol=0)
    counts = Counter(pitches(wave))
    assert set(counts) == {200, 300, 400, 1000}
    # label a has two lots for its three recordings, b one
    assert counts[1000] == pytest.approx(200, abs=40)
    assert counts[200] == pytest.approx(400 / 3, abs=35)


def test_short_recordings_begin_at_once_and_end_in_silence(manifest):
    torch.manual_seed(0)
    wave = bank(manifest).draw(60)
    short = wave[[pitch == 1000 for pitch in pitches(wave)]]
    assert len(short) > 5
    assert (short[:, RATE // 2 :] == 0).all()
    assert (short[:, : RATE // 2].abs().amax(1) > 0.49).all()


def test_crops_of_long_recordings_begin_anywhere(manifest):
    torch.manual_seed(0)
    wave = bank(manifest).draw(60)
    starts = {round(float(one[0]), 3) for one in wave}
    assert len(starts) > 10


def test_gain_and_mixes_keep_to_their_ranges(manifest):
    torch.manual_seed(0)
    lowered = bank(manifest, gain_db=6.0).draw(300).abs().amax(1)
    assert 0.249 < lowered.min() < 0.27
    assert 0.48 < lowered.max() < 0.501
    mixed = bank(manifest, mix_probability=1.0, mix_snr_db=(0.0, 0.0)).draw(200)
    spectra = torch.fft.rfft(mixed).abs()
    both = ((spectra[:, 200] > 300) & (spectra[:, 400] > 300)).float().mean()
    assert 0.02 < both < 0.5  # pairs of different tones are among them


def test_what_cannot_be_read_is_skipped_and_repeating_is_refused(manifest, tmp_path):
    gone = Recording(file=tmp_path / "gone.wav", label="a", seconds=1.0)
    more = Manifest(root=tmp_path, recordings=(gone, *manifest.recordings))
    sounds = Sounds(more, DataConfig(), sample_rate=RATE, num_samples=RATE, seed=0)
    wave = SoundBank(sounds, torch.device("cpu")).draw(50)
    assert (wave.abs().amax(1) > 0.49).all()
    assert "gone.wav" in sounds.skipped
    with pytest.raises(ValueError, match="pad: got repeat"):
        bank(manifest, pad="repeat")


def test_recordings_of_a_low_rate_can_be_left_out(tmp_path):
    table = "file,sample_rate\nlow.wav,22050\nhigh.wav,44100\nunknown.wav,\n"
    (tmp_path / "sounds.csv").write_text(table)
    for name in ("low", "high", "unknown"):
        write_audio(Path(tmp_path) / f"{name}.wav", np.ones(100, np.float32) * 0.1, 48_000)
    config = DataConfig(min_sample_rate=32_000)
    manifest = read_manifest(tmp_path)
    sounds = Sounds(manifest, config, sample_rate=RATE, num_samples=RATE, seed=0)
    assert [r.file.stem for r in sounds.manifest.recordings] == ["high", "unknown"]
    assert sounds.all_skipped == {"low.wav": "was recorded at 22050 Hz"}
    low = DataConfig(min_sample_rate=96_000)
    known = Manifest(root=tmp_path, recordings=manifest.recordings[:2])
    with pytest.raises(ValueError, match="no recording is left"):
        Sounds(known, low, sample_rate=RATE, num_samples=RATE, seed=0)
