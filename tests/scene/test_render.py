"""Scenes as sound: onsets, levels, takes, lengths and pans are what was asked for."""

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from soundcrafter.audio import write_audio
from soundcrafter.diffusion.config import SamplingConfig
from soundcrafter.loudness import loudness
from soundcrafter.mel_bands import MelConfig
from soundcrafter.models.vae import VAE, VAEConfig
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.scene.balance import COMPRESSION, balance_gains, heard_shares, mel_power
from soundcrafter.scene.render import PEAK, Mix, render
from soundcrafter.scene.scene import Event, Scene, Track
from soundcrafter.sound import Sound

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


def test_loudness_in_pieces_is_loudness() -> None:
    rng, rate = np.random.default_rng(0), 2000
    wave = np.repeat(rng.uniform(0.01, 0.5, 150), rate).astype(np.float32)
    wave *= rng.standard_normal(len(wave)).astype(np.float32)
    # the whole as one piece: three repeats of a part have that part's loudness, but for the joins
    part = wave[: 50 * rate]
    assert loudness(np.tile(part, 3), rate) == pytest.approx(loudness(part, rate), abs=0.05)
    assert abs(loudness(wave, rate) - loudness(wave[::-1].copy(), rate)) < 0.05


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


def test_an_event_begins_at_its_earliest_or_after_what_it_waits_for(
    model: SoundCrafter, recordings: Path
) -> None:
    low = Track(name="a", events=(Event(file="low.wav"),))  # 4 s
    for earliest, start in ((6.0, 6.0), (2.0, 4.3)):
        event = Event(file="hit0.wav", start=0.3, after=("a",), earliest=earliest)
        sounds = mixed(model, recordings, low, Track(name="b", events=(event,))).sounds
        assert sounds[1].start == pytest.approx(start, abs=0.01)


def test_a_masked_sound_is_raised_within_the_limit(model: SoundCrafter, recordings: Path) -> None:
    low = Track(name="low", events=(Event(file="low.wav"),))
    hit = Track(name="hit", events=(Event(file="hit0.wav", gain=-12.0),))
    later = Track(name="later", events=(Event(file="hit1.wav", start=6.0),))

    def levels(balance: float) -> dict[str, float]:
        mix = mixed(model, recordings, low, hit, later, seconds=8.0, balance=balance)
        return {name: loudness(stem, RATE) for name, stem in mix.stems.items()}

    plain, balanced = levels(0.0), levels(4.0)
    change = {name: balanced[name] - plain[name] for name in plain}
    assert change["hit"] - change["low"] == pytest.approx(4.0, abs=0.05)
    assert change["later"] == pytest.approx(0.0, abs=0.05)  # nothing masks it


