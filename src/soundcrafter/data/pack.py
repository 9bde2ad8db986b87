"""Packing recordings into archives of limited size, for transfer to another machine."""

import csv
import io
import math
import tarfile
from os import PathLike
from pathlib import Path, PurePosixPath

from soundcrafter.data.manifest import Manifest, Recording, read_manifest
from soundcrafter.files import make_folder, replacing

TABLE = "sounds.csv"
_COLUMNS = ("file", "caption", "label", "split", "start", "seconds", "sample_rate", "group")
_MIB = 2**20
_HEADERS = 3 * 512  # bytes, maximum of a member's header and padding
_END = 20 * 512  # bytes, maximum at the end of a tar archive


def pack(
    data: str | PathLike[str],
    out: str | PathLike[str],
    *,
    split: str | None = "train",
    label_column: str = "label",
    part_mib: float = 60.0,
) -> tuple[list[Path], dict[str, str]]:
    """Write the files of a split into `out`/part-01.tar and so on, each of at most `part_mib` MiB.

    Unpacked into one folder, in any order, they are a data set: the first part contains its table,
    in which `label_column` is called `label`. Returns the archives, and file -> reason for files
    left out of the manifest. Raises ValueError if a file is too large for an archive or outside the
    folder of the table, and if `out` already contains archives.
    """
    if not (math.isfinite(part_mib) and part_mib > 0):
        raise ValueError(f"part_mib: got {part_mib:g}; allowed: above 0")
    manifest = read_manifest(data, split=split, label_column=label_column)
    out = make_folder(out)
    if any(out.glob("part-*.tar")):
        raise ValueError(f"{out}: already contains archives; choose an empty folder or delete them")
    table = _table(manifest)
    limit = int(part_mib * _MIB) - _END
    parts: list[list[Recording]] = [[]]
    size = len(table) + _HEADERS
    if any(recording.part is not None for recording in manifest.recordings):
        raise ValueError(f"{data}: is already packed; --shards packs shards anew")
    for recording in {r.file: r for r in manifest.recordings}.values():
        needed = recording.file.stat().st_size + _HEADERS
        if needed + (0 if parts[1:] else len(table) + _HEADERS) > limit:
            raise ValueError(f"part_mib: got {part_mib:g}; {manifest.name(recording)} does not fit")
        if size + needed > limit:
            parts.append([])
            size = 0
        parts[-1].append(recording)
        size += needed
    written = []
    for number, recordings in enumerate(parts, start=1):
        file = out / f"part-{number:02d}.tar"
        with (
            replacing(file) as temporary,
            tarfile.open(temporary, "w", dereference=True) as archive,
        ):
            if number == 1:
                entry = tarfile.TarInfo(TABLE)
                entry.size = len(table)
                archive.addfile(entry, io.BytesIO(table))
            for recording in recordings:
                archive.add(recording.file, _name(manifest, recording))
        written.append(file)
    return written, dict(manifest.skipped)


def _name(manifest: Manifest, recording: Recording) -> str:
    """The file's path relative to the table's folder. Raises ValueError for a file outside it."""
    name = PurePosixPath(manifest.name(recording))
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"{recording.file}: is outside {manifest.root}, the folder of the table")
    return name.as_posix()


def _table(manifest: Manifest) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for recording in manifest.recordings:
        values = {column: getattr(recording, column) for column in _COLUMNS}
        writer.writerow({**values, "file": _name(manifest, recording)})
    return stream.getvalue().encode()
