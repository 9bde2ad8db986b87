"""The page that needs nothing but itself: sounds and pictures survive, text is only text."""

import base64
import io
import re

import numpy as np
import pytest
import soundfile

from soundcrafter.audio import AUDIO_SUFFIXES, audio_info, read_audio
from soundcrafter.reports.document import document, image_uri, package_text, wave_uri


def opened(uri: str) -> tuple[str, np.ndarray, int]:
    """A data: URI of a sound: its type, its samples, its rate."""
    kind, _, content = uri.partition(";base64,")
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(content)), dtype="float32")
    return kind, samples, rate


def tone(rate: int, seconds: float = 0.5) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype("f4")


def test_a_sound_is_an_mp3_that_sounds_the_same(clips):
    files = [file for file in (clips / "audio").iterdir() if file.suffix in AUDIO_SUFFIXES]
    assert len(files) == 6
    for file in files:
        rate = audio_info(file).sample_rate
        wave = read_audio(file, rate)
        kind, samples, found = opened(wave_uri(wave, rate))
        assert found == rate
        assert kind == "data:audio/mpeg"
        assert len(samples) == len(wave)
        assert np.corrcoef(samples, wave)[0, 1] > 0.95, file.name
        assert wave_uri(wave, rate) == wave_uri(wave, rate)


@pytest.mark.parametrize(("rate", "becomes"), [(16000, 16000), (12345, 16000), (96000, 48000)])
def test_rates_that_mp3_does_not_know_become_others(rate, becomes):
    _, samples, found = opened(wave_uri(tone(rate), rate))
    assert found == becomes
    assert len(samples) == pytest.approx(0.5 * becomes, abs=1)
    assert np.abs(np.fft.rfft(samples)).argmax() == pytest.approx(220, abs=1)  # 440 Hz in .5 s


def test_very_short_and_too_loud_sounds():
    assert len(opened(wave_uri(np.full(1, 0.1, "f4"), 16000))[1]) == 1
    assert np.abs(opened(wave_uri(4 * tone(16000), 16000))[1]).max() < 1.5


def test_ogg_where_libsndfile_has_no_mp3(monkeypatch):
    monkeypatch.setattr(soundfile, "available_formats", lambda: {"WAV": "", "OGG": ""})
    kind, samples, rate = opened(wave_uri(tone(16000), 16000))
    assert (kind, rate, len(samples)) == ("data:audio/ogg", 16000, 8000)


def test_pictures_from_bytes_and_files(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    assert (
        image_uri(tmp_path / "a.png") == image_uri(b"\x89PNG") == "data:image/png;base64,iVBORw=="
    )


def test_a_page_is_whole_and_asks_for_nothing():
    page = document("</title><b>", "<p>hello</p>", script="go();", style="p { color: red; }")
    assert page.startswith("<!DOCTYPE html>")
    assert "<title>&lt;/title&gt;&lt;b&gt;</title>" in page
    assert "<p>hello</p>" in page
    assert "<script>go();</script>" in page
    assert "p { color: red; }</style>" in page
    assert "prefers-color-scheme: dark" in page
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|\bsrc=|url\(|@import", page)
    assert "<script" not in document("a", "b")
    assert "media-src data:;" in page
    # only where it is said may a page play what lies beside it
    assert "media-src data: 'self' file:;" in document("a", "b", sounds_beside=True)


def test_files_of_the_package_are_read():
    assert package_text("reports/document.css").lstrip().startswith(":root")
