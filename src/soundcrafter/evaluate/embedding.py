"""The interface of embedders, and embedding sound files with a cache."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from soundcrafter.audio import audio_info, read_audio
from soundcrafter.files import file_sha256, make_folder, replacing
from soundcrafter.progress import Progress


@dataclass(frozen=True)
class Embedding:
    """The embedding of one sound."""

    features: np.ndarray  # [R, D] float32: one row per sound, or one per window (VGGish)
    probabilities: np.ndarray | None  # [K] float32, sum 1; None without classes


class Embedder(Protocol):
    """A network that turns a sound into features."""

    name: str
    sample_rate: int  # Hz, of its input
    sha256: str  # of its weights
    classes: tuple[str, ...]  # their names; () if they are unknown or there are none

    def __call__(self, wave: np.ndarray, sample_rate: int) -> Embedding:
        """wave [N] at `sample_rate` Hz, resampled (soxr HQ) to the embedder's own -> Embedding."""
        ...


@dataclass(frozen=True)
class Embedded:
    """The embeddings of several sounds by one embedder, in the order of the sounds."""

    rows: list[np.ndarray]  # features [R, D] of each sound
    probabilities: np.ndarray | None  # [N, K]

    @property
    def features(self) -> np.ndarray:
        """All rows [sum R, D]."""
        return np.concatenate(self.rows)


def embed_files(
    embedders: Sequence[Embedder],
    files: Collection[Path],
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[dict[Path, list[Embedding]], dict[Path, str]]:
    """Embed each file with each embedder; for `cache` see `embed_file`.

    Returns the embeddings of each readable file, and file -> reason for the others.
    """
    found: dict[Path, list[Embedding]] = {}
    unreadable: dict[Path, str] = {}
    for done, file in enumerate(files, 1):
        try:
            found[file] = embed_file(embedders, file, cache)
        except ValueError as error:
            unreadable[file] = str(error)
        if progress is not None:
            progress(done, len(files))
    return found, unreadable


def collect(
    embedders: Sequence[Embedder], embeddings: Iterable[Sequence[Embedding]]
) -> list[Embedded]:
    """Regroup the embeddings of each sound, one per embedder, by embedder."""
    of_sounds, collected = list(embeddings), []
    for place in range(len(embedders)):
        column = [of_sound[place] for of_sound in of_sounds]
        shares = [one.probabilities for one in column if one.probabilities is not None]
        rows = [one.features for one in column]
        collected.append(Embedded(rows, np.stack(shares) if shares else None))
    return collected


def embed_file(
    embedders: Sequence[Embedder], file: Path, cache: Path | None = None
) -> list[Embedding]:
    """Embed one file, read once at its own rate, with each embedder.

    With a `cache` folder, embeddings are stored there under the hashes of the embedder's weights
    and of the file's content, and loaded instead of computed next time. Raises ValueError as
    `read_audio`.
    """
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    content = file_sha256(file)[:32] if cache is not None else ""
    stored: dict[int, Path] = {}
    found: dict[int, Embedding] = {}
    for number, embedder in enumerate(embedders):
        if cache is not None:
            stored[number] = cache / f"{embedder.name}-{embedder.sha256[:16]}" / f"{content}.npz"
            if stored[number].is_file():
                found[number] = _load(stored[number])
    if len(found) < len(embedders):
        rate = audio_info(file).sample_rate
        wave = read_audio(file, rate)
        for number, embedder in enumerate(embedders):
            if number not in found:
                found[number] = embedder(wave, rate)
                if number in stored:
                    _store(found[number], stored[number])
    return [found[number] for number in range(len(embedders))]


def _load(path: Path) -> Embedding:
    with np.load(path) as arrays:
        return Embedding(arrays["features"], arrays.get("probabilities"))


def _store(embedding: Embedding, path: Path) -> None:
    arrays: dict[str, Any] = vars(embedding)
    make_folder(path.parent)
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **{name: value for name, value in arrays.items() if value is not None})
