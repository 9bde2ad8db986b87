"""Attributes of sounds: effects that change one, and prompts that are moved by what they change."""

import numpy as np
import pytest

from soundcrafter.attributes import apply, effect_of
from soundcrafter.audio import Wave
from soundcrafter.pipeline import SoundCrafter

RATE = 16_000


@pytest.fixture(scope="module")
def model() -> SoundCrafter:
    return SoundCrafter.from_pretrained(device="cpu")


def bursts() -> Wave:
    """Short bursts of noise, half a second apart."""
    rng, wave = np.random.default_rng(0), np.zeros(2 * RATE, np.float32)
    for start in range(0, len(wave), RATE // 2):
        wave[start : start + 400] = rng.normal(0, 0.1, 400)
    return wave


def centroid(wave: Wave) -> float:
    power = np.abs(np.fft.rfft(wave)) ** 2
    return float((power * np.fft.rfftfreq(len(wave), 1 / RATE)).sum() / power.sum())


def pitch(wave: Wave) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(wave))) * RATE / len(wave))


def changed(description: str, wave: Wave) -> Wave:
    found = effect_of(description)
    assert found is not None
    made = apply(found[0], wave, RATE)
    assert (made.dtype, made.shape) == (np.float32, wave.shape)
    return made


def test_bright_and_dark_move_the_spectral_centroid():
    plain = centroid(bursts())
    assert centroid(changed("bright", bursts())) > 1.2 * plain
    assert centroid(changed("more muffled", bursts())) < 0.5 * plain


def test_reverberation_fills_the_pauses():
    pause = slice(2000, 7000)
    dry, wet = (
        np.abs(wave[pause]).max() / np.abs(wave).max()
        for wave in (bursts(), changed("echoing", bursts()))
    )
    assert dry == 0
    assert wet > 0.02


def test_deep_and_high_move_the_pitch_by_a_fourth():
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)
    assert pitch(changed("deeper", tone)) == pytest.approx(440 / 2 ** (5 / 12), abs=2)
    assert pitch(changed("high-pitched", tone)) == pytest.approx(440 * 2 ** (5 / 12), abs=2)


def test_opposites_share_an_effect_and_other_words_have_none():
    for one, other in (("reverberant", "dry"), ("distant", "close"), ("distorted", "clean")):
        assert effect_of(one)[0] is effect_of(other)[0]
        assert (effect_of(one)[1], effect_of(other)[1]) == (1, -1)
    for text in ("thunder", "a bright bell", "", "more"):
        assert effect_of(text) is None


@pytest.mark.parametrize(("prompt", "word"), [("rain", "bright"), ("a dog barks", "reverberant")])
def test_more_moves_a_sound_to_what_the_effect_makes_of_it(model, prompt, word):
    options = {"seconds": 2.0, "steps": 6, "candidates": 1, "trim": False, "seed": 3}
    plain, more, less = (
        model.generate(prompt, **options, **steering)[0].wave
        for steering in ({}, {"more": word}, {"less": word})
    )
    target = changed(word, plain)
    hear = model.clap.embed_audio
    direction = hear(target, RATE)[0] - hear(plain, RATE)[0]
    moved = [float(hear(wave, RATE)[0] @ direction) for wave in (less, more)]
    assert moved[0] < moved[1]


def test_a_word_without_an_effect_moves_by_its_embedding(model):
    options = {"seconds": 1.0, "steps": 2, "candidates": 1, "seed": 3}
    plain, storm = (model.generate("rain", **options, more=m)[0] for m in ((), "thunder"))
    assert not np.allclose(plain.latent, storm.latent)
