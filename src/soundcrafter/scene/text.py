"""From the text of a prompt to a scene."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from soundcrafter.diffusion.config import SECONDS_RANGE
from soundcrafter.filenames import free_path, slug
from soundcrafter.scene.parse import ParsedEvent, parse_events
from soundcrafter.scene.scene import GAP, MAX_TRACKS, Event, Scene, Track

BALANCE = 2.5  # LU, see `Scene`
REPEATEDLY = 3  # takes for "repeatedly"
SHORTEST_STEP = 1.0  # seconds; there is no time to fill in a shorter one
UNKNOWN_STEP = 5.0  # seconds that a step counts as, if the scene has no length
# An event enters after the one before it by this share of the step; all within MOST_DELAY of it.
DELAY, MOST_DELAY = 0.15, 0.5
# Cosine of two embedded texts that say the same sound twice. Of 1,155 pairs that the grammar splits
# in 1,500 captions of AudioCaps' train split, the bundled model puts 6 above, all rightly.
SAME_SOUND = 0.73

Embed = Callable[[Sequence[str]], Any]  # texts -> their embeddings [B, E], a tensor or an array


def scene_from_text(
    prompt: str,
    *,
    seconds: float | None = None,
    seed: int = 0,
    embed: Embed | None = None,
    fill: bool = False,
) -> Scene:
    """Make a scene with a track for each event that `parse_events` finds in a prompt.

    Each step begins GAP after the end of the previous one, and with `seconds`, the length of the
    scene, not before its share of them. In a step, ongoing sounds begin first, and the others enter
    one after another: sounds that begin together are hard to tell apart (Bregman, 1990). With
    `seconds`, ongoing sounds last as long as their step; without, the scene ends with its last
    sound. With `embed`, CLAP's `embed_text`, events of a step that sound the same become one. With
    `fill`, sounds that happen once are repeated until their step ends. A prompt of more than
    MAX_TRACKS events is not split.
    """
    events = parse_events(prompt)
    if len(events) > MAX_TRACKS:
        events = (ParsedEvent(prompt, 0),)
    if embed is not None and len(events) > 1:
        events = _join_same_sounds(events, embed)
    last = events[-1].step
    step_seconds = None if seconds is None else seconds / (1 + last)
    tracks: list[Track] = []
    before: list[str] = []  # the tracks that the step waits for
    for step in range(1 + last):
        together = [event for event in events if event.step == step]
        names: list[str] = []
        for parsed, delay in zip(together, _delays(together, step, step_seconds), strict=True):
            event = _event(parsed, seconds, step_seconds, is_last=step == last, fill=fill)
            if not parsed.throughout:
                event = replace(event, after=tuple(before), start=(GAP if before else 0.0) + delay)
            if step_seconds is not None and not parsed.throughout:
                event = replace(event, earliest=step * step_seconds + delay)
            taken = [Path(track.name) for track in tracks]
            name = free_path(Path(slug(parsed.text)), taken).name
            tracks.append(Track(name=name, events=(event,)))
            if not parsed.throughout:  # the next step need not wait for it
                names.append(name)
        before = names
    return Scene(tracks=tuple(tracks), seconds=seconds, seed=seed, balance=BALANCE)


def _event(
    parsed: ParsedEvent,
    seconds: float | None,
    step_seconds: float | None,
    *,
    is_last: bool,
    fill: bool,
) -> Event:
    """The event of a scene that lasts `seconds`, before it is placed."""
    repeats = REPEATEDLY if parsed.repeats is None else parsed.repeats
    event = Event(prompt=parsed.text, gain=parsed.gain, repeats=repeats)
    if parsed.throughout:
        return replace(event, fill=seconds is not None and repeats == 1)
    if repeats > 1 or not (parsed.ongoing or fill):
        return event
    if step_seconds is None or step_seconds < SHORTEST_STEP:
        return event
    lasts = min(step_seconds - GAP, SECONDS_RANGE[1])
    return replace(event, fill=True, seconds=None if is_last else lasts)


def _delays(together: Sequence[ParsedEvent], step: int, step_seconds: float | None) -> list[float]:
    """The delay in seconds after which each event of a step enters.

    Sounds that happen once enter together if nothing is ongoing. Events that last through all steps
    begin with the first step.
    """
    lasting = [event for event in together if event.throughout]
    ongoing = [event for event in together if event.ongoing and not event.throughout]
    if not ongoing and not (lasting and step == 0):
        return [0.0] * len(together)
    others = [event for event in together if event not in lasting and event not in ongoing]
    enter = [*(lasting if step == 0 else []), *ongoing, *others]
    each = (step_seconds or UNKNOWN_STEP) * min(DELAY, MOST_DELAY / len(together))
    return [round(each * enter.index(event), 3) if event in enter else 0.0 for event in together]


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
