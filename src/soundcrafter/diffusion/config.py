"""The settings of the forward process and of sampling: what needs no torch."""

from dataclasses import dataclass, replace
from typing import Literal

from soundcrafter.diffusion.samplers import SAMPLERS
from soundcrafter.settings import check_range

Objective = Literal["epsilon", "v", "flow"]
Spacing = Literal["trailing", "leading", "linspace"]

MAX_TRAINING_STEPS = 100_000  # the tables of the schedule have a row for each
SECONDS_RANGE = (0.2, 600.0)
MAX_SEED = 2**64 - 1  # the largest that torch's generators take
MAX_STEPS = 10_000
MAX_CANDIDATES = 100
MAX_GUIDANCE = 1000.0


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The forward process and what the network predicts."""

    steps: int = 1000  # training steps N
    betas: Literal["linear", "scaled_linear"] = "linear"  # scaled: linear in sqrt(beta) (AudioLDM)
    beta_start: float = 0.0015  # noise variance of the first step
    beta_end: float = 0.0195  # noise variance of the last step
    # what is predicted: the noise, v = alpha eps - sigma x0, or the velocity of flow
    objective: Objective = "epsilon"

    def __post_init__(self) -> None:
        check_range(self, 1, MAX_TRAINING_STEPS, "steps")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start, beta_end: got {self.beta_start}, {self.beta_end}; "
                "must satisfy 0 < beta_start <= beta_end < 1"
            )


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """A model's defaults for sampling."""

    fast: bool = False  # by the distilled U-Net, which has a number of steps and guidance built in
    sampler: str = "ddim"  # a key of SAMPLERS
    spacing: Spacing = "trailing"  # choice of time steps
    # Noise left after the last step: none, or that of the first training step (AudioLDM's ddim).
    end: Literal["clean", "first_step"] = "clean"
    steps: int = 25  # sampling steps; guidance and heun each double the U-Net evaluations of one
    guidance: float = 2.5  # strength of classifier-free guidance; 1 turns it off
    # Guidance is applied between these fractions of the training steps; at 1 all is noise.
    guidance_from: float = 0.0
    guidance_until: float = 1.0
    # Timelines by masked composition: each prompt is denoised by itself, and they are blended in
    # their spans. None: only if the U-Net was not trained on timelines.
    masked: bool | None = None
    reuse: int = 1  # steps that share the U-Net's inner levels; 1: each step computes its own
    negative: str = ""  # negative prompt; empty: the null condition
    candidates: int = 1  # initial noises tried for each sound; CLAP chooses one
    draft_steps: int = 4  # sampling steps of a draft
    seconds: float = 5.0  # length of a sound
    window: float = 30.0  # seconds; longer sounds are denoised in overlapping windows

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler: got {self.sampler!r}; allowed: {', '.join(SAMPLERS)}")
        check_range(self, 1, MAX_STEPS, "steps", "draft_steps", "reuse")
        check_range(self, 1, MAX_CANDIDATES, "candidates")
        check_range(self, 0, MAX_GUIDANCE, "guidance")
        if self.end == "first_step" and self.sampler != "ddim":
            raise ValueError(f"end: 'first_step' requires sampler ddim, got {self.sampler}")
        if self.reuse > 1 and SAMPLERS[self.sampler].evaluations > 1:
            raise ValueError(f"reuse: got {self.reuse} with sampler {self.sampler}; allowed: 1")
        if not 0 <= self.guidance_from < self.guidance_until <= 1:
            raise ValueError(
                f"guidance_from, guidance_until: got {self.guidance_from}, {self.guidance_until}; "
                "allowed: 0 <= guidance_from < guidance_until <= 1"
            )
        low, high = SECONDS_RANGE
        if not low <= self.seconds <= high:
            raise ValueError(f"seconds: got {self.seconds:g}; allowed: {low:g} to {high:g}")
        if not 0.1 <= self.window <= 3600:
            raise ValueError(f"window: got {self.window:g}; allowed: 0.1 to 3600")


def fast_sampling(sampling: SamplingConfig, steps: int) -> SamplingConfig:
    """The settings for a U-Net distilled to so many steps, given a model's for its other one."""
    return replace(
        sampling,
        fast=True,
        # a consistency model jumps to the end and adds noise again; the others follow a path
        sampler="lcm" if steps == 1 else "ddim",
        spacing="trailing",
        end="clean",
        steps=steps,
        draft_steps=steps,
        guidance=1.0,
        guidance_from=0.0,
        guidance_until=1.0,
        negative="",
        reuse=1,
    )
