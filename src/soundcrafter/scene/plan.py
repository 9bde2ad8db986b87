"""The takes of a scene: how many there are, how long, and when each starts."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from soundcrafter.audio import Wave
from soundcrafter.diffusion.config import SECONDS_RANGE
from soundcrafter.scene.scene import GAP, Event, Scene, Track
from soundcrafter.timeline import Span, Timeline

MAX_FILLING = 3  # takes that are generated to fill the time after the first
MIN_FILL = 0.3  # seconds that a sound counts as, at least, where takes fill the time
LONGEST_PAUSE = 5.0  # seconds between takes that fill the time


@dataclass
class Take:
    """A take of an event."""

    track: Track
    event: Event
    number: int  # from 0
    seed: int
    length: float  # seconds to generate
    shift: float  # seconds by which it is late, from the event's jitter
    wave: Wave = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def gain(self) -> float:
        """Its event's and its track's gain, LU."""
        return self.event.gain + self.track.gain


def plan_takes(scene: Scene, seconds: float, limit: float | None = None) -> list[Take]:
    """List the takes of a scene, in its order.

    Events without a length of their own get at most `limit` seconds; by default those that others
    wait for share the scene's length among its steps. A scene without a length counts as `seconds`
    long for each event.
    """
    takes: list[Take] = []
    jitter = np.random.default_rng(scene.seed)
    for track in scene.tracks:
        longest = limit or _longest(scene, track, seconds)
        for event in track.events:
            first = scene.seed + len(takes) if event.seed is None else event.seed
            for number in range(event.repeats):
                shift = float(jitter.uniform(-event.jitter, event.jitter)) if number else 0.0
                shared = longest / (1 if event.interval is not None else event.repeats)
                length = max(SECONDS_RANGE[0], event.seconds or shared)
                takes.append(Take(track, event, number, (first + number) % 2**64, length, shift))
    return takes


def _longest(scene: Scene, track: Track, seconds: float) -> float:
    """The length in seconds of the track's events that have none of their own."""
    if scene.seconds is None:
        return seconds
    followed = any(track.name in event.after for t in scene.tracks for event in t.events)
    # sounds that nothing waits for may fill the scene, and are cut at its end
    shared = scene.seconds / scene.steps - GAP if followed else scene.seconds
    low, high = SECONDS_RANGE
    return min(max(shared, low), high)


def place_takes(takes: Sequence[Take], length: Callable[[Take], float]) -> list[float]:
    """When each take starts, in seconds, given the length of its sound.

    Tracks named in `after` come first, so their ends are known.
    """
    ends: dict[str, float] = defaultdict(float)
    starts: list[float] = []
    begin = follow = 0.0  # of the event; of its next take
    for take in takes:
        event = take.event
        if take.number == 0:
            begin = event.start + max((ends[name] for name in event.after), default=0.0)
            begin = follow = max(begin, event.earliest)
        if event.interval is not None:
            follow = begin + take.number * event.interval
        start = max(0.0, follow + take.shift)
        end = start + length(take)
        follow = end + GAP
        ends[take.track.name] = max(ends[take.track.name], end)
        starts.append(start)
    return starts


def filling_takes(takes: Sequence[Take], scene: Scene, rate: int) -> tuple[list[Take], list[Take]]:
    """Given takes with their sounds at `rate` Hz, add what events with `fill` still need.

    Returns all takes in their order, and those that were added, which have no sound yet. At most
    MAX_FILLING different ones are added to an event, and recur in turn. A pause is 0.3 to 1 times
    as long as the first sound (at least MIN_FILL), and at most LONGEST_PAUSE.
    """
    rng = np.random.default_rng(scene.seed)
    found: list[Take] = []
    added: list[Take] = []
    lengths: dict[int, float] = {}  # of added takes, which have no sound yet

    def length(take: Take) -> float:
        return lengths.get(id(take), len(take.wave) / rate)

    for take in takes:
        found.append(take)
        if not take.event.fill:
            continue
        start = place_takes(found, length)[-1]
        sound = max(len(take.wave) / rate, MIN_FILL)
        left = (take.event.seconds or (scene.seconds or start) - start) - sound
        number = 1
        while (pause := min(rng.uniform(0.3, 1.0) * sound, LONGEST_PAUSE)) + sound <= left:
            new = replace(
                take,
                number=number,
                seed=(take.seed + 1 + (number - 1) % MAX_FILLING) % 2**64,
                # in halves, to share batches
                length=min(max(1.0, math.ceil(2.5 * sound) / 2), SECONDS_RANGE[1]),
                shift=pause - GAP,
                wave=np.zeros(0, np.float32),
            )
            lengths[id(new)] = sound
            found.append(new)
            added.append(new)
            left -= pause + sound
            number += 1
    return found, added


def scene_timeline(scene: Scene, seconds: float) -> Timeline:
    """The timeline of a scene, to generate it in one pass; `seconds` if it has no length.

    Every take is heard for as long as `plan_takes` gives it. Pans and fades have no place in a
    timeline. Raises ValueError for a scene with files, and for more takes than a timeline can hold.
    """
    end = scene.seconds or seconds
    scene = replace(scene, seconds=end)  # its steps share it
    takes = plan_takes(scene, end)
    spans = []
    for take, start in zip(takes, place_takes(takes, lambda take: take.length), strict=True):
        if take.event.file:
            raise ValueError(f"{take.track.name}: a file cannot be part of a sound in one pass")
        if start >= end and take.number == 0:
            raise ValueError(
                f"{take.track.name}: starts at {start:g} s; the sound ends at {end:g} s"
            )
        if start < end:
            stop = min(start + take.length, end)
            spans.append(Span(prompt=take.event.prompt, start=start, end=stop, gain=take.gain))
    return Timeline(tuple(spans))
