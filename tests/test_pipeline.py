"""From prompt to sound: exact lengths, exact repeats, and samples that stand on their own."""

import dataclasses
import inspect
import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import soundcrafter
from soundcrafter.audio import limit_peak
from soundcrafter.device import choose_device
from soundcrafter.diffusion.config import MAX_SEED, SamplingConfig
from soundcrafter.files import read_json, write_json
from soundcrafter.mel import LogMel
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.request import resolve
from soundcrafter.sound import Sound
from soundcrafter.store import open_folder, save_part

PROMPT = "a dog barks"


@pytest.fixture(scope="module")
def model_folder(tiny_model, tmp_path_factory) -> Path:
    """The tiny model with drawn weights: after its six steps it hums one tune to every prompt."""
    path = tmp_path_factory.mktemp("lively")
    shutil.copytree(tiny_model, path, dirs_exist_ok=True)
    folder, generator = open_folder(tiny_model), torch.Generator().manual_seed(0)
    for name in ("clap_text", "vae", "unet", "vocoder"):
        module, entry = folder.load(name), folder.parts[name]
        for parameter in module.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                torch.nn.init.normal_(parameter, std=1.5 * fan_in**-0.5, generator=generator)
        against, known = dict(entry.trained_against), entry.training_id
        save_part(path, name, module, entry.config, trained_against=against, training_id=known)
    return path


@pytest.fixture(scope="module")
def model(model_folder) -> SoundCrafter:
    return SoundCrafter.from_pretrained(model_folder, "cpu")


@pytest.fixture
def copy(model_folder, tmp_path) -> Path:
    """A copy of the model's folder that a test may change."""
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def sound(model) -> Sound:
    return model.generate(PROMPT, seconds=0.5, seed=3)[0]


def make(model: SoundCrafter, prompts=PROMPT, **options) -> list[Sound]:
    """Short sounds, guided, in few steps."""
    return model.generate(prompts, **{"seconds": 0.4, "steps": 2, "guidance": 2.0, **options})


def distance(a: Sound, b: Sound) -> float:
    """The largest difference over the peak."""
    return float(np.abs(a.wave - b.wave).max() / np.abs(b.wave).max())


def with_sampling(folder, **changes) -> SoundCrafter:
    data = read_json(folder / "config.json")
    data["sampling"].update(changes)
    write_json(folder / "config.json", data)
    return SoundCrafter.from_pretrained(folder, "cpu")


def test_the_package_offers_both_names():
    assert soundcrafter.SoundCrafter is SoundCrafter
    assert soundcrafter.Sound is Sound
    assert {"Sound", "SoundCrafter", "__version__"} <= set(dir(soundcrafter))
    with pytest.raises(AttributeError, match="Sounds"):
        soundcrafter.Sounds  # noqa: B018


def test_a_model_has_a_short_repr(model, model_folder):
    name = model_folder.name
    assert repr(model) == f"SoundCrafter({name!r}, device='cpu', precision={model.precision!r})"


def test_a_moved_model_makes_the_same_sounds(copy):
    model = SoundCrafter.from_pretrained(copy, "cpu")
    model.sampling = dataclasses.replace(model.sampling, negative="rain")
    (before,) = make(model)
    assert model.to("cpu") is model
    assert np.array_equal(make(model)[0].wave, before.wave)
    with pytest.raises(ValueError, match="device: 'toaster' is not available"):
        model.to("toaster")


def test_a_saved_model_makes_the_same_sounds(model, tmp_path):
    path = model.save_pretrained(tmp_path / "saved")
    saved = SoundCrafter.from_pretrained(path, "cpu")
    assert np.array_equal(make(saved)[0].wave, make(model)[0].wave)
    assert saved.training_ids == model.training_ids
    with pytest.raises(ValueError, match="already contains a model"):
        model.save_pretrained(path)


def test_noise_can_be_given_and_the_latent_comes_back(model):
    wanted = make(model, seconds=0.5, seed=3, count=2, candidates=1)
    noise = torch.cat([model.noise(3, 0.5), model.noise(4, 0.5)])
    made = make(model, seconds=0.5, count=2, candidates=1, noise=noise, batch_size=1)
    for one, other in zip(made, wanted, strict=True):
        np.testing.assert_allclose(one.wave, other.wave, atol=1e-3 * np.abs(other.wave).max())
        assert one.latent.shape == tuple(noise.shape[1:])
        wave = model.vocode(model.decode(torch.from_numpy(one.latent)[None]))[0].numpy()
        np.testing.assert_allclose(limit_peak(wave[: len(one.wave)]), one.wave, atol=1e-6)


