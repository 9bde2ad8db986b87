"""AudioCaps: read its tables, fetch or find the clips, write the manifest to train from.

The captions come as csv tables (columns youtube_id, start_time, caption and audiocap_id where it
is there; v1 and v2.0 alike) or as the metadata of AudioLDM and TANGO, see `layouts`. The sounds
stay on YouTube: many videos are gone, so every user's set is a little smaller than the tables.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from soundcrafter.data.layouts import (
    Entry,
    clip_of,
    find_clip,
    index_audio,
    own_split,
    read_layout,
    seconds_in,
)
from soundcrafter.data.manifest import AUDIOCAPS_COLUMNS, read_lengths, read_table
from soundcrafter.data.subset import Key, Selection, select
from soundcrafter.data.youtube import (
    Clip,
    Failures,
    Fetch,
    FetchOptions,
    YouTube,
    fetch_clips,
    resume,
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
    """Write `out`/manifest.csv for the tables' clips; return counts, ready for JSON.

    The clips are those in the folder `audio`, under any of their usual names; without `audio`
    those below `out`, and what is not there of the csv tables is fetched first, by `fetch` or by
    yt-dlp. What stays away is in missing.csv, what could not be fetched in failures.csv; that is
    not tried again unless `retry_failed`. A run may be ended at any moment and begun again: it
    goes on, and no file is ever half written. One run at a time for a folder.
    Raises ValueError for bad tables and options, where yt-dlp or ffmpeg are needed and absent, and
    where there is nothing to fetch and no clip is found.
    """
    options = options or FetchOptions()
    entries, unknown = select(read_entries(tables), selection or Selection())
    if audio is not None and not audio.is_dir():
        raise ValueError(f"{audio}: no such folder")
    clips = _clips(entries) if audio is None else {}
    failures = resume(make_folder(out))
    known = {} if options.retry_failed else failures
    found = _find(entries, index_audio(audio or out))
    wanted = [clips[key] for key in clips if key not in found and key not in known]
    counts: dict[str, Any] = {"fetched": 0, "stopped": None}
    if wanted:
        fetch = YouTube(options) if fetch is None else fetch
        with _manifest_if_ended(entries, out, failures):
            counts = fetch_clips(wanted, out, fetch, failures, options, progress)
            found = _find(entries, index_audio(out))
    if not found and not clips:
        raise ValueError(_none_there(audio or tables[0], entries))
    facts = _write_manifest(entries, out, found, failures)
    return {"manifest": str(out / MANIFEST), **facts, **counts, "not_in_tables": unknown}


@contextmanager
def _manifest_if_ended(entries: Sequence[Entry], out: Path, failures: Failures) -> Iterator[None]:
    """Fetching that is ended before its time leaves a manifest too."""
    try:
        yield
    except (KeyboardInterrupt, ValueError):
        _write_manifest(entries, out, _find(entries, index_audio(out)), failures)
        raise


def _none_there(place: Path, entries: Sequence[Entry]) -> str:
    return (
        f"{place}: none of the {len({entry.key for entry in entries})} clips is there "
        "(names such as Y<id>.wav, <id>_<start>.wav, <id>_<start>_<end>.wav)"
    )


def read_entries(tables: Sequence[Path]) -> list[Entry]:
    """The captions of AudioCaps csv tables and of AudioLDM's and TANGO's json, in their order.

    Raises ValueError naming the table and what is wrong with it.
    """
    if not tables:
        raise ValueError("name at least one table: csv (AudioCaps), json (AudioLDM, TANGO)")
    entries: list[Entry] = []
    for table in tables:
        is_csv = table.suffix.lower() == ".csv"
        entries += _read_csv(table) if is_csv else read_layout(table)
    if not entries:
        raise ValueError(f"{tables[0]}: no caption in it")
    return entries


def _read_csv(table: Path) -> list[Entry]:
    columns, rows = read_table(table)
    if not columns >= AUDIOCAPS_COLUMNS:
        raise ValueError(
            f"{table}: has columns {', '.join(sorted(columns)) or 'none'}; "
            f"needs {', '.join(sorted(AUDIOCAPS_COLUMNS))}"
        )
    entries = []
    for number, row in enumerate(rows, 1):
        start = seconds_in(row["start_time"])
        clip, caption = row["youtube_id"] or "", (row["caption"] or "").strip()
        if start is None or not caption or not _YOUTUBE_ID.fullmatch(clip):
            raise ValueError(
                f"{table}: row {number}: got youtube_id {clip!r}, start_time "
                f"{row['start_time']!r}, caption {caption[:40]!r}; expected an id, seconds, a text"
            )
        entry = Entry(clip=clip, start=start, caption=caption, split=own_split(table.stem))
        entries.append(replace(entry, number=row.get("audiocap_id")))
    return entries


def _clips(entries: Iterable[Entry]) -> dict[Key, Clip]:
    """The clips that can be fetched, each once: AudioCaps' own, others may be no videos."""
    own = [entry for entry in entries if entry.file is None]
    return {e.key: Clip(youtube_id=e.clip, start=e.start) for e in own if e.start is not None}


def _find(entries: Sequence[Entry], files: Mapping[str, Path]) -> dict[Key, Path]:
    """The file of each clip that is there, by the entry's key."""
    starts: dict[str, set[float | None]] = {}
    for entry in entries:
        starts.setdefault(entry.clip, set()).add(entry.start)
    by_clip: dict[str, list[Path]] = {}
    for name, path in files.items():
        by_clip.setdefault(clip_of(name)[0], []).append(path)
    found: dict[Key, Path] = {}
    for entry in entries:
        file = found.get(entry.key) or _stated(entry, files)
        if file is None:
            file = find_clip(files, entry.clip, entry.start, alone=len(starts[entry.clip]) == 1)
        if file is None and entry.start is None and len(by_clip.get(entry.clip, ())) == 1:
            file = by_clip[entry.clip][0]
        if file is not None:
            found[entry.key] = file
    return found


def _stated(entry: Entry, files: Mapping[str, Path]) -> Path | None:
    """The file that the metadata names: where it says, or by that name among `files`."""
    if entry.file is None or entry.file.is_file():
        return entry.file
    return files.get(entry.file.stem)


def _write_manifest(
    entries: Sequence[Entry],
    out: Path,
    found: Mapping[Key, Path],
    failures: Failures,
) -> dict[str, Any]:
    """Write manifest.csv and missing.csv; return what they hold, counted."""
    lengths, root = read_lengths(found.values()), os.path.abspath(out)
    rows, missing, clips = [], {}, set()
    for entry in entries:
        file = found.get(entry.key)
        length = "not there" if file is None else lengths[file]
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
