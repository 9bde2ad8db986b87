"""Timelines in one pass: what the U-Net gets for them, and what `generate` makes of them."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from soundcrafter.conditions import EmbeddedSpan, conditions, embed_prompts
from soundcrafter.models.unet import UNetConfig, silence_cond
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.store import open_folder, save_part
from soundcrafter.timeline import Span, Timeline

RAIN_THEN_DOG = Timeline(
    (
        Span(prompt="rain", start=0.0, end=1.0),
        Span(prompt="a dog barks", start=2.0, end=3.0, gain=-6.0),
    )
)
OPTIONS = {"seconds": 4.0, "steps": 2, "candidates": 1}
TRAINED, UNTRAINED = (
    UNetConfig(channels=8, norm_groups=8, heads=(1,) * 4, embed_dim=4, timelines=timelines)
    for timelines in (True, False)
)


def embed(text: str) -> torch.Tensor:
    """One of three orthogonal unit vectors, none of which is silence."""
    return torch.eye(4)[{"rain": 0, "a dog barks": 1}.get(text, 2)]


def conds(config: UNetConfig, masked: bool | None, *prompts):
    rows = embed_prompts(prompts, embed, 4.0)
    return conditions(rows, config, frames=8, seconds=4.0, heard=4.0, masked=masked)


def test_a_timeline_gives_each_frame_its_prompt_and_pauses_silence():
    rain, dog, silence = embed("rain"), embed("a dog barks"), silence_cond(TRAINED, torch.zeros(1))
    found = conds(TRAINED, None, RAIN_THEN_DOG, "thunder")
    wanted = torch.stack([rain, rain, silence, silence, dog, dog, silence, silence])
    assert torch.equal(found.cond[0], wanted)
    assert torch.equal(found.cond[1], embed("thunder").expand(8, 4))
    assert found.levels is None
    assert silence.norm() == pytest.approx(1.0)


def test_a_model_not_trained_on_timelines_composes_without_pauses():
    found = conds(UNTRAINED, None, RAIN_THEN_DOG)
    assert found.cond.shape == (1, 2, 4)
    assert (found.levels[0] > 0).int().tolist() == [[1] * 4 + [0] * 4, [0] * 4 + [1] * 4]
    assert found.levels[0, 1, -1] == pytest.approx(10 ** (-6 / 20))
    in_one = conds(UNTRAINED, False, RAIN_THEN_DOG)
    wanted = torch.stack([embed("rain")] * 4 + [embed("a dog barks")] * 4)
    assert torch.equal(in_one.cond[0], wanted)


def test_masked_composition_is_there_for_trained_models_too():
    found = conds(TRAINED, True, RAIN_THEN_DOG)
    assert torch.equal(found.cond[0, 2], silence_cond(TRAINED, torch.zeros(1)))
    assert (found.levels[0, 2] > 0).tolist() == [False, False, True, True] * 2


def test_what_lasts_to_the_end_lasts_to_the_end_of_the_latent():
    rows = embed_prompts([RAIN_THEN_DOG, "thunder"], embed, 3.0)
    found = conditions(rows, TRAINED, frames=8, seconds=4.0, heard=3.0, masked=False)
    assert torch.equal(found.cond[1], embed("thunder").expand(8, 4))
    assert torch.equal(found.cond[0, 4:], embed("a dog barks").expand(4, 4))


def test_events_are_judged_where_they_are_heard():
    event = EmbeddedSpan(embed("rain"), 1.0, 2.5)
    assert event.within(10, 40) == slice(10, 25)
    assert EmbeddedSpan(embed("rain"), 3.95, 4.0).within(10, 40) == slice(38, 40)  # at least 0.2 s
    assert EmbeddedSpan(embed("rain"), 3.0, 4.0).within(10, 12) == slice(
        10, 40
    )  # of a trimmed sound


@pytest.fixture
def trained(tiny_model, tmp_path) -> SoundCrafter:
    """The tiny model with drawn weights and a U-Net for timelines."""
    path = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    folder, generator = open_folder(path), torch.Generator().manual_seed(0)
    for name in ("vae", "unet", "vocoder", "clap_text"):
        module, entry = folder.load(name), folder.parts[name]
        for parameter in module.parameters():
            if parameter.ndim > 1:
                std = 1.5 * parameter[0].numel() ** -0.5
                torch.nn.init.normal_(parameter, std=std, generator=generator)
        config = entry.config
        if name == "unet":
            config = dataclasses.replace(config, timelines=True)
        against, known = dict(entry.trained_against), entry.training_id
        save_part(path, name, module, config, trained_against=against, training_id=known)
    return SoundCrafter.from_pretrained(path, "cpu")


def test_one_span_over_the_whole_sound_is_the_plain_prompt(trained):
    (plain,) = trained.generate("rain", **OPTIONS)
    always = Timeline((Span(prompt="rain", start=0.0, end=600.0),))
    (timed,) = trained.generate(always, **OPTIONS)
    np.testing.assert_allclose(timed.wave, plain.wave, atol=2e-3)
    assert timed.score == pytest.approx(plain.score, abs=1e-3)
    assert timed.prompt == "rain 0-600 s"


def test_a_span_changes_the_sound_where_it_is(trained):
    later = Timeline((RAIN_THEN_DOG.spans[0], Span(prompt="thunder", start=2.0, end=3.0)))
    one, other = trained.generate([RAIN_THEN_DOG, later], batch_size=2, **OPTIONS)
    change = np.abs(one.wave - other.wave)
    rate = trained.sample_rate
    assert change[2 * rate : 3 * rate].mean() > 2 * change[:rate].mean()
    assert -1 <= one.score <= 1


def test_what_a_timeline_places_stays_there_when_silence_is_cut(trained, monkeypatch):
    vocode, rate = SoundCrafter.vocode, trained.sample_rate

    def quiet(self, mel):
        wave = vocode(self, mel)
        wave[:, : rate // 2] = wave[:, 3 * rate // 4 :] = 0.0
        return wave

    monkeypatch.setattr(SoundCrafter, "vocode", quiet)
    later = Timeline((Span(prompt="rain", start=0.5, end=0.75),))
    placed, plain = trained.generate([later, "rain"], steps=2, candidates=1)
    assert plain.seconds == pytest.approx(0.25 + 0.025, abs=0.01)
    assert placed.seconds == pytest.approx(0.75 + 0.02, abs=0.01)
    assert not placed.wave[: rate // 2].any()


def test_masked_composition_of_a_timeline_is_another_sound(trained):
    sounds = [trained.generate(RAIN_THEN_DOG, masked=m, **OPTIONS)[0] for m in (None, False, True)]
    assert np.array_equal(sounds[0].wave, sounds[1].wave)
    assert not np.array_equal(sounds[0].wave, sounds[2].wave)
    assert len(sounds[2].wave) == 4 * trained.sample_rate


def test_a_sound_does_not_depend_on_the_timelines_beside_it(trained):
    prompts = [RAIN_THEN_DOG, "thunder"]
    for masked in (False, True):
        together = trained.generate(prompts, masked=masked, batch_size=2, **OPTIONS)
        for prompt, sound in zip(prompts, together, strict=True):
            (alone,) = trained.generate(prompt, masked=masked, **OPTIONS)
            np.testing.assert_allclose(sound.wave, alone.wave, atol=2e-3)


def test_a_plain_prompt_beside_a_timeline_is_as_alone(trained):
    options = {**OPTIONS, "seconds": 3.1}  # no whole number of the U-Net's frames
    together = trained.generate(["thunder", RAIN_THEN_DOG], batch_size=2, **options)
    (alone,) = trained.generate("thunder", **options)
    np.testing.assert_allclose(together[0].wave, alone.wave, atol=2e-3)


def test_candidates_are_ranked_by_the_event_that_fits_least(trained):
    options = {**OPTIONS, "candidates": 2, "draft_steps": 1}
    (sound,) = trained.generate(RAIN_THEN_DOG, **options)
    assert np.isfinite(sound.wave).all()


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: Timeline(()), "timeline: got 0 spans; allowed: 1 to 16"),
        (lambda: Span(prompt="a", start=2.0, end=2.0), "start, end: got 2, 2"),
        (lambda: Span(prompt="a", start=-1.0, end=2.0), "start: got -1.0; allowed: 0 to 600"),
        (lambda: Span(prompt="a", start=0.0, end=float("nan")), "end: got nan"),
        (lambda: Span(prompt="a", start=0.0, end=1.0, gain=90.0), "gain: got 90.0"),
    ],
)
def test_impossible_timelines_are_refused(make, fault):
    with pytest.raises(ValueError, match=fault):
        make()


def test_timelines_that_a_sound_cannot_hold_are_refused(trained):
    late = Timeline((Span(prompt="rain", start=4.0, end=5.0),))
    with pytest.raises(ValueError, match="timeline: a span starts at 4 s; the sound ends at 4 s"):
        trained.generate(late, **OPTIONS)
    empty = Timeline((Span(prompt=" ", start=0.0, end=1.0),))
    with pytest.raises(ValueError, match="prompt: must not be empty"):
        trained.generate(empty, **OPTIONS)
