"""The manifest: the recordings of a data set with their captions, labels and splits, read from a
csv or jsonl table, AudioCaps tables, shards, or a plain folder of audio files."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from os import PathLike
from os.path import abspath
from pathlib import Path
from typing import Any, TypeVar

from soundcrafter.audio import SoundFile, audio_info, list_audio
from soundcrafter.data.clip_names import AUDIOCAPS_COLUMNS, find_clip, find_split, index_audio
from soundcrafter.data.shard_table import read_shard_table
from soundcrafter.data.shards import is_shards
from soundcrafter.data.tables import (
    Row,
    parse_number,
    parse_text,
    read_table,
    require_columns,
)
from soundcrafter.files import FilePart

TABLES = ("manifest.csv", "manifest.jsonl", "sounds.csv")
# A row without a split is training data, so that nobody evaluates on it by mistake.
DEFAULT_SPLIT = "train"
HEADER_THREADS = 8
SHOWN_VALUES = 8  # values of a column listed in an error message
_File = TypeVar("_File", Path, Path | FilePart)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A section of an audio file, and what is known about it."""

    file: Path  # the audio file; of a shard's member, the shard's path and the member's name
    part: FilePart | None = None  # the member of a shard
    caption: str | None = None  # a sentence that describes the sound
    label: str | None = None  # short class name
    split: str | None = None  # train, dev, test
    start: float = 0.0  # seconds into the file
    seconds: float  # length from start
    group: str | None = None  # shared by recordings that were cut from one original
    sample_rate: float = 0.0  # Hz of the original, which limits its bandwidth; 0: not stated

    @property
    def sound(self) -> Path | FilePart:
        """The file, or the part of a shard, to read."""
        return self.file if self.part is None else self.part


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The recordings that can be used, and those left out with the reason."""

    root: Path  # folder that file names are relative to
    recordings: tuple[Recording, ...]  # in the order of the table
    skipped: tuple[tuple[str, str], ...] = ()  # (file name, reason)

    def name(self, recording: Recording) -> str:
        """The recording's file relative to the root, which is the same on every machine."""
        if recording.file.is_relative_to(self.root):
            return recording.file.relative_to(self.root).as_posix()
        return recording.file.as_posix()

    def stem(self, recording: Recording) -> str:
        """The name without its suffix, for files of other folders.

        It never leads out of a folder: of a recording outside the root it is the absolute path
        without its leading slash.
        """
        file, root = Path(abspath(recording.file)), abspath(self.root)
        inside = file.relative_to(root if file.is_relative_to(root) else file.anchor)
        return inside.with_suffix("").as_posix()

    def fingerprint(self) -> str:
        """The number of recordings and a hash of their names, captions, labels and positions."""
        digest = sha256()
        for recording in self.recordings:
            row = (recording.caption, recording.label, recording.start, recording.seconds)
            digest.update(repr((self.name(recording), *row)).encode())
        return f"{len(self.recordings)} recordings, sha256 {digest.hexdigest()[:16]}"


def read_manifest(
    path: str | PathLike[str],
    *,
    split: str | None = None,
    label_column: str = "label",
    need_caption: bool = False,
    where: Mapping[str, str] | None = None,
) -> Manifest:
    """Read the recordings of a split (None: of all splits) from a csv or jsonl table or a folder.

    Columns: file (relative to the table), and optionally caption, split, start, seconds, group,
    sample_rate (of the original) and `label_column`. AudioCaps csv tables are read too. A folder is
    read from its manifest.csv, manifest.jsonl or sounds.csv, else its only csv with a file column,
    else its AudioCaps tables; without a table, from all audio files below it. Shards,
    DIR/{000000..000009}.tar or a URL of that kind, contain the same columns (see
    data/shard_table.py). `where`: column -> the value that rows must have. Missing and unreadable
    files are listed in `skipped`. Raises ValueError for a missing table or column, an unknown
    split, and if no recording is left.
    """
    if is_shards(path):
        return _read_shards(path, split, label_column, need_caption, where or {})
    path = Path(path)
    if path.is_dir():
        root, tables = path, _tables_in(path)
    elif path.is_file():
        root, tables = path.parent, [path]
    else:
        raise ValueError(f"{path}: no such file or folder; expected a csv, a jsonl or a folder")
    if tables:
        rows = [row for table in tables for row in _rows(table, label_column, need_caption)]
    elif need_caption:
        raise ValueError(f"{path}: no table in this folder; captions need one (file, caption)")
    else:
        rows = [{"file": file.relative_to(root).as_posix()} for file in list_audio(root)]
    rows = _chosen(rows, split, where or {}, path)
    return _check(path, root, rows, label_column, need_caption)


