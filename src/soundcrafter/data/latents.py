"""Encoded data: latents and embeddings of sounds on disk, drawn in the order of `Sounds`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from soundcrafter.data.dataset import DataConfig
from soundcrafter.data.order import DrawOrder, kind_of
from soundcrafter.files import file_sha256, read_json
from soundcrafter.settings import from_dict

FORMAT = 1
INDEX = "index.json"


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

    Shards are memory-mapped, so data larger than the memory can be used. `seed` decides the order
    of the draws; their content was decided by the seed of the encoding. `verify` checks the sha256
    of each shard, which reads it once. Raises ValueError for a folder without encoded data, and for
    damaged files.
    """

    def __init__(self, folder: str | PathLike[str], *, seed: int, verify: bool = True) -> None:
        folder = Path(folder)
        index = read_json(folder / INDEX)
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            raise ValueError(f"{folder / INDEX}: not encoded data of format {FORMAT}")
        try:
            self._read(folder, index, seed, verify)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder / INDEX}: damaged: {error!r}") from None

    def __len__(self) -> int:
        """The number of (recording, variant) pairs."""
        return len(self._entries)

    def batch(self, indices: Sequence[int]) -> LatentBatch:
        """Return the draws of `indices`, which may be any numbers of 0 or more, stacked."""
        found = [self._find(index) for index in indices]

        def stack(name: str) -> Tensor:
            rows = [self._shards[entry["shard"]][name][entry["row"]] for entry in found]
            return torch.stack(rows).float()

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
        names = [
            "mean",
            "logvar",
            "audio_embedding",
            *(["text_embedding"] if self.has_text else []),
            *(["levels"] if self.config.timeline_probability else []),
        ]
        tensors = {name: torch.cat([shard[name] for shard in self._shards]) for name in names}
        begins = np.cumsum([0, *(len(shard["mean"]) for shard in self._shards)])
        chances = torch.zeros(len(tensors["mean"]), dtype=torch.float64)
        of_recording = self.order.chances() / self.config.variants
        for (recording, _), entry in self._entries.items():
            chances[begins[entry["shard"]] + entry["row"]] = of_recording[recording]
        return tensors, chances / chances.sum()

    def _read(self, folder: Path, index: dict[str, Any], seed: int, verify: bool) -> None:
        self.metadata: dict[str, Any] = index["metadata"]
        self.config = from_dict(DataConfig, index["data"], "data")
        self.sample_rate: int = index["sample_rate"]
        self.num_samples: int = index["num_samples"]
        self.has_text: bool = index["text"]
        self.skipped: dict[str, str] = index["skipped"]
        # The header of a shard holds its entries and settings, so its hash covers them too.
        sums = "".join(shard["sha256"] for shard in index["shards"])
        self.fingerprint = hashlib.sha256(sums.encode()).hexdigest()[:16]
        self.order = DrawOrder(
            [kind_of(r["label"], r["caption"], r["file"]) for r in index["recordings"]],
            balance=self.config.balance,
            variants=self.config.variants,
            seed=seed,
            full_share=self.config.full_share,
        )
        self._entries = {(e["recording"], e["variant"]): e for e in index["entries"]}
        self._shards = [_load(folder / s["file"], s["sha256"], verify) for s in index["shards"]]

    def _find(self, index: int) -> dict[str, Any]:
        chosen, variant = self.order.choose(index)
        for recording in self.order.from_here(chosen):
            if (recording, variant) in self._entries:
                return self._entries[recording, variant]
        raise ValueError(f"variant {variant}: no recording was encoded")


def _load(file: Path, sha256: str, verify: bool) -> dict[str, Tensor]:
    try:
        if verify and file_sha256(file) != sha256:
            raise ValueError(f"{file}: its sha256 does not match the index; damaged, encode again")
        return load_file(file)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise ValueError(f"{file}: damaged: {error}") from None
