"""The part that turns a log-mel into a wave: MelGAN, or the spectral vocoder."""

from soundcrafter.models.melgan import MelGAN, MelGANConfig
from soundcrafter.models.spectral import SpectralConfig, SpectralVocoder

VocoderConfig = MelGANConfig | SpectralConfig  # told apart by their `kind`
Vocoder = MelGAN | SpectralVocoder


def build_vocoder(config: VocoderConfig) -> Vocoder:
    """The network of these settings, freshly initialised."""
    return SpectralVocoder(config) if isinstance(config, SpectralConfig) else MelGAN(config)