def test_balance_of_any_length_and_beside_silence() -> None:
    mel, rng = MelConfig(), np.random.default_rng(0)
    cell = 4 * mel.hop
    for length in (100, cell, 500 * cell + 1, 500 * cell + 200, 1000 * cell + 700):
        wave = 0.1 * rng.standard_normal(length).astype(np.float32)
        assert len(mel_power(wave, mel)) >= -(-length // cell)
    loud, quiet = (mel_power(level * wave, mel) for level in (np.float32(1), np.float32(0.05)))
    silent = mel_power(np.zeros_like(wave), mel)
    assert not silent.any()
    with_silence = balance_gains([loud, silent, quiet], 4.0)
    assert with_silence[1] == 0
    assert [with_silence[0], with_silence[2]] == balance_gains([loud, quiet], 4.0)
    assert balance_gains([silent, silent], 4.0) == [0.0, 0.0]


def test_what_is_heard_of_two_sounds_by_hand() -> None:
    loud, quiet = np.ones((4, 2), np.float32), np.full((4, 2), 0.5, np.float32)
    quiet[0] = 2.0  # heard in one of four frames
    weight = 2**COMPRESSION
    assert heard_shares([loud, quiet], [0.0, 0.0]) == pytest.approx(
        [0.75, weight / (weight + 3 * 0.5**COMPRESSION)]
    )
    assert heard_shares([loud, quiet], [0.0, 4.0]) == pytest.approx([0.0, 1.0])
    assert heard_shares([loud, np.zeros((4, 2), np.float32)], [0.0, 0.0]) == [1.0, 0.0]


class Barking:
    """A stand-in for a model whose sounds are half a second of noise, then silence."""

    sample_rate = RATE
    sampling = SamplingConfig()
    vae = VAE(VAEConfig(channels=8, norm_groups=8))

    def provenance(self, *_: Any, **__: Any) -> None:
        """Nothing can make its sounds again."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int, float]] = []

    def stream(
        self, prompts: list[str], *, seed: list[int], seconds: float, progress: Any, **_: Any
    ) -> Any:
        for prompt, own in zip(prompts, seed, strict=True):
            self.made.append((prompt, own, seconds))
            wave = np.zeros(round(seconds * RATE), np.float32)
            noise = np.random.default_rng(own).standard_normal(RATE // 2)
            if progress is not None:
                progress(len(self.made), len(self.made))
            wave[: RATE // 2] = 0.1 * noise
            yield Sound(wave, RATE, prompt, own, None)


def test_fill_adds_takes_until_the_time_is_over() -> None:
    model = Barking()
    dog = Track(name="dog", events=(Event(prompt="a dog barking", fill=True),))
    door = Event(prompt="a door slams", after=("dog",), earliest=9.0)
    scene = Scene(tracks=(dog, Track(name="door", events=(door,))), seconds=10.0, seed=4)
    mix = render(scene, cast(SoundCrafter, model))
    takes = [sound for sound in mix.sounds if sound.track == "dog"]
    assert 9 <= len(takes) <= 15
    assert takes[0].start == 0
    pauses = [later.start - sound.end for sound, later in pairwise(takes)]
    assert min(pauses) >= 0.15
    assert max(pauses) <= 0.51
    assert len({round(pause, 3) for pause in pauses}) > 3, "not a machine"
    assert 9.0 <= takes[-1].end <= 10.0
    # four sounds are generated, the added ones short, and they recur in turn
    assert model.made[:2] == [("a dog barking", 4, 10.0 / 2 - 0.3), ("a door slams", 5, 10.0)]
    assert model.made[2:] == [("a dog barking", seed, 1.0) for seed in (5, 6, 7)]
    assert [sound.seed for sound in takes[:5]] == [4, 5, 6, 7, 5]
    again = render(scene, cast(SoundCrafter, Barking()))
    assert np.array_equal(again.wave, mix.wave)


def test_sounds_after_the_end_are_not_listed() -> None:
    bell = Event(prompt="a bell", repeats=5, interval=1.0)
    mix = render(Scene(tracks=(Track(name="b", events=(bell,)),), seconds=2.2), model_of_barks())
    assert [sound.start for sound in mix.sounds] == [0.0, 1.0, 2.0]
    assert all(sound.end > sound.start for sound in mix.sounds)


def model_of_barks() -> SoundCrafter:
    return cast(SoundCrafter, Barking())


def test_a_file_is_read_before_anything_is_generated(tmp_path: Path) -> None:
    model = Barking()
    tracks = (
        Track(name="a", events=(Event(prompt="a bell"),)),
        Track(name="b", events=(Event(file="none.wav"),)),
    )
    with pytest.raises(ValueError, match=r"none\.wav"):
        render(Scene(tracks=tracks), cast(SoundCrafter, model), folder=tmp_path)
    assert model.made == []


def test_progress_goes_up_to_its_end() -> None:
    done: list[float] = []
    dog = Track(name="dog", events=(Event(prompt="a dog", fill=True),))
    render(
        Scene(tracks=(dog,), seconds=9.0),
        model_of_barks(),
        progress=lambda step, total: done.append(step / total),
    )
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_fill_ends_with_the_seconds_of_its_event() -> None:
    event = Event(prompt="a dog barking", fill=True, seconds=3.0)
    mix = render(Scene(tracks=(Track(name="dog", events=(event,)),)), cast(SoundCrafter, Barking()))
    assert 2.0 <= mix.sounds[-1].end <= 3.0
    one = dataclasses.replace(event, seconds=0.9)
    mix = render(Scene(tracks=(Track(name="dog", events=(one,)),)), cast(SoundCrafter, Barking()))
    assert len(mix.sounds) == 1  # there is no time for another


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
