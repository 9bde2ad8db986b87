"""Recordings whose headers lie or whose data are damaged: one row in a report, nothing worse."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from soundcrafter.audio import audio_info, read_audio

RATE, SECONDS = 16_000, 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good mp3, one whose header promises 2**31 frames, and one with a damaged middle."""
    rng = np.random.default_rng(0)
    wave = rng.uniform(-0.1, 0.1, RATE * SECONDS).astype(np.float32)
    soundfile.write(tmp_path / "good.mp3", wave, RATE)
    good = (tmp_path / "good.mp3").read_bytes()
    tag = max(good.find(b"Xing"), good.find(b"Info"))
    assert tag > 0, "the encoder writes a header with the number of frames"
    (tmp_path / "promises.mp3").write_bytes(
        good[: tag + 8] + b"\x7f\xff\xff\xff" + good[tag + 12 :]
    )
    damaged = bytearray(good)
    for place in rng.integers(500, len(good), 200):
        damaged[place] = int(rng.integers(256))
    (tmp_path / "damaged.mp3").write_bytes(damaged)
    return tmp_path


def test_a_header_is_not_believed(folder: Path) -> None:
    assert audio_info(folder / "good.mp3").seconds == SECONDS
    for read in (audio_info, lambda file: read_audio(file, RATE)):
        with pytest.raises(
            ValueError, match=r"promises.mp3: damaged: its header promises 21,4\d\d"
        ):
            read(folder / "promises.mp3")


def test_a_wave_of_nothing_but_a_header(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100_000), RATE)
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[:44])
    with pytest.raises(ValueError, match=r"a\.wav"):
        read_audio(tmp_path / "a.wav", RATE)


def test_silence_packs_as_tightly_as_it_may(tmp_path: Path) -> None:
    """The bound on samples per byte must not refuse what an encoder really makes."""
    silence = np.zeros(RATE * 600)
    for suffix in (".flac", ".ogg", ".mp3"):
        with soundfile.SoundFile(tmp_path / f"a{suffix}", "w", RATE, 1) as file:
            for block in np.split(silence, 600):
                file.write(block)
        assert audio_info(tmp_path / f"a{suffix}").seconds == pytest.approx(600, abs=0.2)


@pytest.mark.parametrize("decode", [True, False])
def test_data_check_reports_each_file_and_nothing_else(
    launch: Any, folder: Path, decode: bool
) -> None:
    done = launch("data", "check", folder, "--json", *["--decode"] * decode).finish()
    assert (done.code, done.err) == (0, "")  # libmpg123 has its say, unheard
    facts = json.loads(done.out)
    assert facts["recordings"] == 2
    assert facts["minutes"] == pytest.approx(2 * SECONDS / 60, abs=0.01)
    ((file, reason),) = facts["skipped"]
    assert (file, "21,4" in reason) == ("promises.mp3", True)
    if decode:
        ((file, note),) = facts["notes"]
        assert file == "damaged.mp3"
        assert note.endswith(" of 3.0 s can be decoded")
