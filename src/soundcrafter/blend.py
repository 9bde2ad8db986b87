"""A prompt of several descriptions at once, each with a weight."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

MAX_PARTS = 16


@dataclass(frozen=True)
class Blend:
    """Descriptions and weights: the condition is the weighted mean of their embeddings."""

    parts: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.parts) <= MAX_PARTS:
            raise ValueError(f"mix: got {len(self.parts)} descriptions; allowed: 1 to {MAX_PARTS}")
        for text, weight in self.parts:
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"mix: {text}: got a weight of {weight:g}; allowed: above 0")

    def __str__(self) -> str:
        """As `parse` reads it, such as "rain:0.7,fire:0.3"."""
        return ",".join(f"{text}:{weight:g}" for text, weight in self.parts)

    @classmethod
    def of(cls, weights: Mapping[str, float]) -> "Blend":
        """Descriptions with their weights. Raises ValueError for anything else."""
        if not isinstance(weights, Mapping):
            raise ValueError(f"mix: got {weights!r}; allowed: descriptions with their weights")
        for text, weight in weights.items():
            if not isinstance(text, str) or isinstance(weight, bool | str):
                raise ValueError(f"mix: got {text!r}: {weight!r}; allowed: a text and a number")
        try:  # float takes the numbers of NumPy and torch too
            return cls(tuple((text, float(weight)) for text, weight in weights.items()))
        except (TypeError, OverflowError) as error:
            raise ValueError(f"mix: {error}; allowed: texts and numbers") from None

    @classmethod
    def parse(cls, text: str) -> "Blend":
        """Read "TEXT:WEIGHT,TEXT:WEIGHT"; a weight that is left out is 1.

        Raises ValueError for another form, and for a description given twice.
        """
        weights: dict[str, float] = {}
        for part in text.split(","):
            name, colon, number = part.rpartition(":")
            if not colon:
                name, number = part, "1"
            try:
                weight = float(number)
            except ValueError:
                raise ValueError(f'mix: got {part!r}; write "TEXT:WEIGHT,TEXT:WEIGHT"') from None
            if name.strip() in weights:
                raise ValueError(f"mix: got {name.strip()!r} twice")
            weights[name.strip()] = weight
        return cls.of(weights)

    def prompts(self) -> Iterator[str]:
        """Each description."""
        return (text for text, _ in self.parts)
