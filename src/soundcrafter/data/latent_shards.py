"""Encoded draws as shards: tar archives with a safetensors and a json for each draw."""

import hashlib
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from soundcrafter.data.shard_writer import add_member
from soundcrafter.data.shards import SETTINGS, Shard, Skipped, index_shard, warn_of_skipped
from soundcrafter.files import FilePart, replacing

MAX_DRAW = 2**28  # bytes of an encoded draw
OVERHEAD = 4096  # bytes, about what a draw takes in a shard besides its tensors
_MAX_HEADER = 2**28  # bytes of the member that describes a shard
_TENSORS = "safetensors"  # the extension of a draw's tensors
_FACTS = ("recording", "variant", "caption", "label", "files", "sha256")  # of an entry


def encode_draw(tensors: Mapping[str, Tensor], row: int) -> bytes:
    """The safetensors of one row of a batch."""
    return save({name: tensor[row].contiguous() for name, tensor in tensors.items()})


def write_latent_shard(
    file: Path, settings: dict[str, Any], contents: dict[str, Any], tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Write draws [N, ...] and their entries, one a draw; returns the contents with the sha256 of
    each draw. A shard may have no draws."""
    draws = [encode_draw(tensors, row) for row in range(len(contents["entries"]))]
    entries = [
        {**entry, "sha256": hashlib.sha256(draw).hexdigest()}
        for entry, draw in zip(contents["entries"], draws, strict=True)
    ]
    contents = {**contents, "entries": entries}
    with replacing(file) as temporary, tarfile.open(temporary, "w") as archive:
        header = {"settings": settings, "contents": contents}
        add_member(archive, SETTINGS, json.dumps(header).encode())
        for entry, draw in zip(entries, draws, strict=True):
            add_member(archive, f"{_key(entry)}.{_TENSORS}", draw)
            add_member(archive, f"{_key(entry)}.json", json.dumps(entry).encode())
    return contents


def read_header(shard: Shard) -> dict[str, Any]:
    """The settings and contents of a shard. Raises ValueError if it has none."""
    if shard.settings is None:
        raise ValueError("not a shard of encoded data")
    try:
        header = json.loads(shard.settings.read(_MAX_HEADER))
        if not isinstance(header["contents"]["entries"], list):
            raise TypeError("no entries")
        return {"settings": dict(header["settings"]), "contents": dict(header["contents"])}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"not a shard of encoded data: {error!r}") from None


def finished_header(file: Path) -> dict[str, Any]:
    """The header of a shard that was written before. Raises ValueError for another file."""
    return read_header(index_shard(file, file.name))


def read_index(root: Path, shards: Iterable[Shard], skipped: Skipped) -> dict[str, Any]:
    """What index.json holds for a folder, from shards alone: settings, recordings and entries.

    An entry has its `part`. Recordings are in the order of the encoding; of left out shards they
    are missing. Raises ValueError if the shards were encoded with different settings.
    """
    settings: dict[str, Any] = {}
    recordings: dict[int, dict[str, Any]] = {}
    entries: list[dict[str, Any]] = []
    left_out, digest = dict(skipped), hashlib.sha256()
    for shard in shards:
        try:
            header = read_header(shard)
            found = _entries(shard, header["contents"]["entries"])
            listed = {int(n): dict(r) for n, r in header["contents"]["recordings"].items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            left_out |= warn_of_skipped(root, [(shard.name, f"damaged: {error}")])
            continue
        if settings and header["settings"] != settings:
            raise ValueError(f"{root / shard.name}: was encoded with other settings than the rest")
        settings = header["settings"]
        recordings |= listed
        entries += found
        left_out |= {**header["contents"]["skipped"], **dict(shard.skipped)}
        digest.update("".join(entry["sha256"] for entry in found).encode())
        digest.update(json.dumps(listed).encode())
    if not entries:
        raise ValueError(f"{root}: the shards contain no encoded data: {left_out}")
    places = {number: place for place, number in enumerate(sorted(recordings))}
    return {
        **settings,
        "recordings": [recordings[number] for number in places],
        "entries": [{**entry, "recording": places[entry["recording"]]} for entry in entries],
        "skipped": left_out,
        "fingerprint": digest.hexdigest()[:16],
    }


def read_draw(part: FilePart, sha256: str, names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of a draw. Raises ValueError if it is damaged."""
    content = part.read(MAX_DRAW)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError("damaged: its sha256 does not match the shard's header")
    try:
        tensors = load(content)
        return {name: tensors[name] for name in names}
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"damaged: {error!r}") from None


def _entries(shard: Shard, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of a shard, each with its part. Raises ValueError if a draw is missing."""
    parts = {sample.key: sample.members.get(_TENSORS) for sample in shard.samples}
    found = []
    for entry in listed:
        part = parts.get(_key(entry))
        if part is None:
            raise ValueError(f"it has no {_key(entry)}.{_TENSORS}")
        facts = {name: entry[name] for name in _FACTS}
        found.append({**facts, "part": part, "name": f"{shard.name}/{part.name}"})
    return found


def _key(entry: Mapping[str, Any]) -> str:
    return f"{entry['recording']:08d}-{entry['variant']:04d}"
