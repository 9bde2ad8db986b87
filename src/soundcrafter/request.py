"""One call of `generate`: the caller's options, with the model's settings as defaults."""

import secrets
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from soundcrafter.blend import Blend
from soundcrafter.diffusion.config import MAX_SEED, SECONDS_RANGE, SamplingConfig
from soundcrafter.settings import check_range, from_dict
from soundcrafter.timeline import Timeline

RANDOM_SEED = -1  # draw a random seed
MAX_COUNT = 10_000
MAX_BATCH_SIZE = 1024


Prompt = str | Timeline | Blend
Prompts = Prompt | Iterable[Prompt]


class Job(NamedTuple):
    """One sound to be made."""

    prompt: Prompt
    negative: str
    seed: int

    @property
    def text(self) -> str:
        """The prompt in words."""
        return str(self.prompt)


@dataclass(frozen=True, kw_only=True)
class GenerateRequest(SamplingConfig):
    """The model's settings, overridden by the caller's, all checked."""

    prompts: tuple[Prompt, ...]
    negatives: tuple[str, ...] = ()  # one per prompt; if empty, `negative` for all
    count: int = 1  # sounds per prompt
    seeds: tuple[int, ...] = (0,)  # of the first sound of each prompt; one for all, or one each
    batch_size: int = 4  # sounds made at once, each with its candidates
    trim: bool = False  # whether the silence before and after a sound is cut
    wordless: bool = False  # the prompt is a sound, and its text empty
    strength: float | None = None  # share of the steps that change a given sound
    at: float = 0.0  # seconds of silence before the given sound
    loop: bool = False  # the end of the sound is followed by its start
    like_weight: float = 0.5  # of the sound to resemble, where there is a prompt too
    more: tuple[str, ...] = ()  # descriptions to move towards
    less: tuple[str, ...] = ()  # descriptions to move away from
    steer: float = 0.5  # how far, relative to the prompt

    def __post_init__(self) -> None:
        super().__post_init__()
        texts = self.texts()
        if not texts or not (self.wordless or all(text.strip() for text in texts)):
            raise ValueError("prompt: must not be empty; describe the sound")
        for text in texts:
            check_text("prompt", text)
        for name in ("more", "less"):
            for text in getattr(self, name):
                if not text.strip():
                    raise ValueError(f"{name}: must not be empty; describe a sound")
                check_text(name, text)
        if self.strength is not None:
            check_range(self, 0, 1, "strength")
        check_range(self, 0, 1, "like_weight")
        check_range(self, 0, 10, "steer")
        check_range(self, 0, SECONDS_RANGE[1], "at")
        if self.loop and self.reuse > 1:
            raise ValueError(f"reuse: got {self.reuse}; allowed with loop: 1")
        if self.loop and self.trim:
            raise ValueError("trim: not possible with loop, whose end is followed by its start")
        for negative in (self.negative, *self.negatives):
            check_text("negative", negative)
        for prompt in self.prompts:
            if isinstance(prompt, Timeline) and prompt.last_start >= self.seconds:
                raise ValueError(
                    f"timeline: a span starts at {prompt.last_start:g} s; "
                    f"the sound ends at {self.seconds:g} s"
                )
        check_range(self, 1, MAX_COUNT, "count")
        check_range(self, 1, MAX_BATCH_SIZE, "batch_size")
        for name, given, alone in (("negative", self.negatives, 0), ("seed", self.seeds, 1)):
            if len(given) not in (alone, len(self.prompts)):
                raise ValueError(
                    f"{name}: got {len(given)} for {len(self.prompts)} prompts; "
                    "allowed: one for all, or one per prompt"
                )
        for seed in self.seeds:
            last = MAX_SEED - self.count + 1
            if not 0 <= seed <= last:
                raise ValueError(
                    f"seed: got {seed}; allowed: 0 to {last}, or {RANDOM_SEED} for a random one"
                )

    @property
    def drafted(self) -> int:
        """Sampling steps spent on drafts; 0 if there is only one candidate."""
        return self.draft_steps if self.candidates > 1 else 0

    def texts(self) -> list[str]:
        """The prompts in words; several of a timeline or a blend."""
        return [
            text
            for prompt in self.prompts
            for text in ([prompt] if isinstance(prompt, str) else prompt.prompts())
        ]

    def jobs(self) -> list[Job]:
        """Every sound, prompt by prompt."""
        negatives = self.negatives or (self.negative,) * len(self.prompts)
        seeds = self.seeds if len(self.seeds) > 1 else self.seeds * len(self.prompts)
        return [
            Job(prompt, negative.strip(), seed + k)
            for prompt, negative, seed in zip(self.prompts, negatives, seeds, strict=True)
            for k in range(self.count)
        ]


def resolve(
    sampling: SamplingConfig,
    prompts: Prompts | None,
    *,
    seed: int | Iterable[int] = 0,
    negative: str | Iterable[str] | None = None,
    **options: Any,
) -> GenerateRequest:
    """Build a validated request: an option that is None falls back to the model's setting;
    a seed of -1 becomes random.

    Raises ValueError, saying what is allowed, for a wrong type or value.
    """
    if options.get("steer") is not None and not (options.get("more") or options.get("less")):
        raise ValueError("steer: requires descriptions, more or less")
    given = {name: _plain(value) for name, value in options.items() if value is not None}
    given["seeds"] = [_drawn(_plain(each)) for each in _listed(seed)]
    if given.get("sampler", "ddim") != "ddim":
        given["end"] = "clean"  # the other samplers support only 'clean'
    if isinstance(negative, str):
        given["negative"] = negative
    elif negative is not None:
        given["negatives"] = _items("negative", negative, str)
    given["prompts"] = _items("prompt", "" if prompts is None else prompts, Prompt)
    given |= {name: _items(name, given[name], str) for name in ("more", "less") if name in given}
    return from_dict(GenerateRequest, {**vars(sampling), **given})


def _items(name: str, given: Any, kind: Any) -> tuple[Any, ...]:
    """One item or several as a tuple. Raises ValueError for an item that is not of the kind."""
    if isinstance(given, kind):
        return (given,)
    items = tuple(given) if isinstance(given, Iterable) and not isinstance(given, bytes) else given
    if isinstance(items, tuple) and all(isinstance(item, kind) for item in items):
        return items
    raise ValueError(f"{name}: got {given!r}; allowed: a string, or a list of strings")


def _listed(seed: Any) -> Iterable[Any]:
    """Seeds as given, or one seed as a list. Strings and arrays without dimensions are no lists."""
    is_list = isinstance(seed, Iterable) and not isinstance(seed, str | bytes)
    return seed if is_list and getattr(seed, "ndim", 1) > 0 else [seed]


def _plain(value: Any) -> Any:
    """Convert a NumPy or torch scalar to Python; return anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _drawn(seed: Any) -> Any:
    """Check a seed and replace -1 by a random one. 32 bits are enough, and easy to copy by hand."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed: expected int, got {seed!r}")
    if not RANDOM_SEED <= seed <= MAX_SEED:
        raise ValueError(f"seed: got {seed}; allowed: 0 to {MAX_SEED}, or -1 for a random one")
    return secrets.randbits(32) if seed == RANDOM_SEED else seed


def check_text(name: str, text: str) -> None:
    """Raise ValueError for invalid characters: bytes that are not UTF-8, control characters."""
    for character in text:
        if unicodedata.category(character) in ("Cs", "Cc") and not character.isspace():
            raise ValueError(
                f"{name}: contains U+{ord(character):04X}, which is not allowed; "
                "use UTF-8 text without control characters"
            )