def _read_shards(
    data: str | PathLike[str],
    split: str | None,
    label_column: str,
    need_caption: bool,
    where: Mapping[str, str],
) -> Manifest:
    table, path = read_shard_table(data), os.fspath(data)
    if label_column != "label":
        columns = {column for row in table.rows for column in row}
        require_columns(path, columns, [label_column])
    rows = _chosen(table.rows, split, where, path)
    return _check(
        path, table.root, rows, label_column, need_caption, table.parts, tuple(table.skipped)
    )


def _chosen(
    rows: list[Row], split: str | None, where: Mapping[str, str], path: str | Path
) -> list[Row]:
    for column, value in where.items():
        rows = _with_value(rows, column, value, path)
    return _of_split(rows, split, path)


def filter_recordings(
    manifest: Manifest, reason_for: Callable[[Recording], str | None], setting: str
) -> Manifest:
    """Leave out the recordings for which `reason_for` returns a reason; they become `skipped`.

    Raises ValueError that names the setting if no recording is left.
    """
    kept, skipped = [], list(manifest.skipped)
    for recording in manifest.recordings:
        reason = reason_for(recording)
        if reason is None:
            kept.append(recording)
        else:
            skipped.append((manifest.name(recording), reason))
    if not kept:
        raise ValueError(f"{setting}: no recording is left")
    return dataclasses.replace(manifest, recordings=tuple(kept), skipped=tuple(skipped))


def exclude_low_rates(manifest: Manifest, min_sample_rate: float) -> Manifest:
    """Leave out the recordings whose original is known to have a lower sample rate, in Hz.

    Raises ValueError if no recording is left.
    """

    def reason(recording: Recording) -> str | None:
        too_low = 0 < recording.sample_rate < min_sample_rate
        return f"was recorded at {recording.sample_rate:g} Hz" if too_low else None

    return filter_recordings(manifest, reason, f"min_sample_rate {min_sample_rate:g} Hz")


def _tables_in(folder: Path) -> list[Path]:
    for name in TABLES:
        if (folder / name).is_file():
            return [folder / name]
    headers = {table: read_table(table)[0] for table in sorted(folder.glob("*.csv"))}
    tables = [table for table, columns in headers.items() if "file" in columns]
    if not tables:
        return [
            table for table, columns in headers.items() if columns.issuperset(AUDIOCAPS_COLUMNS)
        ]
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise ValueError(f"{folder}: several tables ({names}); name the one to read")
    return tables


def _rows(table: Path, label_column: str, need_caption: bool) -> list[Row]:
    columns, rows = read_table(table)
    audiocaps = "file" not in columns and columns.issuperset(AUDIOCAPS_COLUMNS)
    needed = [] if audiocaps else ["file"]
    if need_caption:
        needed.append("caption")
    if label_column != "label":  # the default column may be missing: labels are optional
        needed.append(label_column)
    require_columns(table, columns, needed)
    return _audiocaps_rows(table, rows) if audiocaps else rows


def _audiocaps_rows(table: Path, rows: Sequence[Row]) -> list[Row]:
    """Rows with the audio file of each clip. The start_time only serves to find the file, which
    contains nothing but the clip."""
    split = find_split(table.stem)
    folders = [table.parent, table.parent / "audio"]
    if split is not None:
        folders += [folder / split for folder in folders]
    files: dict[str, Path] = {}
    for folder in filter(Path.is_dir, folders):
        files = index_audio(folder, recursive=False) | files
    starts: dict[str, set[str]] = {}
    for row in rows:
        starts.setdefault(row["youtube_id"], set()).add(row["start_time"])
    found = []
    for row in rows:
        clip, start = row["youtube_id"], parse_number(row["start_time"])
        file = find_clip(files, clip, start, alone=len(starts[clip]) == 1)
        # A missing clip is listed under its usual name.
        name = (file or table.parent / f"Y{clip}.wav").relative_to(table.parent).as_posix()
        found.append({"file": name, "caption": row["caption"], "split": split, "group": clip})
    return found


