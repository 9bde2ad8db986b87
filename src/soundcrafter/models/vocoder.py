"""The part that turns a log-mel into a wave: MelGAN, the spectral vocoder, or HiFi-GAN."""

from soundcrafter.models.hifigan import HiFiGAN, HiFiGANConfig
from soundcrafter.models.melgan import MelGAN, MelGANConfig
from soundcrafter.models.spectral import SpectralConfig, SpectralVocoder

VocoderConfig = MelGANConfig | SpectralConfig | HiFiGANConfig  # told apart by their `kind`
Vocoder = MelGAN | SpectralVocoder | HiFiGAN


def build_vocoder(config: VocoderConfig) -> Vocoder:
    """The network of these settings, freshly initialised."""
    if isinstance(config, HiFiGANConfig):
        return HiFiGAN(config)
    return SpectralVocoder(config) if isinstance(config, SpectralConfig) else MelGAN(config)
