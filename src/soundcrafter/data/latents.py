"""Encoded data: latents and embeddings of sounds, in a folder or in shards, drawn in the order of
`Sounds`."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from soundcrafter.data.dataset import DataConfig
from soundcrafter.data.latent_shards import read_draw, read_index
from soundcrafter.data.order import DrawOrder, kind_of
from soundcrafter.data.shards import index_shards, is_shards, open_shards
from soundcrafter.files import file_sha256, read_json
from soundcrafter.settings import from_dict

FORMAT = 1
INDEX = "index.json"
SHARDS = "tar"  # in the index of a folder of shards: their names


@dataclass(frozen=True, kw_only=True)
class LatentBatch:
    """Encoded draws stacked into a batch."""

    mean: Tensor  # [B, C, T, F] float32, of the posterior
    logvar: Tensor  # [B, C, T, F] float32
    audio_embedding: Tensor  # [B, E] float32; with timelines of their events, [B, K, E]
    text_embedding: Tensor | None  # likewise; None: encoded without text
    levels: Tensor | None  # of the events [B, K, T] float32; None: encoded without timelines
    captions: tuple[str | None, ...]  # of each draw
    labels: tuple[str | None, ...]  # of each draw
    files: tuple[tuple[str, ...], ...]  # one or more per draw
    indices: tuple[int, ...]  # of the draws


class Latents:
    """Draws of encoded data, in the same order as those of `Sounds` with this seed and config.

    `data` is a folder or shards. A folder's files are memory-mapped, so data larger than the memory
    can be used. `seed` decides the order of the draws; their content was decided by the seed of the
    encoding. `verify` checks the sha256 of each file of a folder, which reads it once; the draws of
    shards are checked when they are read, and damaged ones replaced and listed in `skipped`. Raises
    ValueError for a folder without encoded data, and for damaged files.
    """

    def __init__(self, data: str | PathLike[str], *, seed: int, verify: bool = True) -> None:
        source = os.fspath(data) if is_shards(data) else str(Path(data) / INDEX)
        try:
            index = _read_index(data)
            if not isinstance(index, dict) or index.get("format") != FORMAT:
                raise ValueError(f"{source}: not encoded data of format {FORMAT}")
            self._read(Path(data), index, seed, verify)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{source}: damaged: {error!r}") from None

    def __len__(self) -> int:
        """The number of (recording, variant) pairs."""
        return len(self._entries)

    def batch(self, indices: Sequence[int]) -> LatentBatch:
        """Return the draws of `indices`, which may be any numbers of 0 or more, stacked."""
        drawn = [self._draw(index) for index in indices]
        found = [entry for entry, _ in drawn]

        def stack(name: str) -> Tensor:
            return torch.stack([tensors[name] for _, tensors in drawn]).float()

        return LatentBatch(
            mean=stack("mean"),
            logvar=stack("logvar"),
            audio_embedding=stack("audio_embedding"),
            text_embedding=stack("text_embedding") if self.has_text else None,
            levels=stack("levels") if self.config.timeline_probability else None,
            captions=tuple(entry["caption"] for entry in found),
            labels=tuple(entry["label"] for entry in found),
            files=tuple(tuple(entry["files"]) for entry in found),
            indices=tuple(indices),
        )

    def table(self) -> tuple[dict[str, Tensor], Tensor]:
        """Return all encoded draws, tensors [N, ...] in the stored dtype by name, and the
        probability of each draw, [N] float64."""
        rows: list[dict[str, Tensor]] = []
        chances: list[float] = []
        of_recording = self.order.chances() / self.config.variants
        for (recording, _), entry in self._entries.items():
            if (tensors := self._tensors(entry)) is not None:
                rows.append(tensors)
                chances.append(of_recording[recording])
        weights = torch.tensor(chances, dtype=torch.float64)
        stacked = {name: torch.stack([row[name] for row in rows]) for name in self._names}
        return stacked, weights / weights.sum()

    def _read(self, folder: Path, index: dict[str, Any], seed: int, verify: bool) -> None:
        self.metadata: dict[str, Any] = index["metadata"]
        self.config = from_dict(DataConfig, index["data"], "data")
        self.sample_rate: int = index["sample_rate"]
        self.num_samples: int = index["num_samples"]
        self.has_text: bool = index["text"]
        self.skipped: dict[str, str] = index["skipped"]
        self._names = ["mean", "logvar", "audio_embedding"]
        self._names += ["text_embedding"] if self.has_text else []
        self._names += ["levels"] if self.config.timeline_probability else []
        self.order = DrawOrder(
            [kind_of(r["label"], r["caption"], r["file"]) for r in index["recordings"]],
            balance=self.config.balance,
            variants=self.config.variants,
            seed=seed,
            full_share=self.config.full_share,
        )
        self._entries = {(e["recording"], e["variant"]): e for e in index["entries"]}
        self._shapes: dict[str, torch.Size] = {}  # of the first draw
        self._files: list[dict[str, Tensor]] = []
        if "fingerprint" in index:  # shards
            self.fingerprint = index["fingerprint"]
            return
        # The header of a file holds its entries and settings, so its hash covers them too.
        sums = "".join(shard["sha256"] for shard in index["shards"])
        self.fingerprint = hashlib.sha256(sums.encode()).hexdigest()[:16]
        self._files = [_load(folder / s["file"], s["sha256"], verify) for s in index["shards"]]

    def _draw(self, index: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The entry and the tensors of a draw."""
        chosen, variant = self.order.choose(index)
        for recording in self.order.from_here(chosen):
            entry = self._entries.get((recording, variant))
            if entry is not None and (tensors := self._tensors(entry)) is not None:
                return entry, tensors
        raise ValueError(f"variant {variant}: no recording was encoded, or all are damaged")

    def _tensors(self, entry: dict[str, Any]) -> dict[str, Tensor] | None:
        """The tensors of an entry; None, and listed in `skipped`, if they are damaged."""
        if self._files:
            file = self._files[entry["shard"]]
            return {name: file[name][entry["row"]] for name in self._names}
        try:
            tensors = read_draw(entry["part"], entry["sha256"], self._names)
            shapes = {name: tensor.shape for name, tensor in tensors.items()}
            self._shapes = self._shapes or shapes
            if shapes != self._shapes:
                raise ValueError(f"has the shapes {shapes}, not {self._shapes}")
        except ValueError as error:
            self.skipped[entry["name"]] = str(error)
            return None
        return tensors


def _read_index(data: str | PathLike[str]) -> Any:
    """The index of a folder, or the one that shards make up together."""
    if is_shards(data):
        return read_index(*open_shards(data))
    folder = Path(data)
    index = read_json(folder / INDEX)
    if not isinstance(index, dict) or SHARDS not in index:
        return index
    shards, skipped = index_shards(folder, index[SHARDS], str(folder))
    found = read_index(folder, shards, skipped)
    return {**found, "skipped": {**index["skipped"], **found["skipped"]}}


def _load(file: Path, sha256: str, verify: bool) -> dict[str, Tensor]:
    try:
        if verify and file_sha256(file) != sha256:
            raise ValueError(f"{file}: its sha256 does not match the index; damaged, encode again")
        return load_file(file)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise ValueError(f"{file}: damaged: {error}") from None
