"""SoundCrafter: text in, sound effect out."""

from soundcrafter.version import __version__

__all__ = ["__version__"]