def test_noise_that_does_not_fit_is_refused(model):
    with pytest.raises(ValueError, match=r"noise: got shape .* allowed: \(2, "):
        make(model, seconds=0.5, count=2, noise=model.noise(0, 0.5))
    with pytest.raises(ValueError, match="candidates: got 2 with noise; allowed: 1"):
        make(model, seconds=0.5, candidates=2, noise=model.noise(0, 0.5))


def test_a_revision_goes_with_a_hub_name(model_folder):
    for model in (None, model_folder):
        with pytest.raises(ValueError, match="revision: got 'v1'; allowed with a hub name"):
            SoundCrafter.from_pretrained(model, revision="v1")


@pytest.mark.parametrize("seconds", [0.2, 0.333, 1, 2.5])
def test_lengths_are_exact(model, seconds):
    (made,) = make(model, seconds=seconds, steps=1)
    assert made.wave.shape == (round(seconds * model.sample_rate),)
    assert made.wave.dtype == np.float32
    assert made.sample_rate == 16_000
    assert made.seconds == pytest.approx(seconds, abs=0.5 / 16_000)


def test_a_sound_is_a_sound(sound):
    assert np.isfinite(sound.wave).all()
    assert 0 < np.abs(sound.wave).max() <= 0.99 + 1e-6
    assert (sound.prompt, sound.seed) == (PROMPT, 3)
    assert -1 <= sound.score <= 1


def test_the_score_is_the_cosine_of_prompt_and_sound(model):
    (made,) = make(model)
    audio = model.clap.embed_audio(made.wave, made.sample_rate)
    text = model.clap.embed_text([PROMPT])
    assert made.score == pytest.approx(float((audio * text).sum()), abs=1e-5)


def test_the_model_is_sensitive(model):
    """Or every test that sounds agree would be an empty one."""
    one, two = make(model, count=2)
    assert distance(one, two) > 0.1
    rain, rotor = make(model, ["rain", "a helicopter rotor spins"])
    assert distance(rain, rotor) > 0.1


def test_defaults_come_from_the_model(model, sound):
    steps, guidance = model.sampling.steps, model.sampling.guidance
    (default,) = model.generate(PROMPT, seed=3)
    assert default.seconds == model.sampling.seconds == 1.0
    (spelled_out,) = model.generate(PROMPT, seconds=1.0, steps=steps, guidance=guidance, seed=3)
    assert np.array_equal(default.wave, spelled_out.wave)


def test_the_same_seed_gives_the_same_bytes(model, model_folder, tmp_path):
    again = SoundCrafter.from_pretrained(str(model_folder), "cpu")
    files = []
    for number, crafter in enumerate((model, model, again)):
        (made,) = make(crafter, seed=11)
        torch.rand(3)  # the global generator plays no part
        files.append(made.save(tmp_path / f"{number}.wav").read_bytes())
    assert files[0] == files[1] == files[2]
    (other,) = make(model, seed=12)
    assert other.save(tmp_path / "other.wav").read_bytes() != files[0]


def test_sound_k_of_count_is_the_sound_of_seed_plus_k(model):
    several = make(model, count=3, seed=5)
    assert [made.seed for made in several] == [5, 6, 7]
    for made in several:
        (alone,) = make(model, seed=made.seed)
        assert distance(made, alone) < 1e-3


def test_initial_noise_is_a_function_of_the_seed_alone(model, monkeypatch):
    seen = []
    whole = model.unet.forward

    def spy(latent, t, cond):
        seen.append(latent)
        return whole(latent, t, cond)

    monkeypatch.setattr(model.unet, "forward", spy)
    make(model, count=3, seed=5, steps=1, guidance=1.0)
    make(model, seed=7, steps=1, guidance=1.0)
    assert torch.equal(seen[0][2], seen[1][0])
    assert torch.equal(seen[0][0], model.noise(5, 0.4)[0])


