"""AudioCaps: read its tables, download or find the clips, and write a manifest for training.

The captions are in csv tables (v1 and v2.0; columns youtube_id, start_time, caption and optionally
audiocap_id) or in the metadata of AudioLDM and TANGO, see `layouts`. The sounds are on YouTube.
Many videos no longer exist, so a data set is always a little smaller than its tables.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soundcrafter.data.clip_names import (
    AUDIOCAPS_COLUMNS,
    find_clip,
    index_audio,
    parse_clip_name,
    project_split,
)
from soundcrafter.data.layouts import CaptionEntry, read_layout
from soundcrafter.data.manifest import read_lengths
from soundcrafter.data.subset import ClipKey, Selection, select
from soundcrafter.data.tables import parse_number, read_table, require_columns
from soundcrafter.data.youtube import (
    Failures,
    Fetch,
    FetchOptions,
    VideoClip,
    YouTube,
    fetch_clips,
    read_failures,
)
from soundcrafter.files import make_folder, write_csv
from soundcrafter.progress import Progress

MANIFEST, MISSING = "manifest.csv", "missing.csv"
MANIFEST_COLUMNS = ("file", "caption", "split", "seconds", "group", "labels", "audiocap_id")
MISSING_COLUMNS = ("youtube_id", "start_time", "split", "reason")
_YOUTUBE_ID = re.compile(r"[\w-]+", re.ASCII)  # also a safe file name


def prepare(
    tables: Sequence[Path],
    out: Path,
    *,
    audio: Path | None = None,
    selection: Selection | None = None,
    options: FetchOptions | None = None,
    fetch: Fetch | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write `out`/manifest.csv for the clips in the tables; returns counts, serialisable as JSON.

    The clips are looked up by name in the folder `audio`. Without `audio` they are looked up below
    `out`, and those of csv tables that are not found are downloaded by `fetch`, by default with
    yt-dlp. Missing clips are listed in missing.csv, failed downloads in failures.csv. Failed
    downloads are not repeated unless `retry_failed` is set. An interrupted run is resumed by the
    same call, and never leaves an incomplete file. Only one run may use a folder at a time.
    Raises ValueError for invalid tables and options, if yt-dlp or ffmpeg is needed but missing, and
    if no clip is found and none can be downloaded.
    """
    options = options or FetchOptions()
    read, broken = read_entries(tables)
    entries, unknown = select(read, selection or Selection())
    if audio is not None and not audio.is_dir():
        raise ValueError(f"{audio}: no such folder")
    clips = _clips(entries) if audio is None else {}
    failures = read_failures(make_folder(out))
    known = {} if options.retry_failed else failures
    found = _find(entries, index_audio(audio or out))
    wanted = [clips[key] for key in clips if key not in found and key not in known]
    counts: dict[str, Any] = {"fetched": 0, "stopped": None}
    if wanted:
        fetch = YouTube(options) if fetch is None else fetch
        with _manifest_on_interruption(entries, out, failures):
            counts = fetch_clips(wanted, out, fetch, failures, options, progress)
            found = _find(entries, index_audio(out))
    if not found and not clips:
        raise ValueError(_none_found(audio or tables[0], entries))
    facts = _write_manifest(entries, out, found, failures)
    facts = {"manifest": str(out / MANIFEST), **facts, **counts, "not_in_tables": unknown}
    return {**facts, "broken_rows": broken}


@contextmanager
def _manifest_on_interruption(
    entries: Sequence[CaptionEntry], out: Path, failures: Failures
) -> Iterator[None]:
    """Write a manifest of the clips so far if the download is interrupted."""
    try:
        yield
    except (KeyboardInterrupt, ValueError):
        _write_manifest(entries, out, _find(entries, index_audio(out)), failures)
        raise


def _none_found(place: Path, entries: Sequence[CaptionEntry]) -> str:
    return (
        f"{place}: none of the {len({entry.key for entry in entries})} clips was found "
        "(names such as Y<id>.wav, <id>_<start>.wav, <id>_<start>_<end>.wav)"
    )


