"""A generated sound: to save, to see, to hear."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from soundcrafter.audio import sound_end
from soundcrafter.export import Export
from soundcrafter.provenance import Provenance


@dataclass(frozen=True, eq=False)
class Sound:
    """One generated sound."""

    wave: np.ndarray  # [N] float32 in [-1, 1]
    sample_rate: int  # Hz
    prompt: str
    seed: int
    # Cosine of the prompt's and the sound's CLAP embeddings, in [-1, 1]; None where the model has
    # no audio tower.
    score: float | None
    latent: np.ndarray | None = (
        None  # [C, T, F] float32, decoded to this sound before silence was cut
    )
    loop: bool = False  # its end is followed by its start
    provenance: Provenance | None = None  # how it was made

    @property
    def seconds(self) -> float:
        return len(self.wave) / self.sample_rate

    @property
    def end(self) -> float:
        """Where the sound ends, in seconds; silence follows, 60 dB below the peak or less."""
        return sound_end(self.wave) / self.sample_rate

    def save(self, path: str | os.PathLike[str], export: Export = Export()) -> Path:  # noqa: B008
        """Write wav, flac, ogg or mp3, by the suffix; by default 16 bits at the sound's own rate.

        The file contains the prompt and the provenance. Raises ValueError for another suffix, and
        for a depth that the format does not have.
        """
        export.write(path, self.wave, self.sample_rate, **self._facts(export))
        return Path(path)

    def to_bytes(self, suffix: str = ".wav", export: Export = Export()) -> bytes:  # noqa: B008
        """A wav file (or flac, ogg) of this sound, for a stream or an answer of a server."""
        return export.encode(self.wave, self.sample_rate, suffix, **self._facts(export))

    def _facts(self, export: Export) -> dict[str, Any]:
        """What a file says of the sound besides its samples."""
        made = self.provenance
        comment = "" if made is None else made.with_export(export).to_json()
        return {"loop": self.loop, "title": self.prompt, "comment": comment}

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """The mel spectrogram: a PNG at `path`, or a matplotlib figure where there is none."""
        from soundcrafter.plots import plot_mel

        return plot_mel(self.wave, self.sample_rate, path, title=self.prompt)

    def play(self) -> Any:
        """A player, in a notebook."""
        from IPython.display import Audio  # type: ignore[import-not-found]  # there in a notebook

        return Audio(self.wave, rate=self.sample_rate)

    def _repr_html_(self) -> str:
        return cast(str, self.play()._repr_html_())
