"""Scenes as data: they survive being written and read, and what is wrong is named."""

import dataclasses
import json
from pathlib import Path

import pytest

from soundcrafter.scene.scene import MAX_TRACKS, Event, Scene, Track, read_scene

RAIN = Track(name="rain", events=(Event(prompt='heavy "rain" on a tin roof, ±ü雨', seconds=8.0),))
DOOR = Track(
    name="door",
    gain=-3.0,
    pan=-0.5,
    events=(
        Event(prompt="a door slams", start=2.0, after=("rain",), fade_out=0.5, seed=7),
        Event(file="knock.wav", gain=-6.0, pan=1.0, repeats=3, interval=0.5, jitter=0.05),
    ),
)
SCENE = Scene(tracks=(RAIN, DOOR), seconds=12.0, seed=3)


@pytest.mark.parametrize("suffix", [".toml", ".json"])
@pytest.mark.parametrize("scene", [SCENE, Scene(tracks=(RAIN,))])
def test_a_scene_survives_a_file(tmp_path: Path, scene: Scene, suffix: str) -> None:
    file = scene.save(tmp_path / f"scene{suffix}")
    assert read_scene(file) == scene
    assert read_scene(read_scene(file).save(tmp_path / f"again{suffix}")) == scene


def test_toml_holds_no_defaults() -> None:
    assert Scene(tracks=(Track(name="a", events=(Event(prompt="rain"),)),)).to_toml() == (
        '[[tracks]]\nname = "a"\n\n[[tracks.events]]\nprompt = "rain"\n'
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("second = 3", r"second: unknown setting; did you mean seconds"),
        ("tracks = []", "scene: got 0 tracks with 0 events; allowed: 1 to 64"),
        ("tracks = 3", "tracks: expected a list"),
        ('[[tracks]]\nname = "a"', r"tracks\[0\].events: this setting is required"),
        ('[[tracks]]\nname = "a"\nevents = []', "a: this track has no events"),
        ('[[tracks]]\nname = "a/b"\nevents = [{prompt = "x"}]', "allowed: no folders"),
        ('[[tracks]]\nname = "a"\nevents = [{}]', "needs either a prompt or a file"),
        ('[[tracks]]\nname = "a"\nevents = [{prompt = " "}]', "needs either a prompt or a file"),
        (
            '[[tracks]]\nname = "a"\nevents = [{prompt = "x", file = "y"}]',
            "needs either a prompt or a file",
        ),
        (
            '[[tracks]]\nname = "a"\nevents = [{prompt = "x", start = -1.0}]',
            r"tracks\[0\].events\[0\]: start: got -1.0; allowed: 0 to 3600",
        ),
        ('[[tracks]]\nname = "a"\nevents = [{prompt = "x", gain = nan}]', "expected a finite"),
        ('[[tracks]]\nname = "a"\nevents = [{prompt = "x", pan = 2.0}]', "pan: got 2.0"),
        ('[[tracks]]\nname = "a"\nevents = [{prompt = "x", repeats = 0}]', "repeats: got 0"),
        (
            '[[tracks]]\nname = "a"\nevents = [{prompt = "x", fill = true}]',
            "a: fill: requires the event's or the scene's seconds",
        ),
        (
            'seconds = 5.0\n[[tracks]]\nname = "a"\n'
            'events = [{prompt = "x", fill = true, repeats = 2}]',
            "fill: requires a prompt, and no repeats, interval or jitter",
        ),
        (
            'seconds = 5.0\n[[tracks]]\nname = "a"\nevents = [{prompt = "x", earliest = 5.0}]',
            "a: start: got 5; the scene ends at 5 s",
        ),
        ('[[tracks]]\nname = "a"\nevents = [{prompt = "x", after = ["b"]}]', "'b' is not a track"),
        (
            'seconds = 5.0\n[[tracks]]\nname = "a"\nevents = [{prompt = "x", start = 5.0}]',
            "start: got 5; the scene ends at 5 s",
        ),
        (
            '[[tracks]]\nname = "a"\nevents = [{prompt = "x"}]\n'
            '[[tracks]]\nname = "a"\nevents = [{prompt = "x"}]',
            "two tracks have this name",
        ),
        ("tracks = [", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "scene.toml").write_text(text)
    with pytest.raises(ValueError, match=fault) as refusal:
        read_scene(tmp_path / "scene.toml")
    assert "scene.toml" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_generated_event_is_at_most_as_long_as_a_sound() -> None:
    with pytest.raises(ValueError, match=r"seconds: got 601\.0; allowed: 0\.05 to 600"):
        Event(prompt="rain", seconds=601.0)
    assert Event(file="rain.wav", seconds=601.0).seconds == 601.0


def test_more_tracks_than_anyone_mixes(tmp_path: Path) -> None:
    tracks = [{"name": f"t{n}", "events": [{"prompt": "rain"}]} for n in range(1000)]
    (tmp_path / "scene.json").write_text(json.dumps({"tracks": tracks}))
    with pytest.raises(ValueError, match="got 1000 tracks with 1000 events"):
        read_scene(tmp_path / "scene.json")
    kept = Scene(tracks=tuple(dataclasses.replace(RAIN, name=f"t{n}") for n in range(MAX_TRACKS)))
    assert kept.steps == 1
    assert SCENE.steps == 2


def test_a_scene_is_written_as_toml_or_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot write '.yaml'; allowed: .toml, .json"):
        SCENE.save(tmp_path / "scene.yaml")
    assert list(tmp_path.iterdir()) == []
