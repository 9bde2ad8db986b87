"""SoundCrafter: text in, sound effect out."""

from typing import TYPE_CHECKING

from soundcrafter.version import __version__

if TYPE_CHECKING:
    from soundcrafter.pipeline import SoundCrafter
    from soundcrafter.sound import Sound
else:

    def __getattr__(name: str) -> object:
        # torch takes seconds to import: it waits until someone asks for what needs it
        if name == "SoundCrafter":
            from soundcrafter.pipeline import SoundCrafter

            return SoundCrafter
        if name == "Sound":
            from soundcrafter.sound import Sound

            return Sound
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = ["Sound", "SoundCrafter", "__version__"]
