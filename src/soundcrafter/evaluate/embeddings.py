"""Embeddings of sound files: made once, and kept where a folder is given to keep them in."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from soundcrafter.audio import audio_info, read_audio
from soundcrafter.evaluate.embedding import Embedder, Embedding
from soundcrafter.files import file_sha256, make_folder, replacing
from soundcrafter.progress import Progress


@dataclass(frozen=True)
class Embedded:
    """What one embedder says of several sounds, in their order."""

    rows: list[np.ndarray]  # features [R, D] of each sound
    probabilities: np.ndarray | None  # [N, K]

    @property
    def features(self) -> np.ndarray:
        """All rows [sum R, D]."""
        return np.concatenate(self.rows)


def embed(
    embedder: Embedder,
    files: Collection[Path],
    *,
    kept: Path | None = None,
    progress: Progress | None = None,
) -> Embedded:
    """Every sound through one embedder, as `embed_file` does it."""
    rows, probabilities = [], []
    for done, file in enumerate(files, 1):
        found = embed_file(embedder, file, kept)
        rows.append(found.features)
        if found.probabilities is not None:
            probabilities.append(found.probabilities)
        if progress is not None:
            progress(done, len(files))
    return Embedded(rows, np.stack(probabilities) if probabilities else None)


def embed_file(embedder: Embedder, file: Path, kept: Path | None = None) -> Embedding:
    """One sound, read at its own rate, through one embedder.

    With a folder `kept` an embedding is written there, under the hashes of the embedder's weights
    and of the file's content, and read from there the next time. Raises ValueError as `read_audio`.
    """
    if kept is None:
        rate = audio_info(file).sample_rate
        return embedder(read_audio(file, rate), rate)
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    folder = kept / f"{embedder.name}-{embedder.sha256[:16]}"
    place = folder / f"{file_sha256(file)[:32]}.npz"
    if not place.is_file():
        found = vars(embed_file(embedder, file))
        make_folder(folder)
        with replacing(place) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **{name: value for name, value in found.items() if value is not None})
    with np.load(place) as arrays:
        return Embedding(arrays["features"], arrays.get("probabilities"))
