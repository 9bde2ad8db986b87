"""Pack recordings into archives of bounded size, to move them to another machine in parts."""

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
_HEADERS = 3 * 512  # bytes of a member's header and padding, at most
_END = 20 * 512  # bytes at the end of a tar, at most


def pack(
    data: str | PathLike[str],
    out: str | PathLike[str],
    *,
    split: str | None = "train",
    label_column: str = "label",
    part_mib: float = 60.0,
) -> tuple[list[Path], dict[str, str]]:
    """Write the files of a split into `out`/part-01.tar and so on, each of `part_mib` MiB at most.

    Unpacked into one folder, in any order, they are data to train from: the first part holds the
    table. `label_column` becomes its column `label`. Returns the parts, and file -> reason of what
    the manifest left out. Raises ValueError where a file alone is larger than a part or lies
    outside the table's folder, and where `out` holds other parts.
    """
    if not (math.isfinite(part_mib) and part_mib > 0):
        raise ValueError(f"part_mib: got {part_mib:g}; allowed: above 0")
    manifest = read_manifest(data, split=split, label_column=label_column)
    out = make_folder(out)
    if any(out.glob("part-*.tar")):
        raise ValueError(f"{out}: holds parts already; choose an empty folder or delete them")
    table = _table(manifest)
    limit = int(part_mib * _MIB) - _END
    parts: list[list[Recording]] = [[]]
    size = len(table) + _HEADERS
    for recording in {r.file: r for r in manifest.recordings}.values():
        needed = recording.file.stat().st_size + _HEADERS
        if needed + (0 if parts[1:] else len(table) + _HEADERS) > limit:
            raise ValueError(
                f"part_mib: got {part_mib:g}; {manifest.name(recording)} alone does not fit"
            )
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
    """The file's path relative to the folder of the table. ValueError for a file outside it."""
    name = PurePosixPath(manifest.name(recording))
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"{recording.file}: lies outside {manifest.root}, the table's folder")
    return name.as_posix()


def _table(manifest: Manifest) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for recording in manifest.recordings:
        values = {column: getattr(recording, column) for column in _COLUMNS}
        writer.writerow({**values, "file": _name(manifest, recording)})
    return stream.getvalue().encode()
