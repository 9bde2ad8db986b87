"""The vocoders, which map a log-mel to a wave: MelGAN, spectral vocoder, HiFi-GAN."""

from soundcrafter.models.hifigan import HiFiGAN, HiFiGANConfig
from soundcrafter.models.melgan import MelGAN, MelGANConfig
from soundcrafter.models.spectral import SpectralConfig, SpectralVocoder

VocoderConfig = MelGANConfig | SpectralConfig | HiFiGANConfig  # `kind` distinguishes them
Vocoder = MelGAN | SpectralVocoder | HiFiGAN


def build_vocoder(config: VocoderConfig) -> Vocoder:
    """A freshly initialised network with these settings."""
    if isinstance(config, HiFiGANConfig):
        return HiFiGAN(config)
    return SpectralVocoder(config) if isinstance(config, SpectralConfig) else MelGAN(config)
