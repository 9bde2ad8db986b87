"""What a whole model is made of: the parts, their settings, and that they fit together."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from soundcrafter.diffusion.schedule import DiffusionConfig
from soundcrafter.models.clap import ClapAudio, ClapAudioConfig, ClapText, ClapTextConfig
from soundcrafter.models.melgan import MelGAN, MelGANConfig
from soundcrafter.models.unet import UNet, UNetConfig
from soundcrafter.models.vae import VAE, VAEConfig

# Each part: its settings, its network, and the parts whose training ids it depends on.
PARTS: dict[str, tuple[type, type[nn.Module], tuple[str, ...]]] = {
    "clap_audio": (ClapAudioConfig, ClapAudio, ()),
    "clap_text": (ClapTextConfig, ClapText, ("clap_audio",)),
    "vae": (VAEConfig, VAE, ()),
    "unet": (UNetConfig, UNet, ("vae", "clap_audio")),
    "vocoder": (MelGANConfig, MelGAN, ()),
}


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """What `generate` does where the user says nothing."""

    sampler: Literal["ddim", "euler"] = "ddim"  # see diffusion/samplers.py
    spacing: Literal["trailing", "leading", "linspace"] = "trailing"  # choice of time steps
    steps: int = 25  # U-Net evaluations (guided: pairs)
    guidance: float = 2.5  # classifier-free guidance; 1 is none
    seconds: float = 5.0  # length of a sound
    window: float = 30.0  # seconds beyond which overlapping windows are denoised

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: got {self.steps}; at least 1")
        if self.guidance < 0:
            raise ValueError(f"guidance: got {self.guidance}; at least 0")
        if self.seconds <= 0 or self.window <= 0:
            raise ValueError("seconds and window must be above 0")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Every part of one model; the defaults are the paper's size."""

    clap_audio: ClapAudioConfig = field(default_factory=lambda: ClapAudioConfig(tower="htsat"))
    clap_text: ClapTextConfig = field(default_factory=ClapTextConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    vocoder: MelGANConfig = field(default_factory=MelGANConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        check_together(dataclasses.asdict(self), self.__dict__)

    def build(self, part: str) -> nn.Module:
        """The network of a part, freshly initialised."""
        _, network, _ = PARTS[part]
        return network(getattr(self, part))


def check_together(names: Iterable[str], configs: Mapping[str, Any]) -> None:
    """Raise ValueError where the settings of two parts contradict each other."""
    present = {name: configs[name] for name in names if name in PARTS}

    def same(left: str, left_field: str, right: str, right_field: str) -> None:
        if left in present and right in present:
            a, b = getattr(present[left], left_field), getattr(present[right], right_field)
            if a != b:
                raise ValueError(f"{left}.{left_field} is {a}, {right}.{right_field} is {b}")

    same("clap_audio", "embed_dim", "clap_text", "embed_dim")
    same("unet", "embed_dim", "clap_audio", "embed_dim")
    same("unet", "in_channels", "vae", "latent_channels")
    same("vocoder", "mel", "vae", "mel")
    if "unet" in present and "vae" in present:
        rows = present["vae"].mel.num_mels // present["vae"].stride[1]
        if rows % present["unet"].stride[1]:
            raise ValueError(
                f"unet.strides: {present['unet'].stride[1]} in frequency does not divide "
                f"the latent's {rows} rows"
            )
