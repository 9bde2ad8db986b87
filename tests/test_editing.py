"""Editing sounds: what is kept, what is made anew, longer sounds, loops, sounds to resemble."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from soundcrafter.audio import encode_audio, join_ends
from soundcrafter.diffusion.config import DiffusionConfig, SamplingConfig
from soundcrafter.diffusion.sample import sample
from soundcrafter.diffusion.schedule import Schedule
from soundcrafter.editing import FADE, Canvas, Region, load_wave
from soundcrafter.mel import LogMel
from soundcrafter.mel_bands import MelConfig, band_edges
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.sound import Sound

FAST = {"steps": 2, "candidates": 1}
RATE = 16_000


@pytest.fixture(scope="module")
def model() -> SoundCrafter:
    return SoundCrafter.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def rain(model) -> Sound:
    return model.generate("rain", seconds=3.0, seed=1, **FAST)[0]


def log_spectrum(wave: np.ndarray) -> np.ndarray:
    return np.log(np.abs(np.fft.rfft(wave[: RATE * 2])) + 1e-3)


def test_strength_0_is_the_sound_through_the_codec_and_1_a_new_one(model, rain):
    through = model.generate("rain", init=rain, strength=0.0, seed=2, **FAST)[0]
    scaled = rain.wave * np.float32(0.5 / np.abs(rain.wave).max())
    latent = model.codec.encode(scaled, model.noise(0, 3.0).shape[2])
    np.testing.assert_allclose(through.latent, latent[0].numpy(), atol=1e-5)
    assert len(through.wave) == len(rain.wave)
    new = model.generate("rain", init=rain, strength=1.0, seed=2, **FAST)[0]
    plain = model.generate("rain", seconds=3.0, seed=2, trim=False, **FAST)[0]
    np.testing.assert_allclose(new.latent, plain.latent, atol=1e-5)


def test_the_more_strength_the_further_from_the_sound(model, rain):
    source = model.generate(init=rain, strength=0.0, **FAST)[0].latent
    distances = []
    for strength in (0.25, 0.5, 0.75, 1.0):
        made = model.generate(init=rain, strength=strength, seed=4, **(FAST | {"steps": 4}))[0]
        distances.append(float(np.abs(made.latent - source).mean()))
    assert distances == sorted(distances)
    assert distances[0] > 0


def test_what_is_not_in_a_region_is_kept_sample_for_sample(model, rain):
    regions = [Region(start=0.5, end=1.0), Region(start=2.0, end=3.0)]
    made = model.generate("thunder", init=rain, regions=regions, seed=1, **FAST)[0]
    assert len(made.wave) == len(rain.wave)
    for start, end in ((0.0, 0.5), (1.0, 2.0)):
        part = slice(round(start * RATE), round(end * RATE))
        assert np.array_equal(made.wave[part], rain.wave[part])
    for region in regions:
        part = slice(round((region.start + 0.1) * RATE), round((region.end - 0.1) * RATE))
        assert np.abs(made.wave[part] - rain.wave[part]).mean() > 0.01


def test_a_region_in_frequency_keeps_the_other_frequencies(model, rain):
    region = Region(start=0.0, end=3.0, low=2000.0, high=4000.0)
    made = model.generate("a bell", init=rain, regions=[region], seed=1, **FAST)[0]
    change = np.abs(np.fft.rfft(made.wave - rain.wave)) ** 2
    frequencies = np.fft.rfftfreq(len(made.wave), 1 / RATE)
    inside = (frequencies >= 2000) & (frequencies <= 4000)
    assert change[inside].sum() > 0
    assert change[~inside].sum() < 1e-3 * change[inside].sum()


def test_a_longer_sound_keeps_the_given_one(model, rain):
    made = model.generate("rain", init=rain, at=1.0, seconds=6.0, seed=3, **FAST)[0]
    assert len(made.wave) == 6 * RATE
    fade = round(FADE * RATE)
    kept = slice(RATE + fade, 4 * RATE - fade)
    assert np.array_equal(made.wave[kept], rain.wave[fade:-fade])
    for part in (made.wave[:RATE], made.wave[4 * RATE :]):
        assert np.square(part).mean() > 0.01 * np.square(rain.wave).mean()


def test_an_extension_fades_over_from_the_given_sound():
    given = Canvas.of(np.full(2 * RATE, 0.5, np.float32), RATE, 4.0, 1.0, [])
    assert given.is_extended
    joined = given.join(np.full(4 * RATE, -0.5, np.float32))
    fade = round(FADE * RATE)
    assert np.array_equal(joined[RATE + fade : 3 * RATE - fade], np.full(2 * RATE - 2 * fade, 0.5))
    assert np.abs(np.diff(joined)).max() < 0.01  # no step from the given sound to silence
    assert joined[0] == joined[-1] == -0.5


def test_touching_regions_are_one():
    regions = [Region(start=0.5, end=1.0), Region(start=1.0, end=1.5), Region(start=1.8, end=2.0)]
    canvas = Canvas.of(np.full(2 * RATE, 0.5, np.float32), RATE, 3.0, 0.0, regions)
    joined = canvas.join(np.full(3 * RATE, -0.5, np.float32))
    fade = round(FADE * RATE)
    assert (joined[RATE // 2 + fade : RATE * 3 // 2 - fade] == -0.5).all()
    assert (joined[round(1.8 * RATE) + fade :] == -0.5).all()  # the last, and the extension
    assert (joined[: RATE // 2] == 0.5).all()


def test_regions_are_in_the_time_of_the_given_sound():
    canvas = Canvas.of(np.ones(2 * RATE, np.float32), RATE, 3.0, 1.0, [Region(start=1.0, end=1.5)])
    assert (2.0, 2.5) in [(region.start, region.end) for region in canvas.regions]


def test_what_exceeds_full_scale_is_kept():
    loud = np.full(RATE, 1.5, np.float32)
    canvas = Canvas.of(loud, RATE, 1.0, 0.0, [Region(start=0.5, end=1.0)])
    joined = canvas.join(np.full(RATE, 0.9, np.float32))
    assert np.array_equal(joined[: RATE // 2], loud[: RATE // 2])
    assert joined[RATE // 2 :].max() <= 1.5


def test_bands_of_the_same_time_are_apart(model, rain):
    bands = [Region(start=1, end=2, high=500.0), Region(start=1, end=2, low=3000.0)]
    assert len(Canvas.of(rain.wave, RATE, 3.0, 0.0, bands).regions) == 2


def test_drafts_of_a_given_sound_are_ranked(model, rain):
    options = {"init": rain, "candidates": 2, "draft_steps": 1, "steps": 4}
    steps = []
    for strength in (0.0, 0.1, 0.5):
        (made,) = model.generate(
            "rain", strength=strength, progress=lambda *done: steps.append(done), **options
        )
        assert np.isfinite(made.wave).all()
        assert steps[-1][0] == steps[-1][1]


def test_a_loop_has_no_seam(model):
    loop = model.generate("rain", seconds=2.0, loop=True, seed=1, **FAST)[0]
    assert loop.loop
    noise = model.noise(1, 2.0, loop=True)
    same = model.generate("rain", seconds=2.0, loop=True, noise=noise, seed=1, **FAST)[0]
    assert np.array_equal(same.wave, loop.wave)
    assert model.generate("rain", seconds=0.2, loop=True, **FAST)[0].seconds >= 0.2
    assert len(loop.wave) == round(2.0 / model.codec.frame_seconds) * 1280
    twice = np.concatenate([loop.wave, loop.wave]).astype(float)
    steps = np.abs(np.diff(twice))
    seam = len(loop.wave) - 1
    assert steps[seam] < np.quantile(steps, 0.999)
    power = np.square(twice[: len(twice) // 160 * 160].reshape(-1, 160)).mean(1)
    place = seam // 160
    assert power[place - 5 : place + 5].mean() < 4 * power.mean()
    assert power[place - 5 : place + 5].mean() > power.mean() / 4


def test_a_loop_is_the_same_loop_from_wherever_it_starts():
    schedule, settings = Schedule(DiffusionConfig(objective="v")), SamplingConfig(steps=4)
    noise = torch.randn(1, 2, 12, 4, generator=torch.Generator().manual_seed(0))

    def model(latent: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        """Circular over time, so that a roll of the noise rolls the result."""
        return torch.tanh(latent + 0.3 * latent.roll(1, 2))

    def make(given: torch.Tensor, *, loop: bool = True) -> torch.Tensor:
        cond = torch.zeros(1, 3)
        return sample(model, schedule, settings, given, cond, uncond=cond, loop=loop)

    torch.testing.assert_close(make(noise.roll(5, 2)).roll(-5, 2), make(noise))
    torch.testing.assert_close(make(noise), make(noise, loop=False))


def test_loop_points_are_written(tmp_path, model):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 4000).astype(np.float32)
    file = Sound(wave, RATE, "noise", 0, None, loop=True).save(tmp_path / "loop.wav")
    content = file.read_bytes()
    assert struct.unpack("<I", content[4:8])[0] == len(content) - 8
    at = content.index(b"smpl")
    fields = struct.unpack("<I9I6I", content[at + 4 : at + 4 + 64])
    assert (fields[0], fields[3], fields[8]) == (60, 62500, 1)  # size, ns of a sample, one loop
    assert fields[12:14] == (0, 3999)
    read, rate = soundfile.read(file)
    assert rate == RATE
    assert len(read) == 4000
    plain = encode_audio(wave, RATE, title="noise")
    assert b"smpl" not in plain
    assert content[12 : len(plain)] == plain[12:]
    assert b"smpl" not in encode_audio(wave, RATE, ".flac", loop=True)


def test_a_sound_to_resemble_is_the_condition(model, rain):
    like = model.generate(like=rain, seconds=2.0, seed=5, **FAST)[0]
    dog = model.generate("a dog barks", seconds=2.0, seed=5, trim=False, **FAST)[0]
    mixed = [
        model.generate("a dog barks", like=rain, like_weight=w, seconds=2.0, seed=5, **FAST)[0]
        for w in (0.0, 1.0)
    ]
    np.testing.assert_allclose(mixed[0].latent, dog.latent, atol=1e-3)
    np.testing.assert_allclose(mixed[1].latent, like.latent, atol=1e-3)
    assert like.prompt == ""


def test_a_quiet_sound_is_heard_as_a_loud_one(model, rain):
    quiet = (rain.wave * np.float32(0.001), RATE)
    loud, other = (
        model.generate(like=sound, seconds=1.0, seed=5, **FAST)[0] for sound in (rain, quiet)
    )
    np.testing.assert_allclose(loud.latent, other.latent, atol=0.05)


def test_more_and_less_move_the_condition(model):
    bright = model.generate("rain", more="thunder", less=["wind"], seconds=2.0, seed=1, **FAST)[0]
    plain = model.generate("rain", seconds=2.0, seed=1, trim=False, **FAST)[0]
    still = model.generate("rain", more="thunder", steer=0.0, seconds=2.0, seed=1, **FAST)[0]
    assert not np.allclose(bright.latent, plain.latent, atol=1e-2)
    np.testing.assert_allclose(still.latent, plain.latent, atol=1e-3)


def test_audio_is_taken_as_it_comes(tmp_path):
    rng = np.random.default_rng(0)
    stereo = 0.3 * rng.standard_normal((48_000, 6)).astype(np.float32)
    soundfile.write(tmp_path / "six.wav", stereo, 192_000, subtype="FLOAT")
    assert len(load_wave(tmp_path / "six.wav", RATE)) == 4000
    assert len(load_wave((stereo, 48_000), RATE)) == RATE
    counts = np.array([0, 16384, -32768, 32767] * 2000, np.int16)
    np.testing.assert_allclose(load_wave((counts, RATE), RATE)[:3], [0.0, 0.5, -1.0])
    both = Sound(stereo[:, :2], 48_000, "", 0, None)
    assert load_wave(both, RATE).shape == (RATE,)
    wave = np.ones(8000, np.float32)
    for audio, fault in (
        ((wave[:100], RATE), "init: got 0.00625 s; allowed: 0.2 to 600 s"),
        ((0 * wave, RATE), "init: the sound is silent"),
        ((wave * np.nan, RATE), "init: allowed: finite samples"),
        ((wave, 0), "init: got 8000 s"),
        ((wave, 16_000.5), "init: allowed: a Sound, a file, or"),
        ((wave,), "init: allowed: a Sound, a file, or"),
        (wave, "init: allowed: a Sound, a file, or"),
        (np.array(["a"]), "init: allowed: a Sound, a file, or"),
        (tmp_path / "none.wav", "none.wav"),
    ):
        with pytest.raises(ValueError, match=fault):
            load_wave(audio, RATE)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"strength": 0.5}, "require a sound to edit, init"),
        ({"init": True, "strength": 1.5}, "strength: got 1.5; allowed: 0 to 1"),
        ({"init": True, "strength": float("nan")}, "strength: got nan; expected a finite number"),
        ({"init": True, "seconds": 2.0}, "seconds: got 2; allowed: at least 3"),
        ({"init": True, "seconds": 4.0, "strength": 0.5}, "allowed when extending: 1"),
        ({"init": True, "loop": True, "seconds": 4.0}, "loop: a given sound cannot be looped"),
        ({"loop": True, "trim": True}, "trim: not possible with loop"),
        ({"like_weight": 0.5}, "like_weight: requires a sound to resemble"),
        ({"steer": 0.5}, "steer: requires descriptions"),
        ({"init": True, "regions": [(0.5, 1.0)]}, "allowed: a list of Region"),
        ({"loop": True, "reuse": 2}, "reuse: got 2; allowed with loop: 1"),
        ({"more": ""}, "more: must not be empty"),
        ({"like": True, "like_weight": 2.0}, "like_weight: got 2.0; allowed: 0 to 1"),
    ],
)
def test_what_does_not_go_together_is_refused(model, rain, options, fault):
    sounds = {name: rain for name in ("init", "like") if name in options}
    given = {**options, **sounds}
    with pytest.raises(ValueError, match=fault):
        model.generate("rain", **given)


@pytest.mark.parametrize(
    ("regions", "fault"),
    [
        ([Region(start=2.0, end=4.0)], "region: got 2 to 4 s; allowed: 0 to 3 s"),
        ([Region(start=0, end=1.0), Region(start=0.5, end=2.0)], "0 to 1 s and 0.5 to 2 s overlap"),
        ([Region(start=0, end=1.0, low=9000.0)], "region: got 9000 Hz; allowed: below 8000"),
    ],
)
def test_regions_that_are_not_in_the_sound_are_refused(model, rain, regions, fault):
    with pytest.raises(ValueError, match=fault):
        model.generate("rain", init=rain, regions=regions)


def test_impossible_regions_are_refused():
    for values in ((2.0, 1.0), (1.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="region"):
            Region(start=values[0], end=values[1])
    with pytest.raises(ValueError, match="200 to 100 Hz"):
        Region(start=0.0, end=1.0, low=200.0, high=100.0)
    with pytest.raises(ValueError, match="-5 to the top Hz"):
        Region(start=0.0, end=1.0, low=-5.0)


def test_the_mask_of_a_canvas_by_hand():
    mel = MelConfig()
    edges = band_edges(mel, 4)
    assert (edges[0], edges[-1]) == (0.0, mel.sample_rate / 2)
    region = Region(start=0.5, end=1.5, low=float(edges[1]), high=float(edges[3]))
    canvas = Canvas.of(np.ones(2 * RATE, np.float32), RATE, 2.0, 0.0, [region])
    mask = canvas.mask(4, 4, 0.5, mel)
    assert mask is not None
    wanted = torch.zeros(4, 4)
    wanted[1:3, 1:3] = 1.0
    torch.testing.assert_close(mask[0, 0], wanted, atol=1e-4, rtol=0)
    half = Canvas.of(np.ones(2 * RATE, np.float32), RATE, 2.0, 0.0, [Region(start=0, end=0.25)])
    found = half.mask(5, 4, 0.5, mel)
    assert found is not None
    assert found[0, 0, :, 0].tolist() == [0.5, 0, 0, 0, 1]  # the last frame is after the sound


def test_ends_are_joined_with_constant_power():
    rng = np.random.default_rng(0)
    wave, after = rng.standard_normal(8000), rng.standard_normal(1600)
    looped = join_ends(wave.astype(np.float32), after.astype(np.float32))
    assert len(looped) == 8000
    assert abs(looped[0] - after[0]) < 0.01 * abs(after[0]) + 0.01
    assert np.array_equal(looped[1600:], wave[1600:].astype(np.float32))
    assert np.square(looped[:1600]).mean() == pytest.approx(1.0, abs=0.1)


def test_the_command(run, rain, tmp_path: Path):
    file = rain.save(tmp_path / "rain.wav")
    fast = ("--steps", 2, "--candidates", 1)
    done = run(
        "edit", file, "thunder", "--inpaint", "1.0-2.0", "-o", tmp_path / "a.wav", *fast, "--json"
    )
    (facts,) = json.loads(done.out)
    assert (facts["file"], facts["seed"]) == (str(tmp_path / "a.wav"), 0)
    assert (facts["prompt"], facts["seconds"]) == ("thunder", 3.0)
    before, after = (soundfile.read(f, dtype="int16")[0] for f in (file, tmp_path / "a.wav"))
    assert np.array_equal(before[:RATE], after[:RATE])
    assert np.array_equal(before[2 * RATE :], after[2 * RATE :])
    run("edit", file, "--extend", 1, "--before", 0.5, "-o", tmp_path / "b.wav", *fast)
    longer = soundfile.read(tmp_path / "b.wav", dtype="int16")[0]
    fade = round(FADE * RATE)
    kept = longer[RATE // 2 + fade : RATE // 2 + 3 * RATE - fade]
    assert np.array_equal(kept, before[fade:-fade])
    assert len(longer) == 4.5 * RATE
    run("edit", file, "--takes", 2, "-o", tmp_path / "takes", "--plot", *fast)
    assert sorted(f.name for f in (tmp_path / "takes").iterdir()) == [
        *("rain-0.png", "rain-0.wav", "rain-1.png", "rain-1.wav")
    ]
    run("edit", file, "--loop", "-o", tmp_path / "c.wav", *fast)
    assert b"smpl" in (tmp_path / "c.wav").read_bytes()


def test_generate_takes_what_makes_sense_there(run, rain, tmp_path: Path):
    fast = ("--steps", 2, "--candidates", 1, "--seconds", 1)
    file = rain.save(tmp_path / "rain.wav")
    run("generate", "wind", "--loop", "-o", tmp_path / "loop.wav", *fast)
    assert b"smpl" in (tmp_path / "loop.wav").read_bytes()
    waves = {}
    for name, options in {
        "plain": (),
        "like": ("--like", file),
        "more": ("--more", "thunder", "--less", "birds", "--steer", 1),
    }.items():
        run("generate", "wind", *options, "-o", tmp_path / f"{name}.wav", *fast)
        waves[name] = (tmp_path / f"{name}.wav").read_bytes()
    assert len(set(waves.values())) == 3
    composed = run("generate", "rain and thunder", "--loop", "-o", tmp_path / "no.wav", *fast)
    assert "--loop requires a single event per prompt" in composed.refused()


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--inpaint", "2-1"), "region: got 2 to 1 s"),
        (("--inpaint", "later"), 'write "START-END"'),
        (("--inpaint", "1-9"), "allowed: 0 to 3 s"),
        (("--extend", "-1"), "extend: got -1; allowed: 0.05 s or more, or 0"),
        (("--extend", "nan"), "extend: got nan"),
        (("--strength", "nan"), "strength: got nan"),
        (("--loop", "--extend", "1"), "loop: a given sound cannot be looped"),
        (("--like-weight", "0.5"), "like_weight: requires a sound to resemble"),
        (("--takes", "0"), "count: got 0"),
    ],
)
def test_the_command_refuses(run, rain, tmp_path, arguments, fault):
    file = rain.save(tmp_path / "rain.wav")
    done = run("edit", file, "-o", tmp_path / "out.wav", *arguments)
    assert fault in done.refused()
    assert not (tmp_path / "out.wav").exists()


def test_a_long_sound_is_encoded_in_windows(model):
    """The windows change what the VAE's norms see, so they agree with the whole roughly."""
    rng = np.random.default_rng(0)
    wave = (0.1 * rng.standard_normal(round(25.6 * RATE))).astype(np.float32)
    wave *= 1 + np.sin(np.arange(len(wave)) / RATE).astype(np.float32)
    found = model.codec.encode(wave)
    mel = LogMel(model.vae.config.mel)(torch.from_numpy(wave)[None])
    with torch.inference_mode():
        whole = model.vae.encode(mel)
    assert (found - whole).abs().mean() < 0.1 * whole.std()


def test_a_prompt_that_is_too_long_is_heard_in_part_with_a_warning(model, caplog):
    options = FAST | {"seconds": 0.4}
    long = "rain " * 60
    model.generate(long, **options)
    assert "prompt: too long; the last 14 tokens are not heard" in caplog.text
    caplog.clear()
    model.generate("rain", **options)
    assert not caplog.text
