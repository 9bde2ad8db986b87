"""Curriculum: spectrogram resolution and length at each step of the U-Net's training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from soundcrafter.mel_bands import MelConfig

Stride = tuple[int, int]
MOST_SECONDS = 600  # of a segment, as typing errors would ask for more memory than there is
MOST_SAMPLES = 65_536  # in a batch


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """A stretch of training with spectrograms of one length and resolution."""

    share: float  # of the steps
    seconds: float  # length of a training segment
    pool: int = 1  # side of the squares that the log-mel is averaged over
    grid: Literal["full", "pooled"] = "full"  # full: interpolated back to the original grid
    batch_size: int = 0  # samples a step; 0: the stage's

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share: got {self.share}; allowed: above 0, up to 1")
        if not 0 < self.seconds <= MOST_SECONDS:
            raise ValueError(f"seconds: got {self.seconds}; allowed: above 0, up to {MOST_SECONDS}")
        if self.batch_size > MOST_SAMPLES:
            raise ValueError(f"batch_size: got {self.batch_size}; allowed: up to {MOST_SAMPLES}")
        if self.pool < 1 or self.batch_size < 0:
            raise ValueError(f"pool, batch_size: got {self.pool}, {self.batch_size}; at least 1, 0")
        if self.grid not in ("full", "pooled"):
            raise ValueError(f"grid: got {self.grid!r}; allowed: full, pooled")

    def blur(self, mel: Tensor) -> Tensor:
        """mel [B, 1, T, F] at this phase's resolution: [B, 1, T / pool, F / pool] on the pooled
        grid, [B, 1, T, F] on the full one."""
        if self.pool == 1:
            return mel
        pooled = F.avg_pool2d(mel, self.pool)
        if self.grid == "pooled":
            return pooled
        # bilinear: repeated cells would have edges that no sound has
        return F.interpolate(pooled, size=mel.shape[2:], mode="bilinear")

    def frame_multiple(self, stride: Stride) -> int:
        """The number that a segment's frames must be a multiple of. `stride` is the total stride of
        VAE and U-Net (time, frequency)."""
        if self.grid == "pooled":
            return self.pool * stride[0]
        return math.lcm(self.pool, stride[0])

    def grid_of(self, frames: int, mel: MelConfig, stride: Stride) -> tuple[int, int]:
        """Frames and bands after `blur`. Raises ValueError if `stride` does not divide these."""
        shrink = self.pool if self.grid == "pooled" else 1
        if mel.num_mels % self.pool or mel.num_mels // shrink % stride[1]:
            raise ValueError(
                f"pool: got {self.pool} on the {self.grid} grid; it does not divide the "
                f"{mel.num_mels} mel bands into multiples of {stride[1]}"
            )
        return frames // shrink, mel.num_mels // shrink


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A phase and its place in a training."""

    number: int  # from 0
    config: PhaseConfig
    first_step: int
    end_step: int  # the first step that is no longer in it
    first_sample: int  # index of its first sample
    batch_size: int  # samples a step

    def samples_at(self, step: int) -> range:
        """The indices of a step's samples."""
        first = self.first_sample + (step - self.first_step) * self.batch_size
        return range(first, first + self.batch_size)

    def step_of(self, index: int) -> tuple[int, int]:
        """The step of a sample of this phase, and its place in it."""
        steps, place = divmod(index - self.first_sample, self.batch_size)
        return self.first_step + steps, place


def _fewest_steps(shares: Sequence[float]) -> int:
    """The least number of steps of which each share, of those that add up to 1, has one."""
    enough = math.ceil(1 / min(shares)) + 1
    for steps in range(max(len(shares), enough - 10_000), enough):
        ends = [round(steps * math.fsum(shares[: n + 1])) for n in range(len(shares))]
        if all(before < end for before, end in pairwise([0, *ends])):
            return steps
    return enough


class Curriculum:
    """The phases of one training, without a gap; samples are numbered through all of them.

    Weights, optimiser, EMA and learning rate know nothing of phases: one cosine runs over all
    steps. No phases at all are one of the full resolution. Raises ValueError for shares that do
    not add up to 1, a phase without a step, and a last one that is not of the full resolution.
    """

    def __init__(
        self, phases: Sequence[PhaseConfig], *, steps: int, batch_size: int, seconds: float
    ) -> None:
        configs = list(phases) or [PhaseConfig(share=1.0, seconds=seconds)]
        total = math.fsum(config.share for config in configs)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"curriculum: the shares add up to {total:g}; they must add up to 1")
        if configs[-1].pool != 1 or configs[-1].seconds != seconds:
            raise ValueError(
                f"curriculum: the last phase has pool {configs[-1].pool}, "
                f"{configs[-1].seconds:g} s; it must be the full resolution: 1, {seconds:g} s"
            )
        self.phases: list[Phase] = []
        first_step = first_sample = 0
        for number, config in enumerate(configs):
            end = round(steps * math.fsum(c.share for c in configs[: number + 1]))
            if end <= first_step:
                raise ValueError(
                    f"curriculum[{number}]: has no step of {steps}; raise its share, or "
                    f"diffusion.steps to at least {_fewest_steps([c.share for c in configs])}"
                )
            size = config.batch_size or batch_size
            phase = Phase(
                number=number,
                config=config,
                first_step=first_step,
                end_step=end,
                first_sample=first_sample,
                batch_size=size,
            )
            self.phases.append(phase)
            first_step, first_sample = end, first_sample + (end - first_step) * size

    def phase_at(self, step: int) -> Phase:
        """The phase of a step; beyond the last one, the last phase."""
        return next((p for p in self.phases if step < p.end_step), self.phases[-1])

    def phase_of(self, index: int) -> Phase:
        """The phase of a sample."""
        return next(p for p in reversed(self.phases) if index >= p.first_sample)
