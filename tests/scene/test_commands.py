"""`soundcrafter scene`, and `generate` with a prompt of several events."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

from soundcrafter import cli
from soundcrafter.scene.parse import parse_events
from soundcrafter.scene.scene import read_scene
from soundcrafter.scene.text import scene_from_text

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "scenes.md").read_text(encoding="utf-8")
FAST = ("--steps", "1", "--candidates", "1")
DOOR_AND_DOG = "a door slams, then a dog barks"


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """The command line in this process, with the tiny model."""

    def call(command: str, *arguments: object) -> Result:
        line = ["soundcrafter", command, "--model", str(tiny_model), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", line)
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return Result(int(stop.value.code or 0), *capfd.readouterr())

    return call


def refused(result: Result) -> str:
    assert (result.code, result.out) == (2, ""), result
    (line,) = result.err.splitlines()
    return line


def names(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.*"))


def test_a_prompt_of_two_events_is_composed(run: Run, tmp_path: Path) -> None:
    done = run(
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


def test_compose_off_is_one_pass(run: Run, tmp_path: Path) -> None:
    done = run("generate", DOOR_AND_DOG, "-o", tmp_path / "a.wav", "--compose", "off", *FAST)
    assert "composed" not in done.err
    wrong = run("generate", DOOR_AND_DOG, "-o", tmp_path / "b.wav", "--compose", "no", *FAST)
    assert "compose: got 'no'; allowed: auto, off" in refused(wrong)


def test_a_prompt_of_one_event_is_unchanged_to_the_bit(run: Run, tmp_path: Path) -> None:
    prompt = "a man and a woman talk in a large room"
    for name, compose in (("a", "auto"), ("b", "off")):
        done = run("generate", prompt, "-o", tmp_path / f"{name}.wav", "--compose", compose, *FAST)
        assert "composed" not in done.err
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    stems = run("generate", prompt, "-o", tmp_path / "c.wav", "--stems", tmp_path / "s", *FAST)
    assert "stems: requires a single sound" in refused(stems)


def test_a_scene_from_text_is_saved_edited_and_rendered(run: Run, tmp_path: Path) -> None:
    file, sound = tmp_path / "scene.toml", tmp_path / "scene.wav"
    assert run("scene", "--text", DOOR_AND_DOG, "--save", file, "--seed", 4).code == 0
    assert read_scene(file) == scene_from_text(DOOR_AND_DOG, seed=4)
    file.write_text(file.read_text() + "pan = 1.0\n")
    done = run("scene", file, "-o", sound, "--stems", tmp_path / "stems", "--plot", *FAST)
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
        (("scene.toml", "-o", "a.mp3"), "cannot write '.mp3'; allowed: .wav"),
        (("scene.toml", "-o", "no/a.wav"), "no/a.wav: cannot write"),
        (("scene.toml", "-o", "a.wav", "--seed", "3"), "--seconds and --seed require --text"),
        (("--text", "rain", "--save", "a.yaml"), "allowed: .toml, .json"),
        (("--text", " ", "-o", "a.wav"), "at least one word"),
        (("bad.toml", "-o", "a.wav"), r"start: got -1.0; allowed: 0 to 3600"),
    ],
)
def test_what_is_refused(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    fault: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    event = '[[tracks]]\nname = "a"\nevents = [{prompt = "rain", start = %s}]\n'
    (tmp_path / "scene.toml").write_text(event % "0.5")
    (tmp_path / "bad.toml").write_text(event % "-1.0")
    assert fault in refused(run("scene", *arguments))
    assert names(tmp_path) == ["bad.toml", "scene.toml"]


def test_the_documents_prompts_and_scene(run: Run, tmp_path: Path) -> None:
    (block,) = re.findall(r"## Ten prompts\n\n```\n(.*?)```", DOCS, re.DOTALL)
    prompts = block.splitlines()
    assert len(prompts) == 10
    for prompt in prompts:
        assert len(parse_events(prompt)) > 1 or parse_events(prompt)[0].repeats == 3, prompt
    (toml,) = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)
    (tmp_path / "scene.toml").write_text(toml.replace("12.0 ", "3.0 ").replace("12.0,", "3.0,"))
    done = run("scene", tmp_path / "scene.toml", "-o", tmp_path / "a.wav", *FAST)
    assert done.code == 0, done.err
    (python,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    compile(python, "scenes.md", "exec")
