"""Writing recordings as shards: tar archives that WebDataset's readers open."""

import io
import json
import math
import tarfile
from collections.abc import Iterator
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

from soundcrafter.data.manifest import Manifest, Recording, read_manifest
from soundcrafter.data.shard_table import MAX_TEXT, SECTIONS
from soundcrafter.files import make_folder, replacing

_FACTS = ("caption", "label", "split", "sample_rate", "group", "start", "seconds")
_MIB = 2**20
_HEADERS = 2 * (3 * 512 + 511)  # bytes, the most for the headers and padding of two members
_END = 20 * 512  # bytes, the most at the end of a tar archive


def write_shards(
    data: str | PathLike[str],
    out: str | PathLike[str],
    *,
    split: str | None = None,
    label_column: str = "label",
    shard_mib: float = 60.0,
) -> tuple[list[Path], dict[str, str]]:
    """Write the recordings of a split (None: of all) into `out`/000000.tar and so on, each of at
    most `shard_mib` MiB.

    A sample is a file as it is, and a json with what the manifest says of it: the columns of a
    table, `label_column` being called `label`. A file of several recordings is one sample. Returns
    the shards, and file -> reason for files left out of the manifest. Raises ValueError if a file
    is too large for a shard, and if `out` already contains shards.
    """
    if not (math.isfinite(shard_mib) and shard_mib > 0):
        raise ValueError(f"shard_mib: got {shard_mib:g}; allowed: above 0")
    manifest = read_manifest(data, split=split, label_column=label_column)
    out = make_folder(out)
    if any(out.glob("*.tar")):
        raise ValueError(f"{out}: already contains archives; choose an empty folder or delete them")
    shards: list[list[tuple[str, bytes, Recording]]] = []
    limit, size = int(shard_mib * _MIB) - _END, math.inf
    for key, recordings in _samples(manifest):
        facts = json.dumps(_facts(manifest, recordings)).encode()
        needed = _size(recordings[0]) + len(facts) + _HEADERS
        if needed > limit or len(facts) > MAX_TEXT:
            name = manifest.name(recordings[0])
            raise ValueError(f"shard_mib: got {shard_mib:g}; {name} does not fit")
        if size + needed > limit:
            shards.append([])
            size = 0
        shards[-1].append((key, facts, recordings[0]))
        size += needed
    written = []
    for number, samples in enumerate(shards):
        written.append(out / f"{number:06d}.tar")
        with replacing(written[-1]) as temporary, tarfile.open(temporary, "w") as archive:
            for key, facts, recording in samples:
                suffix = recording.sound.suffix.lower()
                add_member(archive, f"{key}{suffix}", _content(recording))
                add_member(archive, f"{key}.json", facts)
    return written, dict(manifest.skipped)


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member that depends on nothing but its name and content."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _samples(manifest: Manifest) -> Iterator[tuple[str, list[Recording]]]:
    """Yield the recordings of each file with a key: the file's name without suffix and dots."""
    by_file: dict[Path, list[Recording]] = {}
    for recording in manifest.recordings:
        by_file.setdefault(recording.file, []).append(recording)
    used: set[str] = set()
    for recordings in by_file.values():
        path = PurePosixPath(manifest.stem(recordings[0]))
        # a key ends at the first dot of the last part
        base = path.with_name(path.name.replace(".", "_")).as_posix()
        key, count = base, 1
        while key in used:  # a.wav and a.flac
            count += 1
            key = f"{base}-{count}"
        used.add(key)
        yield key, recordings


def _facts(manifest: Manifest, recordings: list[Recording]) -> dict[str, Any]:
    """The json of a sample: what all its recordings share, and the rest of each if several."""
    rows = [
        {name: value for name in _FACTS if (value := getattr(recording, name))}
        for recording in recordings
    ]
    first = {"file": manifest.name(recordings[0]), **rows[0]}
    return first if len(rows) == 1 else {"file": first["file"], SECTIONS: rows}


def _size(recording: Recording) -> int:
    return recording.file.stat().st_size if recording.part is None else recording.part.size


def _content(recording: Recording) -> bytes:
    part = recording.part
    return recording.file.read_bytes() if part is None else part.read(part.size)
