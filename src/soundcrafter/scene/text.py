"""From the text of a prompt to a scene."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from soundcrafter.filenames import free_path, slug
from soundcrafter.scene.parse import ParsedEvent, parse_events
from soundcrafter.scene.scene import GAP, MAX_TRACKS, Event, Scene, Track

BALANCE = 2.0  # LU, see `Scene`
REPEATEDLY = 3  # takes for "repeatedly"
# Cosine of two embedded texts that say the same sound twice. Of 1,155 pairs that the grammar splits
# in 1,500 captions of AudioCaps' train split, the bundled model puts 6 above, all rightly.
SAME_SOUND = 0.73

Embed = Callable[[Sequence[str]], Tensor]


def scene_from_text(
    prompt: str, *, seconds: float | None = None, seed: int = 0, embed: Embed | None = None
) -> Scene:
    """Make a scene with a track for each event that `parse_events` finds in a prompt.

    Events of one step begin together. Each step begins GAP after the end of the previous one, and
    with `seconds`, the length of the scene, not before its share of them; ongoing events then last
    as long as their step. Without `seconds` the scene ends with its last sound. `embed` is CLAP's
    `embed_text`: given it, events of a step that it takes for one sound are one. A prompt of more
    than MAX_TRACKS events is not split.
    """
    tracks: list[Track] = []
    steps: list[list[str]] = []  # the names of each step's tracks
    events = parse_events(prompt)
    if len(events) > MAX_TRACKS:
        events = (ParsedEvent(prompt, 0),)
    if embed is not None and len(events) > 1:
        events = _join_same_sounds(events, embed)
    step_seconds = None if seconds is None else seconds / (1 + events[-1].step)
    for parsed in events:
        while len(steps) <= parsed.step:
            steps.append([])
        before = steps[parsed.step - 1] if parsed.step else []
        event = Event(
            prompt=parsed.text,
            start=GAP if before else 0.0,
            after=tuple(before),
            gain=parsed.gain,
            repeats=REPEATEDLY if parsed.repeats is None else parsed.repeats,
        )
        if step_seconds is not None:
            event = replace(event, earliest=parsed.step * step_seconds)
        if parsed.throughout:
            event = replace(event, seconds=seconds)
        elif parsed.ongoing and step_seconds is not None and step_seconds > 2 * GAP:
            is_last = parsed.step == events[-1].step
            event = replace(event, fill=True, seconds=None if is_last else step_seconds - GAP)
        taken = [Path(track.name) for track in tracks]
        name = free_path(Path(slug(parsed.text)), taken).name
        tracks.append(Track(name=name, events=(event,)))
        if not parsed.throughout:  # the next step need not wait for it
            steps[parsed.step].append(name)
    return Scene(tracks=tuple(tracks), seconds=seconds, seed=seed, balance=BALANCE)


def is_single(scene: Scene) -> bool:
    """Whether a scene is one sound, which needs no composition."""
    return len(scene.tracks) == 1 and scene.tracks[0].events[0].repeats == 1


def _join_same_sounds(events: Sequence[ParsedEvent], embed: Embed) -> tuple[ParsedEvent, ...]:
    """Join each event to an earlier one of its step that sounds the same, with all their words."""
    texts = embed([event.text for event in events])
    alike = texts @ texts.T > SAME_SOUND
    kept: dict[int, ParsedEvent] = {}
    for number, event in enumerate(events):
        marks = (event.step, event.gain, event.repeats, event.throughout)
        for other, before in kept.items():
            same = (before.step, before.gain, before.repeats, before.throughout) == marks
            if same and bool(alike[number, other]):
                kept[other] = replace(before, text=f"{before.text} and {event.text}")
                break
        else:
            kept[number] = event
    return tuple(kept.values())
