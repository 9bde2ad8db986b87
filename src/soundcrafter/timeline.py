"""A prompt in parts, each with its own time span, for a sound made in one pass."""

from collections.abc import Iterator
from dataclasses import dataclass

from soundcrafter.settings import check_range

MAX_SPANS = 16
MAX_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Span:
    """A prompt and when its sound is heard."""

    prompt: str
    start: float  # seconds
    end: float  # seconds; a span may end after the sound
    gain: float = 0.0  # loudness relative to the other spans, dB
    fade_in: float = 0.0  # seconds over which its share in the sound grows from nothing
    fade_out: float = 0.0  # seconds over which it falls to nothing

    def __post_init__(self) -> None:
        check_range(self, 0, MAX_SECONDS, "start", "end", "fade_in", "fade_out")
        check_range(self, -60, 20, "gain")
        if not self.start < self.end:
            raise ValueError(
                f"start, end: got {self.start:g}, {self.end:g}; the end must be after the start"
            )


@dataclass(frozen=True)
class Timeline:
    """Spans that together make one sound; they may overlap, and leave pauses."""

    spans: tuple[Span, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.spans) <= MAX_SPANS:
            raise ValueError(f"timeline: got {len(self.spans)} spans; allowed: 1 to {MAX_SPANS}")

    def __str__(self) -> str:
        """Its prompts and times, such as "rain 0-10 s; thunder 4-6.5 s"."""
        return "; ".join(f"{s.prompt} {s.start:g}-{s.end:g} s" for s in self.spans)

    @classmethod
    def morph(cls, prompt: str, other: str, seconds: float) -> "Timeline":
        """One prompt that turns into another over all of a sound's length."""
        first = Span(prompt=prompt, start=0.0, end=seconds, fade_out=seconds)
        return cls((first, Span(prompt=other, start=0.0, end=seconds, fade_in=seconds)))

    @property
    def last_start(self) -> float:
        """When the last span begins, in seconds."""
        return max(span.start for span in self.spans)

    def prompts(self) -> Iterator[str]:
        """The prompt of each span."""
        return (span.prompt for span in self.spans)
