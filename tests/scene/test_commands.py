"""`soundcrafter scene`, and `generate` with a prompt of several events."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from soundcrafter.scene.parse import parse_events
from soundcrafter.scene.scene import read_scene
from soundcrafter.scene.text import scene_from_text

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "scenes.md").read_text(encoding="utf-8")
FAST = ("--steps", "1", "--candidates", "1")
DOOR_AND_DOG = "a door slams, then a dog barks"


Run = Callable[..., Any]


@pytest.fixture
def tiny(run: Run, tiny_model: Path) -> Run:
    """The command line with the tiny model."""
    return lambda command, *arguments: run(command, "--model", tiny_model, *arguments)


def names(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.*"))


def test_a_prompt_of_two_events_is_composed(tiny: Run, tmp_path: Path) -> None:
    done = tiny(
        *("generate", DOOR_AND_DOG, "-o", tmp_path / "a.wav", "--seconds", 2, "--json", "--plot"),
        *("--stems", tmp_path / "stems", *FAST),
    )
    (facts,) = json.loads(done.out)
    assert [sound["what"] for sound in facts["sounds"]] == ["a door slams", "a dog barks"]
    assert facts["sounds"][1]["start"] >= facts["sounds"][0]["end"]
    assert done.err.startswith("composed of 2 sounds: a door slams at 0.0 s, a dog barks at ")
    assert names(tmp_path) == ["a.png", "a.wav", "stems/a-dog-barks.wav", "stems/a-door-slams.wav"]
    waves = [soundfile.read(tmp_path / name)[0] for name in names(tmp_path)[1:]]
    assert {wave.shape for wave in waves} == {(32_000,)}
    np.testing.assert_allclose(waves[0], waves[1] + waves[2], atol=1e-4)


def test_compose_off_is_one_pass(tiny: Run, tmp_path: Path) -> None:
    done = tiny("generate", DOOR_AND_DOG, "-o", tmp_path / "a.wav", "--compose", "off", *FAST)
    assert "composed" not in done.err
    wrong = tiny("generate", DOOR_AND_DOG, "-o", tmp_path / "b.wav", "--compose", "no", *FAST)
    assert "compose: got 'no'; allowed: auto, off, one-pass" in wrong.refused()


def test_events_in_one_pass_are_one_sound_on_a_timeline(tiny: Run, tmp_path: Path) -> None:
    one_pass = ("--compose", "one-pass", "--seconds", 4, *FAST)
    done = tiny("generate", DOOR_AND_DOG, "-o", tmp_path / "a.wav", "--json", *one_pass)
    (facts,) = json.loads(done.out)
    assert facts["timeline"] == "a door slams 0-1.7 s; a dog barks 2-4 s"
    assert facts["prompt"] == DOOR_AND_DOG
    assert "in one pass: a door slams 0-1.7 s" in done.err
    assert soundfile.info(tmp_path / "a.wav").frames == 64_000
    stems = tiny("generate", DOOR_AND_DOG, "-o", tmp_path / "b.wav", "--stems", tmp_path, *one_pass)
    assert "stems: not available with --compose one-pass" in stems.refused()
    done = tiny("generate", DOOR_AND_DOG, "-o", tmp_path / "a.wav", "--compose", "one-pass", *FAST)
    assert "a dog barks 0.5-1 s" in done.err, "without a length, the steps share the model's"
    tiny("generate", DOOR_AND_DOG, "-o", tmp_path / "a.wav", *one_pass)
    tiny("scene", "--text", DOOR_AND_DOG, "--save", tmp_path / "s.toml", "--seconds", 4)
    done = tiny(
        "scene", tmp_path / "s.toml", "-o", tmp_path / "c.wav", "--one-pass", "--plot", *FAST
    )
    assert "2.00 to   4.00 s  a dog barks" in done.out
    assert names(tmp_path) == ["a.wav", "c.png", "c.wav", "s.toml"]
    one, other = (soundfile.read(tmp_path / name)[0] for name in ("a.wav", "c.wav"))
    np.testing.assert_array_equal(one, other)


def test_a_prompt_of_one_event_is_unchanged_to_the_bit(tiny: Run, tmp_path: Path) -> None:
    prompt = "a man and a woman talk in a large room"
    for compose in ("auto", "off", "one-pass"):
        file = tmp_path / f"{compose}.wav"
        done = tiny("generate", prompt, "-o", file, "--compose", compose, *FAST)
        assert "composed" not in done.err
        assert "in one pass" not in done.err
    assert len({file.read_bytes() for file in tmp_path.glob("*.wav")}) == 1
    stems = tiny("generate", prompt, "-o", tmp_path / "c.wav", "--stems", tmp_path / "s", *FAST)
    assert "stems: requires a single sound" in stems.refused()


def test_a_stem_does_not_replace_the_mix(tiny: Run, tmp_path: Path) -> None:
    file = scene_from_text("rain and wind", seconds=1.0).save(tmp_path / "s.toml")
    done = tiny("scene", file, "-o", tmp_path / "rain.wav", "--stems", tmp_path, *FAST)
    assert "a stem would have this name" in done.refused()
    assert names(tmp_path) == ["s.toml"]


def test_fill_repeats_a_short_sound(run: Run, tmp_path: Path) -> None:
    # the bundled model's bark is short; the tiny one hums to the end
    short = ("generate", "a dog barks", "--seconds", 6, "--steps", 4, "--candidates", 1)
    plain = run(*short, "-o", tmp_path / "plain.wav")
    assert "silence follows (--fill repeats the sound)" in plain.err
    filled = run(*short, "-o", tmp_path / "filled.wav", "--fill")
    assert "a dog barks at 0.0 s, a dog barks at" in filled.err
    ends = []
    for name in ("plain", "filled"):
        wave, rate = soundfile.read(tmp_path / f"{name}.wav")
        assert len(wave) == 6 * rate
        ends.append(float(np.flatnonzero(np.abs(wave) > 0.01)[-1]) / rate)
    assert ends[0] < 3.0 < ends[1]


def test_fill_needs_a_length_and_composition(tiny: Run, tmp_path: Path) -> None:
    bark = ("generate", "a dog barks", "-o", tmp_path / "a.wav", "--fill", *FAST)
    assert "--fill requires --seconds" in tiny(*bark).refused()
    for compose in ("off", "one-pass"):
        done = tiny(*bark, "--seconds", 3, "--compose", compose)
        assert "--fill requires --compose auto" in done.refused()
    assert names(tmp_path) == []


def test_what_no_scene_holds_is_one_sound() -> None:
    for prompt in (
        "a bell rings 500 times",
        "a bell rings 0 times",
        ", ".join(["wind", "rain"] * 60),
    ):
        (track,) = scene_from_text(prompt).tracks
        assert (track.events[0].prompt, track.events[0].repeats) == (prompt, 1)
    assert scene_from_text("a bell rings 20 times").tracks[0].events[0].repeats == 20


def test_trim_is_for_sounds_of_one_pass(tiny: Run, tmp_path: Path) -> None:
    for option in ("--trim", "--no-trim"):
        done = tiny("generate", DOOR_AND_DOG, "-o", tmp_path / "a.wav", option, *FAST)
        assert "require a single event per prompt, or --compose off" in done.refused()
    assert names(tmp_path) == []


def test_a_scene_from_text_is_saved_edited_and_rendered(tiny: Run, tmp_path: Path) -> None:
    file, sound = tmp_path / "scene.toml", tmp_path / "scene.wav"
    assert tiny("scene", "--text", DOOR_AND_DOG, "--save", file, "--seed", 4).code == 0
    assert read_scene(file) == scene_from_text(DOOR_AND_DOG, seed=4)
    file.write_text(file.read_text() + "pan = 1.0\n")
    done = tiny("scene", file, "-o", sound, "--stems", tmp_path / "stems", "--plot", *FAST)
    assert done.code == 0, done.err
    assert "a dog barks" in done.out
    wave, _ = soundfile.read(sound)
    assert wave.shape[1] == 2
    assert len(names(tmp_path)) == 5


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((), "give a FILE, or --text PROMPT"),
        (("scene.toml", "--text", "rain"), "give a FILE, or --text PROMPT"),
        (("scene.toml",), "give -o FILE for the sound, or --save FILE"),
        (("none.toml", "-o", "a.wav"), "none.toml: No such file"),
        (("scene.toml", "-o", "a.aac"), "a.aac: cannot write .aac; allowed: .wav"),
        (("scene.toml", "-o", "no/a.wav"), "no: the folder does not exist"),
        (("scene.toml", "-o", "a.wav", "--seed", "3"), "--seconds and --seed require --text"),
        (("--text", "rain", "--save", "a.yaml"), "allowed: .toml, .json"),
        (("--text", " ", "-o", "a.wav"), "at least one word"),
        (("bad.toml", "-o", "a.wav"), r"start: got -1.0; allowed: 0 to 3600"),
    ],
)
def test_what_is_refused(
    tiny: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    fault: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    event = '[[tracks]]\nname = "a"\nevents = [{prompt = "rain", start = %s}]\n'
    (tmp_path / "scene.toml").write_text(event % "0.5")
    (tmp_path / "bad.toml").write_text(event % "-1.0")
    assert fault in tiny("scene", *arguments).refused()
    assert names(tmp_path) == ["bad.toml", "scene.toml"]


def test_the_documents_prompts_and_scene(tiny: Run, tmp_path: Path) -> None:
    (block,) = re.findall(r"## Ten prompts\n\n```\n(.*?)```", DOCS, re.DOTALL)
    prompts = block.splitlines()
    assert len(prompts) == 10
    for prompt in prompts:
        assert len(parse_events(prompt)) > 1 or parse_events(prompt)[0].repeats == 3, prompt
    (toml,) = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)
    (tmp_path / "scene.toml").write_text(toml.replace("12.0 ", "3.0 ").replace("12.0,", "3.0,"))
    done = tiny("scene", tmp_path / "scene.toml", "-o", tmp_path / "a.wav", *FAST)
    assert done.code == 0, done.err
    blocks = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    assert len(blocks) == 2
    for python in blocks:
        compile(python, "scenes.md", "exec")