def test_the_best_of_several_candidates_is_kept(model, monkeypatch):
    scores, text = iter([0.1, 0.9, 0.3]), model.clap.embed_text([PROMPT])
    with monkeypatch.context() as patch:
        patch.setattr(model.clap.audio, "embed_long_mel", lambda mel: next(scores) * text)
        (best,) = make(model, candidates=3, seed=4)
    drafts = model.noise(4, 0.4, 3)
    assert torch.equal(drafts[:1], model.noise(4, 0.4))
    (second,) = make(model, seed=4, noise=drafts[1:2])
    assert distance(best, second) < 1e-3
    assert best.seed == 4


def test_progress_counts_the_drafts(model):
    seen = []
    make(model, count=3, batch_size=2, candidates=2, progress=lambda *step: seen.append(step))
    each = model.sampling.draft_steps + 2
    assert seen == [(step, 2 * each) for step in range(1, 2 * each + 1)]


def test_draft_steps_can_be_chosen(model):
    seen = []
    make(model, candidates=2, draft_steps=1, progress=lambda *step: seen.append(step))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_candidates_do_not_depend_on_the_batch(model):
    prompts = [PROMPT, "rain on a tin roof"]
    together = make(model, prompts, count=2, candidates=3, batch_size=3)
    (alone,) = make(model, prompts[1], seed=1, candidates=3)
    assert distance(alone, together[3]) < 1e-3


def test_candidates_of_another_spectrogram_are_scored_by_their_waves(model, monkeypatch):
    waves, embed = [], model.clap.embed_audio
    monkeypatch.setattr(
        model.clap, "embed_audio", lambda wave, rate: (waves.append(wave), embed(wave, rate))[1]
    )
    config = dataclasses.replace(model.clap.audio.config, tower="conv", mel=model.vae.config.mel)
    monkeypatch.setattr(model.clap.audio, "config", config)
    make(model, candidates=3, seed=2)
    assert len(waves) == 1  # the sound that is returned, for its score
    other = dataclasses.replace(config.mel, fmax=7999.0)
    monkeypatch.setattr(model.clap.audio, "config", dataclasses.replace(config, mel=other))
    make(model, candidates=3, seed=2)
    assert len(waves) == 1 + 3 + 1


def test_a_default_negative_prompt_can_be_taken_back(model, copy):
    plain = make(model, guidance=3.0)[0]
    avoiding = with_sampling(copy, negative="rain")
    (changed,) = make(avoiding, guidance=3.0)
    assert distance(changed, make(model, guidance=3.0, negative="rain")[0]) < 1e-3
    assert distance(changed, plain) > 1e-2
    assert distance(make(avoiding, guidance=3.0, negative="")[0], plain) < 1e-3


def test_the_batch_size_never_changes_a_sound(model):
    prompts = [PROMPT, "rain on a tin roof, and far away a train that whistles"]
    alone = make(model, prompts, count=2, batch_size=1)
    for batch_size in (2, 3, 4):
        for made, expected in zip(
            make(model, prompts, count=2, batch_size=batch_size), alone, strict=True
        ):
            assert (made.prompt, made.seed) == (expected.prompt, expected.seed)
            assert distance(made, expected) < 1e-3
            assert made.score == pytest.approx(expected.score, abs=1e-3)


def test_prompts_come_in_order_with_their_counts(model):
    made = make(model, ["rain", "wind"], count=2, seed=1, steps=1)
    assert [(m.prompt, m.seed) for m in made] == [
        ("rain", 1),
        ("rain", 2),
        ("wind", 1),
        ("wind", 2),
    ]


def test_a_negative_prompt_changes_the_sound(model):
    (plain,) = make(model)
    (negative,) = make(model, negative="a horse whinnies")
    assert distance(negative, plain) > 0.1
    for nothing in ("", "  ", None):
        assert np.array_equal(make(model, negative=nothing)[0].wave, plain.wave)


