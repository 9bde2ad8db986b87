"""What a whole model is made of: the parts, their settings, and that they fit together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import nn

from soundcrafter.diffusion.schedule import DiffusionConfig
from soundcrafter.models.clap_audio import ClapAudio, ClapAudioConfig
from soundcrafter.models.clap_text import ClapText, ClapTextConfig
from soundcrafter.models.lora import Adapter, AdapterConfig
from soundcrafter.models.melgan import MelGANConfig
from soundcrafter.models.tagger import Tagger, TaggerConfig
from soundcrafter.models.unet import UNet, UNetConfig
from soundcrafter.models.vae import VAE, VAEConfig
from soundcrafter.models.vocoder import VocoderConfig, build_vocoder


class Part(NamedTuple):
    """One of the networks that a model is made of."""

    config: Any  # type of its settings
    build: Callable[[Any], nn.Module]  # its network from them
    depends_on: tuple[str, ...] = ()  # parts whose training ids it is saved with


PARTS = {
    "clap_audio": Part(ClapAudioConfig, ClapAudio),
    "clap_text": Part(ClapTextConfig, ClapText, ("clap_audio",)),
    "vae": Part(VAEConfig, VAE),
    "unet": Part(UNetConfig, UNet, ("vae", "clap_audio")),
    "vocoder": Part(VocoderConfig, build_vocoder),
    "adapter": Part(AdapterConfig, Adapter, ("unet",)),  # in a folder of its own
    "tagger": Part(TaggerConfig, Tagger),
}
GENERATOR_PARTS = ("clap_audio", "clap_text", "vae", "unet", "vocoder")  # what makes sound


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """What `generate` does where the user says nothing."""

    sampler: Literal["ddim", "ddpm", "euler", "heun", "dpmpp", "lcm"] = "ddim"  # see samplers.py
    spacing: Literal["trailing", "leading", "linspace"] = "trailing"  # choice of time steps
    # What the last step leaves: no noise, or that of the first training step (AudioLDM's ddim).
    end: Literal["clean", "first_step"] = "clean"
    steps: int = 25  # U-Net evaluations (guided: pairs; heun: two a step)
    guidance: float = 2.5  # classifier-free guidance; 1 is none
    # Guidance is applied between these fractions of the training steps, from none to all noise.
    guidance_from: float = 0.0
    guidance_until: float = 1.0
    reuse: int = 1  # steps that share the U-Net's inner levels; 1: none, each computes its own
    negative: str = ""  # what guidance leads away from; empty: the null condition
    candidates: int = 1  # initial noises tried for each sound, of which CLAP chooses one
    draft_steps: int = 4  # U-Net evaluations of a trial
    seconds: float = 5.0  # length of a sound
    window: float = 30.0  # seconds beyond which overlapping windows are denoised

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: got {self.steps}; at least 1")
        if self.end == "first_step" and self.sampler != "ddim":
            raise ValueError(f"end: got {self.end} with sampler {self.sampler}; allowed with ddim")
        if self.candidates < 1 or self.draft_steps < 1:
            raise ValueError(
                f"candidates, draft_steps: got {self.candidates}, {self.draft_steps}; at least 1"
            )
        if self.reuse < 1:
            raise ValueError(f"reuse: got {self.reuse}; at least 1")
        if not 0 <= self.guidance_from < self.guidance_until <= 1:
            raise ValueError(
                f"guidance_from, guidance_until: got {self.guidance_from}, {self.guidance_until}; "
                "two rising numbers from 0 to 1"
            )
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
    vocoder: VocoderConfig = field(default_factory=MelGANConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        check_together(vars(self))
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
        """The network of a part, freshly initialised."""
        return PARTS[part].build(getattr(self, part))


def check_together(configs: Mapping[str, Any]) -> None:
    """Raise ValueError where the settings of two parts, by the parts' names, contradict."""

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
        raise ValueError("adapter: is for a U-Net of other settings than unet's")
    if "unet" in configs and "vae" in configs:
        rows = configs["vae"].mel.num_mels // configs["vae"].stride[1]
        if rows % configs["unet"].stride[1]:
            raise ValueError(
                f"unet.strides: {configs['unet'].stride[1]} in frequency does not divide "
                f"the latent's {rows} rows"
            )
