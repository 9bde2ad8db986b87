"""What an embedder is: one small interface for everything that listens."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Embedding:
    """What an embedder says of one sound."""

    features: np.ndarray  # [R, D] float32: one row a clip, or one a window (VGGish)
    probabilities: np.ndarray | None  # [K] float32, sum 1; None where it knows no classes


class Embedder(Protocol):
    """A network that listens; what it is made of is named in every report."""

    name: str
    sample_rate: int  # Hz it listens at
    sha256: str  # of its weights
    classes: tuple[str, ...]  # their names, () where unknown or none

    def __call__(self, wave: np.ndarray, sample_rate: int) -> Embedding:
        """wave [N] at `sample_rate` Hz, resampled (soxr HQ) to its own -> Embedding."""
        ...
