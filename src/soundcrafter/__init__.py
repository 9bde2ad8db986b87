"""SoundCrafter: text in, sound effect out."""

from typing import TYPE_CHECKING

from soundcrafter.version import __version__

if TYPE_CHECKING:
    from soundcrafter.pipeline import Sound, SoundCrafter
else:

    def __getattr__(name: str) -> object:
        # torch takes seconds to import: it waits until someone asks for what needs it
        if name in ("Sound", "SoundCrafter"):
            from soundcrafter import pipeline

            return getattr(pipeline, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Sound", "SoundCrafter", "__version__"]
