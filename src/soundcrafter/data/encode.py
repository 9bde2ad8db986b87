"""Encoded data: every variant of every recording as latents and embeddings on disk, and the
reader that draws from them as Sounds draws from audio."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from soundcrafter.data.dataset import DataConfig, Draw, Sounds, prefetch
from soundcrafter.data.order import DrawOrder, kind_of
from soundcrafter.files import (
    file_sha256,
    make_folder,
    read_json,
    replacing,
    same_file,
    write_text,
)
from soundcrafter.progress import Progress
from soundcrafter.settings import from_dict, to_dict

FORMAT = 1
INDEX = "index.json"
HEADER = "soundcrafter"  # one key: safetensors writes several in an order that changes
DRAW_THREADS = 2
DTYPES = {"float32": torch.float32, "float16": torch.float16}

EncodePosterior = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class LatentBatch:
    """Encoded draws side by side."""

    mean: Tensor  # [B, C, T, F] float32, as the encoder's posterior gives it
    logvar: Tensor  # [B, C, T, F] float32
    audio_embedding: Tensor  # [B, E] float32
    text_embedding: Tensor | None  # [B, E] float32; None: encoded without
    captions: tuple[str | None, ...]  # one a draw
    labels: tuple[str | None, ...]  # one a draw
    files: tuple[tuple[str, ...], ...]  # one or two a draw
    indices: tuple[int, ...]  # the indices asked for


def encode(
    sounds: Sounds,
    out: str | PathLike[str],
    *,
    posterior: EncodePosterior,
    embed_audio: Callable[[Tensor], Tensor],
    embed_text: Callable[[list[str]], Tensor] | None,
    metadata: dict[str, Any],
    batch_size: int = 16,
    shard_size: int = 512,
    dtype: Literal["float32", "float16"] = "float32",
    progress: Progress | None = None,
) -> Path:
    """Encode every (recording, variant) of `sounds` once into the folder `out`; returns its index.

    Callables take wave [B, N] float32 on the CPU, or captions. `metadata` (JSON-able) says what
    made the data, such as the training ids of the models. `progress` is told (done, total) after
    each batch. An interrupted run goes on where it stopped: finished shards are kept. Recordings
    that the manifest left out or that cannot be decoded are listed in the index. Raises ValueError
    where sounds has no variants, a caption is missing for `embed_text`, `out` holds data made
    otherwise, or an encoder gives NaN or infinity.
    """
    work = _Encoding(
        sounds=sounds,
        posterior=posterior,
        embed_audio=embed_audio,
        embed_text=embed_text,
        batch_size=batch_size,
        dtype=dtype,
        settings=_settings(sounds, metadata, embed_text is not None, shard_size, dtype),
        progress=progress,
    )
    out = make_folder(out)
    jobs = [(r, v) for r in range(len(sounds)) for v in range(sounds.config.variants)]
    shards: list[dict[str, str]] = []
    entries: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for number, start in enumerate(range(0, len(jobs), shard_size)):
        file, part = out / f"latents-{number:05d}.safetensors", jobs[start : start + shard_size]
        contents = _finished(file, work.settings) or _write_shard(file, part, work)
        entries += [{"shard": len(shards), **entry} for entry in contents["entries"]]
        skipped.update(contents["skipped"])
        if contents["entries"]:
            shards.append({"file": file.name, "sha256": file_sha256(file)})
        work.tell(part[-1])
    if not entries:
        raise ValueError(f"{out}: no recording could be decoded: {skipped}")
    recordings = [
        {"file": sounds.manifest.name(r), "caption": r.caption, "label": r.label}
        for r in sounds.manifest.recordings
    ]
    index = {**work.settings, "recordings": recordings, "entries": entries, "shards": shards}
    skipped = {**dict(sounds.manifest.skipped), **skipped}
    write_text(out / INDEX, json.dumps({**index, "skipped": skipped}))
    return out / INDEX


class Latents:
    """Draws from encoded data, in the order in which Sounds with the same seed and config draws.

    Shards are memory-mapped: what is read often stays in memory, the rest on disk. `seed` orders
    the draws; what they hold was fixed by the seed that `encode` ran with. Raises ValueError for a
    folder that is not encoded data, or whose files are damaged (`verify` checks their sha256,
    which reads them once).
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
        """How many (recording, variant) pairs there are."""
        return len(self._entries)

    def batch(self, indices: Sequence[int]) -> LatentBatch:
        """The draws of `indices` (each 0 or more, without end), stacked."""
        found = [self._find(index) for index in indices]

        def stack(name: str) -> Tensor:
            rows = [self._shards[entry["shard"]][name][entry["row"]] for entry in found]
            return torch.stack(rows).float()

        return LatentBatch(
            mean=stack("mean"),
            logvar=stack("logvar"),
            audio_embedding=stack("audio_embedding"),
            text_embedding=stack("text_embedding") if self.has_text else None,
            captions=tuple(entry["caption"] for entry in found),
            labels=tuple(entry["label"] for entry in found),
            files=tuple(tuple(entry["files"]) for entry in found),
            indices=tuple(indices),
        )

    def table(self) -> tuple[dict[str, Tensor], Tensor]:
        """All encoded draws: their tensors by name, [N, ...] in the stored dtype, and the
        probability of each draw, [N] float64."""
        names = [
            "mean",
            "logvar",
            "audio_embedding",
            *(["text_embedding"] if self.has_text else []),
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
        # of all that is drawn: a shard's header holds its entries and the settings they come from
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


@dataclass(frozen=True, kw_only=True)
class _Encoding:
    """What stays the same over all shards of one `encode`."""

    sounds: Sounds
    posterior: EncodePosterior
    embed_audio: Callable[[Tensor], Tensor]
    embed_text: Callable[[list[str]], Tensor] | None
    batch_size: int
    dtype: str
    settings: dict[str, Any]  # all that decides what the shards hold
    progress: Progress | None

    def __post_init__(self) -> None:
        sounds, shard_size = self.sounds, self.settings["shard_size"]
        if not sounds.config.variants:
            raise ValueError(
                "data.variants: got 0; encoded data is finite, so it must be 1 or more, as with "
                "--set data.variants=1, here and for the training on it"
            )
        if self.batch_size < 1 or shard_size < 1:
            raise ValueError(
                f"got batch_size {self.batch_size}, shard_size {shard_size}; 1 or more"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: got {self.dtype!r}; allowed: {', '.join(DTYPES)}")
        bare = [r for r in sounds.manifest.recordings if r.caption is None]
        if self.embed_text is not None and bare:
            name = sounds.manifest.name(bare[0])
            raise ValueError(f"{len(bare)} recordings have no caption to embed; the first: {name}")

    def tell(self, job: tuple[int, int]) -> None:
        """All jobs are done up to this (recording, variant)."""
        if self.progress is not None:
            variants = self.sounds.config.variants
            self.progress(job[0] * variants + job[1] + 1, len(self.sounds) * variants)

    def draws(
        self, jobs: list[tuple[int, int]], skipped: dict[str, str]
    ) -> Iterator[list[tuple[tuple[int, int], Draw]]]:
        """Draws of the jobs by the batch; what cannot be decoded goes to `skipped`."""

        def make(number: int) -> Draw | ValueError:
            try:
                return self.sounds.draw_variant(*jobs[number])
            except ValueError as error:
                return error

        batch = []
        made = prefetch(make, range(len(jobs)), DRAW_THREADS, 2 * self.batch_size)
        for job, draw in zip(jobs, made, strict=True):
            if isinstance(draw, ValueError):
                manifest = self.sounds.manifest
                skipped[manifest.name(manifest.recordings[job[0]])] = str(draw)
                continue
            batch.append((job, draw))
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    @torch.inference_mode()
    def encode(self, draws: list[Draw]) -> dict[str, Tensor]:
        """The tensors of one batch, on the CPU in the shards' dtype."""
        wave = torch.stack([torch.from_numpy(draw.wave) for draw in draws])
        mean, logvar = self.posterior(wave)
        tensors = {"mean": mean, "logvar": logvar, "audio_embedding": self.embed_audio(wave)}
        if self.embed_text is not None:
            captions = [draw.caption for draw in draws if draw.caption is not None]
            assert len(captions) == len(draws)
            tensors["text_embedding"] = self.embed_text(captions)
        stored = {name: t.detach().to("cpu", DTYPES[self.dtype]) for name, t in tensors.items()}
        for name, tensor in stored.items():
            if not bool(torch.isfinite(tensor).all()):
                files = ", ".join(draw.files[0] for draw in draws)
                raise ValueError(f"{name}: NaN or infinity in {self.dtype} for one of {files}")
        return stored


def _settings(
    sounds: Sounds, metadata: dict[str, Any], with_text: bool, shard_size: int, dtype: str
) -> dict[str, Any]:
    """All that decides what the shards hold; kept in each of them."""
    data = to_dict(sounds.config)
    del data["cache_gb"]  # memory decides nothing
    rows = [
        (sounds.manifest.name(r), r.start, r.seconds, r.caption, r.label)
        for r in sounds.manifest.recordings
    ]
    settings = {
        "format": FORMAT,
        "metadata": metadata,
        "data": data,
        "manifest": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        "seed": sounds.seed,
        "sample_rate": sounds.sample_rate,
        "num_samples": sounds.num_samples,
        "peak": sounds.peak,
        "text": with_text,
        "dtype": dtype,
        "shard_size": shard_size,
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings))  # as it will be read back
    return plain


def _finished(file: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The entries of a shard that is there; None where it is not."""
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as shard:
            header = json.loads((shard.metadata() or {})[HEADER])
        made_by, contents = header["settings"], header["contents"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{file}: not a shard of encoded data: {error}") from None
    wordings = (made_by.get("data", {}).get("wordings", ""), settings["data"]["wordings"])
    if same_file(*wordings):  # by whatever path
        made_by["data"] = {**made_by.get("data", {}), "wordings": wordings[1]}
    if made_by != settings:
        other = ", ".join(key for key in settings if made_by.get(key) != settings[key])
        raise ValueError(
            f"{file.parent}: holds data encoded with another {other or 'format'}; "
            "choose an empty folder or delete it"
        )
    assert isinstance(contents, dict)
    return contents


def _write_shard(file: Path, jobs: list[tuple[int, int]], work: _Encoding) -> dict[str, Any]:
    """Encode the jobs into `file`; without a readable recording there is no file."""
    skipped: dict[str, str] = {}
    entries: list[dict[str, Any]] = []
    batches: list[dict[str, Tensor]] = []
    for batch in work.draws(jobs, skipped):
        for (recording, variant), draw in batch:
            place = {"row": len(entries), "recording": recording, "variant": variant}
            what = {"caption": draw.caption, "label": draw.label, "files": draw.files}
            entries.append({**place, **what})
        batches.append(work.encode([draw for _, draw in batch]))
        if batch[-1][0] != jobs[-1]:  # the last one counts when the shard is on disk
            work.tell(batch[-1][0])
    contents = {"entries": entries, "skipped": skipped}
    if not entries:
        return contents
    header = json.dumps({"settings": work.settings, "contents": contents})
    # wide convolutions give channels-last maps on some machines; files hold contiguous tensors
    tensors = {
        name: torch.cat([batch[name] for batch in batches]).contiguous() for name in batches[0]
    }
    try:
        with replacing(file) as temporary:
            save_file(tensors, temporary, {HEADER: header})
    except SafetensorError as error:
        raise ValueError(f"{file}: cannot write: {error}") from None
    return contents


def _load(file: Path, sha256: str, verify: bool) -> dict[str, Tensor]:
    try:
        if verify and file_sha256(file) != sha256:
            raise ValueError(f"{file}: its sha256 is not the index's: damaged; encode again")
        return load_file(file)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise ValueError(f"{file}: damaged: {error}") from None
