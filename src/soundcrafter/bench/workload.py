"""What a benchmark measures: the workload, and the interface of the models that run it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from soundcrafter.device import choose_device
from soundcrafter.diffusion.config import SamplingConfig
from soundcrafter.precision import choose_precision
from soundcrafter.request import resolve

OnStep = Callable[[], None]  # called after each sampling step
OnStatus = Callable[[str], None]  # called with a description of what is measured next

PROMPT = "a dog barks twice while rain falls on a tin roof"
GUIDANCE = 2.5  # not 1, so that each step has a batch of 2: with and without the prompt
PARTS = {  # name -> description
    "text": "text embedding",
    "unet_step": "guided U-Net step",
    "sampling": "sampling",
    "vae_decode": "VAE decoder",
    "vocoder": "vocoder",
    "clap_score": "CLAP score",
    "end_to_end": "end to end",
}
COUNTED = ("unet_step", "vae_decode", "vocoder")  # the parts whose operations are counted


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The generation of one sound. Raises ValueError for settings that are not allowed."""

    seconds: float = 10.24  # of sound
    steps: int = 25  # of sampling, all guided
    repeats: int = 3  # the median is reported
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"  # of the model: auto, fp32, bf16, fp16

    def __post_init__(self) -> None:
        resolve(SamplingConfig(), PROMPT, seconds=self.seconds, seed=self.seed, steps=self.steps)
        if self.repeats < 1:
            raise ValueError(f"repeats: got {self.repeats}; at least 1")
        choose_precision(self.precision, choose_device(self.device))


class Subject(Protocol):
    """A model that can be measured."""

    device: torch.device
    modules: tuple[nn.Module, ...]  # everything with weights

    def make(self, on_step: OnStep, *, seconds: float, steps: int, batch: int = 1) -> object:
        """Generate `batch` sounds; `on_step` is called after each sampling step."""

    def parts(self) -> Mapping[str, Callable[[], object]]:
        """Return some of PARTS as calls, on tensors of the same sizes as within `make`."""
