"""A scene: sounds on a timeline, as data. It is written in TOML or JSON, or made from text."""

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from soundcrafter.diffusion.config import SECONDS_RANGE
from soundcrafter.filenames import check_name
from soundcrafter.files import read_json, to_json, write_text
from soundcrafter.settings import check_range, from_dict, given, read_toml, to_dict

GAP = 0.3  # seconds between takes, and between steps of a scene made from text
MAX_SECONDS = 3600.0
MAX_TRACKS = 64
MAX_EVENTS = 1000
MAX_REPEATS = 100


@dataclass(frozen=True, kw_only=True)
class Event:
    """A sound on the timeline: generated for a prompt, or a recording."""

    prompt: str = ""  # description of the sound
    file: str = ""  # or a recording, relative to the scene's file
    start: float = 0.0  # seconds from the start of the scene, or from the end of `after`
    after: tuple[str, ...] = ()  # tracks that must have ended; they are listed above its own
    earliest: float = 0.0  # seconds from the start of the scene before which it does not begin
    seconds: float | None = None  # length; None: as long as its sound
    gain: float = 0.0  # loudness relative to other events, LU
    pan: float = 0.0  # -1 left, 1 right
    fade_in: float = 0.0  # seconds
    fade_out: float = 0.0  # seconds
    repeats: int = 1  # takes; those of a prompt are different sounds
    interval: float | None = None  # seconds from one take to the next; None: each follows the last
    jitter: float = 0.0  # most seconds by which a take is early or late
    # more takes, at natural intervals, until `seconds` are over or the scene ends
    fill: bool = False
    seed: int | None = None  # of the first take; None: derived from the scene's

    def __post_init__(self) -> None:
        if bool(self.prompt.strip()) == bool(self.file.strip()):
            raise ValueError("event: needs either a prompt or a file")
        check_range(self, 0, MAX_SECONDS, "start", "earliest", "fade_in", "fade_out", "jitter")
        check_range(self, -60, 20, "gain")
        check_range(self, -1, 1, "pan")
        check_range(self, 1, MAX_REPEATS, "repeats")
        if self.seconds is not None:
            check_range(self, 0.05, SECONDS_RANGE[1] if self.prompt else MAX_SECONDS, "seconds")
        if self.interval is not None:
            check_range(self, 0, MAX_SECONDS, "interval")
        is_repeated = self.repeats > 1 or self.interval is not None or self.jitter > 0
        if self.fill and (is_repeated or self.file):
            raise ValueError("fill: requires a prompt, and no repeats, interval or jitter")


@dataclass(frozen=True, kw_only=True)
class Track:
    """Events that share a stem."""

    name: str  # of its stem's file, too
    events: tuple[Event, ...]
    gain: float = 0.0  # added to its events', LU
    pan: float = 0.0  # added to its events'

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.events:
            raise ValueError(f"{self.name}: this track has no events")
        check_range(self, -60, 20, "gain")
        check_range(self, -1, 1, "pan")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Tracks that sound together."""

    tracks: tuple[Track, ...]
    seconds: float | None = None  # length; without it the scene ends with its last sound
    seed: int = 0  # events without a seed of their own get this one, the next, and so on
    # LU by which two tracks may move apart from their gains, so that each is heard
    balance: float = 0.0

    def __post_init__(self) -> None:
        if self.seconds is not None:
            check_range(self, 0.2, MAX_SECONDS, "seconds")
        check_range(self, 0, 2**64 - 1, "seed")
        check_range(self, 0, 12, "balance")
        events = sum(len(track.events) for track in self.tracks)
        if not 1 <= len(self.tracks) <= MAX_TRACKS or events > MAX_EVENTS:
            raise ValueError(
                f"scene: got {len(self.tracks)} tracks with {events} events; allowed: 1 to "
                f"{MAX_TRACKS} tracks with up to {MAX_EVENTS} events"
            )
        names: set[str] = set()
        for track in self.tracks:
            if track.name in names:
                raise ValueError(f"{track.name}: two tracks have this name")
            for event in track.events:
                self._check_event(track, event, names)
            names.add(track.name)

    def _check_event(self, track: Track, event: Event, above: set[str]) -> None:
        unknown = [name for name in event.after if name not in above]
        if unknown:
            raise ValueError(f"{track.name}: after: {unknown[0]!r} is not a track above this one")
        start = max(event.start, event.earliest)
        if self.seconds is not None and start >= self.seconds:
            raise ValueError(
                f"{track.name}: start: got {start:g}; the scene ends at {self.seconds:g} s"
            )
        if event.fill and event.seconds is None and self.seconds is None:
            raise ValueError(f"{track.name}: fill: requires the event's or the scene's seconds")

    @property
    def has_pan(self) -> bool:
        """Whether it needs two channels."""
        return any(t.pan or any(event.pan for event in t.events) for t in self.tracks)

    @property
    def steps(self) -> int:
        """How many sounds follow each other by `after`, at most."""
        depth: dict[str, int] = {}
        for track in self.tracks:
            depth[track.name] = 1 + max(
                (depth[name] for event in track.events for name in event.after), default=0
            )
        return max(depth.values())

    def to_toml(self) -> str:
        """Return the scene as TOML for `read_scene`; settings with default values are left out."""
        lines = [_line(key, value) for key, value in given(self) if key != "tracks"]
        for track in self.tracks:
            lines += ["", "[[tracks]]"]
            lines += [_line(key, value) for key, value in given(track) if key != "events"]
            for event in track.events:
                lines += ["", "[[tracks.events]]"]
                lines += [_line(key, value) for key, value in given(event)]
        return "\n".join(lines).strip("\n") + "\n"

    def save(self, path: str | PathLike[str]) -> Path:
        """Write a .toml or .json file. Raises ValueError if it cannot be written."""
        path = Path(path)
        if path.suffix not in (".toml", ".json"):
            raise ValueError(f"{path}: cannot write {path.suffix!r}; allowed: .toml, .json")
        write_text(path, self.to_toml() if path.suffix == ".toml" else to_json(to_dict(self)))
        return path


def read_scene(path: str | PathLike[str]) -> Scene:
    """Read a scene from TOML or JSON (.json), strictly.

    Raises ValueError, naming the file and the setting, for a setting that is unknown, of the wrong
    type or out of range.
    """
    path = Path(path)
    data: Any = read_json(path) if path.suffix == ".json" else read_toml(path)
    return from_dict(Scene, data, str(path))


def _line(key: str, value: Any) -> str:
    # TOML writes numbers, strings and lists of them as JSON does
    return f"{key} = {json.dumps(value, ensure_ascii=False)}"
