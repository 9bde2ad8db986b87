"""The manifest: which recordings there are, their captions, labels and splits, read from a csv or
jsonl table, an AudioCaps csv, or a plain folder of audio files."""

import csv
import dataclasses
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from soundcrafter.audio import audio_info, list_audio
from soundcrafter.data.layouts import find_clip, index_audio, seconds_in, split_in

Row = dict[str, Any]

TABLES = ("manifest.csv", "manifest.jsonl", "sounds.csv")
AUDIOCAPS_COLUMNS = {"youtube_id", "start_time", "caption"}
# A table or row that names no split is training data: asking it for "test" must fail.
DEFAULT_SPLIT = "train"
HEADER_THREADS = 8
SHOWN_VALUES = 8  # of a column, in a message
FROZEN = "frozen:"  # before the name of prompts that come with the package
STOP_WORDS = (
    r"\b(a|an|the|and|or|but|of|in|on|at|to|with|by|for|from|into|onto|as|is|are|was|were|be|been"
    r"|being|it|its|this|that|these|those|while|then|there|some)\b"
)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One stretch of an audio file with what is known about it."""

    file: Path  # the audio file, to be opened as it stands
    caption: str | None = None  # one sentence on what is heard
    label: str | None = None  # short class name
    split: str | None = None  # train, dev, test
    start: float = 0.0  # seconds into the file
    seconds: float  # length from start
    group: str | None = None  # recordings cut from one original share it
    sample_rate: float = 0.0  # Hz of the original, which bounds what is in it; 0: not stated


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Recordings that can be used, and the ones left out with the reason."""

    root: Path  # folder that file names are relative to
    recordings: tuple[Recording, ...]  # in the order of the table
    skipped: tuple[tuple[str, str], ...] = ()  # (file name, reason)

    def name(self, recording: Recording) -> str:
        """The recording's file relative to the root: the same on every machine."""
        if recording.file.is_relative_to(self.root):
            return recording.file.relative_to(self.root).as_posix()
        return recording.file.as_posix()

    def stem(self, recording: Recording) -> str:
        """The name without its suffix."""
        return self.name(recording).rpartition(".")[0]


def read_manifest(
    path: str | PathLike[str],
    *,
    split: str | None = None,
    label_column: str = "label",
    need_caption: bool = False,
    where: Mapping[str, str] | None = None,
) -> Manifest:
    """Read the recordings of `split` (None: of all) from a csv or jsonl table or a folder.

    Columns: file (relative to the table), and where there are any caption, split, start, seconds,
    group, sample_rate (of the original) and `label_column`. AudioCaps' own csv is understood too.
    A folder is read by its manifest.csv, manifest.jsonl, sounds.csv, its AudioCaps tables or its
    only csv with a file column; without a table by every audio file below it. `where`: column ->
    the value that a row must have in it to be read. Missing and unreadable files are listed in
    `skipped`. Raises ValueError for a missing table or column, an unknown split, and where no
    recording is left.
    """
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
    for column, value in (where or {}).items():
        rows = _with_value(rows, column, value, path)
    return _check(path, root, _of_split(rows, split, path), label_column, need_caption)


def normalize_caption(text: str) -> str:
    """Lower case, without punctuation and English stop-words: equal results, equal captions."""
    words = re.sub(r"[\W_]+", " ", re.sub("['\u2019]", "", text.lower()))
    return " ".join(re.sub(STOP_WORDS, " ", words).split())


def exclude_captions(manifest: Manifest, tables: Sequence[str]) -> Manifest:
    """Leave out the recordings whose caption, normalised, stands in one of the csv `tables`
    (see `read_captions`; paths relative to the current folder). `frozen:NAME` is NAME.csv of
    evaluate/prompts: families, free, composition or figure4.

    Raises ValueError for a missing table or column, and where no recording is left.
    """
    excluded = read_excluded(tables)
    kept, skipped = [], list(manifest.skipped)
    for recording in manifest.recordings:
        if recording.caption is not None and normalize_caption(recording.caption) in excluded:
            skipped.append((manifest.name(recording), "its caption is excluded"))
        else:
            kept.append(recording)
    if not kept:
        raise ValueError(f"exclude_captions: {', '.join(tables)} leave no recording")
    return dataclasses.replace(manifest, recordings=tuple(kept), skipped=tuple(skipped))


def exclude_low_rates(manifest: Manifest, min_sample_rate: float) -> Manifest:
    """Leave out the recordings whose original is known to have a lower sample rate, in Hz.

    Raises ValueError where no recording is left.
    """
    kept, skipped = [], list(manifest.skipped)
    for recording in manifest.recordings:
        if 0 < recording.sample_rate < min_sample_rate:
            reason = f"was recorded at {recording.sample_rate:g} Hz"
            skipped.append((manifest.name(recording), reason))
        else:
            kept.append(recording)
    if not kept:
        raise ValueError(f"min_sample_rate: {min_sample_rate:g} Hz leaves no recording")
    return dataclasses.replace(manifest, recordings=tuple(kept), skipped=tuple(skipped))