def test_each_prompt_may_have_its_own_negative(model):
    prompts, negatives = ["rain", "wind"], ["a horse whinnies", ""]
    several = make(model, prompts, negative=negatives, count=2, candidates=2)
    for k, made in enumerate(several):
        (alone,) = make(
            model, made.prompt, negative=negatives[k // 2], seed=made.seed, candidates=2
        )
        assert distance(made, alone) < 1e-3
    with pytest.raises(ValueError, match="negative: got 3 for 2 prompts; allowed: one for all"):
        make(model, prompts, negative=["a", "b", "c"])


def test_guidance(model, monkeypatch):
    batches = []
    whole = model.unet.forward

    def spy(latent, t, cond):
        batches.append(len(latent))
        return whole(latent, t, cond)

    monkeypatch.setattr(model.unet, "forward", spy)
    waves = [make(model, guidance=scale)[0] for scale in (0, 1, 3)]
    assert batches == [2, 2, 1, 1, 2, 2]  # two steps; without guidance one pass a step
    assert distance(waves[0], waves[1]) > 0.1
    assert distance(waves[2], waves[1]) > 0.1


def test_the_way_to_the_wave_takes_no_gradients(model):
    wave = model.vocode(model.decode(model.noise(0, 0.5)))
    assert torch.is_grad_enabled()
    assert not wave.requires_grad


def test_one_step_is_enough(model):
    (made,) = make(model, steps=1)
    assert np.isfinite(made.wave).all()


def test_more_steps_than_the_model_knows(model):
    with pytest.raises(ValueError, match="steps: got 1001"):
        make(model, steps=1001)


@pytest.mark.parametrize("seconds", [1.7, 2.0])
def test_sounds_longer_than_a_window(model, copy, monkeypatch, seconds):
    small = with_sampling(copy, window=0.64)
    frames = []
    whole = small.unet.forward

    def spy(latent, t, cond):
        frames.append(latent.shape[2])
        return whole(latent, t, cond)

    monkeypatch.setattr(small.unet, "forward", spy)
    made = make(small, seconds=seconds, count=2)
    assert set(frames) == {16}  # .64 s of latents, whatever the length
    for one in made:
        assert one.wave.shape == (round(seconds * 16_000),)
        assert np.isfinite(one.wave).all()
    assert distance(make(small, seconds=seconds, seed=1)[0], made[1]) < 1e-3
    # up to the window nothing changes
    assert np.array_equal(make(small, seconds=0.6)[0].wave, make(model, seconds=0.6)[0].wave)


def test_euler_and_spacing_are_the_models_choice(model, copy):
    euler = with_sampling(copy, sampler="euler", spacing="leading")
    (made,) = make(euler, seed=1)
    (plain,) = make(model, seed=1)
    assert np.isfinite(made.wave).all()
    assert distance(made, plain) > 0.1  # other time steps


def test_progress_counts_every_evaluation(model):
    calls = []
    make(model, count=3, batch_size=2, steps=3, progress=lambda *call: calls.append(call))
    assert calls == [(done, 6) for done in range(1, 7)]


@pytest.mark.parametrize(
    ("suffix", "kind", "subtype"),
    [(".wav", "WAV", "PCM_16"), (".flac", "FLAC", "PCM_16"), (".ogg", "OGG", "VORBIS")],
)
def test_save(sound, tmp_path, suffix, kind, subtype):
    path = sound.save(tmp_path / f"dog{suffix}")
    assert path == tmp_path / f"dog{suffix}"
    info = soundfile.info(path)
    assert (info.format, info.subtype) == (kind, subtype)
    assert (info.samplerate, info.channels, info.frames) == (16_000, 1, 8000)
    wave, _ = soundfile.read(path)
    if suffix == ".ogg":  # lossy
        assert np.corrcoef(wave, sound.wave)[0, 1] > 0.95
    else:
        assert np.abs(wave - sound.wave).max() <= 0.51 / 32768


def test_save_refuses_other_formats_and_folders(sound, tmp_path):
    for name in ("dog.aac", "dog", "no/dog.wav"):
        with pytest.raises(ValueError, match="cannot write"):
            sound.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_plot(sound, tmp_path):
    assert sound.plot(tmp_path / "dog.png") is None
    assert (tmp_path / "dog.png").read_bytes().startswith(b"\x89PNG\r\n")
    figure = sound.plot()
    assert figure.axes[0].get_title() == PROMPT


def test_a_player_in_a_notebook(sound, monkeypatch):
    class Audio:
        def __init__(self, data, rate):
            self.data, self.rate = data, rate

        def _repr_html_(self):
            return f"<audio {len(self.data)} {self.rate}>"

    display = types.ModuleType("IPython.display")
    display.Audio = Audio
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    assert sound.play().rate == 16_000
    assert sound._repr_html_() == "<audio 8000 16000>"


def test_sounds_cannot_be_changed_by_accident(sound):
    with pytest.raises(dataclasses.FrozenInstanceError):
        sound.seed = 1


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"prompts": []}, "prompt: must not be empty"),
        ({"prompts": [""]}, "prompt: must not be empty"),
        ({"prompts": ["rain", " \t\n"]}, "prompt: must not be empty"),
        ({"seconds": 0.0}, "seconds: got 0; allowed: 0.2 to 600"),
        ({"seconds": -1.0}, "seconds: got -1"),
        ({"seconds": 0.1999}, "seconds: got 0.1999"),
        ({"seconds": 600.01}, "seconds: got 600.01"),
        ({"seconds": 1e5}, "seconds: got 100000"),
        ({"seconds": float("nan")}, "seconds: got nan"),
        ({"seconds": float("inf")}, "seconds: got inf"),
        ({"count": 0}, "count: got 0; allowed: 1 to"),
        ({"count": -3}, "count: got -3"),
        ({"candidates": 0}, "candidates: got 0; allowed: 1 to"),
        ({"steps": 0}, "steps: got 0; allowed: 1 to"),
        ({"guidance": float("nan")}, "guidance: got nan"),
        ({"guidance": float("inf")}, "guidance: got inf"),
        ({"guidance": -0.5}, "guidance: got -0.5"),
        ({"seed": -2}, "seed: got -2; allowed: 0 to"),
        ({"seed": MAX_SEED, "count": 2}, f"seed: got {MAX_SEED}"),
        ({"batch_size": 0}, "batch_size: got 0"),
    ],
)
def test_requests_that_are_refused(model, changes, fault):
    good = {"prompts": ["rain"], "seconds": 0.2, "count": 1, "seed": 0, "steps": 1, "guidance": 1.0}
    resolve(SamplingConfig(), **good)
    resolve(SamplingConfig(), **{**good, "seconds": 600.0, "guidance": 0.0, "seed": MAX_SEED - 1})
    with pytest.raises(ValueError, match=fault):
        resolve(SamplingConfig(), **{**good, **changes})
    with pytest.raises(ValueError, match=fault):
        model.generate(**{**good, **changes})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"steps": 1.5}, "steps: expected int, got 1.5"),
        ({"steps": True}, "steps: expected int, got True"),
        ({"seconds": "5"}, "seconds: expected float, got '5'"),
        ({"seconds": True}, "seconds: expected float, got True"),
        ({"seed": 2.5}, "seed: expected int, got 2.5"),
        ({"batch_size": "4"}, "batch_size: expected int, got '4'"),
        ({"sampler": 3}, "sampler: expected str, got 3"),
        ({"negative": 3}, "negative: got 3; allowed: a string, or a list of strings"),
        ({"negative": [3]}, r"negative: got \[3\]; allowed: a string, or a list of strings"),
        ({"prompts": b"rain"}, "prompt: got b'rain'; allowed: a string, or a list of strings"),
        ({"prompts": [b"rain"]}, "prompt: got .*; allowed: a string"),
        ({"prompts": None}, "prompt: got None; allowed: a string"),
        ({"prompts": 5}, "prompt: got 5; allowed: a string"),
    ],
)
def test_wrong_types_are_refused_in_one_line(model, changes, fault):
    with pytest.raises(ValueError, match=fault) as refusal:
        model.generate(**{"prompts": "rain", **changes})
    assert "\n" not in str(refusal.value)