def _of_split(rows: list[Row], split: str | None, path: str | Path) -> list[Row]:
    if split is None or not rows:
        return rows
    counts = Counter(parse_text(row.get("split")) or DEFAULT_SPLIT for row in rows)
    if split not in counts:
        there = ", ".join(f"{name} ({count})" for name, count in counts.items())
        raise ValueError(f"{path}: no split {split!r}; it has: {there}")
    return [row for row in rows if (parse_text(row.get("split")) or DEFAULT_SPLIT) == split]


def _with_value(rows: list[Row], column: str, value: str, path: str | Path) -> list[Row]:
    kept = [row for row in rows if parse_text(row.get(column)) == value]
    if not kept:
        there = sorted({parse_text(row.get(column)) or "" for row in rows} - {""})
        shown = ", ".join(there[:SHOWN_VALUES]) + (", ..." if len(there) > SHOWN_VALUES else "")
        raise ValueError(f"{path}: no row has {column} {value!r}; it has: {shown or 'none'}")
    return kept


def _check(
    path: str | Path,
    root: Path,
    rows: list[Row],
    label_column: str,
    need_caption: bool,
    parts: Mapping[str, FilePart] | None = None,
    left_out: tuple[tuple[str, str], ...] = (),
) -> Manifest:
    """The recordings of rows; `parts` has the files that are members of shards."""
    skipped = list(left_out)
    recordings: list[Recording] = []
    for row in rows:
        try:
            recordings.append(_recording(root, row, label_column, need_caption, parts or {}))
        except ValueError as error:
            skipped.append((parse_text(row.get("file")) or "(no name)", str(error)))
    lengths = read_lengths({item.sound for item in recordings if item.seconds == 0})
    kept: list[Recording] = []
    manifest = Manifest(root=root, recordings=())
    for recording in recordings:
        if recording.seconds == 0:
            length = lengths[recording.sound]
            if isinstance(length, str):
                skipped.append((manifest.name(recording), length))
            elif length <= recording.start:
                reason = f"ends at {length:g} s, before its start"
                skipped.append((manifest.name(recording), reason))
            else:
                kept.append(dataclasses.replace(recording, seconds=length - recording.start))
        elif recording.part is not None or recording.file.is_file():
            kept.append(recording)
        else:
            skipped.append((manifest.name(recording), "no such file"))
    if not kept:
        first = f"; the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise ValueError(f"{path}: no readable recording ({len(skipped)} skipped{first})")
    return dataclasses.replace(manifest, recordings=tuple(kept), skipped=tuple(skipped))


def _recording(
    root: Path, row: Row, label_column: str, need_caption: bool, parts: Mapping[str, FilePart]
) -> Recording:
    file, caption = parse_text(row.get("file")), parse_text(row.get("caption"))
    if file is None:
        raise ValueError("the row has no file")
    if need_caption and caption is None:
        raise ValueError("the row has no caption")
    return Recording(
        file=root / file if file in parts else _file(root, row["file"]),
        part=parts.get(file),
        caption=caption,
        label=parse_text(row.get(label_column)),
        split=parse_text(row.get("split")),
        start=_number(row, "start"),
        seconds=_number(row, "seconds"),  # 0: not stated; read from the file header
        group=parse_text(row.get("group")),
        sample_rate=_number(row, "sample_rate", "Hz"),
    )


def _file(root: Path, name: Any) -> Path:
    """The file of that name. Surrounding blanks are removed unless a file has them in its name."""
    exact = root / str(name)
    return exact if exact.is_file() else root / str(name).strip()


def read_lengths(files: Iterable[_File]) -> dict[_File, float | str]:
    """Return the length of each file in seconds according to its header, or the reason why it
    cannot be read."""

    def length(file: SoundFile) -> float | str:
        try:
            return audio_info(file).seconds
        except ValueError as error:
            return str(error)

    ordered = sorted(files, key=str)
    with ThreadPoolExecutor(HEADER_THREADS) as threads:
        return dict(zip(ordered, threads.map(length, ordered), strict=True))


def _number(row: Row, column: str, unit: str = "seconds") -> float:
    text = parse_text(row.get(column))
    if text is None:
        return 0.0
    value = parse_number(text)
    if value is None:
        raise ValueError(f"{column} is {text!r}; expected a number of {unit}")
    return value
