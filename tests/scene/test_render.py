"""Scenes as sound: onsets, levels, takes, lengths and pans are what was asked for."""

from pathlib import Path

import numpy as np
import pytest

from soundcrafter.audio import write_audio
from soundcrafter.loudness import loudness
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.scene.render import PEAK, Mix, render
from soundcrafter.scene.scene import Event, Scene, Track

RATE = 16_000
FAST = {"steps": 1, "candidates": 1}


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> SoundCrafter:
    return SoundCrafter.from_pretrained(tiny_model, "cpu")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noises with sharp attacks after some silence, and two steady ones of other levels."""
    folder, rng = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    for number in range(40):
        decay = np.exp(-np.arange(RATE) / RATE * rng.uniform(3, 20))
        hit = rng.uniform(0.1, 0.9) * decay * rng.standard_normal(RATE) / 4
        silence = np.zeros(int(rng.integers(RATE)))
        write_audio(folder / f"hit{number}.wav", np.concatenate([silence, hit]), RATE)
    low = np.convolve(rng.standard_normal(4 * RATE), np.ones(50) / 50, "same")
    write_audio(folder / "low.wav", 0.5 * low, RATE)
    write_audio(folder / "high.wav", 0.02 * np.diff(rng.standard_normal(4 * RATE + 1)), RATE)
    return folder


def mixed(model: SoundCrafter, folder: Path, *tracks: Track, **settings: float) -> Mix:
    return render(Scene(tracks=tracks, **settings), model, folder=folder, **FAST)  # type: ignore[arg-type]


def onset(wave: np.ndarray) -> float:
    return float(np.argmax(np.abs(wave) > 0.1 * np.abs(wave).max())) / RATE


def test_sharp_attacks_lie_at_their_start(model: SoundCrafter, recordings: Path) -> None:
    rng = np.random.default_rng(1)
    starts = [round(float(rng.uniform(0, 8)), 3) for _ in range(40)]
    tracks = [
        Track(name=f"t{n}", events=(Event(file=f"hit{n}.wav", start=start),))
        for n, start in enumerate(starts)
    ]
    mix = mixed(model, recordings, *tracks)
    errors = [onset(mix.stems[f"t{n}"]) - start for n, start in enumerate(starts)]
    assert max(map(abs, errors)) < 0.02
    assert [sound.start for sound in mix.sounds] == starts
    assert np.abs(mix.wave).max() <= PEAK + 1e-6
    np.testing.assert_allclose(sum(mix.stems.values()), mix.wave, atol=1e-5)


@pytest.mark.parametrize("gain", [0.0, -8.0, 4.0])
def test_the_balance_is_what_was_asked(model: SoundCrafter, recordings: Path, gain: float) -> None:
    low = Track(name="low", events=(Event(file="low.wav"),))
    high = Track(name="high", events=(Event(file="high.wav", gain=gain / 2),), gain=gain / 2)
    mix = mixed(model, recordings, low, high)
    found = loudness(mix.stems["high"], RATE) - loudness(mix.stems["low"], RATE)
    assert found == pytest.approx(gain, abs=0.2)


def test_events_follow_each_other(model: SoundCrafter, recordings: Path) -> None:
    first = Track(name="a", events=(Event(file="hit0.wav", start=0.5),))
    second = Track(name="b", events=(Event(file="low.wav", seconds=1.0, after=("a",)),))
    third = Track(name="c", events=(Event(file="hit1.wav", start=0.25, after=("a", "b")),))
    sounds = mixed(model, recordings, first, second, third).sounds
    assert sounds[0].start == 0.5
    assert sounds[1].start == sounds[0].end
    assert sounds[1].end == pytest.approx(sounds[1].start + 1.0, abs=1e-3)
    assert sounds[2].start == pytest.approx(sounds[1].end + 0.25)


def test_repeats_are_takes(tmp_path: Path) -> None:
    model = SoundCrafter.from_pretrained(device="cpu")  # the tiny one hardly hears its seeds
    event = Event(prompt="a dog barks", seconds=0.3, repeats=3, interval=0.5, jitter=0.1)
    mix = mixed(model, tmp_path, Track(name="dog", events=(event,)), seed=5)
    assert [sound.seed for sound in mix.sounds] == [5, 6, 7]
    starts = [sound.start for sound in mix.sounds]
    assert starts[0] == 0.0
    for number, start in enumerate(starts):
        assert abs(start - 0.5 * number) <= 0.1
    takes = [mix.wave[round(s * RATE) : round(s * RATE) + 3200] for s in starts]
    assert not np.allclose(takes[0], takes[1], atol=0.01)
    again = mixed(model, tmp_path, Track(name="dog", events=(event,)), seed=5)
    assert np.array_equal(again.wave, mix.wave)


def test_without_an_interval_takes_follow(model: SoundCrafter, recordings: Path) -> None:
    event = Event(file="hit0.wav", repeats=3)
    sounds = mixed(model, recordings, Track(name="hit", events=(event, event))).sounds
    assert len(sounds) == 6
    assert sounds[1].start == pytest.approx(sounds[0].end + 0.3)
    assert sounds[3].start == 0.0  # the second event, although it equals the first


def test_lengths(model: SoundCrafter, recordings: Path) -> None:
    steady = Track(name="low", events=(Event(file="low.wav", fade_in=0.5),))
    mix = mixed(model, recordings, steady, seconds=2.5)
    assert mix.wave.shape == (round(2.5 * RATE),)
    assert abs(mix.wave[-1]) < 0.01  # cut with a fade
    assert mix.sounds[0].end == 2.5
    start = np.square(mix.wave[: RATE // 20]).mean()
    assert start < 0.05 * np.square(mix.wave[RATE:]).mean()
    whole = mixed(model, recordings, steady)
    assert len(whole.wave) == pytest.approx(4 * RATE, abs=200)
    prompts = Track(name="p", events=(Event(prompt="rain"), Event(prompt="wind", seconds=0.4)))
    rain, wind = mixed(model, recordings, prompts, seconds=1.5).sounds
    assert rain.end - rain.start <= 1.5
    assert wind.end - wind.start <= 0.4 + 1e-6


def test_pans_make_two_channels(model: SoundCrafter, recordings: Path) -> None:
    tracks = [
        Track(name=f"p{n}", events=(Event(file="low.wav", pan=pan),), pan=extra)
        for n, (pan, extra) in enumerate([(-1.0, 0.0), (1.0, 0.5), (0.0, 0.0)])
    ]
    mix = mixed(model, recordings, *tracks)
    assert mix.wave.shape[1] == 2
    powers = [np.square(mix.stems[f"p{n}"]).mean(0) for n in range(3)]
    assert powers[0][1] < 1e-9 * powers[0][0]
    assert powers[1][0] < 1e-9 * powers[1][1]
    assert powers[2][0] == pytest.approx(powers[2][1])
    assert powers[2].sum() == pytest.approx(powers[0].sum(), rel=1e-3)


def test_silence_and_missing_files(model: SoundCrafter, tmp_path: Path) -> None:
    write_audio(tmp_path / "silent.wav", np.zeros(RATE, np.float32), RATE)
    mix = mixed(model, tmp_path, Track(name="s", events=(Event(file="silent.wav"),)))
    assert not mix.wave.any()
    with pytest.raises(ValueError, match=r"none.wav: no such file"):
        mixed(model, tmp_path, Track(name="s", events=(Event(file="none.wav"),)))