def test_unknown_arguments_are_refused_and_the_known_ones_shown(model):
    for method in (model.generate, model.stream):
        with pytest.raises(TypeError, match="second"):
            method("rain", second=5)
        assert list(inspect.signature(method).parameters) == [
            *(
                "prompts",
                "mix",
                "seconds",
                "count",
                "seed",
                "steps",
                "guidance",
                "negative",
                "sampler",
            ),
            *("candidates", "draft_steps", "masked", "reuse", "fast", "batch_size", "trim"),
            "noise",
            *("init", "strength", "at", "regions", "loop", "like", "like_weight"),
            *("more", "less", "steer", "progress"),
        ]


def test_numbers_of_numpy_are_numbers(model):
    options = {"seconds": np.float32(0.5), "seed": np.int64(3), "steps": np.int32(2)}
    (made,) = make(model, **options)
    assert np.array_equal(made.wave, make(model, seconds=0.5, seed=3, steps=2)[0].wave)


def test_the_largest_seed_works(model):
    make(model, seed=MAX_SEED - 1, steps=1)


def test_choose_device():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(torch.device("cpu")) == torch.device("cpu")
    # "meta" and "hpu" are names that torch knows: they hold no data, or are not there
    for name in ("", "gpu", "cpux", "cpu:x", "meta", "hpu", "xla", "cuda:99", "Auto"):
        with pytest.raises(ValueError, match=r"device: .* allowed: auto, cpu, cuda, mps"):
            choose_device(name)


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"), [(1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu"), (1, 0, "cuda")]
)
def test_auto_takes_the_gpu_that_is_there(monkeypatch, cuda, mps, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.mps, "is_available", lambda: bool(mps))
    assert choose_device("auto").type == chosen


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there(tiny_model):
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ValueError, match=f"device: '{name}' is not available"):
            SoundCrafter.from_pretrained(tiny_model, name)


