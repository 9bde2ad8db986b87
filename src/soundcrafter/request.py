"""One call of `generate`: what the caller asks for, over the model's own sampling settings."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from soundcrafter.diffusion.sample import MAX_SEED, SamplingConfig
from soundcrafter.settings import check_at_least, from_dict


class Job(NamedTuple):
    """One sound to be made."""

    prompt: str
    negative: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class GenerateRequest(SamplingConfig):
    """The model's settings with those that the caller gave in their place, all checked."""

    prompts: tuple[str, ...]
    negatives: tuple[str, ...] = ()  # one per prompt; where there are none, `negative` for all
    count: int = 1  # sounds per prompt
    seed: int = 0  # of the first sound of each prompt
    batch_size: int = 4  # sounds made at once, each with its candidates

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise ValueError("prompt: it is empty; say what should be heard")
        if self.negatives and len(self.negatives) != len(self.prompts):
            raise ValueError(
                f"negative: got {len(self.negatives)} for {len(self.prompts)} prompts; "
                "allowed: one for all, or one per prompt"
            )
        check_at_least(self, 1, "count", "batch_size")
        if not 0 <= self.seed <= MAX_SEED - self.count:
            raise ValueError(f"seed: got {self.seed}; allowed: 0 to {MAX_SEED - self.count}")

    @property
    def drafted(self) -> int:
        """Sampling steps spent on drafts: none where there is no choice."""
        return self.draft_steps if self.candidates > 1 else 0

    def jobs(self) -> list[Job]:
        """Every sound, prompt by prompt."""
        negatives = self.negatives or (self.negative,) * len(self.prompts)
        return [
            Job(prompt, negative.strip(), self.seed + k)
            for prompt, negative in zip(self.prompts, negatives, strict=True)
            for k in range(self.count)
        ]


def resolve(
    sampling: SamplingConfig,
    prompts: str | Iterable[str],
    *,
    negative: str | Iterable[str] | None = None,
    **options: float | str | None,
) -> GenerateRequest:
    """The request that a call makes of a model with these settings; None takes the model's.

    Raises ValueError, saying what is allowed, for a wrong type or value.
    """
    given: dict[str, object] = {
        # numpy's numbers are not Python's
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in options.items()
        if value is not None
    }
    if given.get("sampler", "ddim") != "ddim":
        given["end"] = "clean"  # the other samplers know no other end
    if isinstance(negative, str):
        given["negative"] = negative
    elif negative is not None:
        given["negatives"] = _texts("negative", negative)
    given["prompts"] = _texts("prompt", prompts)
    return from_dict(GenerateRequest, {**vars(sampling), **given})


def _texts(name: str, given: str | Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    texts = tuple(given) if isinstance(given, Iterable) and not isinstance(given, bytes) else given
    if isinstance(texts, tuple) and all(isinstance(text, str) for text in texts):
        return texts
    raise ValueError(f"{name}: got {given!r}; allowed: a string, or a list of strings")
