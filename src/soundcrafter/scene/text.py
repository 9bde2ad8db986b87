"""From the text of a prompt to a scene."""

from soundcrafter.filenames import slug
from soundcrafter.scene.parse import parse_events
from soundcrafter.scene.scene import GAP, Event, Scene, Track

REPEATEDLY = 3  # takes of what sounds "repeatedly"


def scene_from_text(prompt: str, *, seconds: float | None = None, seed: int = 0) -> Scene:
    """A scene with a track for each event that `parse_events` finds in a prompt.

    Events of one step begin together; each step begins GAP after the end of the one before.
    `seconds` is the scene's length; without it the scene ends with its last sound.
    """
    tracks: list[Track] = []
    steps: list[list[str]] = []  # the names of each step's tracks
    for parsed in parse_events(prompt):
        while len(steps) <= parsed.step:
            steps.append([])
        before = steps[parsed.step - 1] if parsed.step else []
        event = Event(
            prompt=parsed.text,
            seconds=seconds if parsed.throughout else None,
            start=GAP if before else 0.0,
            after=tuple(before),
            gain=parsed.gain,
            repeats=REPEATEDLY if parsed.repeats is None else parsed.repeats,
        )
        name = _new_name(slug(parsed.text), {track.name for track in tracks})
        tracks.append(Track(name=name, events=(event,)))
        if not parsed.throughout:  # the next step need not wait for it
            steps[parsed.step].append(name)
    return Scene(tracks=tuple(tracks), seconds=seconds, seed=seed)


def _new_name(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free
