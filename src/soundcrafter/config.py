"""The parts of a model, their settings, and the checks between them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from soundcrafter.diffusion.config import DiffusionConfig, SamplingConfig
from soundcrafter.models.clap_audio import ClapAudio, ClapAudioConfig
from soundcrafter.models.clap_text import ClapText, ClapTextConfig
from soundcrafter.models.lora import Adapter, AdapterConfig
from soundcrafter.models.melgan import MelGANConfig
from soundcrafter.models.tagger import Tagger, TaggerConfig
from soundcrafter.models.unet import FastUNetConfig, UNet, UNetConfig
from soundcrafter.models.vae import VAE, VAEConfig
from soundcrafter.models.vocoder import VocoderConfig, build_vocoder


class Part(NamedTuple):
    """One of a model's networks."""

    config: Any  # the class of its settings
    build: Callable[[Any], nn.Module]  # creates the network from its settings
    depends_on: tuple[str, ...] = ()  # the parts that it is trained against


PARTS = {
    "clap_audio": Part(ClapAudioConfig, ClapAudio),
    "clap_text": Part(ClapTextConfig, ClapText, ("clap_audio",)),
    "vae": Part(VAEConfig, VAE),
    "unet": Part(UNetConfig, UNet, ("vae", "clap_audio")),
    "unet_fast": Part(FastUNetConfig, lambda config: UNet(config.unet), ("unet",)),
    "vocoder": Part(VocoderConfig, build_vocoder),
    "adapter": Part(AdapterConfig, Adapter, ("unet",)),  # in its own folder
    "tagger": Part(TaggerConfig, Tagger),
}
GENERATOR_PARTS = (
    "clap_audio",
    "clap_text",
    "vae",
    "unet",
    "vocoder",
)  # the parts that generate sound
EXTRA_PARTS = ("unet_fast",)  # that a model may have beside them


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The settings of a whole model; the defaults are the paper's."""

    clap_audio: ClapAudioConfig = field(default_factory=lambda: ClapAudioConfig(tower="htsat"))
    clap_text: ClapTextConfig = field(default_factory=ClapTextConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    vocoder: VocoderConfig = field(default_factory=MelGANConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        check_compatible(vars(self))
        flow = self.diffusion.objective == "flow"
        if flow and self.sampling.spacing != "trailing":
            raise ValueError(
                f"sampling.spacing: got {self.sampling.spacing}; allowed with flow: trailing"
            )
        if flow and self.sampling.end != "clean":
            raise ValueError(f"sampling.end: got {self.sampling.end}; allowed with flow: clean")
        if not flow and self.sampling.steps > self.diffusion.steps:
            raise ValueError(
                f"sampling.steps: got {self.sampling.steps}; allowed: up to diffusion.steps, "
                f"{self.diffusion.steps}"
            )

    def build(self, part: str) -> nn.Module:
        """The freshly initialised network of a part."""
        return PARTS[part].build(getattr(self, part))


def check_compatible(configs: Mapping[str, Any]) -> None:
    """Raise ValueError if the settings of two parts contradict each other.

    `configs` maps names of parts to their settings; other entries are ignored.
    """

    def same(left: str, left_field: str, right: str, right_field: str) -> None:
        if left in configs and right in configs:
            a, b = getattr(configs[left], left_field), getattr(configs[right], right_field)
            if a != b:
                raise ValueError(f"{left}.{left_field} is {a}, {right}.{right_field} is {b}")

    same("clap_audio", "embed_dim", "clap_text", "embed_dim")
    same("unet", "embed_dim", "clap_audio", "embed_dim")
    same("unet", "in_channels", "vae", "latent_channels")
    same("vocoder", "mel", "vae", "mel")
    if "adapter" in configs and "unet" in configs and configs["adapter"].unet != configs["unet"]:
        raise ValueError("adapter: it is for a U-Net with other settings")
    if (
        "unet_fast" in configs
        and "unet" in configs
        and configs["unet_fast"].unet != configs["unet"]
    ):
        raise ValueError("unet_fast: its settings are not those of the U-Net")
    if "unet" in configs and "vae" in configs:
        rows = configs["vae"].mel.num_mels // configs["vae"].stride[1]
        if rows % configs["unet"].stride[1]:
            raise ValueError(
                f"unet.strides: {configs['unet'].stride[1]} in frequency does not divide "
                f"the latent's {rows} rows"
            )


def latent_frames(vae: VAEConfig, unet: UNetConfig, seconds: float) -> int:
    """The number of latent frames for `seconds`, a multiple of the U-Net's stride."""
    frames = vae.mel.num_frames(round(seconds * vae.mel.sample_rate)) / vae.stride[0]
    return math.ceil(frames / unet.stride[0]) * unet.stride[0]