def read_excluded(tables: Sequence[str]) -> set[str]:
    """The normalised captions of the tables that `exclude_captions` takes."""
    found = (caption for table in tables for caption in read_captions(_frozen(table)))
    return {normalize_caption(caption) for caption in found} - {""}


def _frozen(table: str) -> Path:
    """The file behind `frozen:NAME`, which stands where the package is; else the path itself."""
    if not table.startswith(FROZEN):
        return Path(table)
    folder = Path(str(resources.files("soundcrafter"))) / "evaluate" / "prompts"
    return folder / f"{table.removeprefix(FROZEN)}.csv"


def read_captions(path: str | PathLike[str]) -> list[str]:
    """The captions (column caption or prompt, and reversed where there is one) of a csv or jsonl
    file; those that are not empty.

    Raises ValueError for a missing file or column.
    """
    table = Path(path)
    columns, rows = read_table(table)
    column = next((name for name in ("caption", "prompt") if name in columns), None)
    if column is None:
        raise ValueError(_missing(table, columns, "caption or prompt"))
    found = (_text(row.get(name)) for row in rows for name in (column, "reversed"))
    return [text for text in found if text is not None]


def read_caption_groups(path: str | PathLike[str]) -> list[tuple[str, ...]]:
    """Captions of the same AudioCaps clip (columns youtube_id, start_time), where it has several.

    Raises ValueError for a missing file or column.
    """
    table = Path(path)
    columns, rows = read_table(table)
    if not columns >= AUDIOCAPS_COLUMNS:
        raise ValueError(_missing(table, columns, ", ".join(sorted(AUDIOCAPS_COLUMNS))))
    clips: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if (caption := _text(row.get("caption"))) is not None:
            clips.setdefault((row["youtube_id"], row["start_time"]), []).append(caption)
    return [tuple(captions) for captions in clips.values() if len(captions) > 1]


def _tables_in(folder: Path) -> list[Path]:
    for name in TABLES:
        if (folder / name).is_file():
            return [folder / name]
    headers = {table: read_table(table)[0] for table in sorted(folder.glob("*.csv"))}
    tables = [table for table, columns in headers.items() if "file" in columns]
    if not tables:
        return [table for table, columns in headers.items() if columns >= AUDIOCAPS_COLUMNS]
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise ValueError(f"{folder}: several tables ({names}); name the one to read")
    return tables


def read_table(path: Path) -> tuple[set[str], list[Row]]:
    """The columns and rows of a csv or jsonl file; a row with a list of captions becomes one for
    each. Raises ValueError where it cannot be read, and for a csv row of too many fields."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError("every line must be a JSON object")
            return {column for row in rows for column in row}, _one_caption_each(rows)
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = []
        for row in reader:
            if None in row:
                raise ValueError(
                    f"line {reader.line_num} has more fields than columns "
                    f"({', '.join(reader.fieldnames or ())}); put quotes around text with commas"
                )
            rows.append(row)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: not a {path.suffix or 'csv'} table: {error}") from None
    return set(reader.fieldnames or ()), rows


def _one_caption_each(rows: Sequence[Row]) -> list[Row]:
    found = []
    for row in rows:
        captions = row.get("caption")
        if isinstance(captions, list):
            shared = {**row, "group": row.get("group") or row.get("file")}
            found += [{**shared, "caption": caption} for caption in captions or [None]]
        else:
            found.append(row)
    return found


def _rows(table: Path, label_column: str, need_caption: bool) -> list[Row]:
    columns, rows = read_table(table)
    audiocaps = "file" not in columns and columns >= AUDIOCAPS_COLUMNS
    needed = [] if audiocaps else ["file"]
    if need_caption:
        needed.append("caption")
    if label_column != "label":  # the default column may be absent: the recordings are unlabelled
        needed.append(label_column)
    if not columns.issuperset(needed):
        raise ValueError(_missing(table, columns, ", ".join(needed)))
    return _audiocaps_rows(table, rows) if audiocaps else rows


def _audiocaps_rows(table: Path, rows: Sequence[Row]) -> list[Row]:
    """Find each clip's audio; a clip is cut already, so its start_time is only part of a name."""
    split = split_in(table.stem)
    folders = [table.parent, table.parent / "audio"]
    if split is not None:
        folders += [folder / split for folder in folders]
    files: dict[str, Path] = {}
    for folder in filter(Path.is_dir, folders):
        files = index_audio(folder, below=False) | files
    starts: dict[str, set[str]] = {}
    for row in rows:
        starts.setdefault(row["youtube_id"], set()).add(row["start_time"])
    found = []
    for row in rows:
        clip, start = row["youtube_id"], seconds_in(row["start_time"])
        file = find_clip(files, clip, start, alone=len(starts[clip]) == 1)
        # An absent clip keeps its usual name, so that the list of missing files reads well.
        name = (file or table.parent / f"Y{clip}.wav").relative_to(table.parent).as_posix()
        found.append({"file": name, "caption": row["caption"], "split": split, "group": clip})
    return found