def read_entries(tables: Sequence[Path]) -> tuple[list[CaptionEntry], list[str]]:
    """Return the captions of AudioCaps csv tables and of AudioLDM and TANGO metadata, in order,
    and the rows of csv tables that are broken, with the reason (AudioCaps 2.0 has some).

    Raises ValueError that names the table and the problem.
    """
    if not tables:
        raise ValueError("tables: got none; give a csv (AudioCaps) or a json (AudioLDM, TANGO)")
    entries: list[CaptionEntry] = []
    broken: list[str] = []
    for table in tables:
        is_csv = table.suffix.lower() == ".csv"
        entries += _read_csv(table, broken) if is_csv else read_layout(table)
    if not entries:
        first = f"; the first: {broken[0]}" if broken else ""
        raise ValueError(f"{tables[0]}: contains no captions ({len(broken)} broken rows{first})")
    return entries, broken


def _read_csv(table: Path, broken: list[str]) -> list[CaptionEntry]:
    """The entries of a table; what is wrong with its other rows is added to `broken`."""
    columns, rows = read_table(table)
    require_columns(table, columns, AUDIOCAPS_COLUMNS)
    entries = []
    for number, row in enumerate(rows, 1):
        start = parse_number(row["start_time"])
        clip, caption = row["youtube_id"] or "", (row["caption"] or "").strip()
        if start is None or not caption or not _YOUTUBE_ID.fullmatch(clip):
            broken.append(
                f"{table}: row {number}: got youtube_id {clip!r}, start_time "
                f"{row['start_time']!r}, caption {caption[:40]!r}; expected id, seconds and text"
            )
            continue
        entries.append(
            CaptionEntry(
                clip=clip,
                start=start,
                caption=caption,
                split=project_split(table.stem),
                number=row.get("audiocap_id"),
            )
        )
    return entries


def _clips(entries: Iterable[CaptionEntry]) -> dict[ClipKey, VideoClip]:
    """The clips that can be downloaded, each once. Entries that name a file may not be videos."""
    own = [entry for entry in entries if entry.file is None]
    return {e.key: VideoClip(youtube_id=e.clip, start=e.start) for e in own if e.start is not None}


def _find(entries: Sequence[CaptionEntry], files: Mapping[str, Path]) -> dict[ClipKey, Path]:
    """The file of each clip that was found, by the key of its entries."""
    starts: dict[str, set[float | None]] = {}
    for entry in entries:
        starts.setdefault(entry.clip, set()).add(entry.start)
    by_clip: dict[str, list[Path]] = {}
    for name, path in files.items():
        by_clip.setdefault(parse_clip_name(name)[0], []).append(path)
    found: dict[ClipKey, Path] = {}
    for entry in entries:
        file = found.get(entry.key) or _named_file(entry, files)
        if file is None:
            file = find_clip(files, entry.clip, entry.start, alone=len(starts[entry.clip]) == 1)
        if file is None and entry.start is None and len(by_clip.get(entry.clip, ())) == 1:
            file = by_clip[entry.clip][0]
        if file is not None:
            found[entry.key] = file
    return found


def _named_file(entry: CaptionEntry, files: Mapping[str, Path]) -> Path | None:
    """The file that the metadata names: at that path, or else among `files` under that name."""
    if entry.file is None or entry.file.is_file():
        return entry.file
    return files.get(entry.file.stem)


def _write_manifest(
    entries: Sequence[CaptionEntry],
    out: Path,
    found: Mapping[ClipKey, Path],
    failures: Failures,
) -> dict[str, Any]:
    """Write manifest.csv and missing.csv; returns counts of their content."""
    lengths, root = read_lengths(found.values()), os.path.abspath(out)
    rows, missing, clips = [], {}, set()
    for entry in entries:
        file = found.get(entry.key)
        length = "not found" if file is None else lengths[file]
        if file is None or isinstance(length, str):
            start = "" if entry.start is None else f"{entry.start:g}"
            reason = failures.get((entry.clip, entry.start or 0.0), length)
            missing[entry.key] = (entry.clip, start, entry.split, reason)
            continue
        name = Path(os.path.abspath(file))
        if name.is_relative_to(root):
            name = name.relative_to(root)
        seconds, labels = round(length, 3), entry.labels or ""
        known = (name.as_posix(), entry.caption, entry.split, seconds, entry.clip, labels)
        rows.append((*known, entry.number or ""))
        clips.add((entry.key, entry.split))
    write_csv(out / MANIFEST, MANIFEST_COLUMNS, rows)
    write_csv(out / MISSING, MISSING_COLUMNS, missing.values())
    return {
        "clips": len(clips),
        "captions": len(rows),
        "splits": dict(Counter(split for _, split in clips)),
        "missing": len(missing),
        "failed": sum(key in failures for key in missing),
    }
