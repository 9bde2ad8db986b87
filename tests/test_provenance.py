"""How a sound was made: inside its file, and enough to make it again to the byte."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile

from soundcrafter.arguments import MAX_EDITS
from soundcrafter.audio import audio_comments, encode_audio
from soundcrafter.blend import Blend
from soundcrafter.editing import Region
from soundcrafter.export import Export
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.provenance import FORMAT, read_provenance
from soundcrafter.remake import check_model, remake, remake_mix
from soundcrafter.scene.render import render
from soundcrafter.scene.scene import Event, Scene, Track
from soundcrafter.timeline import Span, Timeline

SHORT = ("--seconds", "0.4", "--steps", "2", "--candidates", "2")
FAST = {"seconds": 0.4, "steps": 2, "candidates": 2}


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> SoundCrafter:
    return SoundCrafter.from_pretrained(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def rain(model: SoundCrafter):
    return model.generate("rain", **FAST)[0]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_generate_from_a_file_gives_the_same_bytes(run, tiny_model, tmp_path, suffix):
    files = [tmp_path / f"a-{number}{suffix}" for number in (1, 2, 3)]
    call = ("ein Hund bellt, 犬", "--compose", "off", "--count", 3, "--model", tiny_model, *SHORT)
    assert (
        run("generate", *call, "-o", tmp_path / f"a{suffix}", "--depth", 24, "--lufs", -30).code
        == 0
    )
    for file in files:
        again = tmp_path / f"b{suffix}"
        assert run("generate", "--from", file, "--model", tiny_model, "-o", again).code == 0
        assert again.read_bytes() == file.read_bytes()


def test_a_scene_is_rendered_again_with_its_recordings(run, tiny_model, tmp_path, clips):
    shutil.copy(sorted(clips.rglob("*.ogg"))[0], tmp_path / "bell.ogg")
    scene = 'seconds = 1\n[[tracks]]\nname="a"\n[[tracks.events]]\nfile="bell.ogg"\n'
    scene += '[[tracks]]\nname="b"\n[[tracks.events]]\nprompt="rain"\nseconds=0.5\n'
    (tmp_path / "scene.toml").write_text(scene)
    call = ("--model", tiny_model, "--steps", 2)
    assert run("scene", tmp_path / "scene.toml", "-o", tmp_path / "mix.wav", *call).code == 0
    again = ("generate", "--from", tmp_path / "mix.wav", "-o", tmp_path / "mix2.wav")
    assert run(*again, "--model", tiny_model, "--stems", tmp_path / "stems").code == 0
    assert (tmp_path / "mix2.wav").read_bytes() == (tmp_path / "mix.wav").read_bytes()
    assert sorted(file.name for file in (tmp_path / "stems").iterdir()) == ["a.wav", "b.wav"]
    (tmp_path / "bell.ogg").unlink()
    refused = run(*again, "--model", tiny_model).refused()
    assert "bell.ogg: no such file" in refused


def test_an_edit_is_made_again_from_its_file(run, tiny_model, tmp_path):
    source, edited = tmp_path / "rain.wav", tmp_path / "edited.wav"
    assert run("generate", "rain", "-o", source, "--model", tiny_model, *SHORT).code == 0
    call = ("edit", source, "wind", "--inpaint", "0.1-0.3", "--model", tiny_model, "--steps", 2)
    assert run(*call, "--sidecar", "-o", edited).code == 0
    made = json.loads((tmp_path / "edited.json").read_text())
    assert made["arguments"]["init"]["file"] == "rain.wav"  # not the folder of this machine
    again = ("generate", "--model", tiny_model, "-o", tmp_path / "again.wav", "--from")
    assert run(*again, edited).code == 0
    assert (tmp_path / "again.wav").read_bytes() == edited.read_bytes()
    assert run(*again, tmp_path / "edited.json").code == 0
    assert (tmp_path / "again.wav").read_bytes() == edited.read_bytes()
    soundfile.write(source, np.zeros(8000) + 0.1, 16_000)
    assert "has changed since" in run(*again, edited).refused()


@pytest.mark.parametrize(
    "options",
    [
        {"prompts": ["rain", "wind"], "negative": "music", "guidance": 3.0, "seed": [5, 9]},
        {"prompts": Blend((("rain", 0.5), ("wind", 1.0))), "count": 2},
        {"prompts": Timeline.morph("rain", "wind", 0.4), "candidates": 1},
        {"prompts": "rain", "loop": True, "more": "wind", "steer": 0.2, "sampler": "ddim"},
    ],
)
def test_sounds_of_a_batch_are_made_again(model, options):
    for sound in model.generate(**(FAST | options)):
        assert sound.provenance is not None
        again = remake(model, sound.provenance)
        np.testing.assert_array_equal(again.wave, sound.wave)
        assert again.provenance == sound.provenance


def test_a_chain_of_edits_is_made_again_from_the_first(model, rain):
    (edited,) = model.generate("wind", init=rain, regions=[Region(start=0.1, end=0.3)], steps=2)
    (longer,) = model.generate(init=edited, seconds=0.6, like=rain, like_weight=0.7, steps=2)
    np.testing.assert_array_equal(remake(model, longer.provenance).wave, longer.wave)


def test_changes_replace_options(model, rain):
    assert remake(model, rain.provenance, seed=3).seed == 3
    longer = remake(model, rain.provenance, seconds=0.8, prompts="wind")
    assert (longer.prompt, longer.seconds) == ("wind", 0.8)
    (plain,) = model.generate("wind", **FAST | {"seconds": 0.8}, trim=False)
    np.testing.assert_array_equal(longer.wave, plain.wave)
    with pytest.raises(ValueError, match="steps: got 0"):
        remake(model, rain.provenance, steps=0)


def test_the_models_defaults_of_then_are_used(model, rain):
    other = SoundCrafter.from_pretrained(model.folder.path, device="cpu")
    other.sampling = replace(other.sampling, guidance=9.0, spacing="leading")
    np.testing.assert_array_equal(remake(other, rain.provenance).wave, rain.wave)
    assert other.sampling.guidance == 9.0


def test_a_mix_is_made_again_with_another_seed(model):
    events = (Event(prompt="rain", seconds=0.4),)
    mix = render(Scene(tracks=(Track(name="a", events=events),)), model, steps=2)
    np.testing.assert_array_equal(remake_mix(model, mix.provenance).wave, mix.wave)
    assert remake_mix(model, mix.provenance, seed=1).sounds[0].seed == 1


def test_what_was_given_in_memory_cannot_be_made_again(model, rain):
    (edited,) = model.generate(init=(rain.wave, rain.sample_rate), strength=0.5, steps=2)
    with pytest.raises(ValueError, match="init: was given in memory"):
        remake(model, edited.provenance)
    noise = model.noise(0, 0.4)
    (made,) = model.generate("rain", noise=noise, **FAST | {"candidates": 1})
    with pytest.raises(ValueError, match="noise: was given in memory"):
        remake(model, made.provenance)


def test_another_model_is_refused(run, model, rain, tmp_path, tiny_model):
    other = SoundCrafter.from_pretrained(device="cpu")
    with pytest.raises(ValueError, match=r"was made by .model. with .*; .bundled. has"):
        check_model(other, rain.provenance)
    file = rain.save(tmp_path / "a.wav")
    gone = replace(rain, provenance=replace(rain.provenance, model="gone/away/model")).save(file)
    refused = run("generate", "--from", gone, "-o", tmp_path / "b.wav").refused()
    assert "name it by --model" in refused
    assert not (tmp_path / "b.wav").exists()


def test_bad_sources_are_refused(run, tmp_path, rain, clips):
    newer = tmp_path / "newer.json"
    data = json.loads(rain.provenance.to_json())
    newer.write_text(json.dumps(data | {"format": FORMAT + 1, "tempo": 3}))
    plain = sorted(clips.rglob("*.ogg"))[0]
    made = rain.save(tmp_path / "a.wav")
    for source, options, message in [
        (newer, (), "written by SoundCrafter"),
        (plain, (), "does not say how it was made"),
        (tmp_path / "none.wav", (), "no such file"),
        (made, ("--count", 2), "--count cannot be combined with --from"),
        (made, ("--stems", tmp_path), "stems: the sound is not a mix"),
        (made, ("--mix", "rain", "wind"), "--mix replaces the prompt"),
        (made, ("--depth", 8), "depth: got '8'"),
    ]:
        call = ("generate", "--from", source, *options, "-o", tmp_path / "b.wav")
        assert message in run(*call).refused()
    assert not (tmp_path / "b.wav").exists()


def _replaced(data, path, value):
    """A copy of nested dicts and lists with another value at a dotted path."""
    copied = json.loads(json.dumps(data))
    *places, last = (int(key) if key.isdigit() else key for key in path.split("."))
    inner = copied
    for place in places:
        inner = inner[place]
    inner[last] = value
    return copied


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("index", 1, "index: got 1; allowed: 0 to 0"),
        ("index", -1, "index: got -1"),
        ("arguments", {}, "arguments.prompts: this setting is required"),
        ("arguments.progress", 1, "arguments.progress: unknown setting"),
        ("arguments.batch_size", 2, "arguments.batch_size: unknown setting"),
        ("arguments.prompts", [], "prompts, negative, seed: got"),
        ("arguments.prompts", "rain", "arguments.prompts: expected a list"),
        ("arguments.prompts", [{"mix": {"a": [1]}}], "allowed: texts and numbers"),
        ("arguments.prompts", [{"mix": {"a": 10**400}}], "mix: int too large"),
        ("sampling.seconds", 10**400, "sampling.seconds: got a number of 401 digits"),
        ("arguments.prompts", [7], "prompt: expected a table"),
        ("arguments.seed", 5, "arguments.seed: expected a list"),
        ("arguments.seed", [-1], "seed: got -1"),
        ("arguments.seed", ["x" * 10_000], "arguments.seed[0]: expected int"),
        ("arguments.negative", [None], "arguments.negative[0]: expected str"),
        ("arguments.init", {"file": 3}, "init: expected the name of a file"),
        ("arguments.init", {"file": "x" * 5000, "sha256": ""}, "File name too long"),
        ("arguments.init", {"made": 3}, "init: expected a table"),
        ("arguments.regions", 3, "arguments.regions: expected a list"),
        ("sampling", {}, ""),
        ("sampling.steps", 0, "steps: got 0"),
        ("sampling.tempo", 3, "sampling.tempo: unknown setting"),
        ("export.rate", 1, "rate: got 1"),
        ("precision", "fp64", "precision: got 'fp64'"),
        ("adapters", {"gone": 1.0}, "gone"),
        ("call", "render", "unknown setting"),
        ("call", "delete", "call: got 'delete'"),
    ],
)
def test_damaged_provenance_is_refused_before_anything_is_written(
    run, rain, tmp_path, tiny_model, path, value, message
):
    source, out = tmp_path / "a.json", tmp_path / "out"
    source.write_text(json.dumps(_replaced(json.loads(rain.provenance.to_json()), path, value)))
    result = run("generate", "--from", source, "--model", tiny_model, "-o", f"{out}/")
    if message:
        assert message in result.refused()
        assert len(result.err) < 1100
        assert not out.exists()
    else:  # settings that are missing have their defaults
        assert result.code == 0


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("arguments", {}, "arguments.scene: this setting is required"),
        ("arguments.scene", [], "arguments.scene: expected a table"),
        ("arguments.scene.tracks.0", {}, "arguments.scene.tracks[0].name"),
        ("arguments.files", ["bell.ogg"], "arguments.files: expected a table"),
        ("arguments.files", {"bell.ogg": "0"}, "bell.ogg: no such file"),
        ("arguments.options.count", 3, "count: not an option of a scene"),
        ("arguments.options.progress", 3, "progress: not an option of a scene"),
        ("arguments.options.steps", "x", "steps: expected int"),
        ("arguments.seconds", "x", "arguments.seconds: expected float"),
    ],
)
def test_damaged_scenes_are_refused(run, model, tmp_path, tiny_model, path, value, message):
    events = (Event(prompt="rain", seconds=0.4),)
    mix = render(Scene(tracks=(Track(name="a", events=events),)), model, steps=1)
    source, out = tmp_path / "a.json", tmp_path / "out"
    source.write_text(json.dumps(_replaced(json.loads(mix.provenance.to_json()), path, value)))
    call = ("generate", "--from", source, "--model", tiny_model, "-o", f"{out}/")
    assert message in run(*call).refused()
    assert not out.exists()
    with pytest.raises(ValueError, match="prompts: not an option of a scene"):
        remake_mix(model, mix.provenance, prompts="wind")


def test_a_random_seed_becomes_part_of_the_name(run, rain, tmp_path, tiny_model):
    source, out = rain.save(tmp_path / "a.wav"), tmp_path / "out"
    mix = tmp_path / "mix.wav"
    call = ("generate", "rain then wind", "--seconds", 1, "--steps", 1, "--model", tiny_model)
    assert run(*call, "-o", mix).code == 0
    for file in (source, mix):
        call = ("generate", "--from", file, "--seed", -1, "--model", tiny_model)
        result = run(*call, "-o", f"{out}/", "--sidecar")
        assert result.code == 0
        (made,) = out.glob("*.json")
        arguments = json.loads(made.read_text())["arguments"]
        (seed,) = arguments["seed"] if file == source else [arguments["scene"]["seed"]]
        assert result.out.rstrip().endswith(f"seed {seed}")
        assert made.stem.endswith(f"-{seed}")
        shutil.rmtree(out)
    for options, message in [
        (("--stems", source), "a.wav: not a folder"),
        (("--loop",), "loop: not an option of a scene"),
        (("wind",), "prompts: not an option of a scene"),
    ]:
        call = ("generate", "--from", mix, "--model", tiny_model, "-o", tmp_path / "b.wav")
        assert message in run(*call, *options).refused()
    assert not (tmp_path / "b.wav").exists()


def test_more_edits_than_are_allowed(model, rain):
    nested = rain.provenance
    for _ in range(MAX_EDITS):
        inner = {"made": json.loads(nested.to_json())}
        nested = replace(rain.provenance, arguments={**rain.provenance.arguments, "init": inner})
    deepest = replace(rain, provenance=nested)
    (edited,) = model.generate(init=deepest, steps=1)  # which records samples, not the chain
    assert "samples" in edited.provenance.arguments["init"]
    inner = {"made": json.loads(nested.to_json())}
    deeper = replace(nested, arguments={**rain.provenance.arguments, "init": inner})
    with pytest.raises(ValueError, match=f"more than {MAX_EDITS} sounds"):
        remake(model, deeper)


def test_sources_that_are_no_files_are_refused(run, tmp_path):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "link.json").symlink_to("/dev/zero")
    for source in list(tmp_path.iterdir()):
        refused = run("generate", "--from", source, "-o", tmp_path / "b.wav").refused()
        assert f"{source.name}: is not a file" in refused


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_metadata_is_inside_the_file_and_can_be_left_out(rain, tmp_path, suffix):
    file = rain.save(tmp_path / f"a{suffix}")
    assert read_provenance(file).arguments == json.loads(json.dumps(rain.provenance.arguments))
    assert soundfile.SoundFile(file).title == "rain"
    rain.save(file, Export(metadata=False))
    with pytest.raises(ValueError, match="does not say how it was made"):
        read_provenance(file)
    assert soundfile.SoundFile(file).title == ""


def test_long_comments_and_ixml_of_wav_files(tmp_path):
    comment = json.dumps({"text": "<&> " + "x" * 50_000})
    file = tmp_path / "a.wav"
    file.write_bytes(
        encode_audio(np.zeros(999, "f"), 16_000, loop=True, title="Wind & <rain>", comment=comment)
    )
    assert audio_comments(file) == [comment, comment]
    data = file.read_bytes()
    xml = data[data.index(b"<?xml") :].rstrip(b"\0")
    assert ElementTree.fromstring(xml).findtext("NOTE") == "Wind & <rain>"
    assert soundfile.info(file).frames == 999
    file.write_bytes(data[: len(data) // 2])  # a cut file has what is left of it
    assert audio_comments(file)[0].startswith('{"text"')


_BOMB = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 9))


@pytest.mark.parametrize(
    "ixml",
    [
        f'<!DOCTYPE z [<!ENTITY a0 "spam">{_BOMB}]><BWFXML><USER>&a8;</USER></BWFXML>',
        '<!DOCTYPE z [<!ENTITY a SYSTEM "file:///etc/passwd">]><a><USER>&a;</USER></a>',
        '<?xml version="1.0" encoding="klingon"?><BWFXML><USER>note</USER></BWFXML>',
        '<?xml version="1.0" encoding="idna"?><BWFXML><USER>note</USER></BWFXML>',
        "<USER>" * 1_000_000,
        "<a>" * 1_000_000,
        "",
    ],
    ids=["bomb", "external", "unknown-encoding", "idna", "unclosed", "deep", "empty"],
)
def test_hostile_ixml_is_another_programs_comment(tmp_path, ixml):
    file, content = tmp_path / "a.wav", ixml.encode()
    wav = encode_audio(np.full(800, 0.1, np.float32), 16_000)
    content += b"\0" * (len(content) % 2)
    file.write_bytes(wav + b"iXML" + len(content).to_bytes(4, "little") + content)
    assert all(len(comment) < 10 for comment in audio_comments(file))  # nothing was expanded
    with pytest.raises(ValueError, match=r"a\.wav: does not say how it was made"):
        read_provenance(file)


def test_float_files_do_not_contain_the_time():
    wav = encode_audio(np.full(800, 0.1, np.float32), 16_000, depth="float")
    start = wav.index(b"PEAK") + 12  # after name, size and version
    assert wav[start : start + 4] == bytes(4)


@pytest.mark.parametrize("text", ["rain:0", "rain:x", "rain,rain", "", "rain:nan", "a:1," * 17])
def test_bad_mixes_are_refused(run, tmp_path, text):
    run("generate", "--mix", text, "-o", tmp_path / "a.wav").refused()
    assert not (tmp_path / "a.wav").exists()


@pytest.mark.parametrize("options", [("--morph-to", " "), ("--morph-to", "wind", "--loop")])
def test_bad_morphs_are_refused(run, tmp_path, options):
    assert "morph-to" in run("generate", "rain", *options, "-o", tmp_path / "a.wav").refused()


def test_weights_of_any_size_count_relative_to_each_other(model):
    latents = [
        model.generate(mix={"rain": w, "wind": w / 2}, **FAST | {"candidates": 1})[0].latent
        for w in (1.0, 1e308, 1e-300)
    ]
    np.testing.assert_allclose(latents[1], latents[0], atol=1e-4)
    np.testing.assert_allclose(latents[2], latents[0], atol=1e-4)


def test_a_blend_of_one_is_its_prompt_and_weights_count(model):
    (plain,) = model.generate("rain", **FAST)
    (alone,) = model.generate(mix={"rain": 3.0}, **FAST)
    np.testing.assert_allclose(alone.latent, plain.latent, atol=1e-4)
    (even,) = model.generate(mix={"rain": 1.0, "wind": 1.0}, **FAST)
    (most,) = model.generate(mix={"rain": 1.0, "wind": 0.1}, **FAST | {"candidates": 1})
    assert even.prompt == "rain:1,wind:1"
    assert not np.allclose(even.latent, most.latent)


def test_a_morph_begins_as_one_sound_and_ends_as_the_other(model):
    options = {"seconds": 2.0, "steps": 4, "candidates": 1}
    timeline = Timeline.morph("rain", "wind", 2.0)
    (morph,), (rain,), (wind,) = (
        model.generate(prompt, **options) for prompt in (timeline, "rain", "wind")
    )
    apart = [np.abs(morph.latent - each.latent).mean((0, 2)) for each in (rain, wind)]
    quarter = len(apart[0]) // 4
    assert apart[0][:quarter].mean() < apart[1][:quarter].mean()
    assert apart[0][-quarter:].mean() > apart[1][-quarter:].mean()
    with pytest.raises(ValueError, match="fade_in"):
        Span(prompt="rain", start=0, end=1, fade_in=-1)
