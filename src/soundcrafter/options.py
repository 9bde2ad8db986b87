"""What a call of `generate` may ask for, checked and completed by the model's defaults."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict, TypeVar

from soundcrafter.config import SamplingConfig
from soundcrafter.diffusion.noise import MAX_SEED
from soundcrafter.diffusion.samplers import SAMPLERS

SECONDS_RANGE = (0.2, 600.0)
Progress = Callable[[int, int], None]
T = TypeVar("T")


class Options(TypedDict, total=False):
    """What a call of `generate` may say; None takes the model's default."""

    seconds: float | None  # length of each sound, .2 to 600
    count: int  # sounds a prompt (1)
    seed: int  # of the first one (0)
    steps: int | None  # sampling steps
    guidance: float | None  # weight of the prompt; 1 is none
    sampler: str | None  # one of diffusion.samplers.SAMPLERS
    reuse: int | None  # steps that share the U-Net's inner levels: faster, rougher; 1 is none
    negative: str | None  # what to keep away from; needs guidance other than 1
    candidates: int | None  # noises tried in a few steps, of which CLAP chooses the best
    batch_size: int  # sounds made at once (4), each with its candidates; never changes a sound
    progress: Progress | None  # called with (done, total) after every sampling step


@dataclass(frozen=True, kw_only=True)
class ResolvedOptions:
    """Options with nothing left open."""

    count: int
    seed: int
    batch_size: int
    seconds: float
    steps: int
    guidance: float
    negative: str
    candidates: int
    draft_steps: int  # that the candidates are tried in; 0 where there is no choice
    sampler: str
    reuse: int


def resolve(prompts: Sequence[str], options: Options, sampling: SamplingConfig) -> ResolvedOptions:
    """The options, and the model's defaults where they say nothing. Raises ValueError, saying what
    is allowed, for what `generate` cannot do."""
    candidates = _or(options.get("candidates"), sampling.candidates)
    resolved = ResolvedOptions(
        count=options.get("count", 1),
        seed=options.get("seed", 0),
        batch_size=options.get("batch_size", 4),
        seconds=_or(options.get("seconds"), sampling.seconds),
        steps=_or(options.get("steps"), sampling.steps),
        guidance=_or(options.get("guidance"), sampling.guidance),
        negative=_or(options.get("negative"), sampling.negative).strip(),
        candidates=candidates,
        draft_steps=sampling.draft_steps if candidates > 1 else 0,
        sampler=_or(options.get("sampler"), sampling.sampler),
        reuse=_or(options.get("reuse"), sampling.reuse),
    )
    check_request(
        prompts,
        seconds=resolved.seconds,
        count=resolved.count,
        seed=resolved.seed,
        steps=resolved.steps,
        guidance=resolved.guidance,
        candidates=resolved.candidates,
        batch_size=resolved.batch_size,
    )
    check_sampler(resolved.sampler, resolved.reuse)
    return resolved


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def check_request(
    prompts: Sequence[str],
    seconds: float,
    count: int,
    seed: int,
    steps: int,
    guidance: float,
    candidates: int = 1,
    batch_size: int = 1,
) -> None:
    """Raise ValueError, saying what is allowed, for what `generate` cannot do."""
    if not prompts or any(not prompt.strip() for prompt in prompts):
        raise ValueError("prompt: it is empty; say what should be heard")
    low, high = SECONDS_RANGE
    if not low <= seconds <= high:  # nan fails too
        raise ValueError(f"seconds: got {seconds:g}; allowed: {low:g} to {high:g}")
    if count < 1:
        raise ValueError(f"count: got {count}; at least 1")
    if steps < 1:
        raise ValueError(f"steps: got {steps}; at least 1")
    if not (math.isfinite(guidance) and guidance >= 0):
        raise ValueError(f"guidance: got {guidance:g}; a number from 0 up")
    if not 0 <= seed <= MAX_SEED - count:
        raise ValueError(f"seed: got {seed}; allowed: 0 to {MAX_SEED - count}")
    if candidates < 1:
        raise ValueError(f"candidates: got {candidates}; at least 1")
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}; at least 1")


def check_sampler(sampler: str, reuse: int) -> None:
    """Raise ValueError, saying what is allowed, for a sampling that is not there."""
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler: got {sampler!r}; allowed: {', '.join(SAMPLERS)}")
    if reuse < 1:
        raise ValueError(f"reuse: got {reuse}; at least 1, which reuses nothing")
    if reuse > 1 and sampler == "heun":  # which evaluates each time twice
        raise ValueError(f"reuse: got {reuse} with sampler heun; allowed: 1")