@pytest.mark.parametrize("part", ["clap_text", "vae", "unet", "vocoder"])
def test_every_part_is_needed(copy, part):
    data = read_json(copy / "config.json")
    del data["parts"][part]
    write_json(copy / "config.json", data)
    with pytest.raises(ValueError, match=f"has no {part} yet"):
        SoundCrafter.from_pretrained(copy, "cpu")


def test_clap_under_its_public_name(model):
    text = model.clap.embed_text(["a dog barks", "rain"])
    assert text.shape == (2, 16)
    wave = np.sin(np.arange(44_100) / 20, dtype=np.float32)
    audio = model.clap.embed_audio(wave, 44_100)
    assert audio.shape == (1, 16)
    batch = model.clap.embed_audio(torch.from_numpy(np.stack([wave, wave])), 44_100)
    assert batch.shape == (2, 16)
    for embedding in (text, audio, batch):
        torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(len(embedding)))
    torch.testing.assert_close(batch[1], audio[0])


def test_the_other_parts_under_their_public_names(model):
    wave = torch.rand(2, 16_000 * 64 // 100) - 0.5
    mel = LogMel(model.vae.config.mel)(wave)
    with torch.inference_mode():
        latent = model.vae.encode(mel)
        assert latent.shape == (2, 4, 16, 16)
        assert model.vae.decode(latent).shape == mel.shape == (2, 1, 64, 64)
        cond = model.clap.embed_text(["rain", "wind"])
        assert model.unet(latent, torch.tensor([5, 900]), cond).shape == latent.shape
        assert model.unet(latent, torch.tensor([5, 900]), cond[:, None]).shape == latent.shape
        assert model.vocoder(mel).shape == wave.shape


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp", "euler", "heun", "lcm"])
def test_every_sampler_makes_the_same_sound_in_any_batch(model, sampler):
    alone = make(model, seed=5, steps=3, sampler=sampler)[0]
    together = make(model, seed=4, count=3, steps=3, sampler=sampler)[1]
    assert np.isfinite(alone.wave).all()
    assert distance(together, alone) < 1e-3
    # Euler's steps are DDIM's, but for rounding
    other = make(model, seed=5, steps=3, sampler="heun" if sampler == "euler" else "ddim")[0]
    assert distance(alone, other) > 1e-3


def test_shared_inner_levels_change_the_sound_and_nothing_else(model):
    plain, again = (make(model, steps=4, reuse=1)[0] for _ in "12")
    rough = make(model, steps=4, reuse=2)[0]
    assert np.array_equal(plain.wave, again.wave)
    assert rough.wave.shape == plain.wave.shape
    assert not np.array_equal(rough.wave, plain.wave)


@pytest.mark.parametrize("interval", [(0.0, 0.5), (0.5, 1.0), (0.3, 0.7)])
def test_reuse_goes_with_a_guidance_interval(model_copy, interval):
    file = model_copy / "config.json"
    config = json.loads(file.read_text())
    config["sampling"] |= {"guidance_from": interval[0], "guidance_until": interval[1]}
    file.write_text(json.dumps(config))
    model = SoundCrafter.from_pretrained(model_copy, device="cpu", precision="fp32")
    for seconds in (0.5, 1.5):
        (sound,) = model.generate("rain", seconds=seconds, steps=8, reuse=3, guidance=4.0)
        assert np.isfinite(sound.wave).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "plms"}, "sampler: got 'plms'; allowed: ddim"),
        ({"reuse": 0}, "reuse: got 0"),
        ({"reuse": 2, "sampler": "heun"}, "reuse: got 2 with sampler heun"),
    ],
)
def test_samplings_that_are_not_there_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        make(model, **options)
