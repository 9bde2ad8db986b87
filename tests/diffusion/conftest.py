"""The model of these tests: its output says what it was given."""

import pytest
from torch import Tensor

from soundcrafter.diffusion.windows import stretch_timeline


class Recorder:
    """latent + t + the condition's mean, frame by frame for a timeline; keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, latent: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.calls.append((latent, t, cond))
        if cond.ndim == 3:
            shift = stretch_timeline(cond, latent.shape[2]).mean(2)[:, None, :, None]
        else:
            shift = cond.mean(1).reshape(-1, 1, 1, 1)
        return latent + t.reshape(-1, 1, 1, 1) + shift


@pytest.fixture
def recorder() -> type[Recorder]:
    """recorder(): a new one, of no calls yet."""
    return Recorder
