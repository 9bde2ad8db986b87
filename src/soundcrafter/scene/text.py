"""From the text of a prompt to a scene."""

from pathlib import Path

from soundcrafter.filenames import free_path, slug
from soundcrafter.scene.parse import ParsedEvent, parse_events
from soundcrafter.scene.scene import GAP, MAX_TRACKS, Event, Scene, Track

REPEATEDLY = 3  # takes for "repeatedly"


def scene_from_text(prompt: str, *, seconds: float | None = None, seed: int = 0) -> Scene:
    """Make a scene with a track for each event that `parse_events` finds in a prompt.

    Events of one step begin together; each step begins GAP after the end of the previous one.
    `seconds` is the scene's length; without it the scene ends with its last sound. A prompt of more
    than MAX_TRACKS events is not split.
    """
    tracks: list[Track] = []
    steps: list[list[str]] = []  # the names of each step's tracks
    events = parse_events(prompt)
    if len(events) > MAX_TRACKS:
        events = (ParsedEvent(prompt, 0),)
    for parsed in events:
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
        taken = [Path(track.name) for track in tracks]
        name = free_path(Path(slug(parsed.text)), taken).name
        tracks.append(Track(name=name, events=(event,)))
        if not parsed.throughout:  # the next step need not wait for it
            steps[parsed.step].append(name)
    return Scene(tracks=tuple(tracks), seconds=seconds, seed=seed)