def _of_split(rows: list[Row], split: str | None, path: Path) -> list[Row]:
    if split is None or not rows:
        return rows
    counts = Counter(_text(row.get("split")) or DEFAULT_SPLIT for row in rows)
    if split not in counts:
        there = ", ".join(f"{name} ({count})" for name, count in counts.items())
        raise ValueError(f"{path}: no split {split!r}; it has: {there}")
    return [row for row in rows if (_text(row.get("split")) or DEFAULT_SPLIT) == split]


def _with_value(rows: list[Row], column: str, value: str, path: Path) -> list[Row]:
    kept = [row for row in rows if _text(row.get(column)) == value]
    if not kept:
        there = sorted({_text(row.get(column)) or "" for row in rows} - {""})
        shown = ", ".join(there[:SHOWN_VALUES]) + (", ..." if len(there) > SHOWN_VALUES else "")
        raise ValueError(f"{path}: no row has {column} {value!r}; it has: {shown or 'none'}")
    return kept


def _check(
    path: Path, root: Path, rows: list[Row], label_column: str, need_caption: bool
) -> Manifest:
    skipped: list[tuple[str, str]] = []
    recordings: list[Recording] = []
    for row in rows:
        try:
            recordings.append(_recording(root, row, label_column, need_caption))
        except ValueError as error:
            skipped.append((_text(row.get("file")) or "(no name)", str(error)))
    lengths = read_lengths({item.file for item in recordings if item.seconds == 0})
    kept: list[Recording] = []
    manifest = Manifest(root=root, recordings=())
    for recording in recordings:
        if recording.seconds == 0:
            length = lengths[recording.file]
            if isinstance(length, float) and length > recording.start:
                kept.append(dataclasses.replace(recording, seconds=length - recording.start))
            else:
                reason = (
                    length if isinstance(length, str) else f"ends at {length:g} s, before start"
                )
                skipped.append((manifest.name(recording), reason))
        elif recording.file.is_file():
            kept.append(recording)
        else:
            skipped.append((manifest.name(recording), "no such file"))
    if not kept:
        first = f"; the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise ValueError(f"{path}: no readable recording ({len(skipped)} skipped{first})")
    return dataclasses.replace(manifest, recordings=tuple(kept), skipped=tuple(skipped))


def _recording(root: Path, row: Row, label_column: str, need_caption: bool) -> Recording:
    file, caption = _text(row.get("file")), _text(row.get("caption"))
    if file is None:
        raise ValueError("the row names no file")
    if need_caption and caption is None:
        raise ValueError("no caption")
    return Recording(
        file=_file(root, row["file"]),
        caption=caption,
        label=_text(row.get(label_column)),
        split=_text(row.get("split")),
        start=_number(row, "start"),
        seconds=_number(row, "seconds"),  # 0: not stated, the file's header will say
        group=_text(row.get("group")),
        sample_rate=_number(row, "sample_rate", "Hz"),
    )


def _file(root: Path, name: Any) -> Path:
    """The file of that name; blanks around it are removed unless the file's own name has them."""
    exact = root / str(name)
    return exact if exact.is_file() else root / str(name).strip()


def read_lengths(files: Iterable[Path]) -> dict[Path, float | str]:
    """Seconds of each file by its header, or why it cannot be read."""

    def length(file: Path) -> float | str:
        try:
            return audio_info(file).seconds
        except ValueError as error:
            return str(error)

    ordered = sorted(files)
    with ThreadPoolExecutor(HEADER_THREADS) as threads:
        return dict(zip(ordered, threads.map(length, ordered), strict=True))


def _text(value: Any) -> str | None:
    return None if value is None else str(value).strip() or None


def _number(row: Row, column: str, unit: str = "seconds") -> float:
    text = _text(row.get(column))
    if text is None:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{column} is {text!r}; expected a number of {unit}")
    return value


def _missing(table: Path, columns: Iterable[str], needed: str) -> str:
    return f"{table}: has columns {', '.join(sorted(columns)) or 'none'}; needs {needed}"
