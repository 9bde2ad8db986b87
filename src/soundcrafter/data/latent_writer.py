"""Encoding data once: every variant of every recording as latents and embeddings on disk."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from soundcrafter.data.dataset import Draw, Sounds
from soundcrafter.data.events import event_rows
from soundcrafter.data.latent_shards import (
    OVERHEAD,
    encode_draw,
    finished_header,
    write_latent_shard,
)
from soundcrafter.data.latents import FORMAT, INDEX, SHARDS
from soundcrafter.data.prefetch import prefetch
from soundcrafter.files import file_sha256, make_folder, replacing, same_file, write_text
from soundcrafter.progress import Progress
from soundcrafter.settings import to_dict

HEADER = "soundcrafter"  # a single key, because safetensors writes several in varying order
DRAW_THREADS = 2
DTYPES = {"float32": torch.float32, "float16": torch.float16}

EncodePosterior = Callable[[Tensor], tuple[Tensor, Tensor]]
Contents = dict[str, Any]  # of a shard: its entries, and the recordings that were skipped


def encode_latents(
    sounds: Sounds,
    out: str | PathLike[str],
    *,
    posterior: EncodePosterior,
    embed_audio: Callable[[Tensor], Tensor],
    embed_text: Callable[[list[str]], Tensor] | None,
    metadata: dict[str, Any],
    batch_size: int = 16,
    shard_size: int = 512,
    shard_mib: float | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    progress: Progress | None = None,
    elsewhere: Callable[[list[int]], Iterable[tuple[int, Contents]]] | None = None,
) -> Path:
    """Encode every (recording, variant) of `sounds` into the folder `out`; returns the index file.

    With `shard_mib` the folder holds tar archives of about so many MiB, as WebDataset has them,
    instead of safetensors files of `shard_size` draws each.
    The callables take wave [B, N] float32 on the CPU, or captions. `metadata` (serialisable as
    JSON) identifies the models, for instance by their training ids. `progress` is called after each
    batch. `elsewhere` makes the shards of these numbers by `encode_shard` in other processes, and
    yields its results. An interrupted run is resumed by the same call: finished shards are kept.
    Recordings that the manifest left out or that cannot be decoded are listed in the index. Raises
    ValueError if `sounds` has no variants, a caption is missing for `embed_text`, `out` contains
    data encoded with different settings, or an encoder returns NaN or infinity.
    """
    encoder = _Encoder(
        sounds=sounds,
        posterior=posterior,
        embed_audio=embed_audio,
        embed_text=embed_text,
        batch_size=batch_size,
        dtype=dtype,
        settings=_settings(sounds, metadata, embed_text is not None, shard_size, dtype),
        shard_mib=shard_mib,
        progress=progress,
    )
    out = make_folder(out)
    shards: list[dict[str, str]] = []
    entries: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    made = {} if elsewhere is None else _made_elsewhere(elsewhere, encoder, out)
    for number, part in enumerate(encoder.shards):
        file = encoder.shard_file(out, number)
        contents = _finished(file, encoder.settings) or made.get(number)
        contents = contents or _write_shard(file, part, encoder)
        entries += [{"shard": len(shards), **entry} for entry in contents["entries"]]
        skipped.update(contents["skipped"])
        if file.is_file():
            shards.append({"file": file.name, "sha256": file_sha256(file)})
        if elsewhere is None:
            encoder.report_progress(part[-1])
    if not entries:
        raise ValueError(f"{out}: no recording could be decoded: {skipped}")
    index: dict[str, Any] = {SHARDS: [shard["file"] for shard in shards]}
    if shard_mib is None:
        recordings = [encoder.facts_of(number) for number in range(len(sounds))]
        index = {"recordings": recordings, "entries": entries, "shards": shards}
    skipped = {**dict(sounds.manifest.skipped), **skipped}
    write_text(out / INDEX, json.dumps({**encoder.settings, **index, "skipped": skipped}))
    return out / INDEX


def encode_shard(
    sounds: Sounds,
    out: str | PathLike[str],
    number: int,
    *,
    posterior: EncodePosterior,
    embed_audio: Callable[[Tensor], Tensor],
    embed_text: Callable[[list[str]], Tensor] | None,
    metadata: dict[str, Any],
    batch_size: int = 16,
    shard_size: int = 512,
    shard_mib: float | None = None,
    dtype: Literal["float32", "float16"] = "float32",
) -> Contents:
    """Encode one shard of `encode_latents`, which has the same arguments, into its file."""
    encoder = _Encoder(
        sounds=sounds,
        posterior=posterior,
        embed_audio=embed_audio,
        embed_text=embed_text,
        batch_size=batch_size,
        dtype=dtype,
        settings=_settings(sounds, metadata, embed_text is not None, shard_size, dtype),
        shard_mib=shard_mib,
        progress=None,
    )
    return _write_shard(encoder.shard_file(Path(out), number), encoder.shards[number], encoder)


def _made_elsewhere(
    elsewhere: Callable[[list[int]], Iterable[tuple[int, Contents]]], encoder: "_Encoder", out: Path
) -> dict[int, Contents]:
    """Let other processes make the shards that are missing: the contents of each.

    Raises ValueError if a shard is not in the folder afterwards.
    """
    parts, made = encoder.shards, {}
    files = [encoder.shard_file(out, number) for number in range(len(parts))]
    missing = [n for n, file in enumerate(files) if _finished(file, encoder.settings) is None]
    done = sum(len(part) for number, part in enumerate(parts) if number not in missing)
    for number, contents in elsewhere(missing):
        if contents["entries"] and not files[number].is_file():
            raise ValueError(f"{out}: a shard is missing: is it a folder that all machines share?")
        made[number] = contents
        done += len(parts[number])
        if encoder.progress is not None:
            encoder.progress(done, sum(map(len, parts)))
    return made


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    """The encoders and settings that all shards share."""

    sounds: Sounds
    posterior: EncodePosterior
    embed_audio: Callable[[Tensor], Tensor]
    embed_text: Callable[[list[str]], Tensor] | None
    batch_size: int
    dtype: str
    settings: dict[str, Any]  # everything that determines the content of the shards
    shard_mib: float | None  # of tar archives, which decides their number of draws
    progress: Progress | None

    def __post_init__(self) -> None:
        sounds, shard_size = self.sounds, self.settings["shard_size"]
        if not sounds.config.variants:
            raise ValueError(
                "data.variants: got 0 (unlimited), but encoded data is finite; pass e.g. "
                "--set data.variants=1 here and when training on it"
            )
        if self.batch_size < 1 or shard_size < 1:
            raise ValueError(
                f"got batch_size {self.batch_size}, shard_size {shard_size}; "
                "both must be at least 1"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: got {self.dtype!r}; allowed: {', '.join(DTYPES)}")
        bare = [r for r in sounds.manifest.recordings if r.caption is None]
        if self.embed_text is not None and bare:
            name = sounds.manifest.name(bare[0])
            raise ValueError(f"{len(bare)} recordings have no caption (first: {name})")
        if self.shard_mib is not None:
            self.settings["shard_size"] = self._draws_in(self.shard_mib)

    @property
    def shards(self) -> list[list[tuple[int, int]]]:
        """The (recording, variant) of each shard."""
        variants, size = self.sounds.config.variants, self.settings["shard_size"]
        jobs = [(r, v) for r in range(len(self.sounds)) for v in range(variants)]
        return [jobs[start : start + size] for start in range(0, len(jobs), size)]

    def shard_file(self, out: Path, number: int) -> Path:
        """Where a shard is written."""
        if self.shard_mib is None:
            return out / f"latents-{number:05d}.safetensors"
        return out / f"{number:06d}.tar"

    def report_progress(self, job: tuple[int, int]) -> None:
        """Report that all jobs up to this (recording, variant) are done."""
        if self.progress is not None:
            variants = self.sounds.config.variants
            self.progress(job[0] * variants + job[1] + 1, len(self.sounds) * variants)

    def facts_of(self, number: int) -> dict[str, Any]:
        """What decides the order of draws, of a recording."""
        recording = self.sounds.manifest.recordings[number]
        name = self.sounds.manifest.name(recording)
        return {"file": name, "caption": recording.caption, "label": recording.label}

    def _draws_in(self, mib: float) -> int:
        """The number of encoded draws in so many MiB, by the size of the first one."""
        if not (math.isfinite(mib) and mib > 0):
            raise ValueError(f"shard_mib: got {mib:g}; allowed: above 0")
        skipped: dict[str, str] = {}
        for number in range(len(self.sounds)):
            for batch in self.draws([(number, 0)], skipped):
                size = len(encode_draw(self.encode([batch[0][1]]), 0)) + OVERHEAD
                return max(1, int(mib * 2**20 / size))
        raise ValueError(f"no recording could be decoded: {skipped}")

    def draws(
        self, jobs: list[tuple[int, int]], skipped: dict[str, str]
    ) -> Iterator[list[tuple[tuple[int, int], Draw]]]:
        """Yield batches of draws; recordings that cannot be decoded are added to `skipped`."""

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
        """Encode a batch: tensors on the CPU in the dtype of the shards."""
        wave = torch.stack([torch.from_numpy(draw.wave) for draw in draws])
        mean, logvar = self.posterior(wave)
        tensors = {"mean": mean, "logvar": logvar}
        captions = [draw.caption for draw in draws]
        if self.sounds.config.timeline_probability:
            rows = event_rows(wave, captions, [draw.events for draw in draws], mean.shape[2])
            tensors |= {"audio_embedding": rows.embed(self.embed_audio), "levels": rows.levels}
            if self.embed_text is not None:
                tensors["text_embedding"] = rows.embed_captions(self.embed_text)
        else:
            tensors["audio_embedding"] = self.embed_audio(wave)
            if self.embed_text is not None:
                assert None not in captions
                tensors["text_embedding"] = self.embed_text([str(text) for text in captions])
        stored = {name: t.detach().to("cpu", DTYPES[self.dtype]) for name, t in tensors.items()}
        for name, tensor in stored.items():
            if not bool(torch.isfinite(tensor).all()):
                files = ", ".join(draw.files[0] for draw in draws)
                raise ValueError(
                    f"{name}: contains NaN or infinity ({self.dtype}) in a batch with {files}"
                )
        return stored


def _settings(
    sounds: Sounds, metadata: dict[str, Any], with_text: bool, shard_size: int, dtype: str
) -> dict[str, Any]:
    """Everything that determines the content of the shards; stored in each of them."""
    data = to_dict(sounds.config)
    del data["cache_gb"]  # only affects how fast draws are
    for name in ("timeline_probability", "speed"):  # absent from older shards
        if not data[name]:
            del data[name]
    settings = {
        "format": FORMAT,
        "metadata": metadata,
        "data": data,
        "manifest": sounds.manifest.fingerprint(),
        "seed": sounds.seed,
        "sample_rate": sounds.sample_rate,
        "num_samples": sounds.num_samples,
        "peak": sounds.peak,
        "text": with_text,
        "dtype": dtype,
        "shard_size": shard_size,
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings))  # as it is read back from disk
    return plain


def _finished(file: Path, settings: dict[str, Any]) -> Contents | None:
    """Read the entries of an existing shard; returns None if it does not exist."""
    if not file.exists():
        return None
    try:
        if file.suffix == ".tar":
            header = finished_header(file)
        else:
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
            f"{file.parent}: contains data encoded with a different {other or 'format'}; "
            "choose an empty folder, or delete this one"
        )
    assert isinstance(contents, dict)
    return contents


def _write_shard(file: Path, jobs: list[tuple[int, int]], encoder: _Encoder) -> Contents:
    """Encode the jobs into `file`, which is not created if no recording is readable, unless it is a
    tar archive."""
    skipped: dict[str, str] = {}
    entries: list[dict[str, Any]] = []
    batches: list[dict[str, Tensor]] = []
    for batch in encoder.draws(jobs, skipped):
        for (recording, variant), draw in batch:
            place = {"row": len(entries), "recording": recording, "variant": variant}
            what = {"caption": draw.caption, "label": draw.label, "files": draw.files}
            entries.append({**place, **what})
        batches.append(encoder.encode([draw for _, draw in batch]))
        if batch[-1][0] != jobs[-1]:  # the last job is reported once the shard is on disk
            encoder.report_progress(batch[-1][0])
    contents: Contents = {"entries": entries, "skipped": skipped}
    # wide convolutions give channels-last maps on some machines; files contain contiguous tensors
    tensors = {
        name: torch.cat([batch[name] for batch in batches]).contiguous()
        for name in (batches[0] if batches else ())
    }
    if file.suffix == ".tar":
        contents["recordings"] = {number: encoder.facts_of(number) for number, _ in jobs}
        return write_latent_shard(file, encoder.settings, contents, tensors)
    if not entries:
        return contents
    header = json.dumps({"settings": encoder.settings, "contents": contents})
    try:
        with replacing(file) as temporary:
            save_file(tensors, temporary, {HEADER: header})
    except SafetensorError as error:
        raise ValueError(f"{file}: cannot write: {error}") from None
    return contents
